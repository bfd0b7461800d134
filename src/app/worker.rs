//! `playhouse worker`: one worker in a process of its own, until a signal or, with
//! `recycle.mode: exit`, until its browser has lived its life.

use super::runtime::{Health, StatusSocket};
use super::signals::{Signal, Signals};
use crate::config::LiveConfig;
use crate::model::WorkerId;
use crate::store::Store;
use crate::worker::{Agent, Guard, MachineShared, Observer, Progress, Shutdown, Toolchain};
use anyhow::Context;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Between two checks of our address, while the store is away.
const ADDRESS_RETRY: Duration = Duration::from_secs(1);

/// Runs the worker to its end.
pub async fn run(
    config: LiveConfig,
    toolchain: Toolchain,
    store: Arc<dyn Store>,
    mut signals: Signals,
) -> anyhow::Result<()> {
    let up: Arc<Mutex<HashSet<WorkerId>>> = Arc::default();
    let _status_socket = status_socket(up.clone());
    let observer: Observer = Arc::new(move |progress| follow(&up, &progress));
    let machine =
        MachineShared::new().context("cannot make a folder for the browser's temporary files")?;
    let _guard = Guard::spawn(machine.folder()).context("cannot start the guard process")?;
    let hostname = config.load().worker.hostname.clone();
    let advertise = match hostname {
        Some(hostname) => hostname,
        None => tokio::select! {
            address = own_address(&*store) => address,
            _ = signals.next() => return Ok(()),
        },
    };
    log::info!(address = advertise; "proxies reach this worker at");
    let agent = Agent::new(config, toolchain, store, advertise, machine, observer)?;
    let shutdown = watch::Sender::new(Shutdown::None);
    let running = agent.run(shutdown.subscribe());
    tokio::pin!(running);
    loop {
        tokio::select! {
            () = &mut running => break,
            signal = signals.next() => {
                let end = match signal {
                    Signal::HandOver => continue,
                    Signal::Drain => Shutdown::Drain,
                    Signal::Stop => Shutdown::Now,
                };
                log::info!(signal:? = signal, end:? = end; "asked to end");
                shutdown.send_replace(end);
            }
        }
    }
    log::info!("ended");
    Ok(())
}

/// Keeps the browser servers that are up: from when they are ready until they are gone, also while
/// they drain and while the store is away, when to replace the worker would help nobody.
fn follow(up: &Mutex<HashSet<WorkerId>>, progress: &Progress) {
    let mut up = up.lock().unwrap_or_else(PoisonError::into_inner);
    match progress {
        Progress::Ready { id, .. } => {
            up.insert(id.clone());
        }
        Progress::Crashed { id, .. } | Progress::Drained { id, .. } => {
            up.remove(id);
        }
        _ => {}
    }
}

/// The worker's socket in the runtime folder. Without one it works all the same.
fn status_socket(up: Arc<Mutex<HashSet<WorkerId>>>) -> Option<StatusSocket> {
    let health: Health = Box::new(move || {
        let none = up.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        let why = none.then(|| "the worker has no browser server up".to_owned());
        Box::pin(std::future::ready(why))
    });
    let opened = StatusSocket::open("worker", health);
    opened
        .inspect_err(|error| {
            log::warn!(error:% = format!("{error:#}"); "playhouse healthcheck will not find this process");
        })
        .ok()
}

/// The address that the store's connection uses: where others on that network reach this process.
async fn own_address(store: &dyn Store) -> String {
    loop {
        if let Some(address) = store.own_address().await {
            return address.to_string();
        }
        tokio::time::sleep(ADDRESS_RETRY).await;
    }
}
