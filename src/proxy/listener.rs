//! The data port without TLS: the loops that accept on its socket. What comes after is
//! [`FrontDoor`]'s; whose socket it is, and when it closes, is decided by whoever calls.
//!
//! Pingora's own listener wraps what it accepts in a stream that never gives its socket away again.
//! A session needs the bare one, to splice and to be small, so that it would have to duplicate the
//! descriptor and register it a second time.

use super::front_door::FrontDoor;
use crate::tunnel::Link;
use pingora::server::ShutdownWatch;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Pause when the kernel cannot give a connection, most likely for want of descriptors: it would
/// say so again at once.
const BREATH: Duration = Duration::from_millis(200);

/// Accepts with so many loops until `shutdown` turns true, then ends what waits for another
/// request.
pub async fn run(
    listener: TcpListener,
    loops: usize,
    door: Arc<FrontDoor>,
    shutdown: ShutdownWatch,
) {
    let listener = Arc::new(listener);
    let mut accepting = JoinSet::new();
    for _ in 0..loops {
        let accept = accept(listener.clone(), door.clone(), shutdown.clone());
        let mut shutdown = shutdown.clone();
        accepting.spawn(async move {
            tokio::select! {
                () = accept => {}
                _ = shutdown.wait_for(|begun| *begun) => {}
            }
        });
    }
    accepting.join_all().await;
    drop(listener);
    door.close().await;
}

/// Accepts for ever. Dropping it loses no connection: one that was accepted is on its way.
async fn accept(listener: Arc<TcpListener>, door: Arc<FrontDoor>, shutdown: ShutdownWatch) {
    loop {
        match listener.accept().await {
            Ok((socket, from)) => {
                let (door, shutdown) = (door.clone(), shutdown.clone());
                tokio::spawn(async move {
                    let stream = Box::new(Link::from(socket));
                    door.serve(stream, Some(from.ip()), &shutdown).await;
                });
            }
            Err(error) => {
                log::error!(error:% = error; "cannot accept");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}
