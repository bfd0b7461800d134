//! A line that is too short for all: who has its places, tenant by tenant.

use super::*;

/// A line that all tenants have somebody for at any time, with one seat that comes free again and again.
struct Crowd {
    line: Line,
    max_waiting: usize,
    tenants: Vec<(Tenant, u32)>,
    /// How many seats each tenant had.
    seats: Vec<u32>,
    now: Instant,
    random: StdRng,
}

impl Crowd {
    fn new(priorities: &[u32], max_waiting: usize) -> Crowd {
        let name = |n: usize| Arc::from(format!("t{n}"));
        let tenants = priorities.iter().enumerate();
        Crowd {
            line: Line::default(),
            max_waiting,
            tenants: tenants.map(|(n, of)| (name(n), *of)).collect(),
            seats: vec![0; priorities.len()],
            now: Instant::now(),
            random: StdRng::seed_from_u64(4),
        }
    }

    fn come(&mut self, tenant: usize, browser: Browser) -> Place {
        let (tenant, priority) = self.tenants[tenant].clone();
        let wanted = Pool {
            browser,
            version: None,
            seat: SeatKind::Shared,
        };
        let request = SeatRequest {
            wanted,
            tenant,
            priority,
        };
        let place = self.line.arrive(request, TIMEOUTS, self.now);
        self.line.enter(place);
        while self.line.shed(self.max_waiting).is_some() {}
        place
    }

    /// Many come of each, in any order; those whom there is no place for are refused.
    fn rush(&mut self) {
        for _ in 0..self.tenants.len() * (self.max_waiting + 2) {
            let tenant = self.random.random_range(0..self.tenants.len());
            self.come(tenant, Browser::Chromium);
        }
        for tenant in 0..self.tenants.len() {
            self.come(tenant, Browser::Chromium);
        }
    }

    fn serve(&mut self) {
        let next = self.line.next(Browser::Chromium, self.now, |_| true);
        let place = next.expect("somebody waits");
        let (request, ..) = self.line.client(place).unwrap();
        let of = |(tenant, _): &(Tenant, u32)| *tenant == request.tenant;
        let tenant = self.tenants.iter().position(of).unwrap();
        let worker = WorkerKey::new(Browser::Chromium, "w");
        assert!(self.line.grant(place, worker, self.now));
        self.line.leave(place);
        self.seats[tenant] += 1;
    }
}

/// However short the line, and however many clients the others send.
#[test]
fn seats_go_by_priority_however_short_the_line() {
    for priorities in [&[1, 1][..], &[10, 1], &[100, 1], &[3, 2, 1], &[1; 5]] {
        for max_waiting in 1..=6 {
            let mut crowd = Crowd::new(priorities, max_waiting);
            let round: u32 = priorities.iter().sum();
            for _ in 0..round * 20 {
                crowd.rush();
                crowd.serve();
            }
            for (seats, priority) in crowd.seats.iter().zip(priorities) {
                let turns = (priority * 19)..=(priority * 21);
                assert!(
                    turns.contains(seats),
                    "{priorities:?} in {max_waiting}: {:?}",
                    crowd.seats
                );
            }
        }
    }
}

#[test]
fn a_tenant_that_has_no_place_gets_one_from_those_who_have_more() {
    for priorities in [[1, 1, 1], [100, 10, 1]] {
        for max_waiting in 3..=12 {
            let mut crowd = Crowd::new(&priorities, max_waiting);
            for tenant in [0, 1].repeat(20) {
                crowd.come(tenant, Browser::Chromium);
            }
            let place = crowd.come(2, Browser::Chromium);
            for tenant in [0, 1].repeat(20) {
                crowd.come(tenant, Browser::Chromium);
            }
            assert!(crowd.line.waits(place), "{priorities:?} in {max_waiting}");
        }
    }
}

/// Were the one place kept for whoever is served less, a browser that nobody has would have it for ever.
#[test]
fn nobody_keeps_the_one_place_for_a_browser_that_nobody_has() {
    let mut crowd = Crowd::new(&[1, 1], 1);
    for _ in 0..20 {
        let mut absent = crowd.come(0, Browser::Webkit);
        crowd.come(1, Browser::Chromium);
        if crowd.line.waits(absent) {
            crowd.now += TIMEOUTS.waiting;
            assert!(crowd.line.time_out(absent, crowd.now));
            absent = crowd.come(0, Browser::Webkit);
            crowd.come(1, Browser::Chromium);
        }
        assert!(!crowd.line.waits(absent));
        crowd.serve();
    }
    assert_eq!(crowd.seats, [0, 20]);
}
