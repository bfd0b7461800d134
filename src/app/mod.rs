//! The composition root: the only place that sees everything. Builds the parts, runs them, and
//! takes them down in order.
//!
//! * [`serve`]: the proxy, with or without workers of its own: `playhouse proxy` and `up`.
//! * [`up`], [`worker`]: the workers, beside the proxy or in a process of their own.
//! * [`tls`]: the certificate of both ports. `limits`: descriptors, and no core file.
//! * [`notify`]: what the service manager is told.
//! * [`sockets`], [`ports`]: the listening sockets, and who accepts on them.
//! * [`signals`], [`terminal`]: what signals ask for, and when a SIGHUP is the end of a terminal.
//! * [`ending`]: draining, handing over, and the end of the process.
//! * [`succession`]: what two processes say to each other when one takes the other's place.
//! * [`operate`]: the commands that talk to a running grid's admin port; [`printable`]: what they print of its answers.
//! * [`runtime`]: the runtime folder, and `playhouse healthcheck`, which asks there.

pub mod ending;
pub mod limits;
pub mod notify;
pub mod operate;
pub mod ports;
pub mod printable;
pub mod runtime;
pub mod serve;
pub mod signals;
pub mod sockets;
pub mod succession;
pub mod terminal;
pub mod tls;
pub mod up;
pub mod worker;

use crate::cli::{self, Cli, Command, Exit};
use crate::config::{
    Config, ConfigErrors, Environment, LiveConfig, Loaded, Outcome, ReloadStatus, Reloader,
    Sources, schema,
};
use crate::metrics::Metrics;
use crate::proxy::ProxyState;
use crate::proxy::refusal::RefusalCode;
use crate::settings::forms::yaml_text;
use crate::store::memory::MemoryStore;
use crate::store::{self, Store, StoreRole};
use crate::worker::{Observer, locate};
use crate::{admission, logging};
use anyhow::Context;
use operate::AdminClient;
use runtime::AdminToken;
use serve::{ControlPlane, Succession};
use signals::Signals;
use sockets::{Inherited, Sockets};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;
use succession::predecessor::{self, Predecessor, UpgradeSocket};
use terminal::Terminal;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;
use up::Banner;

/// Threads of the control plane: store, fleet, workers. Sessions run on the data port's ([`ports`]).
const CONTROL_THREADS: usize = 2;
/// How long the threads that read `/proc` and disks stay unused: longer than from one heartbeat to the next. Where no
/// more processes may be started, a worker could not measure its browsers without the ones that it has.
const READERS_STAY: Duration = Duration::from_secs(600);
/// How long the store may take to say goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two checks whether the fleet is known.
const VIEW_POLL: Duration = Duration::from_millis(10);
/// How often `status --watch` looks again.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Runs a command to its end.
pub fn run(cli: Cli) -> Exit {
    let exit = match try_run(&cli.command) {
        Ok(()) => Exit::Clean,
        Err(error) => match error.downcast_ref::<ConfigErrors>() {
            Some(errors) => {
                logging::final_line(&errors.to_string());
                Exit::Config
            }
            None => {
                logging::final_line(&format!("playhouse: {error:#}"));
                Exit::Failure
            }
        },
    };
    logging::flush();
    exit
}

fn try_run(command: &Command) -> anyhow::Result<()> {
    let sources = command.sources(Environment::of_process());
    match command {
        Command::Token(token) => return print_token(token),
        Command::Check(check) if check.schema => return print(&schema()),
        _ => {}
    }
    // The process itself is asked: it is well or not whatever became of its configuration.
    if let Command::Healthcheck(check) = command {
        return runtime::healthcheck(check.live, check.pid);
    }
    let loaded = sources.load()?;
    match command {
        Command::Proxy(proxy) => {
            begin(&loaded);
            block_on(run_proxy(sources, loaded, proxy.upgrade))
        }
        Command::Check(_) => {
            tls::check_authorities()?;
            print(&loaded.effective())
        }
        Command::Status(status) => {
            let client = AdminClient::new(&status.operator, &loaded.config)?;
            show_status(&client, status)
        }
        Command::Drain(drain) => {
            AdminClient::new(&drain.operator, &loaded.config)?.drain(&drain.worker)?;
            print(
                "The browser of the worker finishes its sessions and takes no new ones; a fresh one follows it.\n",
            )
        }
        Command::Kill(kill) => {
            AdminClient::new(&kill.operator, &loaded.config)?.kill(&kill.session)?;
            print("The session is ended.\n")
        }
        Command::Up(up) => {
            begin(&loaded);
            block_on(run_up(sources, loaded, usize::from(up.workers)))
        }
        Command::Worker(_) => {
            begin(&loaded);
            block_on(run_worker(sources, loaded))
        }
        Command::Token(_) | Command::Healthcheck(_) => {
            unreachable!("they need no configuration")
        }
    }
}

