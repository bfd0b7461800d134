//! The memory that a worker was given: its limit, what is left of it, and whom the kernel ended for
//! want of it. Read from the control group (v1 or v2) and from the machine, whichever has less.

use super::lifecycle::Room;
use procfs::process::{MountInfo, Process};
use procfs::{Current, Meminfo};
use std::fs;
use std::path::{Path, PathBuf};

/// Where memory is limited.
#[derive(Debug)]
pub struct Memory {
    /// The control groups that this process is in, the innermost first.
    groups: Vec<Group>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// The files of one control group. Any of them may be missing: the root has no limit.
#[derive(Debug)]
struct Group {
    folder: PathBuf,
    version: Version,
}

impl Memory {
    /// Of this process.
    pub fn of_this_process() -> Memory {
        Memory {
            groups: groups().unwrap_or_default(),
        }
    }

    /// What there is, without what is promised to somebody.
    pub fn room(&self) -> Room {
        let groups = self.groups.iter().filter_map(Group::room);
        let rooms = groups.chain(of_machine());
        rooms
            .min_by_key(|room| room.free)
            .unwrap_or(Room::UNLIMITED)
    }

    /// The limit of the innermost control group that has one below the machine's.
    pub fn limit_of_container(&self) -> Option<u64> {
        let machine = of_machine().map_or(u64::MAX, |room| room.limit);
        let mut limits = self.groups.iter().filter_map(Group::limit);
        limits.find(|limit| *limit < machine)
    }

    /// How many processes of this control group the kernel has ended for want of memory, ever.
    /// `None` where it does not count them.
    pub fn oom_kills(&self) -> Option<u64> {
        self.groups.first()?.oom_kills()
    }

    /// What to say of such an end.
    pub fn cause(&self) -> String {
        match self.limit_of_container() {
            Some(limit) => format!(
                "out of memory: the container's limit of {} MiB is too small",
                limit >> 20
            ),
            None => "out of memory: the machine has too little of it".to_owned(),
        }
    }
}

impl Group {
    fn number(&self, file: &str) -> Option<u64> {
        let text = fs::read_to_string(self.folder.join(file)).ok()?;
        text.trim().parse().ok()
    }

    /// A line `name value` of a file.
    fn value(&self, file: &str, name: &str) -> Option<u64> {
        let text = fs::read_to_string(self.folder.join(file)).ok()?;
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(key, _)| *key == name)?.1.trim().parse().ok()
    }

    /// `None` without one: v2 says `max`, v1 a number above any machine's.
    fn limit(&self) -> Option<u64> {
        match self.version {
            Version::V1 => self.number("memory.limit_in_bytes"),
            Version::V2 => self.number("memory.max"),
        }
        .filter(|limit| *limit < 1 << 60)
    }

    /// Files that nobody has read for a while are given back when memory is short: they do not count
    /// as used.
    fn room(&self) -> Option<Room> {
        let limit = self.limit()?;
        let (used, idle) = match self.version {
            Version::V1 => ("memory.usage_in_bytes", "total_inactive_file"),
            Version::V2 => ("memory.current", "inactive_file"),
        };
        let used = self.number(used)?;
        let idle = self.value("memory.stat", idle).unwrap_or(0);
        let free = limit.saturating_sub(used.saturating_sub(idle));
        Some(Room { limit, free })
    }

    fn oom_kills(&self) -> Option<u64> {
        match self.version {
            Version::V1 => self.value("memory.oom_control", "oom_kill"),
            Version::V2 => self.value("memory.events", "oom_kill"),
        }
    }
}

fn of_machine() -> Option<Room> {
    let memory = Meminfo::current().ok()?;
    Some(Room {
        limit: memory.mem_total,
        free: memory.mem_available?,
    })
}

/// The control groups of this process in the hierarchy that has the memory controller.
fn groups() -> Option<Vec<Group>> {
    let this = Process::myself().ok()?;
    let mounts = this.mountinfo().ok()?;
    let cgroups = this.cgroups().ok()?;
    let of_v1 = cgroups.0.iter().find_map(|group| {
        let is_it = group.controllers.iter().any(|name| name == "memory");
        let mount = mounts
            .0
            .iter()
            .find(|mount| mount.fs_type == "cgroup" && mount.super_options.contains_key("memory"));
        Some((is_it.then_some(&group.pathname)?, mount?, Version::V1))
    });
    let of_v2 = || {
        let group = cgroups.0.iter().find(|group| group.hierarchy == 0)?;
        let mount = mounts.0.iter().find(|mount| mount.fs_type == "cgroup2")?;
        Some((&group.pathname, mount, Version::V2))
    };
    let (path, mount, version) = of_v1.or_else(of_v2)?;
    Some(ancestry(Path::new(path), mount, version))
}

/// From the group at `path` up to the root of the mount. In a container the mount's root may be the
/// group itself, whichever path the kernel gives.
fn ancestry(path: &Path, mount: &MountInfo, version: Version) -> Vec<Group> {
    let below = path
        .strip_prefix(&mount.root)
        .or_else(|_| path.strip_prefix("/"))
        .unwrap_or(Path::new(""));
    let innermost = mount.mount_point.join(below);
    let innermost = if innermost.is_dir() {
        innermost
    } else {
        mount.mount_point.clone()
    };
    innermost
        .ancestors()
        .take_while(|folder| folder.starts_with(&mount.mount_point))
        .map(|folder| Group {
            folder: folder.to_owned(),
            version,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(version: Version, files: &[(&str, &str)]) -> (tempfile::TempDir, Memory) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let groups = vec![Group {
            folder: folder.path().to_owned(),
            version,
        }];
        (folder, Memory { groups })
    }

    #[test]
    fn reads_both_versions_of_control_groups() {
        let (_v1, old) = group(
            Version::V1,
            &[
                ("memory.limit_in_bytes", "754974720\n"),
                ("memory.usage_in_bytes", "700000000\n"),
                (
                    "memory.stat",
                    "inactive_file 1\ntotal_inactive_file 100000000\n",
                ),
                (
                    "memory.oom_control",
                    "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
                ),
            ],
        );
        let (_v2, new) = group(
            Version::V2,
            &[
                ("memory.max", "754974720\n"),
                ("memory.current", "700000000\n"),
                ("memory.stat", "anon 5\ninactive_file 100000000\n"),
                ("memory.events", "low 0\noom 4\noom_kill 3\n"),
            ],
        );
        for memory in [old, new] {
            let room = memory.room();
            assert_eq!((room.limit, room.free), (754_974_720, 154_974_720));
            assert_eq!(memory.oom_kills(), Some(3));
            let cause = memory.cause();
            assert!(cause.contains("container's limit of 720 MiB"), "{cause}");
        }
    }

    #[test]
    fn without_a_limit_of_its_own_the_machine_is_what_there_is() {
        let (_v2, unlimited) = group(Version::V2, &[("memory.max", "max\n")]);
        let (_v1, huge) = group(
            Version::V1,
            &[
                ("memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory.usage_in_bytes", "1\n"),
            ],
        );
        for memory in [unlimited, huge] {
            assert_eq!(memory.limit_of_container(), None);
            assert!(memory.room().limit < 1 << 60);
            assert!(memory.cause().contains("machine"));
        }
    }

    #[test]
    fn this_process_has_some_memory() {
        let room = Memory::of_this_process().room();
        assert!(room.free > 1 << 20 && room.limit >= room.free, "{room:?}");
    }
}
