//! Where a browser server of ours listens: a Unix socket in the server's own folder, and the path
//! that it asks for.
//!
//! The server binds the socket by a name relative to its working directory, and it is reached here
//! through a descriptor of that folder. So no path can be too long for a socket's address, and the
//! folder's name is not in the kernel's table of sockets.

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use tokio::net::UnixStream;

/// The socket's name in its folder.
const SOCKET: &str = "server.sock";

/// The address of one browser server. Known to nobody outside of this process.
#[derive(Clone)]
pub struct ServerAddress {
    folder: Arc<File>,
    path: Arc<str>,
}

impl ServerAddress {
    /// For a server whose working directory is `folder`.
    ///
    /// # Errors
    ///
    /// The folder cannot be opened.
    pub fn in_folder(folder: &Path, path: impl Into<Arc<str>>) -> io::Result<ServerAddress> {
        let flags = nix::libc::O_PATH | nix::libc::O_DIRECTORY | nix::libc::O_CLOEXEC;
        let folder = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(folder)?;
        Ok(ServerAddress {
            folder: Arc::new(folder),
            path: path.into(),
        })
    }

    /// What the server is told to listen on, in its working directory.
    pub fn to_bind() -> String {
        format!("./{SOCKET}")
    }

    /// The path to ask for; starts with a slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Connects to the server.
    ///
    /// # Errors
    ///
    /// Nobody listens, or the server has accepted nobody for so long that its queue is full.
    pub async fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(format!(
            "/proc/self/fd/{}/{SOCKET}",
            self.folder.as_raw_fd()
        ))
        .await
    }

    /// Connects to another socket that the server says it has opened, named from its working directory.
    ///
    /// # Errors
    ///
    /// There is no such socket in the folder, or nobody listens.
    pub async fn connect_beside(&self, socket: &str) -> io::Result<UnixStream> {
        let socket = self.find_beside(socket)?;
        UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
    }

    /// Whether there is such a file in the folder.
    pub fn has_beside(&self, file: &str) -> bool {
        self.find_beside(file).is_ok()
    }

    /// The server is in its session's hands and may say anything: nothing outside of the folder is reached, by
    /// whichever name or link.
    fn find_beside(&self, name: &str) -> io::Result<OwnedFd> {
        let within = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(within);
        Ok(openat2(&self.folder, name, how)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_folder_with_a_long_name_is_no_obstacle() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a".repeat(120));
        std::fs::create_dir(&folder).unwrap();
        let address = ServerAddress::in_folder(&folder, "/secret").unwrap();
        let refused = address.connect().await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
        let listen = format!(
            "import socket; s = socket.socket(socket.AF_UNIX); s.bind({:?}); s.listen(); \
             print('up', flush=True); s.accept()[0].send(b'here')",
            ServerAddress::to_bind()
        );
        let mut server = Command::new("python3")
            .args(["-c", &listen])
            .current_dir(&folder)
            .spawn()
            .unwrap();
        let mut stream = loop {
            match address.connect().await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "here");
        server.wait().unwrap();
    }

    #[tokio::test]
    async fn a_socket_beside_it_is_reached_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("own");
        std::fs::create_dir_all(folder.join("beside")).unwrap();
        let _own = tokio::net::UnixListener::bind(folder.join("beside/a.sock")).unwrap();
        let _foreign = tokio::net::UnixListener::bind(root.path().join("foreign.sock")).unwrap();
        std::os::unix::fs::symlink("../foreign.sock", folder.join("link.sock")).unwrap();
        std::os::unix::fs::symlink("..", folder.join("up")).unwrap();
        let address = ServerAddress::in_folder(&folder, "/secret").unwrap();
        address.connect_beside("beside/a.sock").await.unwrap();
        let absolute = root.path().join("foreign.sock");
        for foreign in [
            "../foreign.sock",
            "beside/../../foreign.sock",
            "link.sock",
            "up/foreign.sock",
            absolute.to_str().unwrap(),
            "missing.sock",
        ] {
            let refused = address.connect_beside(foreign).await;
            assert!(refused.is_err(), "{foreign}");
        }
    }
}
