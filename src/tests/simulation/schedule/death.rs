//! How long the seats of a dead proxy stay taken, at the defaults, while the only other proxy never lives
//! long.

use super::super::lua::Vm;
use super::super::plan::Plan;
use super::super::processes::Visit;
use super::{Schedule, in_simulated_time};
use crate::config::{Config, Role};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Sessions of the proxy that dies.
const SESSIONS: u32 = 60;
/// Between two starts of the other one, and how long it is away then.
const LIFE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(200);
/// The grid is older than any grace when the proxy dies.
const BEFORE: Duration = Duration::from_secs(30);

/// Lets a proxy with sessions die, and says how long after that its last seat was free.
///
/// # Errors
/// When they are not free after a minute, or before anybody died.
pub fn time_until_seats_are_free(seed: u64) -> Result<Duration, String> {
    let store = Config::defaults(Role::Proxy).store;
    let plan = Plan {
        seed,
        proxies: 2,
        workers: 1,
        seats: SESSIONS,
        proxy_ttl: store.proxy_ttl,
        poll_interval: store.poll_interval,
        actions: BTreeMap::new(),
        traced: false,
    };
    let vm = Arc::new(Vm::new(None));
    in_simulated_time(seed, async || {
        let mut schedule = Schedule::new(&plan, &vm);
        sleep(Duration::from_secs(1)).await;
        for _ in 0..SESSIONS {
            let visit = Visit::to_stay(Duration::from_secs(5));
            schedule.proxies[0].as_mut().unwrap().visit(visit);
        }
        sleep(BEFORE).await;
        if schedule.seats_of("p0") != SESSIONS as usize {
            return Err("not everybody has a seat".to_owned());
        }
        schedule.proxies[0] = None;
        let died = Instant::now();
        let mut started = died - LIFE;
        while died.elapsed() < Duration::from_secs(60) {
            if started.elapsed() >= LIFE {
                schedule.proxies[1] = None;
                sleep(PAUSE).await;
                schedule.start(1);
                started = Instant::now();
            }
            if schedule.seats_of("p0") == 0 {
                return Ok(died.elapsed());
            }
            sleep(Duration::from_millis(1)).await;
        }
        Err("a minute later its seats are taken".to_owned())
    })
}
