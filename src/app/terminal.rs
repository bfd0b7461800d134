//! The terminal that a process was started from.
//!
//! When a terminal closes, the kernel takes it away from its processes and sends them SIGHUP, the
//! same signal that asks a service to read its configuration again. What tells the two apart is
//! whether the terminal is still there.

use std::fs::File;
use std::time::Duration;

/// The controlling terminal of the process that asks, whichever it is (tty(4)).
const CONTROLLING: &str = "/dev/tty";
/// A shell that ends sends the signal a moment before its terminal is taken away.
const CHECKS: u32 = 20;
const CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// A terminal whose end is the end of this process.
pub struct Terminal(());

impl Terminal {
    /// The controlling terminal, unless there is none, or the process was told not to mind its end
    /// (nohup(1) ignores SIGHUP).
    pub fn of_process() -> Option<Terminal> {
        let ignored = ignores_hangups();
        (Terminal::is_there() && !ignored).then_some(Terminal(()))
    }

    /// Whether this process has one.
    pub fn is_there() -> bool {
        // It fails with ENXIO when the process has none.
        File::options()
            .read(true)
            .write(true)
            .open(CONTROLLING)
            .is_ok()
    }

    /// Whether it was taken away.
    pub async fn is_gone(&self) -> bool {
        for _ in 0..CHECKS {
            if !Terminal::is_there() {
                return true;
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
        false
    }
}

/// Whether SIGHUP was ignored when the process started. Has to be asked before it is handled.
fn ignores_hangups() -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action the call only writes the present one to where it is told.
    let asked = unsafe { libc::sigaction(libc::SIGHUP, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: all zeroes is a valid action, and so is what the kernel wrote.
    let action = unsafe { action.assume_init() };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}
