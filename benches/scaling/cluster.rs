//! One pool of workers in a simulated cluster, a second at a time: pods that come and go, sessions that
//! the real selection seats, deletion costs that the real code decides, and a ReplicaSet that takes pods
//! away in Kubernetes' order.

use super::replica_set::{Candidate, Phase, first_to_go};
use playhouse::config::Strategy;
use playhouse::kubernetes::{Annotated, PodUse, PodUses, SETTLED};
use playhouse::model::{Browser, Pod, Pool, SeatKind, Size, WorkerKey};
use playhouse::selection::{Facts, Index, Policy, worker_key};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Pods that a node has room for.
const PODS_PER_NODE: usize = 4;
const WANTED: Pool = Pool {
    browser: Browser::Chromium,
    version: None,
    seat: SeatKind::Shared,
};

/// Times are seconds.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub seats: u32,
    /// How long a pod that was told to end goes on for its sessions: `worker.drain_timeout`.
    pub drain: u64,
    /// From the wish for a pod to its first session.
    pub start: u64,
    /// How long a client waits: `queue.timeout`.
    pub patience: u64,
    /// Whether anybody keeps the deletion costs.
    pub keeps_costs: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Pods that were told to end.
    pub taken: usize,
    /// Of these, pods with sessions.
    pub taken_busy: usize,
    /// Of these, pods with sessions while one was spared that had had none for half a minute.
    pub taken_wrongly: usize,
    /// Sessions that were there when their pod's time to drain was over.
    pub cut: usize,
    /// Sessions that ended as they wanted to.
    pub served: usize,
    /// Clients that waited in vain.
    pub refused: usize,
    /// Seconds that each of the others waited.
    pub waits: Vec<u64>,
}

/// A pod, from the wish for it to its end.
struct Simulated {
    pod: Pod,
    node: usize,
    created: u64,
    ready_at: u64,
    served: u32,
    /// When each of its sessions wants to end.
    sessions: Vec<u64>,
    /// Since when it has had none.
    idle_since: u64,
    cost: i32,
    told_to_end: Option<u64>,
}

pub struct Cluster {
    rules: Rules,
    pub now: u64,
    pods: BTreeMap<String, Simulated>,
    index: Index,
    /// When each came, and how long it wants to stay.
    waiting: VecDeque<(u64, u64)>,
    loads: PodUses,
    epoch: Instant,
    serial: usize,
    pub outcome: Outcome,
}

impl Cluster {
    pub fn new(rules: Rules) -> Cluster {
        Cluster {
            rules,
            now: 0,
            pods: BTreeMap::new(),
            index: Index::new(Policy {
                strategy: Strategy::LifetimeFirst,
                max_concurrent_sessions: rules.seats,
                max_lifetime_sessions: None,
                ceiling: None,
            }),
            waiting: VecDeque::new(),
            loads: PodUses::default(),
            epoch: Instant::now(),
            serial: 0,
            outcome: Outcome::default(),
        }
    }

    /// A client that wants a session of so many seconds.
    pub fn arrive(&mut self, lasts: u64) {
        self.waiting.push_back((self.now, lasts));
    }

    /// Sessions and waiting clients, as an autoscaler is told.
    pub fn demand(&self) -> usize {
        self.waiting.len() + self.sessions()
    }

    pub fn sessions(&self) -> usize {
        self.pods.values().map(|pod| pod.sessions.len()).sum()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Pods that are not told to end.
    pub fn replicas(&self) -> usize {
        self.standing().count()
    }

    /// Of these, the ones that are believed to be busy.
    pub fn busy(&self) -> usize {
        self.standing()
            .filter(|pod| pod.cost > 0 || !pod.sessions.is_empty())
            .count()
    }

    fn standing(&self) -> impl Iterator<Item = &Simulated> {
        self.pods.values().filter(|pod| pod.told_to_end.is_none())
    }

    /// Ends every session at once, as its client wants.
    pub fn end_all_sessions(&mut self) {
        let now = self.now;
        for pod in self.pods.values_mut() {
            for end in &mut pod.sessions {
                *end = now;
            }
        }
        self.waiting.clear();
    }

    /// Makes the number of pods another one.
    pub fn scale(&mut self, wish: usize) {
        let pods = self.replicas();
        for _ in pods..wish {
            self.create();
        }
        for name in self.first_to_go(pods.saturating_sub(wish)) {
            self.tell_to_end(&name);
        }
    }

    fn create(&mut self) {
        self.serial += 1;
        // Names are by chance, as Kubernetes makes them.
        let name = format!(
            "worker-{:08x}",
            (self.serial as u32).wrapping_mul(0x9e37_79b1)
        );
        let crowded = |node: &usize| {
            let on_it = self.pods.values().filter(|pod| pod.node == *node);
            on_it.count() >= PODS_PER_NODE
        };
        let pod = Simulated {
            pod: format!("browsers/{name}")
                .parse()
                .expect("it is a name of a pod"),
            node: (0..)
                .find(|node| !crowded(node))
                .expect("there is no end of nodes"),
            created: self.now,
            ready_at: self.now + self.rules.start,
            served: 0,
            sessions: Vec::new(),
            idle_since: self.now,
            cost: 0,
            told_to_end: None,
        };
        self.pods.insert(name, pod);
    }

    fn first_to_go(&self, count: usize) -> Vec<String> {
        let names: Vec<_> = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.told_to_end.is_none())
            .map(|(name, _)| name.clone())
            .collect();
        let candidates: Vec<_> = self.standing().map(|pod| self.candidate(pod)).collect();
        let first = first_to_go(&candidates, count, self.now * 1000);
        first.into_iter().map(|at| names[at].clone()).collect()
    }

