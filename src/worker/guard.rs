//! The guard: a process that cleans up after this one when this one cannot do so itself.
//!
//! The parent-death signal ends Node when this process is killed, but not everything that Node
//! started: Chromium ends with Node, Firefox does not. So the same program, under another name,
//! waits at a pipe that the kernel closes however this process ends. Then it kills what names this
//! process's folder and removes the folder. After an orderly end it finds nothing to do.

use super::{group, tree};
use nix::sys::signal::{SigHandler, Signal, signal};
use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// Under this name the program is a guard.
const NAME: &str = "playhouse-guard";

/// Pause before a guard that died is replaced.
const REPLACED_AFTER: Duration = Duration::from_secs(1);

/// A posted guard, or its successor if it dies. It acts when this is dropped, or when this process
/// is no more.
#[must_use]
pub struct Guard {
    _posted: mpsc::Sender<Never>,
}

/// Nothing is ever sent: that the sender is gone is all there is to say.
enum Never {}

impl Guard {
    /// Posts a guard over the folder of this process's browsers.
    pub fn spawn(folder: &Path) -> io::Result<Guard> {
        let (posted, dropped) = mpsc::channel();
        let first = start(folder)?;
        let folder = folder.to_owned();
        std::thread::Builder::new()
            .name("guard".to_owned())
            .spawn(move || keep(first, &folder, &dropped))?;
        Ok(Guard { _posted: posted })
    }
}

/// Replaces the guard when it dies, until it is told to act: by the end of its pipe.
fn keep(mut guard: Child, folder: &Path, dropped: &mpsc::Receiver<Never>) {
    while let Err(RecvTimeoutError::Timeout) = dropped.recv_timeout(REPLACED_AFTER) {
        // It ends before its pipe is closed only when somebody kills it.
        if matches!(guard.try_wait(), Ok(None)) {
            continue;
        }
        match start(folder) {
            Ok(next) => {
                log::warn!("the guard was killed, another one is posted");
                guard = next;
            }
            Err(error) => log::debug!(error:% = error; "cannot post another guard yet"),
        }
    }
    drop(guard.stdin.take());
    guard.wait().ok();
}

/// A guard with a pipe, at whose end it acts.
fn start(folder: &Path) -> io::Result<Child> {
    // Not the path of the executable: the file may have been replaced meanwhile.
    Command::new("/proc/self/exe")
        .arg0(NAME)
        .arg(folder)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// What a guard is there for.
pub struct GuardTask {
    /// The folder of the process that posted it.
    folder: PathBuf,
}

/// What to guard, when this process was started as a guard.
pub fn task_of_process() -> Option<GuardTask> {
    let mut arguments = std::env::args_os();
    let is_guard = arguments.next().as_deref() == Some(OsStr::new(NAME));
    let folder = arguments.next().filter(|_| is_guard)?;
    Some(GuardTask {
        folder: folder.into(),
    })
}

/// Waits for the end of the process that posted this guard, and clears what it left.
pub fn run(task: &GuardTask) -> io::Result<()> {
    let folder = &task.folder;
    // Whoever ends a whole group of processes wants the guard's work done, not the guard gone.
    for ignored in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // SAFETY: no handler is installed, and this process has one thread.
        unsafe { signal(ignored, SigHandler::SigIgn) }?;
    }
    io::copy(&mut io::stdin(), &mut io::sink())?;
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?
        .block_on(tree::kill_all(folder, None));
    group::remove(folder);
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
