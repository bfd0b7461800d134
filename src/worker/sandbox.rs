//! Whether Chromium's own sandbox works on this machine: it takes a user that is not root, and user
//! namespaces that may be used.

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chroot, geteuid};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Whether to start Chromium with its sandbox; `None` asks for it wherever it works.
pub fn is_on(wanted: Option<bool>) -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    wanted.unwrap_or_else(|| *WORKS.get_or_init(|| !geteuid().is_root() && has_namespaces()))
}

/// What a sealed Firefox is told where it runs as root, whose way into a user namespace is to write to
/// `/proc`, where all of the machine's settings are: that there are none (its `SandboxInfo.cpp`).
pub fn firefox_as_root() -> Option<(&'static str, &'static str)> {
    geteuid().is_root().then_some(("MOZ_ASSUME_USER_NS", "0"))
}

/// Tries what Chromium does first: a user namespace, and by the rights that it gives other namespaces
/// and another root. Some systems allow the first and take the rights away.
fn has_namespaces() -> bool {
    let mut probe = Command::new("/proc/self/exe");
    probe
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let enter = || {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNET)?;
        chroot("/")?;
        io::Result::Ok(())
    };
    // SAFETY: the closure runs between fork and exec and makes three system calls.
    let tried = unsafe { probe.pre_exec(enter) }.status();
    tried.is_ok()
}
