//! A control group for each browser server, where this process may make one: whoever is in it belongs to the
//! server, whatever it has done to its environment, its session and its parents. Nothing is limited by it.
//!
//! It is below the group of this process, in version 2 of control groups (which may be mounted beside version
//! 1). Containers have that read-only as a rule, and users that are not root have it where systemd delegates
//! it; elsewhere there is none, and a server's processes are those that [`tree`](super::tree) finds.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use procfs::process::Process;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// Start of the names of our groups.
const PREFIX: &str = "playhouse-";
/// The file that lists who is in a group, and takes who is to be.
const MEMBERS: &str = "cgroup.procs";
/// A group is busy for a moment after its last process has ended.
const TRIES: usize = 20;
const TRY_AGAIN: Duration = Duration::from_millis(5);

/// The way into a group.
#[derive(Debug)]
pub struct Door(OwnedFd);

impl Door {
    /// Puts this process into the group, with all that it starts from then on. To be called between fork and
    /// exec: one system call, and nothing is allocated.
    pub fn enter(&self) -> nix::Result<()> {
        nix::unistd::write(&self.0, b"0").map(|_| ())
    }
}

/// Makes a group for the server in `folder`, where that is possible. The descriptor is above `above`.
pub fn make(folder: &Path, above: i32) -> Option<Door> {
    let group = of(folder)?;
    fs::create_dir(&group).ok()?;
    let door = open(&group, above);
    if door.is_err() {
        fs::remove_dir(group).ok();
    }
    door.ok()
}

fn open(group: &Path, above: i32) -> io::Result<Door> {
    let file = OpenOptions::new().write(true).open(group.join(MEMBERS))?;
    let moved = fcntl(&file, FcntlArg::F_DUPFD_CLOEXEC(above))?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
    Ok(Door(unsafe { OwnedFd::from_raw_fd(moved) }))
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

/// Removes the groups of these servers, whose processes have ended.
#[expect(
    clippy::disallowed_methods,
    reason = "milliseconds, where files are removed as well"
)]
pub fn remove(folder: &Path) {
    for group in all_of(folder) {
        for _ in 0..TRIES {
            match fs::remove_dir(&group) {
                Err(error) if is_busy(&error) => std::thread::sleep(TRY_AGAIN),
                _ => break,
            }
        }
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EBUSY as i32)
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
