//! What one proxy asks all others, and answers them: over the channel of events, which they listen
//! to anyway. What the questions mean is the caller's business; Redis carries them for whoever may
//! write there.

use super::Inner;
use super::keeper::millis;
use crate::store::{EnoughAnswers, PeerAnswers, PeerHandler, StoreError};
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
        let sent = inner.link.script::<u8>(|_| {
            let mut call = inner.scripts.answer.key(&answers);
            call.arg(&question.inquiry)
                .arg(&inner.proxy)
                .arg(&answer)
                .arg(millis(ANSWER_TTL));
            call
        });
        if let Err(error) = sent.await {
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
    let mut silent: Vec<String> = inner
        .link
        .script(|_| {
            let mut call = inner.scripts.ask.prepare_invoke();
            call.arg(&inquiry).arg(&inner.proxy).arg(question);
            call
        })
        .await?;
    let answers = &inner.keys.answers(&inquiry);
    let mut given = Vec::new();
    while !silent.is_empty() {
        // Before looking, so that what comes in between is not missed.
        let mut rung = std::pin::pin!(inner.peer_queries.answered.notified());
        rung.as_mut().enable();
        let before = given.len();
        let found: Vec<Option<String>> = inner
            .link
            .call(|mut live| {
                let mut read = redis::cmd("HMGET");
                read.arg(answers).arg(&silent);
                async move { read.query_async(&mut live.connection).await }
            })
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
