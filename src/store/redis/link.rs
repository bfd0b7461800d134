//! One connection to Redis at a time: its state, calls on it, and what a failure means. Who opens
//! it anew is the keeper.

use super::connection::Connection;
use crate::store::StoreError;
#[cfg(test)]
use crate::tests::simulation::watch;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ScriptInvocation};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
#[cfg(not(test))]
use tokio::sync::watch;
use tokio::time::Instant;

/// How long Redis may take to answer before its connection counts as lost. Scripts take
/// microseconds; this leaves room for a busy machine and stays below what a client would notice.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a call may take in all, with one reconnect and one retry within it.
pub const CALL_TIMEOUT: Duration = Duration::from_millis(1500);

/// A connection that said hello, or is about to.
#[derive(Clone)]
pub struct Live {
    pub connection: Connection,
    /// Distinguishes this connection from those before it, for the scripts' fence.
    pub epoch: u64,
    /// The name of the grid that it found.
    pub grid: Arc<str>,
    /// When it became live: who has only just come back judges nobody.
    pub since: Instant,
}

/// How it is with the connection.
#[derive(Clone)]
pub enum State {
    /// A connection is being opened for the first time since the last one was lost. Worth a wait.
    Connecting,
    Live(Live),
    /// Opening one failed, and is tried again from time to time. Not worth a wait.
    Away(Arc<str>),
}

/// The state of the connection, shared by all who call.
pub struct Link {
    state: watch::Sender<State>,
    /// Wakes whoever mends keys of a wrong type.
    pub damaged: Notify,
    /// How often that was done.
    mended: watch::Sender<u64>,
    /// Refusals that were said, each with when.
    logged: Mutex<HashMap<String, Instant>>,
}

impl Link {
    /// A link whose first connection is being opened.
    pub fn new() -> Link {
        Link {
            state: watch::Sender::new(State::Connecting),
            damaged: Notify::new(),
            mended: watch::Sender::new(0),
            logged: Mutex::default(),
        }
    }

    /// Puts the connection into another state; all who wait for it hear of that.
    pub fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    /// The live connection, if there is one at this moment.
    pub fn live(&self) -> Option<Live> {
        match &*self.state.borrow() {
            State::Live(live) => Some(live.clone()),
            _ => None,
        }
    }

    /// Ends the connection of this epoch; a newer one is left alone.
    pub fn lose(&self, epoch: u64) {
        self.state.send_if_modified(|state| match state {
            State::Live(live) if live.epoch == epoch => {
                *state = State::Connecting;
                true
            }
            _ => false,
        });
    }

    /// Until there is a live connection.
    pub async fn until_live(&self) {
        let mut state = self.state.subscribe();
        // The sender is ours: it cannot be gone.
        state
            .wait_for(|state| matches!(state, State::Live(_)))
            .await
            .ok();
    }

    /// Until the live connection is lost.
    pub async fn until_lost(&self) {
        let mut state = self.state.subscribe();
        while matches!(&*state.borrow_and_update(), State::Live(_)) {
            if state.changed().await.is_err() {
                return;
            }
        }
    }

    /// Sends a command.
    pub async fn send<T: FromRedisValue + Send>(&self, command: &Cmd) -> Result<T, StoreError> {
        self.call(|mut live| async move { command.query_async(&mut live.connection).await })
            .await
    }

