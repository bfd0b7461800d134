//! Whether somebody is still writing a file, as the kernel knows it.
//!
//! What is written so far may by chance be a valid file, without its tokens for example, and a
//! generator may pause for as long as it likes. But it has the file open all the while. Linux tells
//! that to whoever asks for a read lease (fcntl(2), `F_SETLEASE`), which it grants only while nobody
//! has the file open for writing.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// `F_SETSIG` of fcntl(2): which signal tells that a lease is wanted back.
#[cfg(target_os = "linux")]
const F_SETSIG: libc::c_int = 10;

/// Whether a regular file is open for writing. `false` also where that cannot be known: a file
/// that is not there, one of another user's, some network file systems, other kernels than Linux.
pub fn is_being_written(path: &Path) -> bool {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let Ok(file) = file else {
        return false;
    };
    if !file.metadata().is_ok_and(|about| about.is_file()) {
        return false;
    }
    asks_for_lease(file.as_raw_fd()) == Err(libc::EAGAIN)
}

/// Takes a read lease for as long as the descriptor stays open. Whoever opens the file for writing
/// meanwhile waits, and this process is sent a signal: one that it ignores by default.
#[cfg(target_os = "linux")]
fn asks_for_lease(file: libc::c_int) -> Result<(), i32> {
    for (command, value) in [
        (F_SETSIG, libc::SIGURG),
        (libc::F_SETLEASE, libc::F_RDLCK as libc::c_int),
    ] {
        // SAFETY: the descriptor is open, and both commands take a number.
        if unsafe { libc::fcntl(file, command, value) } == -1 {
            return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0));
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn asks_for_lease(_: libc::c_int) -> Result<(), i32> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io::Write;

    #[test]
    fn a_file_is_written_until_its_last_writer_closes_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert!(!is_being_written(&path), "it is not there");
        let mut one = File::create(&path).unwrap();
        let other = OpenOptions::new().append(true).open(&path).unwrap();
        assert!(is_being_written(&path));
        one.write_all(b"half").unwrap();
        drop(one);
        assert!(is_being_written(&path));
        drop(other);
        assert!(!is_being_written(&path));
        let _reader = File::open(&path).unwrap();
        assert!(!is_being_written(&path), "readers do not count");
        // No lease is left behind for whoever writes next.
        fs::write(&path, "whole").unwrap();
        assert!(!is_being_written(folder.path()), "a folder");
    }
}
