//! `playhouse worker`: one worker in a process of its own, until a signal or, with
//! `recycle.mode: exit`, until its browser has lived its life.

use super::orders::{Order, Orders};
use crate::config::LiveConfig;
use crate::store::Store;
use crate::worker::{Agent, Guard, MachineShared, Shutdown, Toolchain};
use anyhow::Context;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Between two looks for our address, while the store is away.
const ADDRESS_RETRY: Duration = Duration::from_secs(1);

/// Runs the worker to its end.
pub async fn run(
    config: LiveConfig,
    toolchain: Toolchain,
    store: Arc<dyn Store>,
    mut orders: Orders,
) -> anyhow::Result<()> {
    let machine =
        MachineShared::new().context("cannot make a folder for the browser's temporary files")?;
    let _guard = Guard::post(machine.folder()).context("cannot start the guard process")?;
    let hostname = config.load().worker.hostname.clone();
    let advertise = match hostname {
        Some(hostname) => hostname,
        None => tokio::select! {
            address = own_address(&*store) => address,
            _ = orders.next() => return Ok(()),
        },
    };
    log::info!(address = advertise; "proxies reach this worker at");
    let observer = Arc::new(|_| {});
    let agent = Agent::new(config, toolchain, store, advertise, machine, observer);
    let shutdown = watch::Sender::new(Shutdown::None);
    let running = agent.run(shutdown.subscribe());
    tokio::pin!(running);
    loop {
        tokio::select! {
            () = &mut running => break,
            order = orders.next() => {
                let wish = match order {
                    Order::HandOver => continue,
                    Order::Drain => Shutdown::Drain,
                    Order::Stop => Shutdown::Now,
                };
                log::info!(order:? = order, wish:? = wish; "asked to end");
                shutdown.send_replace(wish);
            }
        }
    }
    log::info!("ended");
    Ok(())
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
