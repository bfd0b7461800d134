//! Every key of the configuration, declared once: its type, its default with the reason, how it is
//! written, its other names, and what the shipped file says of it.

mod auth;
mod ports;
mod recycle;
mod server;
mod sessions;
mod store;
mod worker;
mod workers;

pub use auth::{Auth, Token};
pub use ports::{Admin, Tls, TlsFiles, TlsVersion, address};
pub use recycle::{Recycle, RecycleMode, stretched};
pub use server::{Log, LogFormat, Server};
pub use sessions::{Limits, Queue, Selection, Session, Strategy, isolates};
pub use store::StoreConfig;
pub use worker::{SealMode, Worker};
pub use workers::{StaticWorker, pools, static_workers};

use crate::model::{Browser, SeatKind};
use crate::settings::Form;
use crate::settings::forms::{choice, duration, optional};
use std::time::Duration;

/// Below this a timer is a busy loop or no timer at all.
const SHORTEST: Duration = Duration::from_millis(50);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// As `humantime` counts it, so that it is shown as one.
const YEAR: Duration = Duration::from_secs(31_557_600);

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// The period of a timer, or the time that something may take.
fn time() -> Form<Duration> {
    duration(SHORTEST..=DAY)
}

/// A duration that may be missing.
fn never() -> Form<Option<Duration>> {
    optional("never", duration(SHORTEST..=YEAR))
}

fn seat() -> Form<SeatKind> {
    choice(SeatKind::WORDS)
}

fn browser() -> Form<Browser> {
    choice(Browser::WORDS)
}
