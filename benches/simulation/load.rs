//! The load: when sessions arrive and how long they last. The same numbers for the same seed, on
//! every machine and for every policy that is compared.

/// One session that somebody wants.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Milliseconds since the start.
    pub at: u64,
    /// Milliseconds it lasts once it is seated.
    pub length: u64,
}

/// How a grid is used.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Seats in the grid.
    pub seats: u32,
    /// Mean share of the seats that are wanted.
    pub share: f64,
    /// Mean length of a session, in seconds.
    pub length: f64,
    /// Sessions in all.
    pub sessions: usize,
}

impl Load {
    /// Sessions come in bursts, as test jobs open them: one burst is a twentieth of the seats on
    /// average, bursts are a Poisson process, lengths are exponential.
    pub fn arrivals(&self, seed: u64) -> Vec<Arrival> {
        let mut random = Random(seed);
        let burst = (self.seats / 20).max(1);
        let sessions_per_second = self.share * f64::from(self.seats) / self.length;
        let seconds_between_bursts = f64::from(burst) / sessions_per_second;
        let mut arrivals = Vec::with_capacity(self.sessions);
        let mut now = 0.0;
        while arrivals.len() < self.sessions {
            now += random.exponential(seconds_between_bursts);
            for _ in 0..=random.below(u64::from(burst) * 2 - 1) {
                arrivals.push(Arrival {
                    at: (now * 1000.0) as u64,
                    length: (random.exponential(self.length) * 1000.0) as u64 + 1,
                });
            }
        }
        arrivals
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): a generator that stays the same from release to release.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..end`; the bias is far below what a simulation can see.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        // In (0, 1]: the logarithm of 0 is no time.
        let uniform = ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        -uniform.ln() * mean
    }
}
