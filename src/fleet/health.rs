//! Whether a worker's Playwright server answers at all. Whether its upgrades work is another question
//! ([`super::trials`]).
//!
//! Workers say by themselves how they are, and each session shows whether its worker is reached. So
//! a proxy asks but some of a large fleet in each round; Pingora's health checks ask all of them.

use super::{DialFailure, Fleet, Known, Obstacle, Shortage, Target, Unreachable};
use crate::worker::PATH_HEADER;
use futures_util::{StreamExt, stream};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// How long a server may take to say that it is there.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Asks the worker's Playwright server for `GET /json`, which it answers itself, without touching
/// the browser. A worker of Playhouse tells nothing there, except to those who show the path that
/// they would send a session to: it answers whether that path leads somewhere. Behind TLS only the connection is tried: the certificate is the dial's business.
///
/// One address that answers is enough: a dial tries all of them too.
async fn probe(target: &Target) -> Result<(), DialFailure> {
    let mut last = Unreachable::new(Obstacle::Unresolved, "its name has no address").into();
    for (address, share) in target.attempts(PROBE_TIMEOUT) {
        match probe_at(address, target, Instant::now() + share).await {
            Ok(()) => return Ok(()),
            Err(why) => last = why,
        }
    }
    Err(last)
}

async fn probe_at(address: SocketAddr, target: &Target, until: Instant) -> Result<(), DialFailure> {
    let mut stream = timeout_at(until, TcpStream::connect(address))
        .await
        .map_err(|_| Unreachable::new(Obstacle::NoRoute, "cannot connect in time"))?
        .map_err(|error| match Shortage::of(&error) {
            Some(shortage) => DialFailure::Ours(shortage),
            None => {
                let obstacle = Obstacle::of_connecting(&error);
                Unreachable::new(obstacle, format_args!("cannot connect: {error}")).into()
            }
        })?;
    if target.endpoint.tls {
        return Ok(());
    }
    let request = format!(
        "GET /json HTTP/1.1\r\nHost: {}\r\n{PATH_HEADER}: {}\r\nConnection: close\r\n\r\n",
        target.authority, target.endpoint.path
    );
    let said = async {
        stream.write_all(request.as_bytes()).await?;
        let mut start = [0; 12];
        stream.read_exact(&mut start).await?;
        std::io::Result::Ok(start)
    };
    let start = timeout_at(until, said)
        .await
        .map_err(|_| Unreachable::new(Obstacle::Silent, "it does not answer in time"))?
        .map_err(|error| {
            Unreachable::new(
                Obstacle::OtherServer,
                format_args!("it does not answer: {error}"),
            )
        })?;
    if &start == b"HTTP/1.1 200" {
        Ok(())
    } else {
        let start = String::from_utf8_lossy(&start);
        let error = format!("it answers {start:?}");
        Err(Unreachable::new(Obstacle::OtherServer, error).into())
    }
}

/// Workers that are asked at the same time: some may not answer.
const AT_ONCE: usize = 256;
/// Workers that are asked in one round: those that failed the last time or stand in the configuration, which have
/// no other word, and of the others, which say by themselves how they are.
const MAX_SILENT_CHECKS: usize = 1000;
const MAX_OTHER_CHECKS: usize = 100;

impl Fleet {
    /// Asks workers whether they answer. Runs until it is dropped.
    pub(super) async fn run_health_checks(self: Arc<Self>) {
        loop {
            let interval = self.config.load().selection.health_interval;
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                // It may be shorter than it was.
                () = self.interval_changed.notified() => continue,
            }
            let checks = stream::iter(self.due_checks());
            checks
                .for_each_concurrent(AT_ONCE, |target| self.check(target))
                .await;
        }
    }

    async fn check(&self, target: Arc<Target>) {
        let outcome = match probe(&target).await {
            Ok(()) => Ok(()),
            Err(DialFailure::Worker(why)) => Err(why),
            // Nothing was learnt: it stays as it was.
            Err(DialFailure::Ours(_) | DialFailure::Client(_)) => return,
        };
        self.note_check(&target, outcome);
    }

    /// The workers to ask in this round, those first that were not heard of for the longest time.
    fn due_checks(&self) -> Vec<Arc<Target>> {
        let mut table = self.table.lock();
        let (mut wordless, mut others) = (Vec::new(), Vec::new());
        for worker in table.values_mut() {
            if worker.fixed() || worker.obstacles.fails_checks() {
                wordless.push(worker);
            } else {
                others.push(worker);
            }
        }
        let mut due = longest_unasked(wordless, MAX_SILENT_CHECKS);
        due.extend(longest_unasked(others, MAX_OTHER_CHECKS));
        let now = Some(Instant::now());
        let ask = |worker: &mut Known| {
            worker.asked_at = now;
            worker.target.clone()
        };
        due.into_iter().map(ask).collect()
    }

    /// A worker answered a session.
    pub(super) fn note_answer(&self, target: &Target) {
        if let Some(worker) = self.table.lock().get_mut(&target.key) {
            worker.asked_at = Some(Instant::now());
        }
    }
}

fn longest_unasked(mut workers: Vec<&mut Known>, most: usize) -> Vec<&mut Known> {
    if workers.len() > most {
        workers.select_nth_unstable_by_key(most, |worker| worker.asked_at);
        workers.truncate(most);
    }
    workers
}
