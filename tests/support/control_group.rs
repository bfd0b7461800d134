//! Control groups of the kernel, as containers have them, in version 1 or 2: what the processes in one of
//! them may have together. Only root can make one.

use super::process::Tree;
use procfs::process::Process;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long the kernel may take to see that nobody is left in a group.
const EMPTY_AFTER: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A group with one controller. Whoever is in it when this is dropped is set free.
pub struct ControlGroup {
    folder: PathBuf,
    parent: PathBuf,
    is_v1: bool,
}

impl ControlGroup {
    /// A group that limits `what`: `memory`, or `pids`.
    pub fn of(what: &str) -> ControlGroup {
        let this = Process::myself().expect("/proc is there");
        let mounts = this.mountinfo().expect("this process has mounts").0;
        let v1 = mounts
            .iter()
            .find(|it| it.fs_type == "cgroup" && it.super_options.contains_key(what));
        let v2 = mounts.iter().find(|it| it.fs_type == "cgroup2");
        let parent = v1.or(v2).expect("control groups are mounted");
        let parent = parent.mount_point.clone();
        let is_v1 = v1.is_some();
        if !is_v1 {
            let given = fs::write(parent.join("cgroup.subtree_control"), format!("+{what}"));
            given.expect("root may hand a controller on");
        }
        let folder = parent.join(format!("playhouse-test-{:016x}", rand::random::<u64>()));
        fs::create_dir(&folder).expect("root may make a control group");
        ControlGroup {
            folder,
            parent,
            is_v1,
        }
    }

    /// Where a process writes its id to be in it.
    pub fn members(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// Takes in what is still there of some processes. What they start is in it, too.
    pub fn take_in(&self, tree: &Tree) {
        for process in &tree.processes {
            // It may have ended since it was looked at.
            fs::write(self.members(), process.pid.to_string()).ok();
        }
    }

    /// Processes and threads that it has at this moment.
    pub fn tasks(&self) -> u64 {
        self.number("pids.current")
    }

    /// How many it may have. Those that it has are left alone.
    pub fn limit_tasks(&self, most: u64) {
        self.set("pids.max", most);
    }

    /// Bytes that it may have, files that are kept in memory included.
    pub fn limit_memory(&self, bytes: u64) {
        let name = if self.is_v1 {
            "memory.limit_in_bytes"
        } else {
            "memory.max"
        };
        self.set(name, bytes);
    }

    /// Bytes that it had at most.
    pub fn most_memory(&self) -> u64 {
        self.number(if self.is_v1 {
            "memory.max_usage_in_bytes"
        } else {
            "memory.peak"
        })
    }

    /// Processes that the kernel ended in it for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let name = if self.is_v1 {
            "memory.oom_control"
        } else {
            "memory.events"
        };
        let text = fs::read_to_string(self.folder.join(name)).expect("the kernel tells it");
        let mut lines = text.lines();
        let count = lines.find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|it| it.parse().ok()).expect("a number")
    }

    fn number(&self, name: &str) -> u64 {
        let text = fs::read_to_string(self.folder.join(name)).expect("the kernel tells it");
        text.trim().parse().expect("a number")
    }

    fn set(&self, name: &str, value: u64) {
        fs::write(self.folder.join(name), value.to_string()).expect("root may limit it");
    }
}

impl Drop for ControlGroup {
    #[expect(
        clippy::disallowed_methods,
        reason = "milliseconds, and a drop cannot await"
    )]
    fn drop(&mut self) {
        let began = Instant::now();
        while fs::remove_dir(&self.folder).is_err() && began.elapsed() < EMPTY_AFTER {
            let left = fs::read_to_string(self.members()).unwrap_or_default();
            for pid in left.lines() {
                fs::write(self.parent.join("cgroup.procs"), pid).ok();
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}
