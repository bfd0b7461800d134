//! Videos: Playwright records them with an ffmpeg of its own on the worker, and fails the page that
//! was to be recorded when that is not where it downloads it to. Another one does as well, in that
//! place.

use super::toolchain::{Toolchain, browser_revision, browsers_root, starting_points};
use std::io;
use std::path::{Path, PathBuf};

/// Name of the folder with the link, in a server's folder.
const FOLDER: &str = "ms-playwright";
/// Name of Playwright's program, on every architecture (playwright-core, `server/registry`).
const PROGRAM: &str = "ffmpeg-linux";

/// Who records the videos of this package's clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorder {
    /// Playwright's own, where Playwright looks.
    Own,
    /// This one.
    Another(PathBuf),
    /// Nobody: `recordVideo` fails.
    Nobody,
}

/// Looks for an ffmpeg: Playwright's own, that of a checkout, that of the machine.
pub fn find(playwright: &Path) -> Recorder {
    let Some(revision) = browser_revision(playwright, "ffmpeg") else {
        return Recorder::Nobody;
    };
    let own = browsers_root().map(|root| root.join(folder(&revision)).join(PROGRAM));
    if own.is_some_and(|own| own.is_file()) {
        return Recorder::Own;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let of_checkouts = starting_points()
        .into_iter()
        .map(|point| point.join(".tools/bin"));
    let found = of_checkouts
        .chain(std::env::split_paths(&path))
        .find_map(|folder| folder.join("ffmpeg").canonicalize().ok());
    found.map_or(Recorder::Nobody, Recorder::Another)
}

/// Puts another ffmpeg where the server in `folder` will look for it; returns what its
/// `PLAYWRIGHT_BROWSERS_PATH` has to be for that, if anything.
pub fn place(toolchain: &Toolchain, server: &Path) -> io::Result<Option<PathBuf>> {
    // One that Playwright downloaded itself is looked for in the same place.
    let (Recorder::Another(program), Some(_)) = (&toolchain.recorder, &toolchain.executable) else {
        return Ok(None);
    };
    let Some(revision) = browser_revision(&toolchain.playwright, "ffmpeg") else {
        return Ok(None);
    };
    let root = server.join(FOLDER);
    let folder = root.join(folder(&revision));
    std::fs::create_dir_all(&folder)?;
    std::os::unix::fs::symlink(program, folder.join(PROGRAM))?;
    Ok(Some(root))
}

fn folder(revision: &str) -> String {
    format!("ffmpeg-{revision}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Role};

    #[test]
    fn another_ffmpeg_is_put_where_this_version_of_playwright_looks() {
        let settings = Config::defaults(Role::Worker).worker;
        let mut toolchain = crate::worker::locate(&settings).unwrap();
        let server = tempfile::tempdir().unwrap();
        let program = server.path().join("program");
        std::fs::write(&program, "").unwrap();
        toolchain.executable = Some("/a/browser".into());
        toolchain.recorder = Recorder::Another(program);
        let root = place(&toolchain, server.path()).unwrap().unwrap();
        let revision = browser_revision(&toolchain.playwright, "ffmpeg").unwrap();
        assert!(
            root.join(format!("ffmpeg-{revision}/ffmpeg-linux"))
                .is_file()
        );

        toolchain.executable = None;
        assert_eq!(place(&toolchain, server.path()).unwrap(), None);
    }
}
