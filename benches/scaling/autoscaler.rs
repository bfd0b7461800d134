//! How many pods KEDA and the HorizontalPodAutoscaler that it makes want, by the chart's settings. Pure;
//! times are seconds.

use std::collections::VecDeque;

/// The HorizontalPodAutoscaler looks every 15 s, and so does KEDA with the chart's `pollingInterval`.
pub const LOOKS_EVERY: u64 = 15;
/// How far the metric may be from its target before anything changes.
const TOLERANCE: f64 = 0.1;

/// What the chart writes into a `ScaledObject`.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Demand that one pod is for: seats x utilization.
    pub target: f64,
    pub min: usize,
    pub max: usize,
    /// From the last demand to no pod at all.
    pub cooldown: u64,
    /// The most pods that were wanted in this time are kept.
    pub down_window: u64,
    pub down_per_minute: usize,
}

/// One `ScaledObject`.
pub struct Autoscaler {
    settings: Settings,
    last_demand: Option<u64>,
    wanted: VecDeque<(u64, usize)>,
    /// Pods that came and went.
    changes: VecDeque<(u64, isize)>,
}

impl Autoscaler {
    pub fn new(settings: Settings) -> Autoscaler {
        Autoscaler {
            settings,
            last_demand: None,
            wanted: VecDeque::new(),
            changes: VecDeque::new(),
        }
    }

    /// One look: how many pods there are to be.
    pub fn look(&mut self, now: u64, demand: usize, pods: usize) -> usize {
        let it = self.settings;
        if demand > 0 {
            self.last_demand = Some(now);
        }
        let wish = match (demand, pods) {
            // KEDA's part: between none and one.
            (0, 0) => 0,
            (_, 0) => 1,
            (0, _) if it.min == 0 && self.has_cooled_down(now) => 0,
            // The HorizontalPodAutoscaler's, which knows no zero.
            _ => self.sized(now, demand, pods).clamp(it.min.max(1), it.max),
        };
        if wish != pods {
            self.changes.push_back((now, wish as isize - pods as isize));
        }
        wish
    }

    fn has_cooled_down(&self, now: u64) -> bool {
        let since = self.last_demand.map_or(now, |at| now - at);
        since >= self.settings.cooldown
    }

    fn sized(&mut self, now: u64, demand: usize, pods: usize) -> usize {
        let it = self.settings;
        let ratio = demand as f64 / (it.target * pods as f64);
        let computed = match (ratio - 1.0).abs() <= TOLERANCE {
            true => pods,
            false => (demand as f64 / it.target).ceil() as usize,
        };
        self.wanted.push_back((now, computed));
        self.wanted.retain(|(at, _)| now - at <= it.down_window);
        self.changes.retain(|(at, _)| now - at < 60);
        if computed > pods {
            let came = self.changed(now, 15, |by| by > 0);
            let start = pods.saturating_sub(came);
            return computed.min((2 * start).max(start + 4)).max(pods);
        }
        let stable = self.wanted.iter().map(|(_, pods)| *pods).max();
        let went = self.changed(now, 60, |by| by < 0);
        let floor = (pods + went).saturating_sub(it.down_per_minute);
        pods.min(stable.unwrap_or(pods)).max(floor).min(pods)
    }

    fn changed(&self, now: u64, within: u64, kind: impl Fn(isize) -> bool) -> usize {
        let recent = self
            .changes
            .iter()
            .filter(|(at, by)| now - at < within && kind(*by));
        recent.map(|(_, by)| by.unsigned_abs()).sum()
    }
}
