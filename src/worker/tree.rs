//! The processes of one browser server as the kernel knows them: who belongs to it, how much
//! memory they use, their end, and the burial of those that this process adopted.
//!
//! Node is our child. The browser is Node's child, in a session and process group of its own, and
//! becomes ours (we are a subreaper) when Node dies first. What ties all of them to one server in
//! any state is the server's folder: it is in the browser's arguments and in the environment that
//! its children inherit.

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getpgrp, getsid};
use procfs::WithCurrentSystemInfo;
use procfs::process::{Process, Stat};
use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// How long processes may take to vanish after SIGKILL: only one in an uninterruptible system
/// call (a dead disk) takes longer, and waiting does not help there.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
const KILL_POLL: Duration = Duration::from_millis(10);

/// Makes this process the parent of descendants whose own parent dies, so that a browser is still
/// ours after Node is gone. See [`bury_adopted`].
pub fn adopt_orphans() {
    if let Err(error) = prctl::set_child_subreaper(true) {
        log::warn!("cannot adopt orphaned browsers: {error}");
    }
}

/// Collects the exit status of dead processes that became our children by adoption.
///
/// Children that this process started itself are left to whoever waits for them: they are in our
/// session, and in our process group or leaders of one. Adopted ones are not.
pub fn bury_adopted() {
    let Ok(session) = getsid(None) else { return };
    let group = getpgrp();
    for pid in own_children() {
        let Some(stat) = stat(pid) else { continue };
        let foreign_group = stat.pgrp != group.as_raw() && stat.pgrp != pid;
        if stat.state == 'Z' && (stat.session != session.as_raw() || foreign_group) {
            // Somebody else having been faster is fine.
            waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)).ok();
        }
    }
}

/// Sends SIGKILL to every process of the server in `folder` until none is left. A stopped process
/// dies of it too.
pub async fn kill_all(folder: &Path, node: Option<i32>) {
    let deadline = tokio::time::Instant::now() + KILL_PATIENCE;
    loop {
        let path = folder.to_owned();
        let left = tokio::task::spawn_blocking(move || {
            let left = kill_once(&path, node);
            bury_adopted();
            left
        })
        .await
        .unwrap_or(0);
        if left == 0 {
            return;
        }
        if tokio::time::Instant::now() > deadline {
            log::error!(processes = left; "processes of a browser survive SIGKILL");
            return;
        }
        tokio::time::sleep(KILL_POLL).await;
    }
}

/// Sends SIGKILL once to every process of the server in `folder`; returns how many there were.
pub fn kill_once(folder: &Path, node: Option<i32>) -> usize {
    let members = members(folder, node);
    for pid in &members {
        // Gone already is as good.
        kill(Pid::from_raw(*pid), Signal::SIGKILL).ok();
    }
    members.len()
}

/// Every living process of the server in `folder`: those that name the folder, the sessions these
/// lead, and everything descended from `node`.
pub fn members(folder: &Path, node: Option<i32>) -> Vec<i32> {
    let Ok(all) = procfs::process::all_processes() else {
        return Vec::new();
    };
    let this = std::process::id() as i32;
    let mut stats = HashMap::new();
    let mut named = HashSet::new();
    for process in all.flatten().filter(|process| process.pid != this) {
        let Ok(stat) = process.stat() else { continue };
        if names(&process, folder) {
            named.insert(process.pid);
        }
        stats.insert(process.pid, stat);
    }
    let belongs = |pid: i32| {
        let descends = |mut pid: i32| {
            // Bounded: a table read while processes come and go may hold a loop.
            for _ in 0..64 {
                if Some(pid) == node || named.contains(&pid) {
                    return true;
                }
                match stats.get(&pid) {
                    Some(stat) if stat.ppid > 1 && stat.ppid != this => pid = stat.ppid,
                    _ => return false,
                }
            }
            false
        };
        descends(pid)
            || stats
                .get(&pid)
                .is_some_and(|stat| named.contains(&stat.session))
    };
    stats
        .iter()
        .filter(|(pid, stat)| !is_dead(stat) && belongs(**pid))
        .map(|(pid, _)| *pid)
        .collect()
}

