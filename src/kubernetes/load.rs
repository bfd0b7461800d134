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
pub enum Load {
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
pub struct Loads {
    pods: HashMap<Pod, State>,
}

struct State {
    load: Load,
    /// What Kubernetes knows; `None` before it was ever told by this process.
    annotated: Option<Load>,
    last_busy: Option<Instant>,
    not_before: Option<Instant>,
    pause: Duration,
}

impl Loads {
    /// Takes in how many sessions each pod has, and says what is to be told. What was not
    /// confirmed with [`Loads::annotated`] comes again.
    pub fn step(&mut self, now: Instant, sessions: &HashMap<Pod, u32>) -> Vec<(Pod, Load)> {
        self.pods.retain(|pod, _| sessions.contains_key(pod));
        let mut due = Vec::new();
        for (pod, sessions) in sessions {
            let state = self.pods.entry(pod.clone()).or_insert(State {
                load: Load::Idle,
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
                Some(at) if !settled(at) => Load::Busy,
                _ => Load::Idle,
            };
            let waits = state.not_before.is_some_and(|at| now < at);
            if state.annotated != Some(state.load) && !waits {
                due.push((pod.clone(), state.load));
            }
        }
        // What protects sessions comes first.
        due.sort_by_key(|(pod, load)| (*load == Load::Idle, pod.clone()));
        due
    }

    /// Takes in what came of telling.
    pub fn annotated(&mut self, now: Instant, pod: &Pod, load: Load, outcome: Annotated) {
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
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn pod(name: &str) -> Pod {
        format!("browsers/{name}").parse().unwrap()
    }

    #[test]
    fn a_pod_is_busy_at_once_and_idle_after_a_while() {
        let (mut loads, start) = (Loads::default(), Instant::now());
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
            Some(Load::Idle),
            "nobody knows what it was told before"
        );
        assert_eq!(step(1, 1), Some(Load::Busy));
        assert_eq!(step(2, 0), None);
        assert_eq!(step(25, 1), None, "the same suite goes on");
        assert_eq!(step(26, 0), None);
        assert_eq!(step(54, 0), None);
        assert_eq!(step(56, 0), Some(Load::Idle));
        assert_eq!(step(57, 0), None);
    }

    #[test]
    fn what_failed_is_told_again_and_less_and_less_often() {
        let (mut loads, start) = (Loads::default(), Instant::now());
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

    /// One pod of a simulated ReplicaSet.
    struct Simulated {
        pod: Pod,
        ready_at: u64,
        /// When each of its sessions ends.
        sessions: Vec<u64>,
        cost: i32,
        /// Not settled yet.
        busy: bool,
        /// When it was told to end.
        draining: Option<u64>,
    }

    #[derive(Debug, Default, PartialEq)]
    struct Outcome {
        scale_ins: u32,
        /// Pods with sessions that were chosen while one without was there.
        wrongly_chosen: u32,
        /// Sessions that outlasted the drain of their pod.
        cut: u32,
    }

    const SEATS: usize = 5;
    /// Seconds a pod that was told to end has; `worker.drain_timeout`.
    const DRAIN: u64 = 300;

    /// Random scale-outs and scale-ins, one a minute, with sessions of one second to an hour. Never
    /// fewer pods than are busy: then some that are busy have to drain, whatever they cost.
    fn simulate(rounds: u32, keeps_costs: bool, seed: u64) -> Outcome {
        let mut random = StdRng::seed_from_u64(seed);
        let (start, mut loads) = (Instant::now(), Loads::default());
        let (mut pods, mut outcome, mut now, mut serial) =
            (Vec::<Simulated>::new(), Outcome::default(), 0u64, 0u32);
        for _ in 0..rounds {
            for _ in 0..60 {
                now += 1;
                for pod in &mut pods {
                    pod.sessions.retain(|end| *end > now);
                }
                // A pod that drains goes with its last session, or at the end of its time.
                pods.retain(|pod| match pod.draining {
                    Some(_) if pod.sessions.is_empty() => false,
                    Some(since) if now - since >= DRAIN => {
                        outcome.cut += pod.sessions.len() as u32;
                        false
                    }
                    _ => true,
                });
                if random.random_ratio(1, 6) {
                    let seconds = [1, 20, 300, 3600][random.random_range(0..4)];
                    let takes = |pod: &&mut Simulated| {
                        pod.draining.is_none() && pod.ready_at <= now && pod.sessions.len() < SEATS
                    };
                    if let Some(pod) = pods.iter_mut().find(takes) {
                        pod.sessions.push(now + random.random_range(1..=seconds));
                    }
                }
                let sessions = pods
                    .iter()
                    .map(|it| (it.pod.clone(), it.sessions.len() as u32));
                let at = start + Duration::from_secs(now);
                for (name, load) in loads.step(at, &sessions.collect()) {
                    loads.annotated(at, &name, load, Annotated::Done);
                    let pod = pods.iter_mut().find(|it| it.pod == name).unwrap();
                    pod.busy = load == Load::Busy;
                    pod.cost = if pod.busy && keeps_costs {
                        BUSY_COST
                    } else {
                        0
                    };
                }
            }
            let standing = pods.iter().filter(|it| it.draining.is_none()).count();
            // As many as were busy a moment ago stay: an autoscaler's stabilisation is longer than that.
            let needed = pods
                .iter()
                .filter(|it| it.draining.is_none() && it.busy)
                .count();
            let wish = random.random_range(needed..=needed + 6).max(1);
            for _ in standing..wish {
                serial += 1;
                pods.push(Simulated {
                    pod: pod(&format!("worker-{serial}")),
                    ready_at: now + 5,
                    sessions: Vec::new(),
                    cost: 0,
                    busy: false,
                    draining: None,
                });
            }
            for _ in wish..standing {
                outcome.scale_ins += 1;
                let idle = pods
                    .iter()
                    .any(|it| it.draining.is_none() && it.sessions.is_empty());
                // The order of a ReplicaSet: not ready, then cheapest, then youngest.
                let chosen = pods
                    .iter_mut()
                    .filter(|it| it.draining.is_none())
                    .min_by_key(|it| (it.ready_at <= now, it.cost, std::cmp::Reverse(it.ready_at)))
                    .unwrap();
                outcome.wrongly_chosen += u32::from(idle && !chosen.sessions.is_empty());
                chosen.draining = Some(now);
            }
        }
        outcome
    }

    const BUSY_COST: i32 = 100;

    #[test]
    fn a_thousand_scale_ins_and_outs_cut_no_session_and_without_costs_many() {
        let with = simulate(1000, true, 7);
        let without = simulate(1000, false, 7);
        println!("with deletion costs: {with:?}\nwithout: {without:?}");
        assert!(with.scale_ins > 300, "{with:?}");
        assert_eq!((with.wrongly_chosen, with.cut), (0, 0));
        assert!(without.wrongly_chosen > 0 && without.cut > 0, "{without:?}");
    }
}
