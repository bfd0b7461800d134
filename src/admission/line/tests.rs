//! The properties of the line, over many random steps with simulated time: clients come, hang up,
//! are seated and end; workers take sessions and cease to, hang and refuse; whoever waits is served whenever there
//! is a seat. `LINE_STEPS` says how many steps each test takes; `make overload` takes a million.

mod short;

use super::*;
use crate::model::{SeatKind, Version};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use std::collections::HashSet;
use std::sync::Arc;

const STEPS: usize = 10_000;
/// At most so many clients at once, for the time that a step takes.
const GUESTS: usize = 28;
const TENANTS: [(&str, u32); 4] = [("a", 1), ("b", 1), ("c", 2), ("d", 5)];
const TIMEOUTS: LineTimeouts = LineTimeouts {
    waiting: Duration::from_secs(5),
    dial: Duration::from_secs(2),
};

struct Worker {
    key: WorkerKey,
    pool: Pool,
    seats: usize,
    used: usize,
    takes_sessions: bool,
    /// How long its handshake takes, and whether it then takes the session.
    handshake: Duration,
    takes: bool,
}

struct Guest {
    request: SeatRequest,
    came: Instant,
    at: At,
    offered: HashSet<WorkerKey>,
}

#[derive(Clone, Copy, PartialEq)]
enum At {
    Asked,
    Waiting,
    Dialling {
        worker: usize,
        until: Instant,
        works: bool,
    },
    Seated {
        worker: usize,
    },
}

/// Seats of two tenants since both have had somebody to be served, in turns of priority 1.
#[derive(Default)]
struct Race(HashMap<(Browser, &'static str, &'static str), f64>);

struct Lab {
    line: Line,
    max_waiting: usize,
    now: Instant,
    random: StdRng,
    workers: Vec<Worker>,
    guests: HashMap<Place, Guest>,
    race: Race,
    seated: usize,
    refused: HashMap<Refused, usize>,
}

fn name_of(tenant: &Tenant) -> &'static str {
    let known = TENANTS.iter().find(|(name, _)| *name == &**tenant);
    known.map_or("", |(name, _)| name)
}

