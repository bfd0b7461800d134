//! Sessions that try to leave their browser, and how far they come with the seal and without it. The
//! table of `docs/security.md` is written here: `PLAYHOUSE_REWRITE=1` writes it anew; without, it has
//! to agree.

use crate::support::{Grid, Kind, Language, compiled, eventually, free_port, repository, version};
use playhouse::config::{Config, Role};
use serde::Deserialize;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tempfile::TempDir;

const BEGIN: &str = "<!-- Written by tests/grid/seal.rs -->\n";
const END: &str = "<!-- end -->\n";

/// What came of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Attempt {
    by: String,
    attempt: String,
    answer: String,
}

impl Attempt {
    fn failed(&self) -> bool {
        self.answer.starts_with("refused")
    }
}

/// What a sealed session is meant to be able to do.
const MAY: [&str; 3] = [
    "read `/etc/hostname`",
    "read a folder of `worker.readable`",
    "write into its own folder",
];

/// What is around the grid, for intruders to find.
struct Surroundings {
    folder: TempDir,
    /// An abstract socket that somebody listens on.
    socket: String,
    _listener: UnixListener,
}

impl Surroundings {
    fn new() -> Surroundings {
        let folder = tempfile::tempdir().unwrap();
        for name in ["site", "plant"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("site/index.txt"), "for everybody").unwrap();
        std::fs::write(folder.path().join("secret"), "nobody's business").unwrap();
        let socket = folder.path().to_string_lossy().into_owned();
        let address = SocketAddr::from_abstract_name(&socket).unwrap();
        Surroundings {
            _listener: UnixListener::bind_addr(&address).unwrap(),
            folder,
            socket,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Node, after an occupant has told in the server's folder how far it came.
    fn node(&self) -> PathBuf {
        let node = self.path("node");
        let text = format!(
            "#!/bin/sh\n{real} {occupant} {secret} {plant}/by-occupant {socket} $PPID > $TMPDIR/told.new\n\
             mv $TMPDIR/told.new $TMPDIR/told\nexec {real} \"$@\"\n",
            real = real_node().display(),
            occupant = occupant().display(),
            secret = self.path("secret").display(),
            plant = self.path("plant").display(),
            socket = self.socket,
        );
        std::fs::write(&node, text).unwrap();
        std::fs::set_permissions(&node, std::fs::Permissions::from_mode(0o755)).unwrap();
        node
    }
}

fn real_node() -> PathBuf {
    let settings = Config::defaults(Role::Worker).worker;
    playhouse::worker::locate(&settings).unwrap().node
}

fn occupant() -> PathBuf {
    repository().join("tests/clients/node/occupant.js")
}

/// Lets intruders loose on a grid of two workers.
async fn intrude(seal: &str) -> Vec<Attempt> {
    let around = Surroundings::new();
    let yaml = format!(
        "worker: {{ seal: {seal}, node: {}, readable: [ {}, {}, {} ] }}\n",
        around.node().display(),
        around.path("site").display(),
        occupant().display(),
        real_node().display(),
    );
    let builder = Grid::new().workers(2).config(&yaml).admin_token("operator");
    let grid = builder.start().await;
    let told = if seal == "off" { "off" } else { "full" };
    for worker in grid.workers().await {
        assert_eq!(worker.seal.as_deref(), Some(told));
    }
    let mut attempts = by_a_client(&grid, &around).await;
    attempts.extend(by_occupants(&grid).await);
    attempts
}

async fn by_a_client(grid: &Grid, around: &Surroundings) -> Vec<Attempt> {
    let other = grid.workers().await.pop().expect("two of them").endpoint;
    let script = repository().join("tests/clients/node/intruder.js");
    let secret = grid.folder().join("secret");
    std::fs::write(&secret, "nobody's business").unwrap();
    let up = grid.process("up").of_kind(Kind::Playhouse)[0].pid;
    let output = Language::Node
        .command(version("PLAYWRIGHT_VERSION"))
        .arg(script)
        .env("GRID", grid.url())
        .env("SECRET", &secret)
        .env("CONFIG", grid.config_file())
        .env("READABLE", around.path("site"))
        .env("PLANT", around.path("plant"))
        .env("PORT", free_port().to_string())
        .env("WORKER", up.to_string())
        .env("FOLDERS", folders(grid))
        .env("ADMIN", grid.admin_url(""))
        .env("OTHER", other.replace("ws://", "http://"))
        .stderr(Stdio::inherit())
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "the intruder fails");
    parsed(&String::from_utf8(output.stdout).unwrap())
}

/// What those of all servers told. The last of them had another browser beside it.
async fn by_occupants(grid: &Grid) -> Vec<Attempt> {
    let first = grid.workers().await.remove(0).id;
    let drain = format!("/v1/workers/{first}/drain");
    assert_eq!(grid.admin("POST", &drain).await.status, 202);
    eventually("another browser serves", async || {
        let workers = grid.workers().await;
        let fresh = workers.len() == 2 && workers.iter().all(|it| it.id != first);
        fresh.then_some(())
    })
    .await;
    let mut furthest: Vec<Attempt> = Vec::new();
    let servers = std::fs::read_dir(folders(grid)).unwrap().flatten();
    for told in servers.map(|server| server.path().join("told")) {
        let Ok(told) = std::fs::read_to_string(told) else {
            continue;
        };
        for attempt in parsed(&told) {
            match furthest.iter_mut().find(|it| it.attempt == attempt.attempt) {
                None => furthest.push(attempt),
                Some(known) if known.failed() || known.answer == "nobody there" => *known = attempt,
                Some(_) => {}
            }
        }
    }
    furthest
}

/// Where the servers' folders are.
fn folders(grid: &Grid) -> PathBuf {
    let found = grid.leftovers().into_iter().find(|it| is_servers(it));
    found.expect("it is there")
}

fn is_servers(path: &Path) -> bool {
    path.join("lock").exists()
}

fn parsed(lines: &str) -> Vec<Attempt> {
    let attempts = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    attempts.collect()
}

#[tokio::test]
pub async fn a_session_comes_no_further_than_the_table_tells() {
    let sealed = intrude("required").await;
    let unsealed = intrude("off").await;
    let mut table =
        "| by | attempt | sealed | `worker.seal: off` |\n|---|---|---|---|\n".to_owned();
    let mut wrong = Vec::new();
    assert_eq!(sealed.len(), unsealed.len());
    for (sealed, unsealed) in sealed.iter().zip(&unsealed) {
        assert_eq!(sealed.attempt, unsealed.attempt);
        let may = MAY.contains(&&*sealed.attempt);
        // The gateway, the admin port and Chromium keep some out by themselves; all else is the seal's doing.
        let is_kept_out = unsealed.by == "page" || unsealed.attempt.starts_with("`request.get`");
        if sealed.failed() == may || unsealed.failed() != is_kept_out {
            wrong.push((sealed, unsealed));
        }
        table += &format!(
            "| {} | {} | {} | {} |\n",
            sealed.by, sealed.attempt, sealed.answer, unsealed.answer
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let file = repository().join("docs/security.md");
    let page = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("a place for the table");
    let (told, after) = rest.split_once(END).expect("an end of the table");
    if std::env::var_os("PLAYHOUSE_REWRITE").is_some() {
        std::fs::write(&file, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
    } else {
        assert_eq!(told, table, "PLAYHOUSE_REWRITE=1 writes it anew");
    }
}

#[tokio::test]
async fn what_the_kernel_cannot_do_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let library = compiled("no_landlock", folder.path());
    let on_it = |seal| {
        let builder = Grid::new().workers(1).env("PLAYHOUSE_WORKER_SEAL", seal);
        builder.env("LD_PRELOAD", library.to_str().unwrap())
    };
    let (status, log) = on_it("required").start_in_vain().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("worker.seal is required"), "{log}");

    let grid = on_it("auto").start().await;
    let can = "partial: sessions can read and write files, truncate files, open ports, \
               signal other processes";
    assert_eq!(grid.workers().await[0].seal.as_deref(), Some(can));
    assert!(grid.log().contains(can), "{}", grid.log());
    let told = grid.command(&["status"]).await;
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains(can), "{told}");
    grid.connect().await.close().await;
}
