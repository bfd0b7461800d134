//! What the agents of one process share on their machine: turns to warm a browser up, memory, and
//! the folder that holds the browsers' temporary files.

use super::lifecycle::Room;
use super::memory::Memory;
use super::{group, tree};
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Start of the names of our folders among the machine's temporary files.
const PREFIX: &str = "playhouse-";
/// Held locked in each of them as long as its process lives. The kernel lets go of it however the
/// process ends, in whichever container it ran; a process id could mean anything by then.
const LOCK: &str = "lock";
/// How old a reading of the memory may be.
const MEMORY_IS_FRESH: Duration = Duration::from_secs(1);

/// Shared by all [`Agent`](super::Agent)s of a process. Dropping it removes its folder.
pub struct MachineShared {
    /// Permits to warm up that are taken.
    warming: Arc<Mutex<usize>>,
    budget: Arc<Mutex<Budget>>,
    folder: TempDir,
    _lock: File,
}

impl MachineShared {
    /// Makes this process's folder among the machine's temporary files, and removes what
    /// processes that died left there, browsers included.
    pub fn new() -> io::Result<Arc<MachineShared>> {
        MachineShared::below(&std::env::temp_dir())
    }

    /// The same, with another place for temporary files.
    pub fn below(root: &Path) -> io::Result<Arc<MachineShared>> {
        sweep(root);
        let folder = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", std::process::id()))
            .tempdir_in(root)?;
        // Locked before it has its name: whoever finds it by name finds it locked.
        let unnamed = folder.path().join("new-lock");
        let lock = File::create(&unnamed)?;
        lock.try_lock()?;
        std::fs::rename(&unnamed, folder.path().join(LOCK))?;
        tree::adopt_orphans();
        Ok(Arc::new(MachineShared {
            warming: Arc::default(),
            budget: Arc::new(Mutex::new(Budget::new())),
            folder,
            _lock: lock,
        }))
    }

    /// A permit to warm a browser up, unless `most` others of this process have one.
    pub fn try_warm_up_permit(&self, most: usize) -> Option<WarmUpPermit> {
        let mut warming = locked(&self.warming);
        (*warming < most).then(|| {
            *warming += 1;
            WarmUpPermit(Arc::clone(&self.warming))
        })
    }

    /// The memory that this process and its browsers share. Nobody else plans with it while this is
    /// held; not to be held across an await.
    pub fn budget(&self) -> MutexGuard<'_, Budget> {
        locked(&self.budget)
    }

    /// Memory for a browser that is to come, until this is dropped.
    pub fn claim(&self, budget: &mut Budget, bytes: u64) -> MemoryClaim {
        budget.claimed += bytes;
        MemoryClaim {
            bytes,
            budget: Arc::clone(&self.budget),
        }
    }

    /// A folder for one browser server's files, for this user alone. What runs in another server's
    /// folder cannot guess its name, and cannot read it anywhere.
    pub fn server_folder(&self) -> io::Result<ServerFolder> {
        let name = format!("{:032x}", rand::random::<u128>());
        let path = self.folder.path().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(ServerFolder { path })
    }

    /// Where the servers' folders are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// A permit to warm a browser up. It is given back when this is dropped.
#[derive(Debug)]
#[must_use]
pub struct WarmUpPermit(Arc<Mutex<usize>>);

impl Drop for WarmUpPermit {
    fn drop(&mut self) {
        *locked(&self.0) -= 1;
    }
}

/// What memory there is, what of it is promised to browsers that are to come, and whom the kernel
/// ended for want of it.
#[derive(Debug)]
pub struct Budget {
    memory: Memory,
    claimed: u64,
    seen: Option<(Instant, Room)>,
    /// As the kernel has counted them.
    oom_kills: Option<u64>,
    uncounted: u64,
    last_kill: Option<Instant>,
}

impl Budget {
    fn new() -> Budget {
        let memory = Memory::of_this_process();
        Budget {
            oom_kills: memory.oom_kills(),
            memory,
            claimed: 0,
            seen: None,
            uncounted: 0,
            last_kill: None,
        }
    }

