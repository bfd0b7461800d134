//! Who hands seats over to whom at an upgrade: the two ends of a socket beside the one over which
//! Pingora passes the listeners. What is said there is `store::handover`'s.
//!
//! The new process binds it before it waits for the listeners; the old one connects before it
//! passes them on. So no seat is given by the new process before it knows all that are taken.
//! With Redis there is nothing to hand over: the seats are there already.

use crate::proxy::Grid;
use crate::store::handover::{HandoverStore, successor};
use anyhow::{Context, bail};
use nix::unistd::geteuid;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// How long the new process may take to count the seats in.
const PATIENCE: Duration = Duration::from_secs(3);
/// Pause when the kernel cannot give a connection, most likely for want of descriptors: it would
/// say so again at once.
const BREATH: Duration = Duration::from_millis(200);
/// Between two looks whether the fleet is known.
const VIEW_POLL: Duration = Duration::from_millis(10);

/// Beside the upgrade socket.
fn socket_beside(upgrade_socket: &Path) -> PathBuf {
    let mut path = upgrade_socket.as_os_str().to_owned();
    path.push(".seats");
    path.into()
}

/// The new process's end. It takes the seats over in the background.
pub fn expect_seats(grid: &Arc<Grid>, upgrade_socket: &Path) -> anyhow::Result<()> {
    let path = socket_beside(upgrade_socket);
    let shown = path.display();
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {shown}"));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(&path).with_context(|| format!("cannot listen at {shown}"))?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))
        .with_context(|| format!("cannot protect {shown}"))?;
    tokio::spawn(inherit(listener, grid.clone()));
    Ok(())
}

/// Counts the seats of whoever is replaced in, as long as it holds any. One at a time: there is one
/// such process.
async fn inherit(listener: UnixListener, grid: Arc<Grid>) {
    while !grid.fleet.has_view() {
        tokio::time::sleep(VIEW_POLL).await;
    }
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!(error:% = error; "cannot accept the process that is replaced");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        // Others may have connected before the file was protected.
        if !is_ours(&stream) {
            continue;
        }
        // It asks this process for seats: this one must not leave before it, not even when it is
        // replaced itself.
        let _predecessor = grid.registry.client();
        if let Err(error) = successor::serve(stream, grid.store.clone()).await {
            log::warn!(error:% = error; "the process that was replaced cannot be understood");
        }
    }
}

fn is_ours(stream: &UnixStream) -> bool {
    let peer = stream.peer_cred();
    peer.is_ok_and(|peer| peer.uid() == geteuid().as_raw())
}

/// The old process's end: hands the seats over. When it fails, they are where they were.
pub async fn pass_seats_on(store: &HandoverStore, upgrade_socket: &Path) -> anyhow::Result<()> {
    let path = socket_beside(upgrade_socket);
    let work = async {
        let stream = UnixStream::connect(&path).await;
        let stream = stream.with_context(|| format!("cannot connect to {}", path.display()))?;
        if !is_ours(&stream) {
            bail!("somebody else listens at {}", path.display());
        }
        Ok(store.move_to(stream).await?)
    };
    let passed = timeout(PATIENCE, work).await;
    passed.unwrap_or_else(|_| bail!("the new process does not take the seats over in time"))
}
