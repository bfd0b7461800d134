//! What a grid of any size uses while nobody comes, and what a session adds, computed from what the parts cost. Pure.

use crate::grid::{HEARTBEAT, READ_WHOLE, READING_SHARE, Rates};

/// Between two looks for what was not told, at least (`store.poll_interval`).
pub const LOOK_AGAIN: f64 = 5.0;

/// What the parts cost, each measured by itself.
#[derive(Clone, Copy, Debug)]
pub struct Units {
    /// Of a Redis at which nobody is, in a second.
    pub empty: Rates,
    /// Of one sign of life of a worker.
    pub heartbeat: Rates,
    /// Of one proxy in a second, without workers: what it costs by itself, and for each proxy that there is.
    pub proxy: Rates,
    pub proxy_by_proxies: Rates,
    /// Of a connection on which nothing is said, in a second.
    pub connection: Rates,
    /// Of one worker's row when a proxy reads the fleet.
    pub row: Rates,
    /// Of one worker when one proxy looks for all whether it is as was told, and the most of it in a second:
    /// looking takes a part of the time that does not depend on the size of a large fleet.
    pub look: Rates,
    pub most_looks: Rates,
    /// Of a real proxy in a second: its time with hardly any workers, and for each worker.
    pub real: (f64, f64),
    /// Of a session: what it costs by itself, and for each proxy that hears of it.
    pub session: Rates,
    pub session_by_proxies: Rates,
}

impl Rates {
    pub fn times(self, n: f64) -> Rates {
        Rates {
            redis: self.redis * n,
            commands: self.commands * n,
            bytes: self.bytes * n,
            proxy: self.proxy * n,
        }
    }

    pub fn and(self, other: Rates) -> Rates {
        Rates {
            redis: self.redis + other.redis,
            commands: self.commands + other.commands,
            bytes: self.bytes + other.bytes,
            proxy: self.proxy + other.proxy,
        }
    }

    fn at_most(self, other: Rates) -> Rates {
        if other.commands < self.commands {
            other
        } else {
            self
        }
    }
}

impl Units {
    /// What so many proxies use in a second without workers.
    pub fn of_proxies(&self, proxies: f64) -> Rates {
        let one = self.proxy.and(self.proxy_by_proxies.times(proxies));
        one.times(proxies)
    }

    /// What the signs of life of so many workers use in a second.
    pub fn of_heartbeats(&self, workers: f64) -> Rates {
        self.heartbeat.times(workers / HEARTBEAT.as_secs_f64())
    }

    /// What so many proxies use in a second to read the whole of a fleet from time to time.
    pub fn of_readings(&self, workers: f64, proxies: f64) -> Rates {
        let took = (self.row.redis + self.row.proxy) * workers;
        let pause = READ_WHOLE
            .as_secs_f64()
            .max(took * f64::from(READING_SHARE));
        let rows = workers / pause;
        Rates {
            proxy: self.row.proxy * rows,
            ..self.row.times(rows * proxies)
        }
    }

    /// What one proxy's looking whether everything is as was told uses in a second.
    pub fn of_looking(&self, workers: f64) -> Rates {
        self.look
            .times(workers / LOOK_AGAIN)
            .at_most(self.most_looks)
    }

    /// What so many workers and proxies use in a second while nobody comes. In a real grid each worker has a
    /// connection of its own; so many `connections` of workers there are.
    pub fn idle(&self, workers: usize, proxies: usize, connections: usize) -> Rates {
        let (n, p) = (workers as f64, proxies as f64);
        let of_a_proxy = Rates {
            proxy: self.real.0 + self.real.1 * n,
            ..Rates::default()
        };
        self.empty
            .and(self.of_heartbeats(n))
            .and(self.connection.times(connections as f64))
            .and(self.of_proxies(p))
            .and(self.of_looking(n))
            .and(self.of_readings(n, p))
            .and(of_a_proxy)
    }

    /// What a session costs where there are so many proxies.
    pub fn one_session(&self, proxies: usize) -> Rates {
        self.session
            .and(self.session_by_proxies.times(proxies as f64))
    }
}