/// What every long-running command does first.
fn begin(loaded: &Loaded) {
    logging::init(&loaded.config.log);
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    limits::raise_descriptors();
    limits::warn_of_connections(&loaded.config.limits);
    limits::leave_no_core();
}

/// Runs a command that serves. What still hangs when it has ended, such as the question to a name
/// server, ends with the process.
fn block_on(serving: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_keep_alive(READERS_STAY)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let served = control.block_on(serving);
    control.shutdown_background();
    served
}

async fn run_proxy(sources: Sources, loaded: Loaded, upgrade: bool) -> anyhow::Result<()> {
    let mut signals = Signals::listen(None).context("cannot listen to signals")?;
    let upgrade_socket = &loaded.config.server.upgrade_socket;
    let (upgrade, mut sockets) = match upgrade {
        true => (Some(UpgradeSocket::listen(upgrade_socket)?), None),
        false => (
            None,
            Some(Sockets::open(&loaded.config, &mut Inherited::default())?),
        ),
    };
    let metrics = Metrics::new(&RefusalCode::ALL.map(RefusalCode::as_str));
    let (stop, stopped) = watch::channel(false);
    let memory = loaded.config.store.url.is_none();
    let memory = memory.then(|| Arc::new(MemoryStore::new()));
    let store = match &memory {
        Some(memory) => memory.clone(),
        None => open_store(&loaded.config, StoreRole::Proxy, stopped.clone()).await?,
    };
    let (config, status) = reloading(sources, loaded, &metrics, stopped, signals.reloads());
    let plane = ControlPlane::start(config, store, metrics, None);
    let mut succession = Succession {
        predecessor: None,
        seats: Some(memory),
    };
    if let Some(upgrade) = upgrade {
        tokio::select! {
            offered = take_over(upgrade, &plane.proxy) => {
                let (predecessor, inherited) = offered?;
                sockets = Some(inherited);
                succession.predecessor = Some(predecessor);
            }
            () = signals.to_end() => return Ok(()),
        }
    }
    let sockets = sockets.expect("opened, or taken over");
    let served = plane
        .serve("proxy", sockets, succession, status, &mut signals)
        .await;
    close_store(&stop).await;
    served
}

async fn run_up(sources: Sources, loaded: Loaded, workers: usize) -> anyhow::Result<()> {
    let mut signals =
        Signals::listen(Terminal::of_process()).context("cannot listen to signals")?;
    let toolchain = locate(&loaded.config.worker)?;
    let sockets = Sockets::open(&loaded.config, &mut Inherited::default())?;
    let metrics = Metrics::new(&RefusalCode::ALL.map(RefusalCode::as_str));
    let (stop, stopped) = watch::channel(false);
    let store = open_store(&loaded.config, StoreRole::Proxy, stopped.clone()).await?;
    let token = match loaded.config.admin.token_sha256 {
        Some(_) => None,
        None => Some(AdminToken::make(sockets.admin.local())),
    };
    let token_hash = token
        .as_ref()
        .map(|it| admission::tokens::hash(it.secret()));
    let welcome = Banner::new(
        workers,
        toolchain.browser,
        sockets.data.local(),
        loaded.config.tls.files().is_some(),
    );
    let dashboard = up::Dashboard {
        address: operate::reachable(sockets.admin.local()),
        token,
    };
    let (config, status) = reloading(sources, loaded, &metrics, stopped, signals.reloads());
    let plane = ControlPlane::start(config.clone(), store.clone(), metrics, token_hash);
    welcome.begin(&toolchain, &dashboard);
    let observer: Observer = Arc::new(move |progress| welcome.observe(&progress));
    let workers = up::Workers::start(workers, &config, toolchain, &store, observer)?;
    let succession = Succession::default();
    let served = plane
        .serve("up", sockets, succession, status, &mut signals)
        .await;
    workers.stop().await;
    drop(dashboard);
    close_store(&stop).await;
    served
}

