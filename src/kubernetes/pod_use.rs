//! Which pods are idle and which are busy, and what Kubernetes has yet to be told of it. Pure.
//!
//! A ReplicaSet that shrinks takes pods that are not ready first, and of the others those whose
//! deletion cost is lowest. Every change is a write to the cluster's API, so the cost knows two
//! values: a pod is busy from its first session on, and idle when it has had none for [`SETTLED`].

use crate::model::Pod;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a pod has had no session until it is idle. A suite opens its sessions one after another.
pub const SETTLED: Duration = Duration::from_secs(30);
/// Pauses before Kubernetes is told once more; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What autoscalers ought to know of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodUse {
    Idle,
    Busy,
}

/// What came of telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Annotated {
    Done,
    /// There is no such pod.
    Gone,
    /// It has to be said again.
    Failed,
}

/// The pods of the grid.
#[derive(Default)]
pub struct PodUses {
    pods: HashMap<Pod, State>,
}

struct State {
    load: PodUse,
    /// What Kubernetes knows; `None` before it was ever told by this process.
    annotated: Option<PodUse>,
    last_busy: Option<Instant>,
    not_before: Option<Instant>,
    pause: Duration,
}

impl PodUses {
    /// Takes in how many sessions each pod has, and says what is to be told. What was not
    /// confirmed with [`PodUses::annotated`] comes again.
    pub fn step(&mut self, now: Instant, sessions: &HashMap<Pod, u32>) -> Vec<(Pod, PodUse)> {
        self.pods.retain(|pod, _| sessions.contains_key(pod));
        let mut due = Vec::new();
        for (pod, sessions) in sessions {
            let state = self.pods.entry(pod.clone()).or_insert(State {
                load: PodUse::Idle,
                annotated: None,
                last_busy: None,
                not_before: None,
                pause: FIRST_PAUSE,
            });
            if *sessions > 0 {
                state.last_busy = Some(now);
            }
            let settled = |at: Instant| now.saturating_duration_since(at) >= SETTLED;
            state.load = match state.last_busy {
                Some(at) if !settled(at) => PodUse::Busy,
                _ => PodUse::Idle,
            };
            let waits = state.not_before.is_some_and(|at| now < at);
            if state.annotated != Some(state.load) && !waits {
                due.push((pod.clone(), state.load));
            }
        }
        // What protects sessions comes first.
        due.sort_by_key(|(pod, load)| (*load == PodUse::Idle, pod.clone()));
        due
    }

    /// Takes in what came of telling.
    pub fn annotated(&mut self, now: Instant, pod: &Pod, load: PodUse, outcome: Annotated) {
        let Some(state) = self.pods.get_mut(pod) else {
            return;
        };
        match outcome {
            Annotated::Done => {
                state.annotated = Some(load);
                state.not_before = None;
                state.pause = FIRST_PAUSE;
            }
            // Its record outlives it for a while.
            Annotated::Gone | Annotated::Failed => {
                state.not_before = Some(now + state.pause);
                state.pause = (state.pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Pod {
        format!("browsers/{name}").parse().unwrap()
    }

    #[test]
    fn a_pod_is_busy_at_once_and_idle_after_a_while() {
        let (mut loads, start) = (PodUses::default(), Instant::now());
        let mut step = |after: u64, sessions: u32| {
            let now = start + Duration::from_secs(after);
            let due = loads.step(now, &HashMap::from([(pod("a"), sessions)]));
            for (pod, load) in &due {
                loads.annotated(now, pod, *load, Annotated::Done);
            }
            due.first().map(|(_, load)| *load)
        };
        assert_eq!(
            step(0, 0),
            Some(PodUse::Idle),
            "nobody knows what it was told before"
        );
        assert_eq!(step(1, 1), Some(PodUse::Busy));
        assert_eq!(step(2, 0), None);
        assert_eq!(step(25, 1), None, "the same suite goes on");
        assert_eq!(step(26, 0), None);
        assert_eq!(step(54, 0), None);
        assert_eq!(step(56, 0), Some(PodUse::Idle));
        assert_eq!(step(57, 0), None);
    }

    #[test]
    fn what_failed_is_told_again_and_less_and_less_often() {
        let (mut loads, start) = (PodUses::default(), Instant::now());
        let mut tries = 0;
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            for (pod, load) in loads.step(now, &HashMap::from([(pod("a"), 1)])) {
                tries += 1;
                loads.annotated(now, &pod, load, Annotated::Failed);
            }
        }
        assert!((8..20).contains(&tries), "{tries}");
    }
}
