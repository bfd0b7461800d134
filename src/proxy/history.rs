//! How full the grid was over the last minutes, for people who open the dashboard when something has
//! already happened. Of the whole grid, as this process saw it; bounded, and in memory alone.

use super::ProxyState;
use crate::model::unix_millis;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// From one sample to the next.
const INTERVAL: Duration = Duration::from_secs(5);
/// Samples that are kept: ten minutes.
const KEPT: usize = 120;

/// The grid at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// Milliseconds since the epoch.
    pub at: u64,
    pub used: u64,
    pub free: u64,
    /// Clients that wait, at whichever proxy.
    pub queued: u64,
}

/// The last samples, the oldest first.
#[derive(Debug, Default)]
pub struct History(Mutex<VecDeque<Sample>>);

impl History {
    fn note(&self, sample: Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// All samples that are kept, oldest first.
    pub fn list(&self) -> Vec<Sample> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.iter().copied().collect()
    }
}

/// Takes samples for as long as the grid is there.
pub async fn keep(proxy: Weak<ProxyState>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(proxy) = proxy.upgrade() else {
            return;
        };
        let mut sample = Sample {
            at: unix_millis(),
            used: 0,
            free: 0,
            queued: 0,
        };
        for pool in proxy.demand().await.pools {
            sample.used += pool.used;
            sample.free += pool.free;
            sample.queued += pool.queued;
        }
        proxy.history.note(sample);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_sample_goes_first() {
        let history = History::default();
        for at in 0..1000 {
            history.note(Sample {
                at,
                used: 1,
                free: 0,
                queued: 0,
            });
        }
        let list = history.list();
        assert_eq!(list.len(), KEPT);
        assert_eq!((list[0].at, list[KEPT - 1].at), (1000 - KEPT as u64, 999));
    }
}
