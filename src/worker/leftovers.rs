//! What ended sessions leave on a worker's disk: videos and traces that nobody fetched. Playwright
//! keeps them until its browser ends, in a folder that all sessions of the browser share.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

/// Start of that folder's name, in the server's folder (playwright-core, `server/browserType`).
const FOLDER: &str = "playwright-artifacts-";
/// Folders in it are not deeper.
const DEPTH: u32 = 4;

/// Removes what was last written before this moment; returns the bytes of what is left. Nothing of
/// it may belong to a session that is open.
pub fn remove_before(server: &Path, moment: SystemTime) -> u64 {
    walk(server, &|file, written| {
        let removed = written < moment && fs::remove_file(file).is_ok();
        !removed
    })
}

/// Bytes of what is there.
pub fn size(server: &Path) -> u64 {
    walk(server, &|_, _| true)
}

/// Sums up the files that are to be kept.
fn walk(server: &Path, keeps: &dyn Fn(&Path, SystemTime) -> bool) -> u64 {
    let entries = fs::read_dir(server).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(FOLDER))
        .map(|entry| walk_folder(&entry.path(), keeps, DEPTH))
        .sum()
}

fn walk_folder(folder: &Path, keeps: &dyn Fn(&Path, SystemTime) -> bool, depth: u32) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| {
        // Not what a link leads to: sessions write here.
        let found = entry.metadata().ok()?;
        if found.is_dir() && depth > 0 {
            return Some(walk_folder(&entry.path(), keeps, depth - 1));
        }
        let kept = keeps(&entry.path(), found.modified().ok()?);
        kept.then_some(found.len())
    };
    entries.filter_map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_older_goes_and_nothing_else() {
        let server = tempfile::tempdir().unwrap();
        let artifacts = server.path().join("playwright-artifacts-x");
        fs::create_dir_all(artifacts.join("screencast")).unwrap();
        let write = |name: &str| fs::write(artifacts.join(name), "12345").unwrap();
        write("old.webm");
        write("screencast/old.jpeg");
        let moment = SystemTime::now() + Duration::from_secs(10);
        write("new.webm");
        let new = fs::File::open(artifacts.join("new.webm")).unwrap();
        new.set_modified(moment + Duration::from_secs(1)).unwrap();
        fs::write(server.path().join("address"), "not of a session").unwrap();
        assert_eq!(size(server.path()), 15);
        assert_eq!(remove_before(server.path(), moment), 5);
        assert!(artifacts.join("new.webm").exists() && server.path().join("address").exists());
        assert!(!artifacts.join("old.webm").exists());
    }
}
