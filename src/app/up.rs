//! `playhouse up`: the whole grid in one process tree, and what its user sees of it.

use super::runtime::AdminToken;
use crate::config::LiveConfig;
use crate::logging;
use crate::model::Browser;
use crate::store::Store;
use crate::worker::{Agent, Guard, MachineShared, Observer, Progress, Shutdown, Toolchain};
use anyhow::Context;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long the browsers may take to end; they are killed when it is over.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);

/// The workers of this process.
pub struct Workers {
    agents: JoinSet<()>,
    shutdown: watch::Sender<Shutdown>,
    /// Dropped last.
    _guard: Guard,
}

impl Workers {
    /// Starts `count` workers that proxies on this machine can reach.
    pub fn start(
        count: usize,
        config: &LiveConfig,
        toolchain: Toolchain,
        store: &Arc<dyn Store>,
        observer: Observer,
    ) -> anyhow::Result<Workers> {
        let machine = MachineShared::new()
            .context("cannot make a folder for the browsers' temporary files")?;
        let guard = Guard::spawn(machine.folder()).context("cannot start the guard process")?;
        let advertise = config.load().worker.hostname.clone();
        let advertise = advertise.unwrap_or_else(|| "127.0.0.1".into());
        let shutdown = watch::Sender::new(Shutdown::None);
        let mut agents = JoinSet::new();
        for _ in 0..count {
            let agent = Agent::new(
                config.clone(),
                toolchain.clone(),
                store.clone(),
                advertise.clone(),
                machine.clone(),
                observer.clone(),
            )?;
            agents.spawn(agent.starting_over().run(shutdown.subscribe()));
        }
        Ok(Workers {
            agents,
            shutdown,
            _guard: guard,
        })
    }

    /// Ends them; when it returns, no browser is left.
    pub async fn stop(mut self) {
        self.shutdown.send_replace(Shutdown::Now);
        let all = async { while self.agents.join_next().await.is_some() {} };
        // Dropping what is left kills it.
        if tokio::time::timeout(STOP_TIMEOUT, all).await.is_err() {
            log::warn!("a browser did not end in time and is killed");
        }
    }
}

/// Where the dashboard is, and what it takes to see it.
pub struct Dashboard {
    pub address: SocketAddr,
    /// The token that this process made, if it made one.
    pub token: Option<AdminToken>,
}

impl Dashboard {
    /// The token stands in the fragment, which no browser sends anywhere.
    fn url(&self, scheme: &str) -> String {
        let token = self.token.as_ref();
        let token = token.map_or(String::new(), |it| format!("#token={}", it.secret()));
        format!("{scheme}://{}/{token}", self.address)
    }
}

/// Tells the user at the terminal how the grid comes up, and what to do with it.
pub struct Banner {
    wanted: usize,
    browser: Browser,
    scheme: &'static str,
    address: SocketAddr,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ready: HashSet<String>,
    complete: bool,
}

impl Banner {
    /// For a grid at `address` that is to have so many workers.
    pub fn new(wanted: usize, browser: Browser, address: SocketAddr, tls: bool) -> Arc<Banner> {
        let scheme = if tls { "wss" } else { "ws" };
        Arc::new(Banner {
            wanted,
            browser,
            scheme,
            address,
            state: Mutex::default(),
        })
    }

    /// Says what is about to happen, and where to watch it.
    pub fn begin(&self, toolchain: &Toolchain, dashboard: &Dashboard) {
        let dashboard = dashboard.url(if self.scheme == "wss" {
            "https"
        } else {
            "http"
        });
        print_line(&format!(
            "Playhouse {} starts {} workers: {}, Playwright {}.\n\n  Dashboard {dashboard}\n",
            env!("CARGO_PKG_VERSION"),
            self.wanted,
            toolchain.browser,
            toolchain.release,
        ));
        if self.wanted == 0 {
            print_line(
                "No worker is started here (--workers 0): the grid has those that the configuration \
                 names (workers).",
            );
            self.print_addresses("The grid is at");
        }
    }

    /// Takes in one step of a worker.
    pub fn observe(&self, progress: &Progress) {
        let mut state = self
            .state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if state.complete {
            return;
        }
        match progress {
            Progress::Ready {
                id,
                browser,
                release,
                took,
                ..
            } => {
                state.ready.insert(id.to_string());
                print_line(&format!(
                    "  worker {}/{} ready: {browser}, Playwright {release}, warm after {:.1} s",
                    state.ready.len(),
                    self.wanted,
                    took.as_secs_f64(),
                ));
                if state.ready.len() == self.wanted {
                    state.complete = true;
                    self.print_addresses("The grid is ready at");
                }
            }
            Progress::Crashed {
                id,
                was_up,
                why,
                retry_in,
            } => {
                state.ready.remove(id.as_str());
                let again = retry_in.map_or(String::new(), |pause| {
                    format!(" (again in {:.1} s)", pause.as_secs_f64())
                });
                let what = if *was_up { "died" } else { "did not start" };
                print_line(&format!("  a worker {what}: {why}{again}"));
            }
            _ => {}
        }
    }

    fn print_addresses(&self, where_it_is: &str) {
        let url = format!("{}://{}", self.scheme, self.address);
        let browser = self.browser;
        print_line(&format!(
            "\n{where_it_is} {url}\n\n  \
             Python   browser = playwright.{browser}.connect(\"{url}\")\n  \
             Node     const browser = await {browser}.connect('{url}');\n\n\
             Ctrl-C ends it."
        ));
    }
}

/// To standard output, where logs do not go. Who does not read it misses nothing.
fn print_line(text: &str) {
    logging::print(format!("{text}\n"));
}
