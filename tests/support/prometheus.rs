//! A real Prometheus that scrapes proxies as the chart's `ServiceMonitor` has it done, and is asked as
//! its users ask.

use super::eventually::eventually;
use super::http;
use super::machine::{free_port, program};
use super::proxy::Proxy;
use nix::sys::signal::Signal;
use serde::Deserialize;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

pub struct Prometheus {
    port: u16,
    child: Child,
    _folder: TempDir,
}

impl Prometheus {
    /// Scrapes the admin ports of these proxies every second. `labels` are those that the operator takes
    /// from the target, such as `namespace: browsers`.
    pub async fn start(proxies: &[Proxy], labels: &str) -> Prometheus {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let targets: Vec<String> = proxies.iter().map(|it| it.admin.to_string()).collect();
        let token = proxies[0].admin_token().unwrap_or_default();
        let config = format!(
            "global: {{ scrape_interval: 1s }}\n\
             scrape_configs:\n\
             - job_name: grid\n  \
               authorization: {{ credentials: \"{token}\" }}\n  \
               static_configs: [ {{ targets: {targets:?}, labels: {{ {labels} }} }} ]\n"
        );
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("a new file");
        let port = free_port();
        let mut command = Command::new(program("prometheus"));
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: prctl(2) may be called between fork and exec; it allocates nothing.
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        let prometheus = Prometheus {
            port,
            child: command.spawn().expect("`make setup` installed it"),
            _folder: folder,
        };
        let ready = prometheus.url("/-/ready");
        eventually("Prometheus is ready", async || {
            let answer = http::request("GET", &ready, &[]).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
        prometheus
    }

    /// What an instant query comes to: the values of its series.
    pub async fn query(&self, query: &str) -> Vec<f64> {
        #[derive(Deserialize)]
        struct Answer {
            data: Data,
        }
        #[derive(Deserialize)]
        struct Data {
            result: Vec<Series>,
        }
        #[derive(Deserialize)]
        struct Series {
            /// When, and how much.
            value: (f64, String),
        }
        let query: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let answer = http::get(&self.url(&format!("/api/v1/query?query={query}"))).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let series = answer.json::<Answer>().data.result.into_iter();
        series
            .map(|it| it.value.1.parse().expect("it is a number"))
            .collect()
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
