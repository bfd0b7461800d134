//! Browsers that are started for one session with the launch options of its client: none of them is
//! warm before somebody asks.

use super::pool::{broken_in_use, serve};
use super::{BACKLOG, OwnBrowser, OwnSeat, Reply, Seats, State};
use crate::launch::LaunchOptions;
use crate::worker::address::ServerAddress;
use crate::worker::probe::{CheckError, Prober};
use crate::worker::process::Server;
use crate::worker::supervision::{DesiredServer, Supervision, reaches};
use crate::worker::toolchain::{MissingChannel, Toolchain};
use std::future::{pending, ready};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Somebody wants a browser.
struct Request {
    options: LaunchOptions,
    toolchain: Toolchain,
    reply: Reply<ServerAddress>,
}

/// Where browsers with launch options of a client come from.
#[derive(Clone)]
pub struct LaunchSupply {
    requests: mpsc::Sender<Request>,
    toolchain: Toolchain,
    pub(super) state: Arc<State>,
}

/// The task that has the browsers with launch options of their clients.
pub struct Launches {
    seats: Arc<Seats>,
    requests: mpsc::Receiver<Request>,
    state: Arc<State>,
    /// One a browser, from before its start until nothing of it is left.
    browsers: JoinSet<()>,
    /// Ends all of them.
    over: watch::Sender<bool>,
}

impl LaunchSupply {
    /// Asks for the browser of a seat. Dropping the receiver ends the attempt.
    ///
    /// # Errors
    ///
    /// The options want a build of the browser that this worker has not.
    pub async fn request(
        &self,
        seat: &mut OwnSeat,
        options: LaunchOptions,
    ) -> Result<oneshot::Receiver<Result<OwnBrowser<ServerAddress>, String>>, MissingChannel> {
        let toolchain = match &options.channel {
            Some(channel) => self.toolchain.of_channel(channel)?,
            None => self.toolchain.clone(),
        };
        let (reply, browser) = oneshot::channel();
        let request = Request {
            options,
            toolchain,
            reply,
        };
        // A task that is gone answers by dropping the sender.
        self.requests.send(request).await.ok();
        // No spare is meant for it.
        seat.awaits_browser = None;
        Ok(browser)
    }
}

impl Launches {
    /// The task, and what asks it for browsers.
    pub fn new(seats: Arc<Seats>, toolchain: Toolchain) -> (Launches, LaunchSupply) {
        let (sender, requests) = mpsc::channel(BACKLOG);
        let state = Arc::new(State::default());
        let supply = LaunchSupply {
            requests: sender,
            toolchain,
            state: Arc::clone(&state),
        };
        let launches = Launches {
            seats,
            requests,
            state,
            browsers: JoinSet::new(),
            over: watch::Sender::new(false),
        };
        (launches, supply)
    }

    /// Starts browsers until the worker is to end. When it returns, nothing of them is left.
    pub async fn run(mut self) {
        let mut desired = self.seats.supervision.desired.clone();
        loop {
            // Who asks has a seat. But who asks and leaves, again and again, has no more browsers started
            // or ended at a time than there are seats.
            let most = self.seats.size() as usize;
            tokio::select! {
                () = reaches(&mut desired, DesiredServer::StopGracefully) => break,
                Some(request) = self.requests.recv(), if self.browsers.len() < most => {
                    let supervision = Arc::clone(&self.seats.supervision);
                    let (state, over) = (Arc::clone(&self.state), self.over.subscribe());
                    self.browsers.spawn(launch(supervision, request, state, over));
                }
                Some(_) = self.browsers.join_next() => {}
            }
        }
        self.over.send_replace(true);
        while self.browsers.join_next().await.is_some() {}
    }
}

/// One browser's life, from its start to its end.
async fn launch(
    supervision: Arc<Supervision>,
    request: Request,
    state: Arc<State>,
    mut over: watch::Receiver<bool>,
) {
    let Request {
        options,
        toolchain,
        mut reply,
    } = request;
    let started = tokio::select! {
        started = start(&supervision, &toolchain, &options) => started,
        () = reply.closed() => return,
        _ = over.wait_for(|over| *over) => return,
    };
    let (server, prober) = match started {
        Ok(started) => started,
        Err(why) => {
            log::info!(worker:% = supervision.key.id, why = why;
                "a browser with its client's launch options did not start");
            reply.send(Err(why)).ok();
            return;
        }
    };
    let node = server.node();
    let (held, holds) = oneshot::channel();
    let way = server.address().clone();
    state.nodes().insert(node);
    let (tell, broken) = oneshot::channel();
    // Who has left meanwhile lets go of it at once.
    reply.send(Ok(OwnBrowser { way, broken, held })).ok();
    // It has its session from the start.
    let broken = async {
        match prober {
            Some(mut prober) => broken_in_use(&supervision, &mut prober, node, tell).await,
            None => pending().await,
        }
    };
    serve(server, holds, over, broken).await;
    state.nodes().remove(&node);
}

/// Starts a server, and makes the connection that its browser is checked on, which has to be there before the
/// client's.
async fn start(
    supervision: &Supervision,
    toolchain: &Toolchain,
    options: &LaunchOptions,
) -> Result<(Server, Option<Prober>), String> {
    let server = supervision.start_server(toolchain, options).await?;
    let patience = supervision.shared.config.load().worker.start_timeout;
    let prober = match Prober::connect(server.address(), patience).await {
        Ok(prober) => Some(prober),
        Err(CheckError::NotUnderstood(_)) => None,
        Err(error) => {
            server.stop(ready(())).await;
            return Err(supervision.or_out_of_memory(error.to_string()));
        }
    };
    server.serves();
    Ok((server, prober))
}
