//! A control group for each browser server, where this process may make one: whoever is in it belongs to the
//! server, whatever it has done to its environment, its session and its parents. Nothing is limited by it.
//!
//! It is below the group of this process, in version 2 of control groups (which may be mounted beside version
//! 1). Containers have that read-only as a rule, and users that are not root have it where systemd delegates
//! it; elsewhere there is none, and a server's processes are those that [`tree`](super::tree) finds.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use procfs::process::Process;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Start of the names of our groups.
const PREFIX: &str = "playhouse-";
/// The file that lists who is in a group, and takes who is to be.
const MEMBERS: &str = "cgroup.procs";
/// Says whether anybody is in a group, and wakes who polls it when that changes (cgroup-v2.rst, "populated").
const EVENTS: &str = "cgroup.events";
/// How long the kernel may take to end what was killed. A group that is left is empty, and costs nothing.
const EMPTIES_WITHIN: Duration = Duration::from_millis(100);

/// The way into a group.
#[derive(Debug)]
pub struct Entrance(OwnedFd);

impl Entrance {
    /// Puts this process into the group, with all that it starts from then on. To be called between fork and
    /// exec: one system call, and nothing is allocated.
    pub fn enter(&self) -> nix::Result<()> {
        nix::unistd::write(&self.0, b"0").map(|_| ())
    }
}

/// Makes a group for the server in `folder`, where that is possible. The descriptor is above `above`.
pub fn make(folder: &Path, above: i32) -> Option<Entrance> {
    let group = of(folder)?;
    fs::create_dir(&group).ok()?;
    let entrance = open(&group, above);
    if entrance.is_err() {
        fs::remove_dir(group).ok();
    }
    entrance.ok()
}

fn open(group: &Path, above: i32) -> io::Result<Entrance> {
    let file = OpenOptions::new().write(true).open(group.join(MEMBERS))?;
    let moved = fcntl(&file, FcntlArg::F_DUPFD_CLOEXEC(above))?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
    Ok(Entrance(unsafe { OwnedFd::from_raw_fd(moved) }))
}

/// Who is in the group of the server in `folder`, or in those of all servers below it.
pub fn members(folder: &Path) -> Vec<i32> {
    let mut members = Vec::new();
    for group in all_of(folder) {
        let text = fs::read_to_string(group.join(MEMBERS)).unwrap_or_default();
        members.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    members
}

/// Removes the groups of these servers, whose processes have ended or are about to. To be called where a
/// thread may wait for the disk.
pub fn remove(folder: &Path) {
    for group in all_of(folder) {
        let removed = until_empty(&group).and_then(|()| fs::remove_dir(&group));
        if let Err(error) = removed {
            log::debug!("cannot remove a browser's control group: {error}");
        }
    }
}

fn until_empty(group: &Path) -> io::Result<()> {
    let until = Instant::now() + EMPTIES_WITHIN;
    let mut events = File::open(group.join(EVENTS))?;
    loop {
        // Polled for what has changed since it was read.
        let mut text = String::new();
        events.rewind()?;
        events.read_to_string(&mut text)?;
        if text.lines().any(|line| line == "populated 0") {
            return Ok(());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno::EBUSY.into());
        }
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], left) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The groups that there are for the server in `folder`, or for all servers below it.
fn all_of(folder: &Path) -> Vec<PathBuf> {
    let below = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = below.map(|entry| entry.path()).chain([folder.to_owned()]);
    let mut groups: Vec<PathBuf> = folders.filter_map(|folder| of(&folder)).collect();
    groups.retain(|group| group.is_dir());
    groups
}

/// Where the group of the server in `folder` is, if there is one. The folder's name is used once.
fn of(folder: &Path) -> Option<PathBuf> {
    let mut name = OsString::from(PREFIX);
    name.push(folder.file_name()?);
    Some(own()?.join(name))
}

/// The group of this process.
fn own() -> Option<&'static PathBuf> {
    static OWN: OnceLock<Option<PathBuf>> = OnceLock::new();
    OWN.get_or_init(find_own).as_ref()
}

fn find_own() -> Option<PathBuf> {
    let this = Process::myself().ok()?;
    let mounts = this.mountinfo().ok()?;
    let groups = this.cgroups().ok()?;
    let mount = mounts.0.iter().find(|mount| mount.fs_type == "cgroup2")?;
    let group = groups.0.iter().find(|group| group.hierarchy == 0)?;
    // In a container the mount's root may be the group itself.
    let below = Path::new(&group.pathname)
        .strip_prefix(&mount.root)
        .unwrap_or(Path::new(""));
    Some(mount.mount_point.join(below))
}
