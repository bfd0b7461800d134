//! Turns to warm a browser up, so that only so many do at a time on one machine. They are shared by
//! all processes of a user that have the same folder for temporary files. How many there may be,
//! and what is done while waiting for one, is not decided here.
//!
//! A turn is a file in that folder, numbered from 1, which its holder keeps locked (flock(2)) and
//! removes in the end. The kernel lets go of the lock however the process ends. Between processes
//! nobody is first in line: whoever looks when a turn is free has it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Start of the names of the files, before the user's id and the number.
const PREFIX: &str = ".playhouse-warming-";
/// How long a process that was killed may take to let go of its locks, and how often to look.
const DYING_PATIENCE: Duration = Duration::from_secs(5);
const DYING_POLL: Duration = Duration::from_millis(10);

/// A turn to warm a browser up. It is over when this is dropped, or with the process.
#[derive(Debug)]
#[must_use]
pub struct Turn {
    /// `None` where turns cannot be shared.
    held: Option<(PathBuf, File)>,
}

impl Turn {
    /// Shows the others that its holder is well, although it has not begun yet.
    pub fn renew(&self) {
        if let Some((_, file)) = &self.held {
            // At worst somebody else stops waiting for it.
            file.set_modified(SystemTime::now()).ok();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some((path, _still_locked)) = &self.held {
            std::fs::remove_file(path).ok();
        }
    }
}

/// What a look at one of the files found.
enum Found {
    Free(Turn),
    Taken {
        since: SystemTime,
        /// The process that has it, as it calls itself.
        by: String,
    },
}

/// A turn, unless `most` others have one already. One that has not come to its end for `patience`
/// does not count: its process may be stopped, and must not stop the others.
pub fn try_turn(root: &Path, most: usize, patience: Duration) -> Option<Turn> {
    let mut stuck = Vec::new();
    let mut taken = 0;
    let mut number = 0;
    while taken < most {
        number += 1;
        match look(&path(root, number)) {
            Ok(Found::Free(turn)) => {
                if !stuck.is_empty() {
                    log::warn!(processes = stuck.join(" "), waited_s = patience.as_secs();
                        "warming up beside a process that does not finish warming up; is it stopped?");
                }
                return Some(turn);
            }
            Ok(Found::Taken { since, by }) => match since.elapsed() {
                Ok(age) if age > patience => stuck.push(by),
                _ => taken += 1,
            },
            Err(error) => {
                log::warn!(error:% = error;
                    "recycle.max_parallel does not hold, turns cannot be had in {}", root.display());
                return Some(Turn { held: None });
            }
        }
    }
    None
}

/// Removes what processes that were killed left here.
pub fn sweep(root: &Path) {
    for path in files(root) {
        // Looked at it is ours, and gone when that is dropped.
        look(&path).ok();
    }
}

/// Removes what `process` leaves here, which is dead or dying.
#[expect(
    clippy::disallowed_methods,
    reason = "for the guard, which has nothing else to do"
)]
pub fn clear(root: &Path, process: u32) {
    let process = process.to_string();
    let deadline = Instant::now() + DYING_PATIENCE;
    let is_its = |path: &PathBuf| std::fs::read_to_string(path).is_ok_and(|by| by == process);
    for path in files(root).filter(is_its) {
        while matches!(look(&path), Ok(Found::Taken { by, .. }) if by == process)
            && Instant::now() < deadline
        {
            std::thread::sleep(DYING_POLL);
        }
    }
}

fn path(root: &Path, number: usize) -> PathBuf {
    root.join(format!("{}{number}", prefix()))
}

fn files(root: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix()))
        .map(|entry| entry.path())
}

/// Another user's files can neither be opened nor removed.
fn prefix() -> String {
    format!("{PREFIX}{}-", nix::unistd::geteuid())
}

/// Takes the turn if it is free.
fn look(path: &Path) -> io::Result<Found> {
    loop {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(path)?;
        let seen = file.metadata()?;
        if !seen.is_file() || seen.uid() != nix::unistd::geteuid().as_raw() {
            return Err(io::Error::other(format!("{} is not ours", path.display())));
        }
        match file.try_lock() {
            // Its holder removed it after it was opened here.
            Ok(()) if file.metadata()?.nlink() == 0 => {}
            Ok(()) => {
                file.set_modified(SystemTime::now())?;
                // For people, and for the guard. On a full disk they do not learn it.
                file.set_len(0)?;
                write!(file, "{}", std::process::id()).ok();
                let held = Some((path.to_owned(), file));
                return Ok(Found::Free(Turn { held }));
            }
            Err(TryLockError::WouldBlock) => {
                let mut by = String::new();
                file.read_to_string(&mut by).ok();
                let since = seen.modified()?;
                return Ok(Found::Taken { since, by });
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn there_are_as_many_turns_as_told_and_none_leaves_a_file() {
        let root = tempfile::tempdir().unwrap();
        let turn = |most| try_turn(root.path(), most, LONG);
        let one = turn(1).unwrap();
        assert!(turn(1).is_none());
        let two = turn(2).unwrap();
        assert!(turn(2).is_none() && turn(1).is_none());
        drop(one);
        let three = turn(1).expect("one with a small number looks at the first ones only");
        assert!(turn(2).is_none());
        drop((two, three));
        assert_eq!(files(root.path()).count(), 0);
    }

    #[test]
    fn what_a_killed_process_held_is_free_and_swept_up() {
        let root = tempfile::tempdir().unwrap();
        let leave = |number, by: &str| std::fs::write(path(root.path(), number), by).unwrap();
        leave(1, "1");
        drop(try_turn(root.path(), 1, LONG).unwrap());
        assert_eq!(files(root.path()).count(), 0);

        leave(1, "1");
        leave(2, "12");
        clear(root.path(), 12);
        assert_eq!(
            files(root.path()).collect::<Vec<_>>(),
            [path(root.path(), 1)]
        );
        let held = try_turn(root.path(), 1, LONG).unwrap();
        leave(2, "12");
        sweep(root.path());
        assert_eq!(
            files(root.path()).collect::<Vec<_>>(),
            [path(root.path(), 1)]
        );
        assert!(
            try_turn(root.path(), 1, LONG).is_none(),
            "it is held as before"
        );
        drop(held);
    }

    #[test]
    fn whoever_does_not_finish_is_not_waited_for_for_ever() {
        let root = tempfile::tempdir().unwrap();
        let stopped = try_turn(root.path(), 1, LONG).unwrap();
        let long_ago = SystemTime::now() - 2 * LONG;
        let (_, file) = stopped.held.as_ref().unwrap();
        file.set_modified(long_ago).unwrap();
        let beside = try_turn(root.path(), 1, LONG).expect("the stopped one does not count");
        assert!(
            try_turn(root.path(), 1, LONG).is_none(),
            "the other one does"
        );
        stopped.renew();
        assert!(try_turn(root.path(), 2, LONG).is_none());
        drop(beside);
    }

    #[test]
    fn a_file_of_somebody_else_is_not_followed_and_holds_nobody_up() {
        let root = tempfile::tempdir().unwrap();
        let elsewhere = root.path().join("precious");
        std::fs::write(&elsewhere, "text").unwrap();
        std::os::unix::fs::symlink(&elsewhere, path(root.path(), 1)).unwrap();
        let turn = try_turn(root.path(), 1, LONG).expect("it goes on without");
        assert!(turn.held.is_none());
        assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "text");
    }
}
