//! What is really there, beside what anybody believes: sessions that run, what was served, and who is
//! alive. Held against the database after every command, and against the bounds whenever a session
//! begins.

mod state;

pub use state::Coverage;

use super::database::Database;
use super::miscounted::Miscounted;
use crate::model::WorkerKey;
use crate::store::redis::{GHOSTS_TTL, GRACE, confirmed_within};
use state::{Proxy, Running, Served, State};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// A belief about others may be as old as that: a sign of life and its way, and a slow link's.
const STALE: Duration = Duration::from_millis(2500);
/// What was counted longer ago than that before the counts were lost, somebody remembers.
const REMEMBERED: Duration = Duration::from_secs(8);

/// While somebody waits where all is well, a seat that was given to a process that is dead or stopped is taken back so long
/// after it had to be taken up: the time between two questions of the line, and a look here and there.
const TAKEN_BACK: Duration = Duration::from_millis(900);

/// See the module's description.
pub struct Truth {
    seats: u32,
    ttl: Duration,
    state: Mutex<State>,
}

impl Truth {
    pub fn new(seats: u32, ttl: Duration) -> Arc<Truth> {
        let state = Mutex::default();
        Arc::new(Truth { seats, ttl, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn violation(&self) -> Option<String> {
        self.state().violation.clone()
    }

    pub fn coverage(&self) -> Coverage {
        self.state().coverage
    }

    pub fn proxy_started(&self, process: &str, name: &str) {
        let proxy = Proxy {
            name: name.to_owned(),
            identity: format!("playhouse:proxy:{name}"),
            lease_key: format!("playhouse:leases:{name}"),
            alive: true,
            joined: false,
            heard: None,
            heard_before: None,
            died: None,
            stopped: false,
            leases: BTreeMap::new(),
            answered: Instant::now(),
        };
        self.state().proxies.insert(process.to_owned(), proxy);
    }

    pub fn proxy_died(&self, process: &str) {
        let now = Instant::now();
        let mut state = self.state();
        let wiped = state.wiped;
        let Some(proxy) = state.proxies.get_mut(process) else {
            return;
        };
        (proxy.alive, proxy.died) = (false, Some(now));
        let spoke_since =
            wiped.is_none_or(|wiped| proxy.heard_before.is_some_and(|heard| heard > wiped));
        for served in state.served.iter_mut().filter(|it| it.proxy == process) {
            // Whoever did not hear of it in time does not know.
            let lately = |told: Instant| now - told < STALE;
            served.uncertain |= served.told.is_none_or(|told| lately(told) || !spoke_since);
        }
        state.note(self.seats);
    }

    /// A proxy is stopped, or goes on.
    pub fn proxy_stopped(&self, process: &str, stopped: bool) {
        let mut state = self.state();
        if let Some(proxy) = state.proxies.get_mut(process) {
            proxy.stopped = stopped;
            // When it goes on, it takes up what it was given.
            proxy.leases.values_mut().for_each(|since| *since = None);
        }
    }

    pub fn is_stopped(&self, process: &str) -> bool {
        self.state().proxies[process].stopped
    }

    /// A client waits there, until what is returned is dropped.
    pub fn waits(self: &Arc<Self>, process: &str) -> WaitingClient {
        let mut state = self.state();
        state.next += 1;
        let id = state.next;
        state
            .waiting
            .insert(id, (process.to_owned(), Instant::now()));
        WaitingClient {
            truth: self.clone(),
            id,
        }
    }

    /// How long a seat may lie with those who cannot use it.
    pub fn taken_back_within(&self) -> Duration {
        confirmed_within(self.ttl) + TAKEN_BACK
    }

    /// Seats do not lie with those who cannot use them while others wait, at these processes.
    pub fn check_taken_back(&self, serving: Vec<&str>) -> Result<(), String> {
        let state = self.state();
        let within = self.taken_back_within();
        let long_ago = |since: Instant| since + within < Instant::now();
        let mut waiting = state.waiting.values();
        if !waiting.any(|(at, since)| serving.contains(&at.as_str()) && long_ago(*since)) {
            return Ok(());
        }
        for (process, proxy) in &state.proxies {
            for (session, since) in &proxy.leases {
                if since.is_some_and(long_ago) {
                    return Err(format!(
                        "{session} of {process} has a seat that others wait for"
                    ));
                }
            }
        }
        Ok(())
    }

    /// A process had an answer.
    pub fn answered(&self, process: &str) {
        if let Some(proxy) = self.state().proxies.get_mut(process) {
            proxy.answered = Instant::now();
        }
    }

    /// Nobody could reach the server until this moment. One that was started anew may be old; after a
    /// pause nobody is judged only if it was long.
    pub fn server_is_back(&self, started: bool) {
        let now = Instant::now();
        let mut state = self.state();
        if started {
            // It may be old, and what was given before may have been taken up since: it stays where it is until the
            // silent are judged, as the documents say of all that the dead hold.
            let leases = state.proxies.values_mut().flat_map(|it| &mut it.leases);
            leases.for_each(|(_, since)| *since = None);
        }
        let heard = state.proxies.values().filter_map(|it| it.heard).max();
        if started || heard.is_some_and(|heard| now - heard > self.ttl / 2) {
            state.back = Some(now);
        }
    }

    /// The database lost what was written since `age` ago, or all.
    pub fn wiped(&self) {
        let now = Instant::now();
        let mut state = self.state();
        state.wiped = Some(now);
        // Nobody hears of anything from a server that answers nobody.
        let answered = state.proxies.values().map(|it| it.answered).max();
        let answered = answered.unwrap_or(now);
        for running in state.running.values_mut() {
            running.leased = false;
        }
        let dead: Vec<(String, Instant)> = state
            .proxies
            .iter()
            .filter_map(|(process, proxy)| Some((process.clone(), proxy.died?)))
            .filter(|(_, died)| answered.saturating_duration_since(*died) < REMEMBERED)
            .collect();
        for served in &mut state.served {
            let died = dead.iter().find(|(process, _)| *process == served.proxy);
            let lately = |died: Instant| served.told.is_none_or(|told| told > died - REMEMBERED);
            served.uncertain |= died.is_some_and(|(_, died)| lately(*died));
        }
    }

    /// Somebody is about to disturb a key.
    pub fn disturbed(&self, database: &Database) {
        let mut state = self.state();
        let miscounted = || Miscounted::new(database);
        state.miscounted.get_or_insert_with(miscounted);
    }

    /// A session has reached its worker.
    pub fn begin(
        self: &Arc<Self>,
        proxy: &str,
        session: String,
        worker: WorkerKey,
        from_share: bool,
    ) -> RunningSession {
        let mut state = self.state();
        let answered = state.proxies[proxy].answered;
        let share = from_share.then(|| (answered, state.share(&worker, answered, self.seats)));
        state.next += 1;
        let id = state.next;
        let running = Running {
            proxy: proxy.to_owned(),
            session: session.clone(),
            worker: worker.clone(),
            begun: Instant::now(),
            leased: false,
            share,
            outlived: false,
        };
        state.running.insert(id, running);
        let proxy = proxy.to_owned();
        state.served.push(Served {
            proxy,
            session,
            worker: worker.clone(),
            told: None,
            uncertain: false,
        });
        state.coverage.served += 1;
        state.coverage.from_shares += u64::from(from_share);
        self.check_bound(&mut state, &worker);
        state.note(self.seats);
        RunningSession {
            truth: self.clone(),
            id,
        }
    }

    /// Never more sessions on a worker than it may have, but for what the documents name.
    fn check_bound(&self, state: &mut State, worker: &WorkerKey) {
        let open = state.on(worker).count() as u32;
        let mut groups: BTreeMap<(&str, Instant), (u32, u32)> = BTreeMap::new();
        let miscounted = state.miscounted.as_ref();
        let mut beyond = miscounted.map_or(0, |it| it.missed(worker));
        for running in state.on(worker) {
            if running.outlived {
                beyond += 1;
            } else if let Some((outage, most)) = running.share {
                let group = groups.entry((&running.proxy, outage)).or_default();
                *group = (group.0 + 1, group.1.max(most));
            }
        }
        beyond += groups
            .values()
            .map(|(open, most)| open.min(most))
            .sum::<u32>();
        if open > self.seats + beyond {
            let seats = self.seats;
            let text = format!(
                "{worker} has {open} sessions of {seats}, and {beyond} more may be: {}",
                state.describe(worker)
            );
            state.violated(text);
        }
        state.coverage.beyond_limits += u64::from(open > self.seats);
    }

    /// Holds the database against what is there, after each command.
    pub fn check(&self, database: &Database, caller: &str) {
        let now = Instant::now();
        let mut state = self.state();
        let state = &mut *state;
        state.coverage.commands += 1;
        let mut joined = false;
        for proxy in state.proxies.values_mut() {
            if let Some(expires) = database.expires(&proxy.identity) {
                let left = Duration::from_micros(expires - database.now);
                let heard = Some(now - self.ttl.saturating_sub(left));
                if heard > proxy.heard {
                    proxy.heard_before = std::mem::replace(&mut proxy.heard, heard);
                }
                joined |= !std::mem::replace(&mut proxy.joined, true);
            }
        }
        for running in state.running.values_mut() {
            let proxy = &state.proxies[&running.proxy];
            let leases = database.hash_now(&proxy.lease_key);
            let leased = leases.is_some_and(|it| it.contains_key(&running.session));
            if leased {
                running.leased = true;
                continue;
            }
            let silent = proxy.heard.is_none_or(|heard| now - heard >= self.ttl);
            let forgotten = state.wiped.is_some_and(|wiped| {
                now - wiped >= GHOSTS_TTL.min(self.ttl)
                    && proxy.heard.is_none_or(|heard| heard < wiped)
            });
            let judged = state
                .back
                .is_none_or(|back| now - back >= GRACE.min(self.ttl));
            if (silent && judged) || forgotten {
                // One from a share may be a seat for others too, if it began when its proxy still had shares.
                let shared = running.share.is_some()
                    && proxy
                        .heard
                        .is_some_and(|heard| running.begun < heard + self.ttl);
                running.outlived |= running.leased || shared || state.wiped.is_some();
                // It is its proxy's again when that has written it down anew, some moments after it is heard.
                running.leased = false;
            } else if running.leased && *caller != running.proxy {
                let text = format!(
                    "{caller} took the seat of a session of {}, which was heard {:?} ago",
                    running.proxy,
                    proxy.heard.map(|heard| now - heard),
                );
                state.violation.get_or_insert(text);
            }
        }
        if let Some(miscounted) = &mut state.miscounted {
            let leased = state.running.values().filter(|it| it.leased);
            miscounted.look(database, leased.map(|it| (&it.worker, it.session.as_str())));
        }
        for (process, proxy) in &mut state.proxies {
            let leases = database.hash_now(&proxy.lease_key);
            for (session, since) in &mut proxy.leases {
                // Should an old Redis bring it back, nobody gives it.
                let held = |_: &Instant| leases.is_some_and(|it| it.contains_key(session));
                *since = since.filter(held);
            }
            let away = (proxy.stopped || !proxy.alive) && process != caller;
            for session in leases.into_iter().flat_map(BTreeMap::keys) {
                if !proxy.leases.contains_key(session) {
                    state.coverage.in_vain += u64::from(away);
                    proxy.leases.insert(session.clone(), away.then_some(now));
                }
            }
        }
        for served in state.served.iter_mut().filter(|it| it.told.is_none()) {
            let key = &state.proxies[&served.proxy].lease_key;
            let leases = database.hash_now(key);
            if leases.is_some_and(|it| it.contains_key(&served.session)) {
                served.told = Some(now);
            }
        }
        if joined {
            state.note(self.seats);
        }
    }

    /// Sessions that run on a worker.
    pub fn open(&self, worker: &WorkerKey) -> u32 {
        self.state().on(worker).count() as u32
    }

    /// The least that a worker's lifetime has to be.
    pub fn least_lifetime(&self, worker: &WorkerKey) -> u32 {
        let state = self.state();
        let of_it = |it: &&Served| it.worker == *worker && !it.uncertain;
        state.served.iter().filter(of_it).count() as u32
    }

    /// The name in the database of a proxy's process.
    pub fn name(&self, process: &str) -> String {
        self.state().proxies[process].name.clone()
    }

    /// Names in the database of proxies that are dead, each with since when.
    pub fn dead(&self) -> Vec<(String, Instant)> {
        let state = self.state();
        let dead = |it: &Proxy| Some((it.name.clone(), it.died?));
        state.proxies.values().filter_map(dead).collect()
    }
}

/// A client that waits, until it is dropped.
pub struct WaitingClient {
    truth: Arc<Truth>,
    id: u64,
}

impl Drop for WaitingClient {
    fn drop(&mut self) {
        self.truth.state().waiting.remove(&self.id);
    }
}

/// A session that runs, until it is dropped.
pub struct RunningSession {
    truth: Arc<Truth>,
    id: u64,
}

impl Drop for RunningSession {
    fn drop(&mut self) {
        let mut state = self.truth.state();
        state.running.remove(&self.id);
        state.note(self.truth.seats);
    }
}
