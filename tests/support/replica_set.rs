//! Which pods a ReplicaSet that shrinks takes away: the order of `ActivePodsWithRanks` in Kubernetes'
//! `pkg/controller/controller_utils.go` (1.22 and newer, with the feature gates that are on by
//! default). Pure.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// What the order looks at. Times are milliseconds on any clock.
#[derive(Clone, Debug, Default)]
pub struct Candidate {
    pub uid: String,
    /// `None` until the scheduler has found one.
    pub node: Option<String>,
    pub phase: Phase,
    /// Since when the condition `Ready` is true.
    pub ready_since: Option<u64>,
    /// `controller.kubernetes.io/pod-deletion-cost`.
    pub deletion_cost: i32,
    /// Of the container that was restarted most often.
    pub restarts: u32,
    pub created: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Pending,
    Unknown,
    #[default]
    Running,
}

/// The indices of the `count` candidates that go first. Pods that are being deleted are none.
pub fn first_to_go(candidates: &[Candidate], count: usize, now: u64) -> Vec<usize> {
    let mut on_node: BTreeMap<&Option<String>, usize> = BTreeMap::new();
    for candidate in candidates {
        *on_node.entry(&candidate.node).or_default() += 1;
    }
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|a, b| {
        let (a, b) = (&candidates[*a], &candidates[*b]);
        let doubled_up = on_node[&b.node].cmp(&on_node[&a.node]);
        goes_before(a, b, doubled_up, now)
    });
    order.truncate(count);
    order
}

/// `doubled_up` is the order by pods of the set on the same node, more of them first.
fn goes_before(a: &Candidate, b: &Candidate, doubled_up: Ordering, now: u64) -> Ordering {
    let ready = |it: &Candidate| it.ready_since.is_some();
    let by_age = |a: u64, b: u64| magnitude(a, now).cmp(&magnitude(b, now));
    let ready_time = match (a.ready_since, b.ready_since) {
        (Some(a_since), Some(b_since)) if a_since != b_since => {
            by_age(a_since, b_since).then_with(|| a.uid.cmp(&b.uid))
        }
        _ => Ordering::Equal,
    };
    let creation = match a.created == b.created {
        true => Ordering::Equal,
        false => by_age(a.created, b.created).then_with(|| a.uid.cmp(&b.uid)),
    };
    (a.node.is_some().cmp(&b.node.is_some()))
        .then(a.phase.cmp(&b.phase))
        .then(ready(a).cmp(&ready(b)))
        .then(a.deletion_cost.cmp(&b.deletion_cost))
        .then(doubled_up)
        .then(ready_time)
        .then(b.restarts.cmp(&a.restarts))
        .then(creation)
}

/// Ages are compared by their binary logarithm, in nanoseconds; those that are alike go by uid, which is
/// as good as by chance.
fn magnitude(since: u64, now: u64) -> i64 {
    match now.saturating_sub(since) {
        0 => -1,
        age => i64::from((age * 1_000_000).ilog2()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 10_000_000;

    fn pod(uid: &str) -> Candidate {
        Candidate {
            uid: uid.to_owned(),
            node: Some(format!("node of {uid}")),
            ready_since: Some(1_000_000),
            ..Candidate::default()
        }
    }

    /// The uids in the order in which they go.
    fn order<const N: usize>(pods: [Candidate; N]) -> Vec<String> {
        let order = first_to_go(&pods, N, NOW).into_iter();
        order.map(|at| pods[at].uid.clone()).collect()
    }

    /// Each rule decides what all rules before it leave open, whatever those after it say.
    #[test]
    fn the_order_is_that_of_kubernetes() {
        let unassigned = Candidate {
            node: None,
            deletion_cost: 9,
            ..pod("unassigned")
        };
        let pending = Candidate {
            phase: Phase::Pending,
            deletion_cost: 8,
            ..pod("pending")
        };
        let unready = Candidate {
            ready_since: None,
            deletion_cost: 7,
            ..pod("unready")
        };
        let cheap = Candidate {
            deletion_cost: -1,
            ready_since: Some(0),
            ..pod("cheap")
        };
        let [doubled, twin] = ["doubled", "twin"].map(|uid| Candidate {
            node: Some("one".to_owned()),
            ready_since: Some(0),
            ..pod(uid)
        });
        let young = Candidate {
            ready_since: Some(NOW - 1000),
            ..pod("young")
        };
        let restarted = Candidate {
            restarts: 2,
            ..pod("restarted")
        };
        let newer = Candidate {
            created: NOW - 1000,
            ..pod("newer")
        };
        let old = pod("old");
        let costly = Candidate {
            deletion_cost: 100,
            ready_since: Some(NOW - 1),
            restarts: 9,
            ..pod("costly")
        };
        let shuffled = [
            costly, twin, old, newer, restarted, young, doubled, cheap, unready, pending,
            unassigned,
        ];
        let expected = [
            "unassigned",
            "pending",
            "unready",
            "cheap",
            "twin",
            "doubled",
            "young",
            "restarted",
            "newer",
            "old",
            "costly",
        ];
        assert_eq!(order(shuffled), expected);
    }

    #[test]
    fn ages_of_one_magnitude_go_by_uid() {
        let ready = |uid: &str, since| Candidate {
            ready_since: Some(since),
            ..pod(uid)
        };
        assert_eq!(order([ready("b", 0), ready("a", 1)]), ["a", "b"]);
        assert_eq!(
            order([ready("a", 0), ready("b", NOW / 2 + NOW / 4)]),
            ["b", "a"]
        );
    }
}
