//! Clients that come and go without a pause, and count what went wrong.

use crate::support::{Connected, Dial, eventually};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;

/// Closed-loop clients of our own: each connects, talks, leaves and comes again.
pub struct Load {
    state: Arc<State>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    served: AtomicUsize,
    refused: Mutex<Vec<String>>,
}

impl Load {
    pub fn start(dial: Dial, clients: usize) -> Load {
        let state = Arc::new(State::default());
        let clients = (0..clients)
            .map(|_| tokio::spawn(client(dial.clone(), Arc::clone(&state))))
            .collect();
        Load { state, clients }
    }

    /// Sessions that were served to their end so far.
    pub fn served(&self) -> usize {
        self.state.served.load(Ordering::SeqCst)
    }

    /// Waits until more sessions than that were served: fewer are no load.
    pub async fn reaches(&self, sessions: usize) {
        eventually("enough sessions are served", async || {
            (self.served() > sessions).then_some(())
        })
        .await;
    }

    /// Lets everybody finish; how many sessions were served. Nobody may have been refused or cut.
    pub async fn finish(self) -> usize {
        self.state.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.await.expect("no session was cut");
        }
        let refused = self.state.refused.lock().unwrap();
        assert_eq!(*refused, [] as [String; 0], "failed connects");
        self.state.served.load(Ordering::SeqCst)
    }
}

async fn client(dial: Dial, state: Arc<State>) {
    while !state.stop.load(Ordering::SeqCst) {
        match dial.clone().connect().await {
            Ok(mut session) => {
                for text in ["first", "second", "third"] {
                    session.echo(text).await;
                }
                session.close().await;
                state.served.fetch_add(1, Ordering::SeqCst);
            }
            Err(refusal) => state.refused.lock().unwrap().push(format!("{refusal:?}")),
        }
    }
}

/// Sessions that stay open and still work.
pub async fn all_work(sessions: &mut [Connected]) {
    for session in sessions {
        session.echo("still there").await;
    }
}
