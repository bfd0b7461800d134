//! The guard: a process that cleans up after this one when it can no longer do so itself.
//!
//! The parent-death signal ends Node when this process is killed, but not everything that Node
//! started: Chromium ends with Node, Firefox does not. So the same program, under another name,
//! waits at a pipe that the kernel closes however this process ends. Then it kills what names this
//! process's folder and removes the folder. After an orderly end it finds nothing to do.

use super::tree;
use nix::sys::signal::{SigHandler, Signal, signal};
use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};

/// Under this name the program is a guard.
const NAME: &str = "playhouse-guard";

/// A posted guard. It acts when this is dropped, or when this process is no more.
#[must_use]
pub struct Guard {
    _pipe: ChildStdin,
}

impl Guard {
    /// Posts a guard over the folder of this process's browsers.
    pub fn post(folder: &Path) -> io::Result<Guard> {
        // Not the path of the executable: the file may have been replaced meanwhile.
        let mut child = Command::new("/proc/self/exe")
            .arg0(NAME)
            .arg(folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let pipe = child.stdin.take().expect("stdin is piped");
        let bury = move || {
            // It ends before the pipe is closed only when somebody kills it.
            child.wait().ok();
        };
        std::thread::Builder::new()
            .name("guard".to_owned())
            .spawn(bury)?;
        Ok(Guard { _pipe: pipe })
    }
}

/// What a guard is there for.
pub struct Duty {
    /// The folder of the process that posted it.
    folder: PathBuf,
}

/// What to guard, when this process was started as a guard.
pub fn duty() -> Option<Duty> {
    let mut arguments = std::env::args_os();
    let is_guard = arguments.next().as_deref() == Some(OsStr::new(NAME));
    let folder = arguments.next().filter(|_| is_guard)?;
    Some(Duty {
        folder: folder.into(),
    })
}

/// Waits for the end of the process that posted this guard, and clears what it left.
pub fn stand(duty: &Duty) -> io::Result<()> {
    let folder = &duty.folder;
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
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
