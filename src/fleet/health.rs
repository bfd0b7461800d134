//! Whether a worker's Playwright server answers at all: the question Pingora's health checks ask.
//! Whether its upgrades work is another one ([`super::questions`]).

use super::{DialFailure, Fleet, Obstacle, Shortage, Target, Unreachable};
use crate::selection::worker_key;
use crate::worker::PATH_HEADER;
use async_trait::async_trait;
use pingora::prelude::{Error, ErrorType};
use pingora_load_balancing::Backend;
use pingora_load_balancing::health_check::HealthCheck;
use std::net::SocketAddr;
use std::sync::Weak;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// How long a server may take to say that it is there.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Failures in a row after which a worker is out of selection. One may be a hiccup.
const FAILURES_TO_UNHEALTHY: usize = 2;
/// Successes after which it is back in.
const SUCCESSES_TO_HEALTHY: usize = 1;

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

/// Pingora's health check of a worker.
pub(super) struct PlaywrightAnswers {
    pub fleet: Weak<Fleet>,
}

impl PlaywrightAnswers {
    fn is_unhealthy(&self, target: &Target) -> bool {
        let fleet = self.fleet.upgrade();
        fleet.is_some_and(|fleet| fleet.fails_checks(&target.key))
    }
}

#[async_trait]
impl HealthCheck for PlaywrightAnswers {
    async fn check(&self, backend: &Backend) -> pingora::Result<()> {
        let target = self
            .fleet
            .upgrade()
            .and_then(|fleet| fleet.target(worker_key(backend)?));
        // A worker that left meanwhile is nobody's problem.
        let Some(target) = target else {
            return Ok(());
        };
        let why = match probe(&target).await {
            Ok(()) => return Ok(()),
            Err(DialFailure::Worker(why)) => why,
            // Nothing was learnt: it stays as it was.
            Err(DialFailure::Ours(shortage)) if self.is_unhealthy(&target) => {
                let error = format!("not asked, out of {shortage}");
                return Err(Error::explain(ErrorType::InternalError, error));
            }
            Err(DialFailure::Ours(_) | DialFailure::Client(_)) => return Ok(()),
        };
        let error = Error::explain(ErrorType::ConnectError, why.to_string());
        if let Some(fleet) = self.fleet.upgrade() {
            fleet.note_failed_check(&target, why);
        }
        Err(error)
    }

    async fn health_status_change(&self, backend: &Backend, healthy: bool) {
        if let Some((fleet, key)) = self.fleet.upgrade().zip(worker_key(backend)) {
            fleet.set_answering(key, healthy);
        }
    }

    fn backend_summary(&self, backend: &Backend) -> String {
        match worker_key(backend) {
            Some(key) => format!("worker {key} at {}", backend.addr),
            None => format!("{}", backend.addr),
        }
    }

    fn health_threshold(&self, success: bool) -> usize {
        if success {
            SUCCESSES_TO_HEALTHY
        } else {
            FAILURES_TO_UNHEALTHY
        }
    }
}
