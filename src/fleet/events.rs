//! What happens to workers and the store, as the store tells it, for those who look at the grid.

use crate::events::{EventKind, Events};
use crate::model::{WorkerKey, WorkerStatus};
use crate::store::{Event, Store};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

/// Between two checks of what the store told. Each session makes it tell of counts, which nobody who looks at the
/// grid hears of here: to be woken for every one would cost more than the session does.
const PAUSE: Duration = Duration::from_millis(50);

/// Notes it until the store is gone.
pub async fn follow(store: Arc<dyn Store>, events: Arc<Events>) {
    let mut heard = store.events();
    drop(store);
    let (mut known, mut ordered) = (HashMap::new(), HashSet::new());
    loop {
        match heard.recv().await {
            Ok(event) => note(&event, &mut known, &mut ordered, &events),
            // Those that were missed are not told: this is no log.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
        if heard.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Statuses in `known`, and who was `ordered` to recycle: every proxy orders it until it is done.
fn note(
    event: &Event,
    known: &mut HashMap<WorkerKey, WorkerStatus>,
    ordered: &mut HashSet<WorkerKey>,
    events: &Events,
) {
    let worker = |key: &WorkerKey, what: &str| {
        events.note(EventKind::Worker, what, Some(key.id.as_str()));
    };
    match event {
        Event::Worker(view) => {
            let (key, status) = (&view.record.key, view.record.status);
            match known.insert(key.clone(), status) {
                Some(before) if before == status => {}
                None if status == WorkerStatus::Available => worker(key, "joined"),
                _ => worker(key, status.as_str()),
            }
        }
        Event::Gone(key) => {
            known.remove(key);
            ordered.remove(key);
            worker(key, "left");
        }
        Event::Recycle(key) if known.contains_key(key) && !ordered.insert(key.clone()) => {}
        Event::Recycle(key) => worker(key, "asked to recycle"),
        Event::Reachable(true) => events.note(EventKind::Store, "the store is back", None),
        Event::Reachable(false) => events.note(EventKind::Store, "the store is away", None),
        Event::Suspect(key) => worker(key, "suspected to hang"),
        Event::Counts(..) | Event::Resync => {}
    }
}
