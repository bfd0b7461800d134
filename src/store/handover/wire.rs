//! What the two processes say to each other: one JSON value a line, answers in the order of the
//! requests, events in between.

use crate::model::{Counts, SessionId, WorkerKey};
use crate::store::{Candidate, Reserved, WorkerView};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// From the old process to the new one.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// The first one, and only that: who holds which seat.
    Seats(Vec<(SessionId, WorkerKey)>),
    Reserve(SessionId, Vec<Candidate>),
    /// The session, and whether its lifetime count is given back.
    Release(SessionId, bool),
    Fleet,
}

/// From the new process to the old one.
#[derive(Debug, Serialize, Deserialize)]
pub enum Said {
    /// The answer to the seats and to a release.
    Done,
    Reserved(Reserved),
    Fleet(Vec<WorkerView>),
    /// The answer when the new process has no store any more, because it was replaced in turn.
    Failed(String),
    /// Not an answer: a worker's counters changed.
    Counts(WorkerKey, Counts),
    /// Not an answer: the fleet changed.
    Resync,
}

impl Said {
    pub fn is_answer(&self) -> bool {
        !matches!(self, Said::Counts(..) | Said::Resync)
    }
}

/// Reads values; safe to drop and call again.
pub struct Reader(Lines<BufReader<OwnedReadHalf>>);

impl Reader {
    pub fn new(stream: OwnedReadHalf) -> Reader {
        Reader(BufReader::new(stream).lines())
    }

    /// The next value; `None` when the other side has gone.
    pub async fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        match self.0.next_line().await? {
            Some(line) => Ok(Some(serde_json::from_str(&line)?)),
            None => Ok(None),
        }
    }
}

pub async fn write(stream: &mut OwnedWriteHalf, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line).await
}
