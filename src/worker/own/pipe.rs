//! A browser that is driven by the DevTools protocol over a pipe: no port, and no Node in between.
//!
//! Chromium reads commands from descriptor 3 and writes answers and events to descriptor 4, JSON that
//! ends in NUL (`content/browser/devtools/devtools_pipe_handler.cc`).

use super::pipe_prober::{Checked, PipeProber};
use crate::worker::address::ServerAddress;
use crate::worker::process::{Launch, Server, StartError, passed_on};
use crate::worker::seal::ABOVE;
use crate::worker::{group, plan, sandbox, spawn, tree};
use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::dup2_raw;
use serde_json::{Value, json};
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Command;

/// Where the browser reads and writes.
const COMMANDS: i32 = 3;
const ANSWERS: i32 = 4;
/// Ends a message.
pub const END: u8 = 0;
/// What a browser calls its own folder.
pub const OWN_FOLDER: &str = "/proc/self/cwd";

/// What a browser is started with besides what the configuration says: nothing that asks, phones home
/// or makes a sound, and a page to begin with, as clients expect.
const ARGUMENTS: [&str; 15] = [
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-breakpad",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-search-engine-choice-screen",
    "--disable-sync",
    "--metrics-recording-only",
    "--password-store=basic",
    "--use-mock-keychain",
    "--mute-audio",
    "--force-color-profile=srgb",
];

/// Our ends of a browser's pipe.
#[derive(Debug)]
pub struct Pipe {
    pub commands: UnixStream,
    pub answers: UnixStream,
    pub checked: Checked,
}

/// Starts a browser, and sees to it that its first page has been opened; with what checks it while it has a
/// session. Dropping the future ends the attempt.
pub async fn start(launch: Launch<'_>) -> Result<(Server, Pipe, PipeProber), StartError> {
    let patience = launch.settings.start_timeout;
    let (commands, theirs) = pair().map_err(StartError::Pipe)?;
    let (answers, theirs_too) = pair().map_err(StartError::Pipe)?;
    let ends = [theirs, theirs_too];
    let mut server = begin(&launch, ends).await?;
    let (prober, checked) = PipeProber::new();
    let mut pipe = Pipe {
        commands,
        answers,
        checked,
    };
    let warm = tokio::time::timeout(patience, warm_up(&mut pipe)).await;
    let why = match warm {
        Ok(Ok(())) => return Ok((server, pipe, prober)),
        Ok(Err(_)) => StartError::Ended(server.exited().await),
        Err(_) => StartError::Timeout(patience, "no answer over its pipe".to_owned()),
    };
    server.stop(std::future::ready(())).await;
    Err(why)
}

async fn begin(launch: &Launch<'_>, ends: [OwnedFd; 2]) -> Result<Server, StartError> {
    let files = |error| StartError::Files {
        folder: launch.machine.folder().to_owned(),
        error,
    };
    let executable = launch.toolchain.executable.as_deref();
    let executable = executable.ok_or(StartError::NoExecutable)?;
    let folder = launch.machine.server_folder().map_err(files)?;
    // Nobody listens there.
    let address = ServerAddress::in_folder(folder.path(), "/").map_err(files)?;
    let mut command = Command::new(executable);
    command
        .current_dir(folder.path())
        .env_clear()
        .envs(passed_on())
        .env("HOME", folder.path())
        .env("TMPDIR", folder.path())
        .env("XDG_CACHE_HOME", folder.path())
        .env(tree::MARKER, folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    arguments(&mut command, launch, executable, folder.path());
    take_along(&mut command, ends);
    let sealing = launch
        .seal
        .prepare(launch.toolchain, launch.settings, folder.path())?;
    let group = group::make(folder.path(), ABOVE);
    let child = spawn::spawn(command, sealing, group).await;
    let child = child.map_err(|error| StartError::Node {
        node: executable.to_owned(),
        error,
    })?;
    Ok(Server::new(child, address, folder))
}

/// A connection of which the second end is the browser's.
fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let moved = fcntl(&theirs, FcntlArg::F_DUPFD_CLOEXEC(ABOVE))?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
    let theirs = unsafe { OwnedFd::from_raw_fd(moved) };
    Ok((UnixStream::from_std(ours)?, theirs))
}

fn arguments(command: &mut Command, launch: &Launch<'_>, executable: &Path, folder: &Path) {
    let settings = launch.settings;
    command.args(ARGUMENTS);
    let is_shell =
        executable.ends_with("chromium-headless-shell") || executable.ends_with("headless_shell");
    if settings.headless && !is_shell {
        command.arg("--headless");
    }
    if settings.headless {
        command.arg("--hide-scrollbars");
    }
    if !sandbox::is_on(settings.sandbox) {
        command.arg("--no-sandbox");
    }
    let profile = folder.join("profile");
    command
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(plan::arguments(settings, launch.options))
        .arg("about:blank");
}

/// Gives the browser its ends.
fn take_along(command: &mut Command, ends: [OwnedFd; 2]) {
    let place = move || {
        for (end, number) in ends.iter().zip([COMMANDS, ANSWERS]) {
            // SAFETY: whatever stands there in this new process is nobody's: it is about to become
            // another program, and all that is ours closes with that.
            let placed = unsafe { dup2_raw(end, number) }?;
            // It stays open.
            let _number = placed.into_raw_fd();
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec and makes two system calls, both
    // async-signal-safe; it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(place);
    }
}

/// Opens and closes a page, so that the first client does not wait for what a browser does once.
async fn warm_up(pipe: &mut Pipe) -> io::Result<()> {
    let mut answers = BufReader::new(&mut pipe.answers);
    let mut ask = async |id: u64, method: &str, params: Value| {
        let mut message = json!({"id": id, "method": method, "params": params})
            .to_string()
            .into_bytes();
        message.push(END);
        pipe.commands.write_all(&message).await?;
        loop {
            let mut answer = Vec::new();
            if answers.read_until(END, &mut answer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            answer.pop();
            let answer: Value = serde_json::from_slice(&answer)?;
            if answer["id"] == id {
                return Ok(answer["result"].clone());
            }
        }
    };
    let page = ask(1, "Target.createTarget", json!({"url": "about:blank"})).await?;
    let target = json!({"targetId": page["targetId"]});
    ask(2, "Target.closeTarget", target).await?;
    Ok(())
}
