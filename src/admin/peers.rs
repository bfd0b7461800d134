//! The sessions of the whole grid: what this proxy asks the others when an operator wants to see
//! or stop one, and what it answers them; also what it answers to who asks for its line.
//!
//! Only a request that came through the admin port with its token leads to a question. An answer
//! that does not come is told as such: a session that may be open elsewhere is not called gone.

use super::answer::NoSession;
use super::views::{Peers, Session, Sessions, sessions};
use crate::fleet::Queue;
use crate::model::{SessionId, WorkerKey};
use crate::proxy::ProxyState;
use crate::proxy::demand::WaitingClients;
use crate::session::registry::Registry;
use crate::store::{EnoughAnswers, Store};
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
pub(super) async fn kill(proxy: &ProxyState, session: SessionId) -> Result<(), NoSession> {
    if end(&proxy.registry, session) {
        return Ok(());
    }
    let question = AdminQuestion::Kill(session);
    find(proxy, &question, parse_killed, |answer| {
        matches!(parse_killed(answer), Some(Some(())))
    })
    .await
}

/// The worker that a session is on, whichever proxy it came through.
pub(super) async fn worker_of_session(
    proxy: &ProxyState,
    session: SessionId,
) -> Result<WorkerKey, NoSession> {
    if let Some(worker) = worker_of(&proxy.registry, session) {
        return Ok(worker);
    }
    let question = AdminQuestion::WorkerOf(session);
    find(proxy, &question, parse_worker, |answer| {
        matches!(parse_worker(answer), Some(Some(_)))
    })
    .await
}

/// What the other proxy says that has the session. `parse` reads an answer: `None` when it is none, and
/// `Some(None)` from a proxy that has not the session; the first one that is `enough` is waited for.
async fn find<T>(
    proxy: &ProxyState,
    question: &AdminQuestion,
    parse: fn(&str) -> Option<Option<T>>,
    enough: EnoughAnswers,
) -> Result<T, NoSession> {
    let question = text(question);
    let asked = proxy.store.query_peers(&question, PATIENCE, enough);
    let answers = asked
        .await
        .map_err(|error| NoSession::Unknown(error.to_string()))?;
    let mut silent = answers.silent;
    for (proxy, answer) in answers.given {
        match parse(&answer) {
            Some(Some(found)) => return Ok(found),
            Some(None) => {}
            None => silent.push(proxy),
        }
    }
    if silent.is_empty() {
        return Err(NoSession::NotOpen);
    }
    Err(NoSession::Unknown(format!(
        "no answer from {}",
        silent.join(", ")
    )))
}

/// What another proxy answered to [`AdminQuestion::WorkerOf`].
fn parse_worker(answer: &str) -> Option<Option<WorkerKey>> {
    serde_json::from_str(answer).ok()
}

/// What another proxy answered to [`AdminQuestion::Kill`].
fn parse_killed(answer: &str) -> Option<Option<()>> {
    let killed: bool = serde_json::from_str(answer).ok()?;
    Some(killed.then_some(()))
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