    /// Runs a script that is the same on every connection.
    pub async fn invoke<T: FromRedisValue + Send>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        self.call(|mut live| async move { script.invoke_async(&mut live.connection).await })
            .await
    }

    /// Runs a script, prepared for the connection.
    pub async fn script<'a, T: FromRedisValue + Send>(
        &self,
        prepare: impl Fn(&Live) -> ScriptInvocation<'a> + Sync,
    ) -> Result<T, StoreError> {
        self.call(|mut live| {
            let invocation = prepare(&live);
            async move { invocation.invoke_async(&mut live.connection).await }
        })
        .await
    }

    /// Does something on the connection. A call that meets a lost connection waits for the next
    /// one, if that is being opened, and is repeated once: everything here is safe to repeat.
    pub async fn call<T, F, Fut>(&self, act: F) -> Result<T, StoreError>
    where
        F: Fn(Live) -> Fut + Sync,
        Fut: Future<Output = redis::RedisResult<T>> + Send,
    {
        let attempts = async {
            let mut repeated = false;
            loop {
                let live = self.connected().await?;
                let epoch = live.epoch;
                let error = match act(live).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                };
                let failure = self.failed(epoch, &error);
                if repeated || error.is_timeout() {
                    return Err(failure);
                }
                if error.code() == Some(WRONG_TYPE) {
                    self.until_mended().await;
                } else if matches!(failure, StoreError::Refused(_)) {
                    return Err(failure);
                }
                repeated = true;
            }
        };
        tokio::time::timeout(CALL_TIMEOUT, attempts)
            .await
            .unwrap_or_else(|_| Err(StoreError::Away("no answer in time".to_owned())))
    }

    /// Something else stands where a key of ours belongs: waits until that was put right.
    async fn until_mended(&self) {
        let mut mended = self.mended.subscribe();
        self.damaged.notify_one();
        // The sender is ours; and lives as long as the call that waits.
        mended.changed().await.ok();
    }

    /// Keys of a wrong type were put right, as far as they could be.
    pub fn note_mended(&self) {
        self.mended.send_modify(|times| *times += 1);
    }

    /// Whether Redis itself refuses, in a way that was not said within the last minute.
    pub fn is_news(&self, error: &RedisError) -> bool {
        let of_server = matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension);
        let code = error.code().unwrap_or_default();
        if !of_server || QUIET.contains(&code) {
            return false;
        }
        let mut logged = self
            .logged
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        logged.retain(|_, at| at.elapsed() < LOG_AGAIN);
        if logged.len() >= MAX_LOGGED || logged.contains_key(code) {
            return false;
        }
        logged.insert(code.to_owned(), Instant::now());
        true
    }

    /// What an error on this connection comes to; one that makes it useless ends it.
    pub fn failed(&self, epoch: u64, error: &RedisError) -> StoreError {
        let text = describe(error);
        if self.is_news(error) {
            log::warn!(error = text.as_str(); "the store refuses what it is asked");
        }
        let refused = match error.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension => {
                !lacks_permission(error)
                    && !error.code().is_some_and(|code| USELESS.contains(&code))
            }
            ErrorKind::UnexpectedReturnType => true,
            _ => false,
        };
        if refused {
            return StoreError::Refused(text);
        }
        self.lose(epoch);
        StoreError::Away(text)
    }

    async fn connected(&self) -> Result<Live, StoreError> {
        let mut state = self.state.subscribe();
        loop {
            match &*state.borrow_and_update() {
                State::Live(live) => return Ok(live.clone()),
                State::Away(why) => return Err(StoreError::Away(why.to_string())),
                State::Connecting => {}
            }
            if state.changed().await.is_err() {
                return Err(StoreError::Away("closed".to_owned()));
            }
        }
    }
}

/// What Redis says of a key that is of another type than a command wants.
pub const WRONG_TYPE: &str = "WRONGTYPE";

/// Error codes that say Redis cannot do its work, while the connection itself is fine: a
/// replica, a primary without enough replicas, one that cannot save, is full, loads its data, or
/// is busy with a script. `FENCED` is ours: this connection does not speak for its proxy.
const USELESS: [&str; 15] = [
    "FENCED",
    "READONLY",
    "NOREPLICAS",
    "MISCONF",
    "OOM",
    "LOADING",
    "BUSY",
    "MASTERDOWN",
    "NOAUTH",
    "NOPERM",
    "WRONGPASS",
    "MOVED",
    "ASK",
    "CROSSSLOT",
    "CLUSTERDOWN",
];
/// Those that belong to the life of a connection, and that the keeper makes up for.
const QUIET: [&str; 4] = ["FENCED", "NOSCRIPT", "LOADING", "BUSY"];
/// How long one refusal is not said again.
const LOG_AGAIN: Duration = Duration::from_secs(60);
/// Refusals that are remembered at once.
const MAX_LOGGED: usize = 32;

/// Before Redis 7.2 a script that lacks a permission says so in words only.
fn lacks_permission(error: &RedisError) -> bool {
    error.code() == Some("NOPERM")
        || error
            .to_string()
            .contains("The user executing the script can't")
}

/// What to do about it, where that is known.
fn advice(error: &RedisError) -> Option<&'static str> {
    if lacks_permission(error) {
        return Some("its user may not do what Playhouse needs: docs/redis.md has the permissions");
    }
    Some(match error.code()? {
        "OOM" => "its memory is full: raise maxmemory, and keep maxmemory-policy at noeviction",
        "READONLY" => {
            "this is a replica: name the primary, or its sentinels with redis+sentinel://"
        }
        "NOREPLICAS" => "it has fewer replicas than its min-replicas-to-write wants",
        "MISCONF" => "it cannot write its snapshot: look at its log and its disk",
        "NOAUTH" => "it wants a password, and store.url has none",
        "WRONGPASS" => "user or password in store.url are wrong",
        "MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN" => {
            "this is a Redis Cluster, which Playhouse does not use: docs/redis.md says why"
        }
        _ if error.to_string().contains("max number of clients") => {
            "it has as many clients as it takes: raise its maxclients"
        }
        _ if error.to_string().contains("unknown command") => "it has to be Redis 7 or newer",
        _ => return None,
    })
}

/// An error in words. Redis and its client never repeat a password in theirs.
pub fn describe(error: &RedisError) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", RESPONSE_TIMEOUT.as_secs());
    }
    match advice(error) {
        Some(advice) => format!("{error} ({advice})"),
        None => error.to_string(),
    }
}
