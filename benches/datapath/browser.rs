//! The same comparison with a real Chromium behind the proxies and real Playwright clients in front
//! of them: `browser.js` measures, this starts what it needs.

use crate::measure::Row;
use crate::process::Process;
use crate::process::free_port;
use crate::proxies::Kind;
use crate::report::Report;
use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::json;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

const VERSIONS: &str = include_str!("../../scripts/versions.env");
/// Debian's; the program itself and not the script around it.
pub const CHROMIUM: &str = "/usr/lib/chromium/chromium-headless-shell";
/// Where the Playwright server listens for WebSockets.
pub const PATH: &str = "/bench";
/// How long that server may take to start.
const START: Duration = Duration::from_secs(30);
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// Playwright as `make setup` installs it.
pub struct Tools {
    pub folder: PathBuf,
    pub node: PathBuf,
}

impl Tools {
    /// # Errors
    ///
    /// Playwright or its browser is missing.
    pub fn find() -> anyhow::Result<Tools> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join(".tools").join(playwright());
        let node = folder.join("playwright/driver/node");
        if !node.exists() || !Path::new(CHROMIUM).exists() {
            bail!("Playwright or its browser is missing: run `make setup`");
        }
        Ok(Tools { folder, node })
    }
}

/// What `browser.js` tells of one repeat.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    repeat: usize,
    name: String,
    first_page: f64,
    evaluate: f64,
    sessions_per_second: f64,
}

pub async fn measure(kinds: &[Kind], repeats: usize, report: &mut Report) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tools = Tools::find()?;
    let folder = tempfile::tempdir()?;
    let (_server, address) = start_server(&tools, folder.path()).await?;
    let mut proxies = Vec::new();
    for kind in kinds {
        proxies.push(kind.start_for(address, PATH).await?);
    }
    let mut command = tokio::process::Command::new(&tools.node);
    command
        .arg(root.join("benches/datapath/browser.js"))
        .arg(repeats.to_string())
        .env("NODE_PATH", tools.folder.join("node_modules"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    for proxy in &proxies {
        let path = proxy.kind.door_path(PATH);
        let door = &proxy.door;
        command.arg(format!("{}=ws://{}{path}", door.name, door.address));
    }
    let mut client = command.spawn()?;
    let output = client.stdout.take().context("it is piped")?;
    let mut lines = BufReader::new(output).lines();
    while let Some(line) = lines.next_line().await? {
        let told: Told = serde_json::from_str(&line)?;
        eprintln!("{line}");
        let values = vec![
            (Row::FirstPage, told.first_page),
            (Row::Evaluate, told.evaluate),
            (Row::SessionsPerSecond, told.sessions_per_second),
        ];
        report.add(told.repeat, &told.name, values);
    }
    if !client.wait().await?.success() {
        bail!("the clients failed");
    }
    Ok(())
}

/// Folder of the Playwright that `make setup` installs.
fn playwright() -> String {
    let version = VERSIONS
        .lines()
        .find_map(|line| line.strip_prefix("PLAYWRIGHT_VERSION="))
        .unwrap_or_default();
    format!("playwright-{version}")
}

/// A Playwright server with a port, and that port.
pub async fn start_server(tools: &Tools, folder: &Path) -> anyhow::Result<(Process, SocketAddr)> {
    let port = free_port()?;
    let config = folder.join("launch.json");
    let launch = json!({
        "executablePath": CHROMIUM, "headless": true, "chromiumSandbox": false,
        "host": "127.0.0.1", "port": port, "wsPath": PATH,
    });
    fs::write(&config, launch.to_string())?;
    let mut command = std::process::Command::new(&tools.node);
    command
        .arg(tools.folder.join("playwright/driver/package/cli.js"))
        .args(["launch-server", "--browser", "chromium", "--config"])
        .arg(config)
        .env("TMPDIR", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut server = Process::start(command, Signal::SIGTERM)?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let listens = async {
        while TcpStream::connect(address).await.is_err() {
            if server.has_ended() {
                bail!("the Playwright server ended at once");
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
        Ok(())
    };
    tokio::time::timeout(START, listens)
        .await
        .context("the Playwright server does not start")??;
    Ok((server, address))
}
