//! What a session meets at a proxy: limits, selection, the queue, its own time.

use super::{DAY, YEAR, browser, minutes, never, seat, seconds, time};
use crate::config::Role;
use crate::launch::{OptionName, Permission};
use crate::model::{Browser, SeatKind, Size, words};
use crate::settings::forms::{
    choice, duration, list, mapped, number, optional, scalar, size, yaml_text,
};
use crate::settings::{Form, section};
use std::time::Duration;

section! {
    /// How much workers and ports take.
    #[derive(Copy, Eq)]
    pub struct Limits: hot "limits" (_role: Role)

    /// Sessions at once on one worker, unless it has a limit of its own
    /// (worker.max_concurrent_sessions).
    // The original's.
    max_concurrent_sessions: u32 = 5, number(1..=10_000), .env(&["MAX_CONCURRENT_SESSIONS"]);

    /// Sessions until a worker gets a fresh browser, unless it has a limit of its own
    /// (worker.max_lifetime_sessions); 0 = never.
    // The original's.
    max_lifetime_sessions: u32 = 50, number(0..=1_000_000_000), .env(&["MAX_LIFETIME_SESSIONS"]);

    /// Size of a request's head; beyond it 431.
    // Room for a few large tokens in headers, and no more memory than that for a stranger.
    max_header_bytes: usize = 32 * 1024, bytes(1024..=1024 * 1024);

    /// Time a client has for its request's head; beyond it 408.
    // A real client sends its head at once; ten seconds forgive a bad line.
    header_timeout: Duration = seconds(10), time();

    /// Open connections from one address; 0 = no limit.
    // No limit: behind NAT or a load balancer a whole company has one address.
    max_connections_per_ip: u32 = 0, number(0..=1_000_000);

    /// Open connections in all; 0 = what the descriptor limit allows.
    max_connections: u32 = 0, number(0..=10_000_000);
}

impl Limits {
    /// The limits of a worker of this size: the grid's, where it says nothing.
    pub fn of(&self, size: Size) -> Limits {
        Limits {
            max_concurrent_sessions: size
                .max_concurrent_sessions
                .unwrap_or(self.max_concurrent_sessions),
            max_lifetime_sessions: size
                .max_lifetime_sessions
                .unwrap_or(self.max_lifetime_sessions),
            ..*self
        }
    }

    /// Sessions in a browser's life; `None` = without an end.
    pub fn lifetime(&self) -> Option<u32> {
        let limit = self.max_lifetime_sessions;
        (limit > 0).then_some(limit)
    }

    /// Whether these limits keep sessions apart: see [`isolates`].
    pub fn isolate(&self) -> bool {
        isolates(self.max_concurrent_sessions, self.lifetime())
    }
}

/// Whether each session is to have a browser process of its own: one at a time, and one in a
/// life. Nothing may stretch that, because no session is to meet what another one left.
pub fn isolates(max_concurrent_sessions: u32, max_lifetime_sessions: Option<u32>) -> bool {
    max_concurrent_sessions == 1 && max_lifetime_sessions == Some(1)
}

section! {
    /// Which worker is next.
    #[derive(Copy, Eq)]
    pub struct Selection: hot "selection" (_role: Role)

    /// Which worker is next: the one closest to its lifetime limit (restarts are staggered), or the
    /// one with the fewest sessions.
    strategy: Strategy = Strategy::LifetimeFirst, choice(Strategy::WORDS);

    /// Browser for clients that do not name one.
    default_browser: Browser = Browser::Chromium, browser(), .env(&["DEFAULT_BROWSER_TYPE"]);

    /// Kind of seat for clients that ask for none, and whose token does not say: shared, own, or
    /// auto = shared where there are such workers.
    default_seat: Option<SeatKind> = None, optional("auto", seat());

    /// Time to dial one worker and shake hands, before the next one is tried.
    // A worker on a local network answers in milliseconds.
    dial_timeout: Duration = seconds(2), time();

    /// How often each worker is asked whether it answers.
    // As often as the heartbeat.
    health_interval: Duration = seconds(5), time();
}

words! {
    /// The order in which workers are filled.
    pub enum Strategy ("strategy") {
        /// The worker closest to its lifetime limit first, so that restarts are staggered.
        LifetimeFirst = "lifetime_first",
        /// The worker with the fewest active sessions first.
        LeastActive = "least_active",
    }
}

section! {
    /// The line in front of full workers.
    #[derive(Copy, Eq)]
    pub struct Queue: hot "queue" (_role: Role)

    /// How long a client waits for a seat before it gets 503.
    // The original's.
    timeout: Duration = seconds(5), duration(Duration::ZERO..=DAY), .env(&["WORKER_SELECT_TIMEOUT"]);

    /// Clients that may wait; one more gets 429.
    // Each waiting client costs a connection and a few KB.
    max_waiting: usize = 1000, number(0..=1_000_000);
}

section! {
    /// The time limits of a session.
    #[derive(Eq)]
    pub struct Session: hot "session" (_role: Role)

    /// Ends a session without a message for this long.
    idle_timeout: Option<Duration> = None, never();

    /// Ends a session this old.
    max_duration: Option<Duration> = None, never();

    /// How long running sessions may go on when the proxy is told to stop.
    // The same as the worker's own, and the original's.
    drain_timeout: Duration = minutes(5), duration(Duration::ZERO..=YEAR);

    /// Pings a side that has been silent this long.
    // Below the 60 s after which most things in between cut an idle connection.
    ping_interval: Option<Duration> = Some(seconds(20)), never();

    /// Ends a session whose worker has been silent this long despite pings.
    // Three pings without an answer.
    ping_timeout: Duration = seconds(60), time();

    /// Ends a session whose side takes no bytes for this long.
    // As patient with a client that does not read as with one that does not answer.
    write_timeout: Duration = seconds(60), time();

    /// What clients may have their browser started with (x-playwright-launch-options): launch options, of
    /// which `args` and `firefoxUserPrefs` are the harmless ones, and arguments beyond those. All else
    /// is refused. Whoever asks for any of it gets an own seat.
    ///     launch_options: [ args, slowMo, ignoreDefaultArgs, env, "--load-extension" ]
    launch_options: Vec<Permission> = Permission::DEFAULT.to_vec(), permissions();
}

fn permissions() -> Form<Vec<Permission>> {
    let options = OptionName::WORDS.iter().map(|(word, _)| *word);
    let options: Vec<&str> = options.collect();
    let permission = scalar(
        format!(
            "{}, or an argument such as --load-extension",
            options.join(", ")
        ),
        |text, _| text.parse().ok(),
        |permission: &Permission, _| yaml_text(&permission.to_string()),
    );
    list("launch options", permission)
}

fn bytes(range: std::ops::RangeInclusive<u64>) -> Form<usize> {
    mapped(size(range), |n| n as usize, |n| *n as u64)
}
