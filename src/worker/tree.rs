//! The processes of one browser server as the kernel knows them: who belongs to it, how much
//! memory they use, their end, and the burial of those that this process adopted.
//!
//! Node is our child. The browser is Node's child, in a session and process group of its own, and
//! becomes ours (we are a subreaper) when Node dies first. What ties all of them to one server in
//! any state is a variable of their environment, which they inherit: it names the server's folder,
//! whose name is used once. Nobody else's process has it, whatever its arguments name.

use super::group;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getpgrp, getsid};
use procfs::WithCurrentSystemInfo;
use procfs::process::{Process, Stat};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// Variable that the processes of a server have, with its folder as the value.
pub const MARKER: &str = "PLAYHOUSE_SERVER_FOLDER";

/// How long processes may take to vanish after SIGKILL: only one in an uninterruptible system
/// call (a dead disk) takes longer, and waiting does not help there.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
const KILL_POLL: Duration = Duration::from_millis(10);

/// Makes this process the parent of descendants whose own parent dies, so that a browser is still
/// ours after Node is gone. See [`reap_adopted`].
pub fn adopt_orphans() {
    if let Err(error) = prctl::set_child_subreaper(true) {
        log::warn!("cannot adopt orphaned browsers: {error}");
    }
}

/// Collects the exit status of dead processes that became our children by adoption.
///
/// Children that this process started itself are left to whoever waits for them: they are in our
/// session, and in our process group or leaders of one. Adopted ones are not.
pub fn reap_adopted() {
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
            reap_adopted();
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

/// Every living process of the server in `folder`, or of all servers below it: this user's that have
/// the marker or are in its group, the sessions these lead, and everything descended from them or from `node`.
pub fn members(folder: &Path, node: Option<i32>) -> Vec<i32> {
    let Ok(all) = procfs::process::all_processes() else {
        return Vec::new();
    };
    let this = std::process::id() as i32;
    let mut stats = HashMap::new();
    let mut named: HashSet<i32> = group::members(folder).into_iter().collect();
    for process in all.flatten().filter(|process| process.pid != this) {
        let Ok(stat) = process.stat() else { continue };
        if is_marked(&process, folder) {
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

/// Whether nothing of a process runs. One whose first thread has ended looks like a zombie
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

/// Whether a process of this user was started for a server in `folder`, or below it.
fn is_marked(process: &Process, folder: &Path) -> bool {
    let user = nix::unistd::getuid().as_raw();
    let is_ours = || process.status().is_ok_and(|status| status.ruid == user);
    std::fs::read(format!("/proc/{}/environ", process.pid))
        .is_ok_and(|environment| has_marker(&environment, folder))
        && is_ours()
}

fn has_marker(environment: &[u8], folder: &Path) -> bool {
    environment
        .split(|byte| *byte == 0)
        .filter_map(|entry| entry.strip_prefix(MARKER.as_bytes())?.strip_prefix(b"="))
        .any(|value| Path::new(OsStr::from_bytes(value)).starts_with(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_a_variable_of_its_own_and_names_the_folder_or_one_below() {
        let marked = |environment: &[u8]| has_marker(environment, Path::new("/tmp/p-1/12"));
        assert!(marked(b"A=1\0PLAYHOUSE_SERVER_FOLDER=/tmp/p-1/12\0B=2\0"));
        assert!(marked(b"PLAYHOUSE_SERVER_FOLDER=/tmp/p-1/12/below\0"));
        for other in [
            &b"PLAYHOUSE_SERVER_FOLDER=/tmp/p-1/1\0"[..],
            b"PLAYHOUSE_SERVER_FOLDER=/tmp/p-1/123\0",
            b"OLDPWD=/tmp/p-1/12\0",
            b"X_PLAYHOUSE_SERVER_FOLDER=/tmp/p-1/12\0",
            b"",
        ] {
            assert!(!marked(other));
        }
    }

    #[test]
    fn a_bystander_whose_arguments_name_the_folder_is_not_a_member() {
        let folder = tempfile::tempdir().unwrap();
        let start = |marker: &str| {
            std::process::Command::new("sh")
                .args(["-c", "read line", "sh"])
                .arg(folder.path().join("log"))
                .env("OLDPWD", folder.path())
                .env(marker, folder.path())
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        };
        let (mut ours, mut bystander) = (start(MARKER), start("ANOTHER"));
        let found = members(folder.path(), None);
        for child in [&mut ours, &mut bystander] {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
        assert_eq!(found, [ours.id() as i32]);
    }

    #[test]
    fn this_process_uses_memory() {
        let bytes = memory(std::process::id() as i32).unwrap();
        assert!(bytes > 100_000, "{bytes}");
    }
}