impl Lab {
    fn new(seed: u64, max_waiting: usize) -> Lab {
        let mut random = StdRng::seed_from_u64(seed);
        let worker = |n: usize| {
            let browser = [Browser::Chromium, Browser::Firefox][n % 2];
            let minor = random.random_range(63..66);
            Worker {
                key: WorkerKey::new(browser, format!("w{n}")),
                pool: Pool {
                    browser,
                    version: (minor != 63).then_some(Version { major: 1, minor }),
                    seat: SeatKind::ALL[n / 2 % 2],
                },
                seats: random.random_range(1..4),
                used: 0,
                takes_sessions: true,
                handshake: Duration::from_millis(20),
                takes: true,
            }
        };
        Lab {
            workers: (0..16).map(worker).collect(),
            line: Line::default(),
            max_waiting,
            now: Instant::now(),
            random: StdRng::seed_from_u64(seed + 1),
            guests: HashMap::new(),
            race: Race::default(),
            seated: 0,
            refused: HashMap::new(),
        }
    }

    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..25 => self.come(),
            25..40 => self.enter(),
            40..45 => self.hang_up(),
            45..60 => self.end_a_session(),
            60..65 => self.change_a_worker(),
            _ => {
                let time = self.random.random_range(0..150);
                self.pass(Duration::from_millis(time));
            }
        }
        self.serve();
        self.shed();
        self.check();
    }

    fn come(&mut self) {
        if self.guests.len() >= GUESTS {
            return;
        }
        let (name, priority) = *TENANTS.choose(&mut self.random).unwrap();
        let browser = *Browser::ALL.choose(&mut self.random).unwrap();
        let minor = self.random.random_range(63..67);
        let version = (minor != 63).then_some(Version { major: 1, minor });
        let request = SeatRequest {
            wanted: Pool {
                browser,
                version,
                seat: *SeatKind::ALL.choose(&mut self.random).unwrap(),
            },
            tenant: Arc::from(name),
            priority,
        };
        let place = self.line.arrive(request.clone(), TIMEOUTS, self.now);
        let guest = Guest {
            request,
            came: self.now,
            at: At::Asked,
            offered: HashSet::new(),
        };
        self.guests.insert(place, guest);
    }

    fn any(&mut self, of: impl Fn(&At) -> bool) -> Option<Place> {
        let mut found: Vec<Place> = self.guests.keys().copied().collect();
        found.retain(|place| of(&self.guests[place].at));
        found.sort_unstable();
        found.choose(&mut self.random).copied()
    }

    fn enter(&mut self) {
        let Some(place) = self.any(|at| *at == At::Asked) else {
            return;
        };
        self.line.enter(place);
        self.guests.get_mut(&place).unwrap().at = At::Waiting;
        self.serve();
        self.shed();
    }

    /// Whoever has to go is of those who fill the line.
    fn shed(&mut self) {
        while let Some(place) = self.line.shed(self.max_waiting) {
            let shed = self.answer(place, Refused::Full);
            let beyond_the_first = |tenant: &str, priority: u32| {
                let of = self
                    .waiting()
                    .filter(|(_, it)| &*it.request.tenant == tenant);
                let more = usize::from(*shed.request.tenant == *tenant);
                let places = (of.count() + more).saturating_sub(1);
                places as f64 / f64::from(priority)
            };
            let most = beyond_the_first(&shed.request.tenant, shed.request.priority);
            for (name, priority) in TENANTS {
                let fills = beyond_the_first(name, priority);
                assert!(most >= fills, "{name} fills the line");
            }
            let in_line = |browser: Browser, more: usize| {
                let own = |it: &Guest| it.request.tenant == shed.request.tenant;
                let of = |it: &Guest| own(it) && it.request.wanted.browser == browser;
                self.waiting().filter(|(_, it)| of(it)).count() + more
            };
            for browser in Browser::ALL {
                let most = in_line(shed.request.wanted.browser, 1);
                assert!(most >= in_line(browser, 0), "{browser} fills the line");
            }
        }
        assert!(self.waiting().count() <= self.max_waiting);
    }

    fn waiting(&self) -> impl Iterator<Item = (&Place, &Guest)> {
        self.guests.iter().filter(|(_, it)| it.at == At::Waiting)
    }

    /// A guest has its answer.
    fn answer(&mut self, place: Place, why: Refused) -> Guest {
        let guest = self.guests.remove(&place).expect("it is answered once");
        let by = guest.came + TIMEOUTS.waiting + TIMEOUTS.dial * 2;
        assert!(self.now <= by, "answered {:?} too late", self.now - by);
        *self.refused.entry(why).or_default() += 1;
        guest
    }

    fn hang_up(&mut self) {
        let Some(place) = self.any(|_| true) else {
            return;
        };
        let guest = self.guests.remove(&place).unwrap();
        self.line.leave(place);
        if let At::Dialling { worker, .. } | At::Seated { worker } = guest.at {
            self.workers[worker].used -= 1;
        }
    }

    fn end_a_session(&mut self) {
        if let Some(place) = self.any(|at| matches!(at, At::Seated { .. })) {
            let guest = self.guests.remove(&place).unwrap();
            let At::Seated { worker } = guest.at else {
                unreachable!()
            };
            self.workers[worker].used -= 1;
        }
    }

    fn change_a_worker(&mut self) {
        let worker = self.workers.iter_mut().choose(&mut self.random).unwrap();
        worker.takes_sessions = self.random.random_bool(0.8);
        let millis = [1, 20, 300, 1500, 60_000].choose(&mut self.random).unwrap();
        worker.handshake = Duration::from_millis(*millis);
        worker.takes = self.random.random_bool(0.8);
    }

    /// Time passes; everything that falls into it happens at its moment.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let due = |(place, guest): (&Place, &Guest)| match guest.at {
                At::Asked | At::Waiting => Some((self.line.waits_until(*place)?, *place)),
                At::Dialling { until, .. } => Some((until, *place)),
                At::Seated { .. } => None,
            };
            let next = self.guests.iter().filter_map(due).min();
            let Some((at, place)) = next.filter(|(at, _)| *at <= until) else {
                break;
            };
            self.now = at.max(self.now);
            match self.guests[&place].at {
                At::Dialling { worker, works, .. } => self.dialled(place, worker, works),
                _ => {
                    assert!(self.line.time_out(place, self.now));
                    self.answer(place, Refused::TimedOut);
                }
            }
            self.serve();
        }
        self.now = until;
    }

    fn dialled(&mut self, place: Place, worker: usize, works: bool) {
        let guest = self.guests.get_mut(&place).unwrap();
        let by = guest.came + TIMEOUTS.waiting + TIMEOUTS.dial * 2;
        assert!(self.now <= by, "answered {:?} too late", self.now - by);
        if works {
            guest.at = At::Seated { worker };
            self.line.leave(place);
            self.seated += 1;
            return;
        }
        self.workers[worker].used -= 1;
        guest.at = At::Waiting;
        self.race.0.clear();
        if let Err(why) = self.line.failed(place, self.now) {
            self.answer(place, why);
        }
    }

    fn free<'a>(&'a self, need: Need<'a>) -> impl Iterator<Item = usize> + 'a {
        let fits = move |worker: &Worker| {
            worker.takes_sessions
                && worker.used < worker.seats
                && need.wanted.accepts(&worker.pool)
                && !need.offered.contains(&worker.key)
        };
        let workers = self.workers.iter().enumerate();
        workers.filter(move |(_, it)| fits(it)).map(|(n, _)| n)
    }

    /// Those who could be given a seat.
    fn servable(&self, browser: Browser) -> Vec<Place> {
        let servable = |place: &Place| {
            let client = &self.line.clients[place];
            client.may_be_granted(self.now) && self.free(client.need(*place)).next().is_some()
        };
        let of_browser = self
            .waiting()
            .filter(|(_, it)| it.request.wanted.browser == browser);
        of_browser
            .map(|(place, _)| *place)
            .filter(servable)
            .collect()
    }

    fn serve(&mut self) {
        for browser in Browser::ALL {
            loop {
                let servable = self.servable(browser);
                let mut line = std::mem::take(&mut self.line);
                let fits = |need: Need<'_>| self.free(need).next().is_some();
                let next = line.next(browser, self.now, fits);
                self.line = line;
                let Some(place) = next else {
                    assert!(servable.is_empty(), "seats stay idle for {servable:?}");
                    break;
                };
                if self.random.random_bool(0.05) {
                    // Whoever asks for it gives up, or finds no seat: somebody asks again.
                    self.line.no_seat(place);
                    continue;
                }
                self.check_order(browser, place, &servable);
                self.grant(place);
            }
        }
    }

    fn grant(&mut self, place: Place) {
        let client = &self.line.clients[&place];
        let free: Vec<usize> = self.free(client.need(place)).collect();
        let worker = *free.choose(&mut self.random).unwrap();
        let key = self.workers[worker].key.clone();
        assert!(self.line.grant(place, key.clone(), self.now));
        assert!(!self.line.time_out(place, self.now + TIMEOUTS.waiting * 2));
        let may_take = self.line.dial(place, self.now);
        assert!(
            may_take >= TIMEOUTS.dial / 4,
            "no time left to use the seat"
        );
        assert!(may_take <= TIMEOUTS.dial);
        let guest = self.guests.get_mut(&place).unwrap();
        assert!(guest.offered.insert(key), "offered twice");
        assert!(guest.offered.len() <= MAX_WORKERS);
        if guest.offered.len() == 1 {
            assert_eq!(may_take, TIMEOUTS.dial);
        }
        let of = &mut self.workers[worker];
        of.used += 1;
        guest.at = At::Dialling {
            worker,
            until: self.now + may_take.min(of.handshake),
            works: of.takes && of.handshake <= may_take,
        };
    }

    /// Nobody is overtaken within a tenant, and none of two tenants is ahead by more than a turn.
    fn check_order(&mut self, browser: Browser, place: Place, servable: &[Place]) {
        let tenant = |place: &Place| name_of(&self.guests[place].request.tenant);
        let served = tenant(&place);
        let mut own = servable.iter().filter(|other| tenant(other) == served);
        assert!(own.all(|other| *other >= place), "{place} overtakes");
        let there: HashSet<&str> = servable.iter().map(tenant).collect();
        for (n, (one, p)) in TENANTS.into_iter().enumerate() {
            for (other, q) in &TENANTS[n + 1..] {
                let ahead = self.race.0.entry((browser, one, other)).or_default();
                if !there.contains(one) || !there.contains(other) {
                    *ahead = 0.0;
                    continue;
                }
                if served == one {
                    *ahead += 1.0 / f64::from(p);
                } else if served == *other {
                    *ahead -= 1.0 / f64::from(*q);
                }
                let turn = 1.0 / f64::from(p) + 1.0 / f64::from(*q);
                assert!(
                    ahead.abs() <= turn + 1e-9,
                    "{one} is {ahead} ahead of {other}"
                );
            }
        }
    }

    fn check(&self) {
        for browser in Browser::ALL {
            let of_browser = |it: &Guest| it.request.wanted.browser == browser;
            let waiting = self.waiting().filter(|(_, it)| of_browser(it)).count();
            assert_eq!(self.line.len(browser), waiting);
        }
        let known = self
            .guests
            .values()
            .filter(|it| !matches!(it.at, At::Seated { .. }));
        assert_eq!(self.line.clients.len(), known.count());
        for (n, worker) in self.workers.iter().enumerate() {
            let holds = |it: &&Guest| match it.at {
                At::Dialling { worker, .. } | At::Seated { worker } => worker == n,
                _ => false,
            };
            let held = self.guests.values().filter(holds).count();
            assert_eq!(worker.used, held, "a grant is lost");
            assert!(worker.used <= worker.seats);
        }
    }
}

