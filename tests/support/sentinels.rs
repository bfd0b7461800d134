//! A primary, a replica, and three sentinels that watch them: real ones, of the test's own.

use super::eventually::eventually;
use super::machine::free_port;
use super::redis_server::{RedisServer, redis_program};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// What the sentinels call the primary.
const NAME: &str = "grid";

pub struct Sentinels {
    /// The one that was the primary at the start, and its replica.
    pub servers: [RedisServer; 2],
    ports: Vec<u16>,
    children: Vec<Child>,
    _folder: TempDir,
}

impl Sentinels {
    /// A primary that is silent for three seconds is replaced.
    pub async fn start() -> Sentinels {
        let primary = RedisServer::start().await;
        let port = primary.port().to_string();
        let replica = RedisServer::with(&["--replicaof", &format!("127.0.0.1 {port}")]).await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut sentinels = Sentinels {
            servers: [primary, replica],
            ports: Vec::new(),
            children: Vec::new(),
            _folder: folder,
        };
        for n in 0..3 {
            sentinels.watch(n, &port);
        }
        eventually("the replica is in step", async || {
            let role = sentinels.servers[1].cli(&["ROLE"]);
            role.contains("connected").then_some(())
        })
        .await;
        eventually(
            "the sentinels know each other and the replica",
            async || {
                let known = sentinels.ports.iter().all(|port| {
                    let told = redis_cli(*port, &["SENTINEL", "CKQUORUM", NAME]);
                    let replicas = redis_cli(*port, &["SENTINEL", "REPLICAS", NAME]);
                    told.starts_with("OK 3") && replicas.contains("name")
                });
                known.then_some(())
            },
        )
        .await;
        sentinels
    }

    fn watch(&mut self, n: usize, primary: &str) {
        let port = free_port();
        let file = self._folder.path().join(format!("{n}.conf"));
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {NAME} 127.0.0.1 {primary} 2\n\
             sentinel down-after-milliseconds {NAME} 3000\nsentinel failover-timeout {NAME} 10000\n",
            self._folder.path().display()
        );
        std::fs::write(&file, text).expect("the folder is there");
        let child = Command::new(redis_program())
            .arg(file)
            .arg("--sentinel")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.ports.push(port);
        self.children.push(child);
    }

    pub fn url(&self) -> String {
        let hosts = self.ports.iter().map(|port| format!("127.0.0.1:{port}"));
        format!(
            "redis+sentinel://{}/{NAME}",
            hosts.collect::<Vec<_>>().join(",")
        )
    }
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Both fail only when it is gone already.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn redis_cli(port: u16, arguments: &[&str]) -> String {
    let output = Command::new("redis-cli")
        .args(["-p", &port.to_string()])
        .args(arguments)
        .output()
        .expect("redis-cli is installed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