    /// What there is, at most a second old, less what is promised.
    pub fn room(&mut self) -> Room {
        let now = Instant::now();
        let seen = self
            .seen
            .filter(|(at, _)| now.duration_since(*at) < MEMORY_IS_FRESH);
        let (_, room) = *self
            .seen
            .insert(seen.unwrap_or_else(|| (now, self.memory.room())));
        Room {
            free: room.free.saturating_sub(self.claimed),
            ..room
        }
    }

    /// How many processes of ours the kernel has ended for want of memory since this was last asked.
    pub fn take_oom_kills(&mut self) -> u64 {
        self.note_oom_kills();
        std::mem::take(&mut self.uncounted)
    }

    /// Whether it has ended one within this time.
    pub fn oom_killed_within(&mut self, time: Duration) -> bool {
        self.note_oom_kills();
        self.last_kill.is_some_and(|at| at.elapsed() < time)
    }

    fn note_oom_kills(&mut self) {
        let kills = self.memory.oom_kills();
        let before = std::mem::replace(&mut self.oom_kills, kills);
        let new = before
            .zip(kills)
            .map_or(0, |(before, kills)| kills.saturating_sub(before));
        if new > 0 {
            self.uncounted += new;
            self.last_kill = Some(Instant::now());
        }
    }

    /// What such an end comes from, for people.
    pub fn oom_cause(&self) -> String {
        self.memory.cause()
    }
}

/// Memory that is promised to one browser.
#[derive(Debug)]
#[must_use]
pub struct MemoryClaim {
    bytes: u64,
    budget: Arc<Mutex<Budget>>,
}

impl Drop for MemoryClaim {
    fn drop(&mut self) {
        locked(&self.budget).claimed -= self.bytes;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The temporary files of one browser server: home, profile, shared memory. Removed when dropped.
#[derive(Debug)]
pub struct ServerFolder {
    path: PathBuf,
}

impl ServerFolder {
    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl ServerFolder {
    /// Removes it on a thread that may wait for the disk: a profile has thousands of files.
    pub async fn remove(&mut self) {
        let path = std::mem::take(&mut self.path);
        // Only a runtime that ends does not do it, and the parent folder goes with that.
        tokio::task::spawn_blocking(move || remove(&path))
            .await
            .ok();
    }
}

/// Of a server that was dropped, and not [removed](ServerFolder::remove).
impl Drop for ServerFolder {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            remove(&self.path);
        }
    }
}

fn remove(folder: &Path) {
    group::remove(folder);
    if let Err(error) = std::fs::remove_dir_all(folder) {
        // Gone with the parent folder, at the latest with our successor's first sweep.
        log::debug!("cannot remove a browser's temporary files yet: {error}");
    }
}

/// Ends the browsers and removes the folders of processes that are dead.
fn sweep(root: &Path) {
    for path in abandoned_folders(root) {
        let killed = tree::kill_once(&path, None);
        group::remove(&path);
        match std::fs::remove_dir_all(&path) {
            Ok(()) => log::info!(processes = killed; "cleaned up after a dead worker"),
            Err(error) => log::warn!("cannot remove {}: {error}", path.display()),
        }
    }
}

/// This user's folders whose processes have ended.
fn abandoned_folders(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
        .map(|entry| entry.path())
        .filter(|path| is_abandoned(path))
        .collect()
}

fn is_abandoned(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let ours = std::fs::symlink_metadata(folder)
        .is_ok_and(|found| found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw());
    ours && File::open(folder.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_keeps_its_folder_and_a_dead_ones_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let dead = root.path().join("playhouse-1-dead");
        std::fs::create_dir_all(dead.join("1/profile")).unwrap();
        File::create(dead.join(LOCK)).unwrap();
        let unrelated = root.path().join("something");
        std::fs::create_dir(&unrelated).unwrap();

        let first = MachineShared::below(root.path()).unwrap();
        let second = MachineShared::below(root.path()).unwrap();
        assert!(!dead.exists());
        assert!(unrelated.exists());
        assert!(first.folder().exists() && second.folder().exists());

        let path = first.folder().to_owned();
        drop(first);
        assert!(!path.exists());
    }
}
