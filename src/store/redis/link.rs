//! One connection to Redis at a time: its state, calls on it, and what a failure means. Who opens
//! it anew is the keeper.

use crate::store::StoreError;
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, FromRedisValue, RedisError, ScriptInvocation};
use std::sync::Arc;
use std::time::Duration;
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
    pub connection: MultiplexedConnection,
    /// Distinguishes this connection from those before it, for the scripts' fence.
    pub epoch: u64,
    /// The name of the grid that it found.
    pub grid: Arc<str>,
    /// When it became live: who has only just come back judges nobody.
    pub since: Instant,
}

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
}

impl Link {
    pub fn new() -> Link {
        Link {
            state: watch::Sender::new(State::Connecting),
        }
    }

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

    /// Until the live connection is lost.
    pub async fn until_lost(&self) {
        let mut state = self.state.subscribe();
        while matches!(&*state.borrow_and_update(), State::Live(_)) {
            if state.changed().await.is_err() {
                return;
            }
        }
    }

    /// Runs a script, prepared for the connection.
    pub async fn script<T: FromRedisValue + Send>(
        &self,
        prepare: impl Fn(&Live) -> ScriptInvocation<'static> + Sync,
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
                if repeated || error.is_timeout() || matches!(failure, StoreError::Refused(_)) {
                    return Err(failure);
                }
                repeated = true;
            }
        };
        tokio::time::timeout(CALL_TIMEOUT, attempts)
            .await
            .unwrap_or_else(|_| Err(StoreError::Away("no answer in time".to_owned())))
    }

    /// What an error on this connection comes to; one that makes it useless ends it.
    pub fn failed(&self, epoch: u64, error: &RedisError) -> StoreError {
        let text = describe(error);
        let refused = match error.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension => {
                !error.code().is_some_and(|code| USELESS.contains(&code))
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

/// Error codes that say Redis cannot do its work now, while the connection itself is fine: a
/// replica, a primary without enough replicas, one that cannot save, is full, loads its data, or
/// is busy with a script. `FENCED` is ours: this connection no longer speaks for its proxy.
const USELESS: [&str; 9] = [
    "FENCED",
    "READONLY",
    "NOREPLICAS",
    "MISCONF",
    "OOM",
    "LOADING",
    "BUSY",
    "MASTERDOWN",
    "NOAUTH",
];

/// An error in words. Redis and its client never repeat a password in theirs.
pub fn describe(error: &RedisError) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", RESPONSE_TIMEOUT.as_secs());
    }
    error.to_string()
}