    fn candidate(&self, pod: &Simulated) -> Candidate {
        let ready = pod.ready_at <= self.now;
        Candidate {
            uid: pod.pod.name.clone(),
            node: Some(format!("node-{}", pod.node)),
            phase: if ready {
                Phase::Running
            } else {
                Phase::Pending
            },
            ready_since: ready.then_some(pod.ready_at * 1000),
            deletion_cost: pod.cost,
            restarts: 0,
            created: pod.created * 1000,
        }
    }

    fn tell_to_end(&mut self, name: &str) {
        let settled = self.now.saturating_sub(SETTLED.as_secs());
        let idle = |pod: &&Simulated| pod.sessions.is_empty() && pod.idle_since <= settled;
        let spared = self.standing().filter(idle).count();
        let pod = self.pods.get_mut(name).expect("it was chosen of these");
        pod.told_to_end = Some(self.now);
        self.outcome.taken += 1;
        if !pod.sessions.is_empty() {
            self.outcome.taken_busy += 1;
            self.outcome.taken_wrongly += usize::from(spared > 0);
        }
        self.index.remove(&key(name));
    }

    /// A second passes.
    pub fn second(&mut self) {
        self.now += 1;
        self.end_sessions();
        self.end_pods();
        self.seat();
        if self.rules.keeps_costs {
            self.annotate();
        }
    }

    fn end_sessions(&mut self) {
        let mut changed = Vec::new();
        for (name, pod) in &mut self.pods {
            let before = pod.sessions.len();
            pod.sessions.retain(|end| *end > self.now);
            self.outcome.served += before - pod.sessions.len();
            if before > 0 && pod.sessions.is_empty() {
                pod.idle_since = self.now;
            }
            if before != pod.sessions.len() || pod.ready_at == self.now {
                changed.push(name.clone());
            }
        }
        for name in changed {
            self.rank(&name);
        }
    }

    fn end_pods(&mut self) {
        let (now, drain) = (self.now, self.rules.drain);
        let outcome = &mut self.outcome;
        self.pods.retain(|_, pod| match pod.told_to_end {
            None => true,
            Some(since) if !pod.sessions.is_empty() && now < since + drain => true,
            Some(_) => {
                outcome.cut += pod.sessions.len();
                false
            }
        });
    }

    fn seat(&mut self) {
        while let Some((came, lasts)) = self.waiting.front().copied() {
            let waited = self.now - came;
            let mut ranked = self.index.ranked(&WANTED);
            let best = ranked.next().and_then(|it| worker_key(it).cloned());
            drop(ranked);
            if let Some(best) = best {
                let name = best.id.as_str().to_owned();
                let pod = self
                    .pods
                    .get_mut(&name)
                    .expect("those that are ranked are there");
                pod.sessions.push(self.now + lasts.max(1));
                pod.served += 1;
                self.rank(&name);
                self.outcome.waits.push(waited);
            } else if waited >= self.rules.patience {
                self.outcome.refused += 1;
            } else {
                return;
            }
            self.waiting.pop_front();
        }
    }

    /// Tells the selection how things are with a pod.
    fn rank(&mut self, name: &str) {
        let pod = &self.pods[name];
        if pod.ready_at > self.now || pod.told_to_end.is_some() {
            return;
        }
        self.index.put(Facts {
            key: key(name),
            address: ([127, 0, 0, 1], 3131).into(),
            version: None,
            seat: SeatKind::Shared,
            size: Size::default(),
            active: pod.sessions.len() as u32,
            lifetime: pod.served,
            started_at: pod.ready_at,
            takes_sessions: true,
            suspected: false,
            replaces_itself: true,
        });
    }

    fn annotate(&mut self) {
        // A worker has a record from its first answer to its end.
        let ready = self.pods.values().filter(|pod| pod.ready_at <= self.now);
        let sessions: HashMap<Pod, u32> = ready
            .map(|pod| (pod.pod.clone(), pod.sessions.len() as u32))
            .collect();
        let at = self.epoch + Duration::from_secs(self.now);
        for (pod, load) in self.loads.step(at, &sessions) {
            self.loads.annotated(at, &pod, load, Annotated::Done);
            let told = self
                .pods
                .get_mut(&pod.name)
                .expect("it has sessions or none");
            told.cost = if load == PodUse::Busy { 100 } else { 0 };
        }
    }
}

fn key(name: &str) -> WorkerKey {
    WorkerKey::new(Browser::Chromium, name)
}
