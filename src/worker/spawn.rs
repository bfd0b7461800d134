//! Starts child processes that cannot outlive this process, however it ends.
//!
//! Linux sends the parent-death signal when the *thread* that forked ends, so all children are
//! forked by one thread that lives as long as the process.

use super::group::Entrance;
use super::seal::Sealing;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid};
use std::io;
use std::sync::{OnceLock, mpsc};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

struct Order {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// Starts `command` in a process group of its own (a Ctrl-C on the terminal is for us alone), under
/// the `sealing` and in the `group` from its first instruction, killed with SIGKILL when this process dies or the
/// returned [`Child`] is dropped.
///
/// Needs a Tokio runtime.
pub async fn spawn(
    command: Command,
    sealing: Option<Sealing>,
    group: Option<Entrance>,
) -> io::Result<Child> {
    let (reply, child) = oneshot::channel();
    let order = Order {
        command: bound_to_this_process(command, sealing, group),
        runtime: Handle::current(),
        reply,
    };
    let gone = |_| io::Error::other("the thread that starts processes is gone");
    spawner()?
        .send(order)
        .map_err(|_| io::Error::other("the thread that starts processes is gone"))?;
    child.await.map_err(gone)?
}

fn spawner() -> io::Result<&'static mpsc::Sender<Order>> {
    static SPAWNER: OnceLock<Option<mpsc::Sender<Order>>> = OnceLock::new();
    SPAWNER
        .get_or_init(|| {
            let (orders, inbox) = mpsc::channel::<Order>();
            std::thread::Builder::new()
                .name("spawner".to_owned())
                .spawn(move || {
                    for mut order in inbox {
                        let _runtime = order.runtime.enter();
                        // A child that nobody waits for is dropped here, and so killed.
                        order.reply.send(order.command.spawn()).ok();
                    }
                })
                .ok()
                .map(|_| orders)
        })
        .as_ref()
        .ok_or_else(|| io::Error::other("cannot start the thread that starts processes"))
}

fn bound_to_this_process(
    mut command: Command,
    sealing: Option<Sealing>,
    group: Option<Entrance>,
) -> Command {
    let parent = getpid();
    command.kill_on_drop(true).process_group(0);
    // SAFETY: the closure runs between fork and exec and makes a few system calls, all of them
    // async-signal-safe; it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || {
            die_with(parent)?;
            // Where it cannot be entered, the server is no worse off than where there is none.
            if let Some(group) = &group {
                group.enter().ok();
            }
            sealing.as_ref().map_or(Ok(()), Sealing::enter)
        });
    }
    command
}

fn die_with(parent: Pid) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have died before the signal was set.
    if getppid() != parent {
        return Err(io::Error::from_raw_os_error(nix::libc::ESRCH));
    }
    Ok(())
}
