//! The other processes at this Redis: what they share, and what one proxy asks all others and answers
//! them, over the channel of events, which they listen to anyway. What the questions mean is the
//! caller's business; Redis carries them for whoever may write there.

use super::keeper::millis;
use super::{Inner, RedisStore, keys, wire};
use crate::store::{EnoughAnswers, PeerAnswers, PeerHandler, Peers, StoreError};
use async_trait::async_trait;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout_at};

/// How long an answer is kept for whoever asked.
const ANSWER_TTL: Duration = Duration::from_secs(10);
/// Questions that wait for their answer. Whoever comes on top of these is not answered.
const BACKLOG: usize = 64;

/// Another proxy's question.
#[derive(Debug, PartialEq, Eq)]
pub struct PeerQuery {
    inquiry: String,
    /// The proxy that asks.
    by: String,
    text: String,
}

/// What arrives of questions and answers.
#[derive(Debug, PartialEq, Eq)]
pub enum PeerMessage {
    Query(PeerQuery),
    /// There is an answer to this inquiry.
    Answered,
}

/// Reads a message of the events channel, as `ask.lua` and `answer.lua` write it.
pub fn parse(message: &str) -> Option<PeerMessage> {
    if message.starts_with("! ") {
        return Some(PeerMessage::Answered);
    }
    let mut parts = message.strip_prefix("? ")?.splitn(3, ' ');
    Some(PeerMessage::Query(PeerQuery {
        inquiry: parts.next()?.to_owned(),
        by: parts.next()?.to_owned(),
        text: parts.next()?.to_owned(),
    }))
}

/// What a proxy knows of questions: where they go that came in, and what it answers.
pub struct PeerQueries {
    asked: mpsc::Sender<PeerQuery>,
    answerer: OnceLock<PeerHandler>,
    /// Rings whenever somebody has answered somebody.
    answered: Notify,
}

impl PeerQueries {
    /// The receiver gets what others ask, for [`answer`].
    pub fn new() -> (PeerQueries, mpsc::Receiver<PeerQuery>) {
        let (asked, queries) = mpsc::channel(BACKLOG);
        let peer_queries = PeerQueries {
            asked,
            answerer: OnceLock::new(),
            answered: Notify::new(),
        };
        (peer_queries, queries)
    }

    /// The first one stays.
    pub fn serve_peers(&self, answerer: PeerHandler) {
        self.answerer.set(answerer).ok();
    }

    /// Takes a message in. Called by the connection's driver, so it must not block.
    pub fn on_message(&self, message: PeerMessage, own: &str) {
        match message {
            PeerMessage::Query(question) if question.by == own => {}
            PeerMessage::Query(question) => {
                if self.asked.try_send(question).is_err() {
                    log::debug!("too many queries of other proxies at once");
                }
            }
            PeerMessage::Answered => self.answered.notify_waiters(),
        }
    }
}

/// Answers one question after the other. Runs until it is dropped.
pub async fn serve(inner: Arc<Inner>, mut queries: mpsc::Receiver<PeerQuery>) {
    while let Some(question) = queries.recv().await {
        let Some(answerer) = inner.peer_queries.answerer.get() else {
            continue;
        };
        let answer = answerer(&question.text);
        let answers = inner.keys.answers(&question.inquiry);
        let mut call = inner.scripts.answer.key(&answers);
        call.arg(&question.inquiry)
            .arg(&inner.proxy)
            .arg(&answer)
            .arg(millis(ANSWER_TTL));
        if let Err(error) = inner.link.invoke::<u8>(&call).await {
            log::debug!(error:%; "another proxy's question goes without an answer");
        }
    }
}

