//! What has to hold while a schedule runs, and when it is over.

use super::super::processes::Proxy;
use super::{Repair, Schedule};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// After the last fault everything agrees within this time: a proxy's TTL and the grace before it,
/// two polls, and a worker's record.
const SETTLED_WITHIN: Duration = Duration::from_secs(40);
/// Within which seats of a dead proxy are free after its TTL, and a look here and there.
const IN_TIME: Duration = Duration::from_millis(1300);
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

impl Schedule {
    /// What has to hold at any time: nothing was violated, and seats of the dead are free in time.
    pub(super) fn check(&mut self) -> Result<(), String> {
        if let Some(violation) = self.common.truth.violation() {
            return Err(violation);
        }
        let faults = self
            .pending
            .iter()
            .any(|(_, it)| !matches!(it, Repair::Start(_) | Repair::Resume(_)));
        let proxies: Vec<&Proxy> = self.proxies.iter().flatten().collect();
        let serving = |it: &&&Proxy| it.reachable() && !self.common.truth.is_stopped(&it.process);
        let serving: Vec<&Proxy> = proxies.iter().filter(serving).copied().collect();
        let somebody = !serving.is_empty();
        if !somebody {
            // Whoever comes then begins with a grace.
            self.alone_until = Instant::now() + self.common.proxy_ttl;
        }
        if faults || !somebody {
            return Ok(());
        }
        let (now, ttl) = (Instant::now(), self.common.proxy_ttl);
        if self.disturbed + self.common.truth.taken_back_within() < now {
            let processes = serving.iter().map(|it| it.process.as_str());
            self.common.truth.check_taken_back(processes.collect())?;
        }
        for (name, died) in self.common.truth.dead() {
            // After a disturbance nobody is judged for a while.
            let grace = if self.disturbed + ttl > died {
                ttl
            } else {
                Duration::ZERO
            };
            let free_by = died.max(self.disturbed).max(self.alone_until) + ttl + grace + IN_TIME;
            let key = format!("playhouse:leases:{name}");
            let held = self
                .common
                .network
                .inspect(|database| database.get(&key).is_some());
            if held && now > free_by {
                return Err(format!("{name} is dead for {:?} and has seats", now - died));
            }
        }
        Ok(())
    }

    /// How many seats the database has under the name of a proxy.
    pub(super) fn seats_of(&self, process: &str) -> usize {
        let key = format!("playhouse:leases:{}", self.common.truth.name(process));
        self.common.network.inspect(|database| {
            let leases = database.hash(&key).ok().flatten();
            leases.map_or(0, BTreeMap::len)
        })
    }

    /// Waits until something holds.
    pub(super) async fn settled(
        &mut self,
        when: &str,
        holds: impl Fn(&Schedule) -> Result<(), String>,
    ) -> Result<(), String> {
        let deadline = Instant::now() + SETTLED_WITHIN;
        loop {
            sleep(CHECK_INTERVAL).await;
            self.check()?;
            match holds(self) {
                Ok(()) => return Ok(()),
                Err(why) if Instant::now() > deadline => {
                    return Err(format!(
                        "{when}, {SETTLED_WITHIN:?} after the last fault: {why}"
                    ));
                }
                Err(_) => {}
            }
        }
    }

    /// Counts, leases, seats, the sessions that run and what everybody believes are the same, and
    /// nobody waits while there is a seat.
    pub(super) fn agrees(&self) -> Result<(), String> {
        let (truth, seats) = (&self.common.truth, self.common.seats);
        let proxies: Vec<&Proxy> = self.proxies.iter().flatten().collect();
        let keys: BTreeSet<String> = self.workers.iter().map(|it| it.key.to_string()).collect();
        let mut free = 0;
        for worker in &self.workers {
            let open = truth.open(&worker.key);
            free += seats.saturating_sub(open);
            let name = worker.key.to_string();
            let (active, held) = self.common.network.inspect(|database| {
                let counted = database.hash("cluster:active_connections").ok().flatten();
                let active = counted.and_then(|it| it.get(&name).cloned());
                let held = database.hash(&format!("playhouse:seats:{name}"));
                (active, held.ok().flatten().map_or(0, BTreeMap::len) as u32)
            });
            if active.as_deref() != Some(open.to_string().as_str()) || held != open {
                return Err(format!(
                    "{name} has {open} sessions, {held} seats, and {active:?} counted"
                ));
            }
            for proxy in &proxies {
                let believed = proxy.believes().into_iter().find(|it| it.0 == worker.key);
                if believed.as_ref().map(|it| it.1) != Some(open) {
                    return Err(format!(
                        "{} believes {believed:?}, it is {open}",
                        proxy.process
                    ));
                }
            }
        }
        for proxy in &proxies {
            if !proxy.reachable() || (proxy.waiting() > 0 && free > 0) {
                let (process, waiting) = (&proxy.process, proxy.waiting());
                return Err(format!(
                    "{waiting} wait at {process}, {free} seats are free"
                ));
            }
        }
        let counted = self.common.network.inspect(|database| {
            let counted = database.hash("cluster:active_connections").ok().flatten();
            counted.map(|it| it.keys().cloned().collect::<BTreeSet<_>>())
        });
        if counted.unwrap_or_default() != keys {
            return Err("workers that are gone are counted".to_owned());
        }
        Ok(())
    }

    pub(super) fn check_lifetimes(&self) -> Result<(), String> {
        for worker in &self.workers {
            let name = worker.key.to_string();
            let lifetime: u32 = self.common.network.inspect(|database| {
                let counted = database.hash("cluster:lifetime_connections").ok().flatten();
                counted
                    .and_then(|it| it.get(&name)?.parse().ok())
                    .unwrap_or(0)
            });
            let least = self.common.truth.least_lifetime(&worker.key);
            if lifetime < least {
                return Err(format!(
                    "{name} has a lifetime of {lifetime} and served {least}"
                ));
            }
        }
        Ok(())
    }
}
