//! A real Redis of the test's own, on a free port, that can be killed, emptied and paused.

use super::eventually::eventually;
use super::machine::{free_port, repository};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

pub struct RedisServer {
    port: u16,
    folder: TempDir,
    arguments: Vec<String>,
    child: Child,
}

impl RedisServer {
    pub async fn start() -> Self {
        RedisServer::with(&[]).await
    }

    /// With more arguments, such as `--tls-port`. It has to answer `redis-cli` without a password.
    pub async fn with(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let arguments: Vec<String> = arguments.iter().map(|text| text.to_string()).collect();
        let child = spawn(port, &folder, &arguments);
        let server = RedisServer {
            port,
            folder,
            arguments,
            child,
        };
        server.answers().await;
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it was not waited for");
    }

    /// Starts it again after [`RedisServer::kill`], on the same port: empty, or as it was at the last
    /// `SAVE`.
    pub async fn restart(&mut self) {
        self.restart_now();
        self.answers().await;
    }

    /// The same without waiting until it answers.
    pub fn restart_now(&mut self) {
        self.child = spawn(self.port, &self.folder, &self.arguments);
    }

    /// Stops it from doing anything, its connections included.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// What `redis-cli` says, word for word.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(arguments)
            .output()
            .expect("redis-cli is installed");
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }

    /// Records every command from here on, with when Redis took it.
    pub async fn monitor(&self) -> Record {
        let file = self.folder.path().join("commands");
        let output = File::create(&file).expect("a new file");
        let child = Command::new("redis-cli")
            .args(["-p", &self.port.to_string(), "MONITOR"])
            .stdout(output)
            .spawn()
            .expect("redis-cli is installed");
        let record = Record { file, child };
        eventually("Redis is recorded", async || {
            record.lines().contains("OK").then_some(())
        })
        .await;
        record
    }

    /// Runs one command, with a typed answer.
    pub fn try_query<T: redis::FromRedisValue>(&self, command: &[&str]) -> redis::RedisResult<T> {
        let mut connection = redis::Client::open(self.url())?.get_connection()?;
        let (name, arguments) = command.split_first().expect("a command");
        redis::cmd(name).arg(arguments).query(&mut connection)
    }

    async fn answers(&self) {
        eventually("Redis answers", async || {
            (self.cli(&["ping"]) == "PONG").then_some(())
        })
        .await;
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it is ours");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Commands as Redis took them, those of scripts too.
pub struct Record {
    file: PathBuf,
    child: Child,
}

impl Record {
    /// When, by Redis' clock in seconds, it took the commands in which all these words are.
    pub fn times(&self, words: &[&str]) -> Vec<f64> {
        self.lines()
            .lines()
            .filter(|line| words.iter().all(|word| line.contains(word)))
            .filter_map(|line| line.split(' ').next()?.parse().ok())
            .collect()
    }

    fn lines(&self) -> String {
        std::fs::read_to_string(&self.file).expect("it is being written")
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The one that `make setup` built, or the machine's.
pub fn redis_program() -> PathBuf {
    let own = repository().join(".tools/bin/redis-server");
    if own.exists() {
        own
    } else {
        PathBuf::from("redis-server")
    }
}

fn spawn(port: u16, folder: &TempDir, arguments: &[String]) -> Child {
    Command::new(redis_program())
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(folder.path())
        .arg("--unixsocket")
        .arg(folder.path().join("redis.sock"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed: run `make setup`")
}
