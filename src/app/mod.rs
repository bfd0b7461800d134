//! The composition root: the only place that sees everything. Builds the parts, runs them, and
//! takes them down in order.
//!
//! * [`serve`]: the proxy, with or without workers of its own: `playhouse proxy` and `up`.
//! * [`tls`]: the certificate of both ports.
//! * [`ending`]: signals, draining, and the end of the process.
//! * [`operate`]: the commands that talk to a running grid's admin port.

pub mod descriptors;
pub mod ending;
pub mod operate;
pub mod serve;
pub mod tls;

use crate::cli::{self, Cli, Command, Exit};
use crate::config::{ConfigErrors, Environment, LiveConfig, Loaded, Sources};
use crate::metrics::Metrics;
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::{admin, admission, logging};
use anyhow::Context;
use arc_swap::ArcSwap;
use operate::AdminClient;
use serve::Plane;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

/// Threads of the control plane: store, fleet, workers, signals. Sessions run on Pingora's.
const CONTROL_THREADS: usize = 2;
/// How often `status --watch` looks again.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Runs a command to its end.
pub fn run(cli: Cli) -> Exit {
    match try_run(&cli.command) {
        Ok(()) => Exit::Clean,
        Err(error) => match error.downcast_ref::<ConfigErrors>() {
            Some(errors) => {
                eprintln!("{errors}");
                Exit::Config
            }
            None => {
                eprintln!("playhouse: {error:#}");
                Exit::Failure
            }
        },
    }
}

fn try_run(command: &Command) -> anyhow::Result<()> {
    let sources = command.sources(Environment::of_process());
    if let Command::Token(token) = command {
        return print_token(token);
    }
    let loaded = sources.load()?;
    match command {
        Command::Proxy(proxy) => {
            begin(&loaded);
            control_plane()?.block_on(run_proxy(sources, loaded, proxy.upgrade))
        }
        Command::Check(_) => print(&loaded.effective()),
        Command::Status(status) => {
            let client = AdminClient::new(&status.operator, &loaded.config)?;
            show_status(&client, status)
        }
        Command::Drain(drain) => {
            AdminClient::new(&drain.operator, &loaded.config)?.drain(&drain.worker)?;
            print("The worker finishes its sessions and takes no new ones.\n")
        }
        Command::Kill(kill) => {
            AdminClient::new(&kill.operator, &loaded.config)?.kill(&kill.session)?;
            print("The session is ended.\n")
        }
        Command::Healthcheck(check) => AdminClient::new(&check.operator, &loaded.config)?.ready(),
        _ => unreachable!(),
    }
}

/// What every long-running command does first.
fn begin(loaded: &Loaded) {
    logging::init(&loaded.config.log);
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    descriptors::raise_limit();
}

fn control_plane() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start threads")
}

async fn run_proxy(sources: Sources, loaded: Loaded, upgrade: bool) -> anyhow::Result<()> {
    let config: LiveConfig = Arc::new(ArcSwap::from_pointee(loaded.config.clone()));
    let metrics = Metrics::new();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let plane = Plane::start(config, store, metrics)?;
    let _ = sources;
    let view: admin::ConfigView =
        Arc::new(move || serde_json::json!({ "settings": loaded.settings() }));
    plane.serve(view, upgrade).await
}

fn show_status(client: &AdminClient, status: &cli::Status) -> anyhow::Result<()> {
    if status.json {
        return print(&format!("{}\n", client.status_json()?));
    }
    loop {
        let table = client.status_table()?;
        if !status.watch {
            return print(&table);
        }
        // Home, the table, and nothing of the last one below it: no flicker.
        print(&format!("\x1b[H\x1b[J{table}"))?;
        std::thread::park_timeout(WATCH_INTERVAL);
    }
}

fn print_token(token: &cli::Token) -> anyhow::Result<()> {
    let secret: [u8; 32] = rand::random();
    let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let hash = admission::tokens::hash(&secret);
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    print(&format!(
        "Token, for the client (it is not kept anywhere):\n  {secret}\n\n\
         Entry for the configuration:\n  auth: {{ tokens: [ {{ name: {}, sha256: \"{hash}\" }} ] }}\n",
        token.name
    ))
}

/// To standard output; a reader that has gone is no failure of ours.
fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