async fn run_worker(sources: Sources, loaded: Loaded) -> anyhow::Result<()> {
    let mut signals = Signals::listen(None).context("cannot listen to signals")?;
    let toolchain = locate(&loaded.config.worker)?;
    let (stop, stopped) = watch::channel(false);
    let store = open_store(&loaded.config, StoreRole::Worker, stopped.clone()).await?;
    let (config, _) = reloading(
        sources,
        loaded,
        &Metrics::new(&[]),
        stopped,
        signals.reloads(),
    );
    let ran = worker::run(config, toolchain, store, signals).await;
    close_store(&stop).await;
    ran
}

/// Waits for the process that is to be replaced, and until this one could serve in its place.
async fn take_over(
    upgrade: UpgradeSocket,
    proxy: &ProxyState,
) -> anyhow::Result<(Predecessor, Sockets)> {
    let config = proxy.config.load_full();
    log::info!(socket:% = config.server.upgrade_socket.display();
        "waits for the running proxy to hand over; send it SIGQUIT");
    let nobody = "no running proxy handed over in time; send it SIGQUIT, and check that \
                  server.upgrade_socket is the same in both";
    let offered = timeout(predecessor::TAKE_OVER_TIMEOUT, upgrade.offered()).await;
    let (predecessor, mut inherited) = offered.context(nobody)??;
    match prepare(&config, &mut inherited, proxy).await {
        Ok(sockets) => Ok((predecessor, sockets)),
        Err(error) => {
            predecessor.refuse(&format!("{error:#}")).await;
            Err(error)
        }
    }
}

async fn prepare(
    config: &Config,
    inherited: &mut Inherited,
    proxy: &ProxyState,
) -> anyhow::Result<Sockets> {
    let sockets = Sockets::open(config, inherited)?;
    let view = async {
        while !proxy.fleet.has_view() {
            tokio::time::sleep(VIEW_POLL).await;
        }
    };
    let seen = timeout(predecessor::TAKE_OVER_TIMEOUT, view).await;
    seen.context("the store has not answered: the workers are not known")?;
    Ok(sockets)
}

/// Puts the configuration into force, and follows its file and SIGHUP.
fn reloading(
    sources: Sources,
    loaded: Loaded,
    metrics: &Arc<Metrics>,
    stopped: watch::Receiver<bool>,
    mut asked: mpsc::UnboundedReceiver<()>,
) -> (LiveConfig, watch::Receiver<ReloadStatus>) {
    let reloads = metrics.config_reloads.clone();
    let on_reload = Box::new(move |outcome: Outcome, config: &Config| {
        logging::change(&config.log);
        reloads.with_label_values(&[outcome.as_str()]).inc();
    });
    let reloader = Reloader::new(sources, loaded, on_reload);
    let (config, status) = (reloader.live(), reloader.status());
    let reload = Arc::new(Notify::new());
    let asks = reload.clone();
    let mut reloaded = status.clone();
    tokio::spawn(async move {
        while asked.recv().await.is_some() {
            notify::reloading();
            reloaded.mark_unchanged();
            reload.notify_one();
            // It is gone when the process ends.
            reloaded.changed().await.ok();
            notify::ready();
        }
    });
    tokio::spawn(reloader.run(asks, stopped));
    (config, status)
}

/// Lets the store say goodbye: its tasks drop their ends of the channel when they have.
async fn close_store(stop: &watch::Sender<bool>) {
    stop.send_replace(true);
    timeout(CLOSE_TIMEOUT, stop.closed()).await.ok();
}

/// The store of the configuration. `stopped` is the last thing told to a process: until then the
/// store's signs of life go on.
async fn open_store(
    config: &Config,
    role: StoreRole,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<Arc<dyn Store>> {
    let opened = store::open(&config.store.options(), role, stopped).await;
    opened.context("store.url")
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
        yaml_text(&token.name)
    ))
}

/// To standard output; a reader that has gone is no failure of ours.
fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
