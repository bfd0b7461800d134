//! The new process's end: takes over from whoever connects, and counts its seats as taken.

use super::channel::Channel;
use super::{Failure, FromNew, FromOld};
use crate::app::sockets::Inherited;
use crate::model::{SessionId, WorkerKey};
use crate::store::Store;
use anyhow::{Context, bail};
use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long somebody who was started to take over waits for the word, in all.
pub const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the word that this process leaves may take to be written.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(200);

/// The upgrade socket, listened on by a process that is to take over.
pub struct UpgradeSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// A process that offers its place.
pub struct Predecessor {
    channel: Channel,
}

/// A process that finishes its sessions while this one accepts.
pub struct Following {
    leaving: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl UpgradeSocket {
    /// # Errors
    /// When the path cannot be listened on; one that is no socket is left alone.
    pub fn listen(path: &Path) -> anyhow::Result<UpgradeSocket> {
        let shown = path.display();
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                bail!("{shown} is no socket (set server.upgrade_socket to another path)")
            }
            Ok(_) => fs::remove_file(path).with_context(|| format!("cannot replace {shown}"))?,
            Err(_) => {}
        }
        let listener =
            UnixListener::bind(path).with_context(|| format!("cannot listen at {shown}"))?;
        fs::set_permissions(path, Permissions::from_mode(0o600))
            .with_context(|| format!("cannot protect {shown}"))?;
        Ok(UpgradeSocket {
            listener,
            path: path.to_owned(),
        })
    }

    /// Waits for the process that is to be replaced, and takes its listening sockets.
    ///
    /// # Errors
    /// When the process that came makes no sense or has gone again.
    pub async fn offered(self) -> Result<(Predecessor, Inherited), Failure> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            match offer(stream).await {
                // Others may have connected before the file was protected.
                Err(Failure::OtherUser) => {
                    log::warn!("a process of another user wants to be replaced")
                }
                other => return other,
            }
        }
    }
}

impl Drop for UpgradeSocket {
    fn drop(&mut self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                log::debug!(error:% = error; "the upgrade socket is left behind");
            }
            _ => {}
        }
    }
}

async fn offer(stream: UnixStream) -> Result<(Predecessor, Inherited), Failure> {
    let mut channel = Channel::new(stream)?;
    let FromOld::Offer(addresses) = channel.receive().await? else {
        return Err(Failure::Unexpected("something else than an offer".into()));
    };
    let inherited = Inherited::new(addresses, channel.descriptors())?;
    Ok((Predecessor { channel }, inherited))
}

impl Predecessor {
    /// Says that this process cannot take over.
    pub async fn refuse(self, why: &str) {
        let refused = FromNew::Refused(why.to_owned());
        // It goes on all the same.
        timeout(LEAVE_TIMEOUT, self.channel.send(&refused))
            .await
            .ok();
    }

    /// Says that this process can accept, waits for the word, and counts the predecessor's seats as
    /// taken. `accept` begins to accept.
    ///
    /// # Errors
    /// When the predecessor has gone or called it off: it serves itself, and nobody is to accept
    /// here.
    pub async fn take_over(
        mut self,
        store: Arc<dyn Store>,
        accept: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Following> {
        self.channel.send(&FromNew::Ready).await?;
        let mut held = Held::new(store);
        loop {
            match self.channel.receive().await? {
                FromOld::Seats { taken, freed } => held.change(taken, freed),
                FromOld::Accept => break,
                FromOld::Offer(_) => bail!("the running process offered its sockets twice"),
            }
        }
        accept()?;
        // It goes on accepting itself if it does not hear this; so does this process.
        if let Err(error) = self.channel.send(&FromNew::Accepting).await {
            log::warn!(error:% = error; "the process that is replaced cannot be told");
        }
        let (leaving, left) = oneshot::channel();
        let task = tokio::spawn(follow(self.channel, held, left));
        Ok(Following { leaving, task })
    }
}

impl Following {
    /// Waits until the predecessor has ended. Safe to drop and call again.
    pub async fn ended(&mut self) {
        if !self.task.is_finished() {
            (&mut self.task).await.ok();
        }
    }

    /// Tells the predecessor that this process ends, so that it does not take its place again.
    pub async fn leave(mut self) {
        self.leaving.send(()).ok();
        timeout(LEAVE_TIMEOUT, &mut self.task).await.ok();
    }
}

/// Follows what the predecessor tells of its seats until it has gone.
async fn follow(mut channel: Channel, mut held: Held, mut left: oneshot::Receiver<()>) {
    loop {
        let said = tokio::select! {
            said = channel.receive() => said,
            Ok(()) = &mut left => {
                channel.send(&FromNew::Leaving).await.ok();
                return;
            }
        };
        match said {
            Ok(FromOld::Seats { taken, freed }) => held.change(taken, freed),
            Ok(other) => {
                log::warn!(said:? = other; "the replaced process said something unexpected")
            }
            Err(Failure::Gone) => return,
            Err(error) => {
                log::warn!(error:% = error; "the replaced process cannot be understood");
                return;
            }
        }
    }
}

/// The predecessor's seats, counted as taken here; dropping it gives them back.
struct Held {
    store: Arc<dyn Store>,
    sessions: HashSet<SessionId>,
}

impl Held {
    fn new(store: Arc<dyn Store>) -> Held {
        Held {
            store,
            sessions: HashSet::new(),
        }
    }

    fn change(&mut self, taken: Vec<(SessionId, WorkerKey)>, freed: Vec<SessionId>) {
        for (session, worker) in taken {
            self.store.adopt(session, &worker);
            self.sessions.insert(session);
        }
        let known = freed.into_iter().filter(|it| self.sessions.remove(it));
        let known: Vec<_> = known.collect();
        if !known.is_empty() {
            release(&self.store, known);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let sessions = std::mem::take(&mut self.sessions);
        if !sessions.is_empty() {
            log::warn!(seats = sessions.len(); "the process that was replaced left seats behind");
            release(&self.store, sessions.into_iter().collect());
        }
    }
}

fn release(store: &Arc<dyn Store>, sessions: Vec<SessionId>) {
    // Without a runtime this process ends, and its store with it.
    let Ok(runtime) = Handle::try_current() else {
        return;
    };
    let store = store.clone();
    runtime.spawn(async move {
        for session in sessions {
            // A store of this process never fails.
            store.release(session, false).await.ok();
        }
    });
}
