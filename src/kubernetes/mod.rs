//! What Kubernetes is told of the workers' pods, so that it takes idle ones first: annotations that
//! the ReplicaSet, Karpenter and the cluster autoscaler read.
//!
//! Runs in a proxy that has a service account, on a thread of its own. Worker pods have none:
//! sessions could read it. Every proxy tells; what one has written the others find done.

mod api;
mod pod_use;

pub use api::{Api, NoApi};
pub use pod_use::{Annotated, PodUse, PodUses, SETTLED};

use crate::fleet::Fleet;
use crate::model::Pod;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How often the sessions of each pod are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// Pods that are told of in one look, at most; the others have their turn at the next.
const MAX_PER_ROUND: usize = 64;

/// Keeps the annotations of the workers' pods for as long as the fleet is there, if this process
/// runs in a cluster: the cluster gives `host` to every pod, and `folder` to those with a service
/// account.
pub fn keep_annotations(fleet: &Arc<Fleet>, host: Option<String>, folder: &Path) {
    let Some(host) = host.filter(|_| folder.join("token").exists()) else {
        return;
    };
    let api = match Api::new(&host, folder) {
        Ok(api) => api,
        Err(error) => {
            log::warn!(error:% = error; "annotations of workers' pods are not kept");
            return;
        }
    };
    let fleet = Arc::downgrade(fleet);
    let run = move || annotate_forever(&fleet, &api);
    let thread = std::thread::Builder::new().name("kubernetes".into());
    if let Err(error) = thread.spawn(run) {
        log::warn!(error:% = error; "annotations of workers' pods are not kept");
    }
}

/// The cluster's API as pods are told of it.
pub fn host_of_environment() -> Option<String> {
    let variable = |name: &str| std::env::var(format!("KUBERNETES_SERVICE_{name}")).ok();
    let (host, port) = (
        variable("HOST")?,
        variable("PORT_HTTPS").or_else(|| variable("PORT"))?,
    );
    Some(match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    })
}

fn annotate_forever(fleet: &Weak<Fleet>, api: &Api) {
    let mut loads = PodUses::default();
    while let Some(sessions) = fleet.upgrade().map(|fleet| sessions(&fleet, api)) {
        let due = loads.step(Instant::now(), &sessions);
        for (pod, load) in due.into_iter().take(MAX_PER_ROUND) {
            let outcome = api.annotate(&pod, load);
            loads.annotated(Instant::now(), &pod, load, outcome);
        }
        std::thread::park_timeout(INTERVAL);
    }
}

/// Sessions of each pod: those of the browser that drains in it and of the one that took its place.
fn sessions(fleet: &Fleet, api: &Api) -> HashMap<Pod, u32> {
    let mut sessions = HashMap::new();
    for worker in fleet.workers() {
        if let Some(pod) = worker.record.pod.filter(|pod| api.concerns(pod)) {
            *sessions.entry(pod).or_default() += worker.counts.active;
        }
    }
    sessions
}