/// Whether nothing of a process runs any more. One whose first thread has ended looks like a zombie
/// while others of its threads have not.
fn is_dead(stat: &Stat) -> bool {
    matches!(stat.state, 'Z' | 'X') && stat.num_threads <= 1
}

/// Memory of `node` and everything below it, in bytes: proportional set size, so that pages which
/// processes share count once; resident size where the kernel does not say.
pub fn memory(node: i32) -> Option<u64> {
    let mut total = None;
    let mut queue = vec![node];
    let mut seen = HashSet::new();
    while let Some(pid) = queue.pop() {
        let Ok(process) = Process::new(pid) else {
            continue;
        };
        if !seen.insert(pid) {
            continue;
        }
        if let Some(bytes) = proportional(&process).or_else(|| resident(&process)) {
            *total.get_or_insert(0) += bytes;
        }
        queue.extend(children(&process));
    }
    total
}

/// How long the threads of `node` and of its children, the browser's first process among them, have
/// been ready to run and did not, ever.
pub fn run_delay(node: i32) -> Duration {
    let Ok(server) = Process::new(node) else {
        return Duration::ZERO;
    };
    let below = children(&server);
    let processes = below.into_iter().filter_map(|pid| Process::new(pid).ok());
    let tasks = processes
        .chain([server])
        .filter_map(|process| process.tasks().ok())
        .flat_map(|tasks| tasks.flatten());
    let delays = tasks.filter_map(|task| task.schedstat().ok());
    Duration::from_nanos(delays.map(|stat| stat.run_delay).sum())
}

fn proportional(process: &Process) -> Option<u64> {
    let rollup = process.smaps_rollup().ok()?;
    let map = rollup.memory_map_rollup.into_iter().next()?;
    map.extension.map.get("Pss").copied()
}

fn resident(process: &Process) -> Option<u64> {
    Some(process.stat().ok()?.rss_bytes().get())
}

fn children(process: &Process) -> Vec<i32> {
    let Ok(tasks) = process.tasks() else {
        return Vec::new();
    };
    tasks
        .flatten()
        .filter_map(|task| task.children().ok())
        .flatten()
        .map(|pid| pid as i32)
        .collect()
}

fn own_children() -> Vec<i32> {
    Process::myself().map_or_else(|_| Vec::new(), |process| children(&process))
}

fn stat(pid: i32) -> Option<Stat> {
    Process::new(pid).ok()?.stat().ok()
}

/// Whether a process was started with `folder` in its arguments or environment.
fn names(process: &Process, folder: &Path) -> bool {
    let folder = folder.as_os_str().as_bytes();
    let holds = |file: &str| {
        std::fs::read(format!("/proc/{}/{file}", process.pid))
            .is_ok_and(|bytes| contains_path(&bytes, folder))
    };
    holds("cmdline") || holds("environ")
}

/// Whether `bytes` holds the path as a whole: `/tmp/a/1` is not in `/tmp/a/12`.
fn contains_path(bytes: &[u8], path: &[u8]) -> bool {
    bytes.windows(path.len()).enumerate().any(|(at, window)| {
        window == path
            && !bytes
                .get(at + path.len())
                .is_some_and(|next| next.is_ascii_alphanumeric() || *next == b'-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_whole_or_not_at_all() {
        let arguments = b"chrome\0--user-data-dir=/tmp/p-1/12/profile\0";
        assert!(contains_path(arguments, b"/tmp/p-1/12"));
        assert!(!contains_path(arguments, b"/tmp/p-1/1"));
        assert!(!contains_path(b"", b"/tmp"));
    }

    #[test]
    fn this_process_uses_memory() {
        let bytes = memory(std::process::id() as i32).unwrap();
        assert!(bytes > 100_000, "{bytes}");
    }
}