fn run(seed: u64, max_waiting: usize) {
    let steps = std::env::var("LINE_STEPS").ok().map_or(STEPS, |steps| {
        steps.parse().expect("LINE_STEPS is a number")
    });
    let mut lab = Lab::new(seed, max_waiting);
    for _ in 0..steps {
        lab.step();
    }
    // None of this says anything if some of it never happens.
    assert!(lab.seated > steps / 100, "{} seated", lab.seated);
    for why in [Refused::TimedOut, Refused::Full, Refused::NotDialled] {
        assert!(
            lab.refused.get(&why) > Some(&(steps / 1000)),
            "{:?}",
            lab.refused
        );
    }
    // Whoever is left has its answer in time too.
    lab.pass(TIMEOUTS.waiting + TIMEOUTS.dial * 2);
    assert!(lab.line.clients.is_empty());
    assert_eq!(Browser::ALL.map(|browser| lab.line.len(browser)), [0; 3]);
}

#[test]
fn everybody_is_answered_in_time_and_in_turn() {
    run(1, 8);
}

#[test]
fn everybody_is_answered_in_time_and_in_turn_with_other_luck() {
    run(5, 8);
}

#[test]
fn everybody_is_answered_in_time_and_in_turn_in_a_line_for_fewer_than_there_are_tenants() {
    run(3, 2);
}