/// Asks all others, and waits until they have answered, one of them has said `enough`, or
/// `patience` is over.
pub async fn query(
    inner: &Inner,
    question: &str,
    patience: Duration,
    enough: EnoughAnswers,
) -> Result<PeerAnswers, StoreError> {
    let deadline = Instant::now() + patience;
    let inquiry = format!("{:016x}", rand::random::<u64>());
    let mut ask = inner.scripts.ask.prepare_invoke();
    ask.arg(&inquiry).arg(&inner.proxy).arg(question);
    let mut silent: Vec<String> = inner.link.invoke(&ask).await?;
    let answers = &inner.keys.answers(&inquiry);
    let mut given = Vec::new();
    while !silent.is_empty() {
        // Before looking, so that what comes in between is not missed.
        let mut rung = std::pin::pin!(inner.peer_queries.answered.notified());
        rung.as_mut().enable();
        let before = given.len();
        let found: Vec<Option<String>> = inner
            .link
            .send(redis::cmd("HMGET").arg(answers).arg(&silent))
            .await?;
        let mut found = found.into_iter();
        silent.retain(|proxy| match found.next().flatten() {
            Some(answer) => {
                given.push((proxy.clone(), answer));
                false
            }
            None => true,
        });
        if given[before..].iter().any(|(_, answer)| enough(answer)) {
            break;
        }
        if !silent.is_empty() && timeout_at(deadline, rung).await.is_err() {
            break;
        }
    }
    Ok(PeerAnswers { given, silent })
}

#[async_trait]
impl Peers for RedisStore {
    async fn shared_secret(&self) -> Result<[u8; 32], StoreError> {
        let mine: [u8; 32] = rand::random();
        let key = &self.inner.keys.name(keys::SECRET);
        // Whoever comes first makes it.
        let make = redis::cmd("SETNX").arg(key).arg(&mine[..]).to_owned();
        self.inner.link.send::<()>(&make).await?;
        let secret: Vec<u8> = self.inner.link.send(redis::cmd("GET").arg(key)).await?;
        let nonsense = |_| StoreError::Refused("the grid's secret is none of ours".to_owned());
        secret.try_into().map_err(nonsense)
    }

    async fn use_once(&self, what: &str, ttl: Duration) -> Result<bool, StoreError> {
        let set: Option<String> = self
            .inner
            .link
            .send(
                redis::cmd("SET")
                    .arg(format!("{}{what}", self.inner.keys.name(keys::USED)))
                    .arg(1)
                    .arg("NX")
                    .arg("PX")
                    .arg(millis(ttl)),
            )
            .await?;
        Ok(set.is_some())
    }

    fn reachable(&self) -> bool {
        self.inner.reachable.load(Ordering::Acquire)
    }

    fn is_being_restored(&self) -> bool {
        self.inner.grid().is_being_restored(Instant::now())
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn proxies(&self) -> usize {
        self.inner.presence().proxies()
    }

    async fn own_address(&self) -> Option<IpAddr> {
        let info: Result<String, StoreError> =
            self.inner.link.send(redis::cmd("CLIENT").arg("INFO")).await;
        let seen = wire::client_address(&info.ok()?);
        let own = self.inner.location.own_address().await;
        let advertised = wire::advertised(own, seen);
        match (advertised, seen) {
            (None, _) => log::warn!(
                "cannot know where proxies reach this worker: set worker.hostname (PRIVATE_HOSTNAME)"
            ),
            (Some(address), Some(seen)) if address != seen => log::warn!(
                address:%, seen_by_redis:% = seen;
                "something stands between this worker and Redis: where proxies do not reach it at this address, set worker.hostname (PRIVATE_HOSTNAME)"
            ),
            _ => {}
        }
        advertised
    }

    async fn query_peers(
        &self,
        question: &str,
        patience: Duration,
        enough: EnoughAnswers,
    ) -> Result<PeerAnswers, StoreError> {
        query(&self.inner, question, patience, enough).await
    }

    fn serve_peers(&self, answerer: PeerHandler) {
        self.inner.peer_queries.serve_peers(answerer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_may_hold_anything_and_nonsense_is_none() {
        let asked = PeerMessage::Query(PeerQuery {
            inquiry: "1f".into(),
            by: "a".into(),
            text: "{\"kill\": \"0 1\"}".into(),
        });
        assert_eq!(parse("? 1f a {\"kill\": \"0 1\"}"), Some(asked));
        assert_eq!(parse("! 1f"), Some(PeerMessage::Answered));
        for message in ["", "?", "? 1f", "? 1f a", "c 1 2 3 chromium:a", "!"] {
            assert_eq!(parse(message), None, "{message}");
        }
    }
}
