//! The sessions of the whole grid: what this proxy asks the others when an operator wants to see
//! or stop one, and what it answers them; also what it answers to who asks for its line.
//!
//! Only a request that came through the admin port with its token leads to a question. An answer
//! that does not come is told as such: a session that may be open elsewhere is not called gone.

use super::views::{Peers, Session, Sessions, sessions};
use crate::fleet::Queue;
use crate::model::{SessionId, WorkerKey};
use crate::proxy::ProxyState;
use crate::proxy::demand::WaitingClients;
use crate::session::registry::Registry;
use crate::store::Store;
use crate::tunnel::Close;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// How long the others may take to answer. They are alive, or were within `store.proxy_ttl`.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most sessions that a proxy tells another one: some 300 KiB.
const MAX_SESSIONS: usize = 1000;

/// What proxies ask each other, as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum AdminQuestion {
    /// Answered with [`SessionList`].
    Sessions,
    /// Answered with whether it was open; it ends then.
    Kill(SessionId),
    /// Answered with the worker that it is on; nothing when it is not open.
    WorkerOf(SessionId),
    /// Answered with [`WaitingClients`]; asked as [`QUESTION`](crate::proxy::demand::QUESTION).
    Waiting,
}

#[derive(Debug, Serialize, Deserialize)]
struct SessionList {
    sessions: Vec<Session>,
    unlisted: usize,
}

/// What came of ending a session.
pub(super) enum Kill {
    Done,
    NoSuchSession,
    /// It may be open at a proxy that could not be asked.
    Unknown(String),
}

/// Where a session is.
pub(super) enum Whereabouts {
    On(WorkerKey),
    NoSuchSession,
    /// It may be open at a proxy that could not be asked.
    Unknown(String),
}

/// Makes this process answer what other proxies ask of its sessions and its line.
pub fn serve_peers(store: &dyn Store, registry: Arc<Registry>, queue: Arc<Queue>) {
    store.serve_peers(Box::new(move |question| {
        answer(&registry, &queue, question)
    }));
}

fn answer(registry: &Registry, queue: &Queue, question: &str) -> String {
    match serde_json::from_str(question) {
        Ok(AdminQuestion::Sessions) => {
            let mut sessions = sessions(registry);
            let unlisted = sessions.len().saturating_sub(MAX_SESSIONS);
            sessions.truncate(MAX_SESSIONS);
            text(&SessionList { sessions, unlisted })
        }
        Ok(AdminQuestion::Kill(session)) => text(&end(registry, session)),
        Ok(AdminQuestion::WorkerOf(session)) => text(&worker_of(registry, session)),
        Ok(AdminQuestion::Waiting) => text(&WaitingClients::of(queue)),
        // Of a version that knows more. Whoever asked makes nothing of this and counts us as silent.
        Err(_) => text(&()),
    }
}

fn worker_of(registry: &Registry, session: SessionId) -> Option<WorkerKey> {
    registry.find(session).map(|info| info.worker.clone())
}

fn end(registry: &Registry, session: SessionId) -> bool {
    let ended = registry.end(session, Close::killed(session));
    if ended {
        log::info!(session:% = session; "an operator killed the session");
    }
    ended
}

/// The sessions of the grid, oldest first.
pub(super) async fn all_sessions(proxy: &ProxyState) -> Sessions {
    let mut sessions = sessions(&proxy.registry);
    let mut others = Peers::default();
    let question = text(&AdminQuestion::Sessions);
    match proxy
        .store
        .query_peers(&question, PATIENCE, |_| false)
        .await
    {
        Ok(answers) => {
            others.silent = answers.silent;
            for (proxy, answer) in answers.given {
                let Ok(list) = serde_json::from_str::<SessionList>(&answer) else {
                    others.silent.push(proxy);
                    continue;
                };
                others.answered += 1;
                others.unlisted += list.unlisted;
                sessions.extend(list.sessions);
            }
        }
        Err(error) => others.error = Some(error.to_string()),
    }
    sessions.sort_by(|a, b| (a.started_at, &a.id).cmp(&(b.started_at, &b.id)));
    Sessions { sessions, others }
}

/// Ends a session wherever it is open.
pub(super) async fn kill(proxy: &ProxyState, session: SessionId) -> Kill {
    if end(&proxy.registry, session) {
        return Kill::Done;
    }
    let question = text(&AdminQuestion::Kill(session));
    let answers = match proxy
        .store
        .query_peers(&question, PATIENCE, |answer| {
            parse_killed(answer) == Some(true)
        })
        .await
    {
        Ok(answers) => answers,
        Err(error) => return Kill::Unknown(error.to_string()),
    };
    let mut silent = answers.silent;
    for (proxy, answer) in answers.given {
        match parse_killed(&answer) {
            Some(true) => return Kill::Done,
            Some(false) => {}
            None => silent.push(proxy),
        }
    }
    if silent.is_empty() {
        return Kill::NoSuchSession;
    }
    Kill::Unknown(format!("no answer from {}", silent.join(", ")))
}

/// The worker that a session is on, whichever proxy it came through.
pub(super) async fn whereabouts(proxy: &ProxyState, session: SessionId) -> Whereabouts {
    if let Some(worker) = worker_of(&proxy.registry, session) {
        return Whereabouts::On(worker);
    }
    let question = text(&AdminQuestion::WorkerOf(session));
    let known = |answer: &str| matches!(parse_worker(answer), Some(Some(_)));
    let answers = match proxy.store.query_peers(&question, PATIENCE, known).await {
        Ok(answers) => answers,
        Err(error) => return Whereabouts::Unknown(error.to_string()),
    };
    let mut silent = answers.silent;
    for (proxy, answer) in answers.given {
        match parse_worker(&answer) {
            Some(Some(worker)) => return Whereabouts::On(worker),
            Some(None) => {}
            None => silent.push(proxy),
        }
    }
    if silent.is_empty() {
        return Whereabouts::NoSuchSession;
    }
    Whereabouts::Unknown(format!("no answer from {}", silent.join(", ")))
}

/// What another proxy answered to [`AdminQuestion::WorkerOf`].
fn parse_worker(answer: &str) -> Option<Option<WorkerKey>> {
    serde_json::from_str(answer).ok()
}

/// What another proxy answered to [`AdminQuestion::Kill`].
fn parse_killed(answer: &str) -> Option<bool> {
    serde_json::from_str(answer).ok()
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("names and numbers have a form in JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::demand::QUESTION;

    #[test]
    fn who_waits_is_asked_as_it_is_answered() {
        assert_eq!(text(&AdminQuestion::Waiting), QUESTION);
        let answer = answer(&Registry::new(), &Queue::new(), QUESTION);
        assert!(
            serde_json::from_str::<WaitingClients>(&answer).is_ok(),
            "{answer}"
        );
    }
}
