//! One of the two ports: the loops that accept on its socket. What comes after is [`FrontDoor`]'s.
//!
//! Pingora's own listener wraps what it accepts in a stream that never gives its socket away again.
//! A session needs the bare one, to splice and to be small, so that it would have to duplicate the
//! descriptor and register it a second time. And under TLS it counts and times nothing before the
//! handshake is done.

use super::front_door::{Application, FrontDoor};
use pingora::server::ShutdownWatch;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Pause when the kernel cannot give a connection: it would say so again at once.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);
/// Between two lines about that.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Accepts in so many loops at once until `shutdown` turns true. No connection is lost: one that
/// was accepted is on its way.
pub async fn run<A: Application>(
    socket: TcpListener,
    loops: usize,
    door: Arc<FrontDoor<A>>,
    shutdown: ShutdownWatch,
) {
    let socket = Arc::new(socket);
    let mut accepting = JoinSet::new();
    for _ in 0..loops {
        let accept = accept(socket.clone(), door.clone(), shutdown.clone());
        let mut shutdown = shutdown.clone();
        accepting.spawn(async move {
            tokio::select! {
                () = accept => {}
                _ = shutdown.wait_for(|begun| *begun) => {}
            }
        });
    }
    accepting.join_all().await;
}

async fn accept<A: Application>(
    socket: Arc<TcpListener>,
    door: Arc<FrontDoor<A>>,
    shutdown: ShutdownWatch,
) {
    let mut spare = spare_descriptor();
    let mut logged_at: Option<Instant> = None;
    loop {
        let error = match socket.accept().await {
            Ok((stream, peer)) => {
                door.accept_connection(stream, peer.ip(), &shutdown);
                continue;
            }
            Err(error) => error,
        };
        // A client that gave up while it waited is no failure of ours.
        if error.kind() == io::ErrorKind::ConnectionAborted {
            continue;
        }
        if logged_at.is_none_or(|logged_at| logged_at.elapsed() >= LOG_INTERVAL) {
            log::error!(error:% = error; "cannot accept");
            logged_at = Some(Instant::now());
        }
        // With no descriptor left, the one that is kept for this lets go whoever waits: it would
        // wait for nothing, and others behind it. If there is another one by then, it is served.
        drop(spare.take());
        match timeout(ACCEPT_RETRY, socket.accept()).await {
            Ok(Ok((stream, peer))) => {
                spare = spare_descriptor();
                if spare.is_some() {
                    door.accept_connection(stream, peer.ip(), &shutdown);
                    continue;
                }
            }
            Ok(Err(_)) => sleep(ACCEPT_RETRY).await,
            Err(_) => {}
        }
        spare = spare_descriptor();
    }
}

/// A descriptor for nothing, to be given up when there is no other.
fn spare_descriptor() -> Option<File> {
    File::open("/dev/null").ok()
}
