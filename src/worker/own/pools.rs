//! The pools of a generation whose sessions have browsers of their own, and what is measured of it.

use super::pipe::Pipe;
use super::{Fresh, Launches, OwnSeats, Seats, SparePool};
use crate::model::Browser;
use crate::worker::address::ServerAddress;
use crate::worker::supervision::{Supervision, Warm};
use crate::worker::toolchain::Toolchain;
use crate::worker::tree;
use std::sync::Arc;
use std::time::Duration;

/// How long browsers of the other kinds may take to end with those that are kept behind servers.
const OTHERS_END: Duration = Duration::from_secs(5);

/// The processes of a generation, as far as somebody wants to measure them.
#[derive(Clone)]
pub enum Processes {
    /// Those below Node.
    Server(i32),
    Own(OwnSeats),
}

impl Processes {
    /// Their memory in bytes. Reads much of `/proc`.
    pub fn memory(&self) -> Option<u64> {
        match self {
            Processes::Server(node) => tree::memory(*node),
            Processes::Own(seats) => seats.memory(),
        }
    }
}

/// The pools of a generation whose sessions have browsers of their own.
pub struct OwnPools {
    servers: SparePool<ServerAddress>,
    launches: Launches,
    pipes: Option<SparePool<Pipe>>,
    first: Fresh<ServerAddress>,
}

impl OwnPools {
    /// Pools whose browsers are made of `toolchain`, with the first one, and what the gateway gets of them.
    pub fn new(
        supervision: &Arc<Supervision>,
        toolchain: &Toolchain,
        first: Warm,
    ) -> (OwnPools, OwnSeats) {
        let took = first.took;
        let seats = Seats::new(Arc::clone(supervision));
        let (servers, of_servers) = SparePool::new(Arc::clone(&seats), toolchain.clone(), took);
        let pipes = (toolchain.browser == Browser::Chromium)
            .then(|| SparePool::new(Arc::clone(&seats), toolchain.clone(), took));
        let (pipes, of_pipes) = pipes.unzip();
        let (launches, of_launches) = Launches::new(Arc::clone(&seats), toolchain.clone());
        let own = OwnSeats {
            seats,
            servers: of_servers,
            launches: of_launches,
            pipes: of_pipes,
        };
        let pools = OwnPools {
            servers,
            launches,
            pipes,
            first: Fresh::behind_server(first),
        };
        (pools, own)
    }

    /// Runs them until the worker is to end, or browsers do not start.
    pub async fn run(self) -> String {
        let servers = self.servers.run(Some(self.first));
        let pipes = async {
            if let Some(pipes) = self.pipes {
                pipes.run(None).await;
            }
        };
        let others = async { tokio::join!(pipes, self.launches.run()) };
        let mut others = std::pin::pin!(others);
        let mut servers = std::pin::pin!(servers);
        tokio::select! {
            why = &mut servers => {
                // The order to end is for all. Where servers do not start, the rest is dropped.
                tokio::time::timeout(OTHERS_END, others).await.ok();
                why
            }
            _ = &mut others => servers.await,
        }
    }
}
