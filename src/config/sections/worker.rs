//! The worker's side.

use super::{YEAR, browser, minutes, seat, seconds, time};
use crate::config::{Limits, Role};
use crate::launch::LaunchOptions;
use crate::model::{Browser, Pod, SeatKind, Size, words};
use crate::settings::forms::{
    boolean, choice, duration, list, number, optional, path, scalar, text, yaml_text,
};
use crate::settings::{Form, section};
use std::path::PathBuf;
use std::time::Duration;

/// The original's.
const PORT: u16 = 3131;

section! {
    /// One worker.
    pub struct Worker: "worker" (role: Role)

    /// Port of the worker, for all of its browsers; 0 picks a free one, which is the default of `up`.
    /// Where another program has it, the next free one.
    // Several workers of one machine cannot share a port.
    port: u16 = if role == Role::Up { 0 } else { PORT }, number(0..=65535), .env(&["PORT"]);

    /// Name under which proxies reach this worker; auto = the address that its connection to the
    /// store uses.
    hostname: Option<String> = None, optional("auto", text("a host name or address")), .env(&["PRIVATE_HOSTNAME"]);

    /// The pod it runs in: proxies keep annotations on it that say whether it is busy.
    pod: Option<Pod> = None, optional("none", pod());

    /// Which browser it runs.
    browser: Browser = Browser::Chromium, browser(), .env(&["BROWSER_TYPE"]);

    /// What its sessions get: a place on a warm browser of several sessions (shared), or a browser
    /// process of their own, which ends with them (own).
    seat: SeatKind = SeatKind::Shared, seat();

    /// With `seat: own`: browsers that are warm before anybody asks for one. While many come there
    /// are more, as far as memory allows, and never more in all than sessions at once.
    // One hides the start of a browser from a session that comes alone.
    spares: u32 = 1, number(0..=1000);

    /// Sessions at once on this worker; grid = limits.max_concurrent_sessions of the proxies.
    max_concurrent_sessions: Option<u32> = None, optional("grid", number(1..=10_000));

    /// Sessions until this worker gets a fresh browser; 0 = never; grid = limits.max_lifetime_sessions
    /// of the proxies. Of no meaning with `seat: own`.
    max_lifetime_sessions: Option<u32> = None, optional("grid", number(0..=1_000_000_000));

    /// Without a display.
    headless: bool = true, boolean(), .env(&["HEADLESS"]);

    /// How often the worker tells the store that it lives.
    // The original's.
    heartbeat_interval: Duration = seconds(5), time(), .env(&["HEARTBEAT_INTERVAL"]);

    /// A worker without a heartbeat for this long is gone. At least three heartbeats.
    // The original's.
    key_ttl: Duration = seconds(60), time(), .env(&["REDIS_KEY_TTL"]);

    /// How long sessions may go on once the worker is told to end.
    // The original's.
    drain_timeout: Duration = minutes(5), duration(Duration::ZERO..=YEAR), .env(&["DRAIN_TIMEOUT"]);

    /// Browser executable; auto = looked for in the usual places.
    browser_path: Option<PathBuf> = None, found("the path of a browser's executable"), .env(&["PLAYHOUSE_BROWSER_PATH"]);

    /// Folder of a playwright-core package; auto = looked for in the usual places.
    playwright: Option<PathBuf> = None, found("the folder of a playwright-core package"), .env(&["PLAYHOUSE_PLAYWRIGHT"]);

    /// Node executable; auto = the one beside playwright-core, else the one on the PATH.
    node: Option<PathBuf> = None, found("the path of a Node executable");

    /// Further arguments for the browser.
    ///     args: [ "--lang=de" ]
    args: Vec<String> = Vec::new(), list("texts", text("a text that is not empty"));

    /// Chromium's own sandbox; needs user namespaces, and does not work as root. auto = wherever it
    /// works.
    sandbox: Option<bool> = None, optional("auto", boolean());

    /// Whether the kernel (Landlock, Linux 6.12) keeps browsers from opening ports, from writing and
    /// reading what is not theirs, and from signalling others: as far as it can, wholly or there is no
    /// worker, or not at all.
    seal: SealMode = SealMode::Auto, choice(SealMode::WORDS);

    /// Folders and files that sessions may read besides, such as a site under test, and what a script
    /// in a browser's or Node's place starts. Everybody who has a session reads them.
    ///     readable: [ /srv/site ]
    readable: Vec<PathBuf> = Vec::new(), list("paths", path("a path"));

    /// How long a browser server may take to answer for the first time.
    // A cold disk takes several seconds to start a browser for the first time.
    start_timeout: Duration = seconds(30), time();
}

impl Worker {
    /// What names the launch options that its browsers have of themselves, if they have any.
    pub fn launch_options(&self) -> Option<String> {
        let options = LaunchOptions::of_arguments(self.args.clone());
        (!options.is_empty()).then(|| options.digest())
    }

    /// How many sessions it takes, as far as it says so itself. Browsers of one session each are its
    /// own matter whatever the proxies think: then it says, by the limits that it knows.
    pub fn size(&self, limits: &Limits) -> Size {
        match self.seat {
            SeatKind::Shared => Size {
                max_concurrent_sessions: self.max_concurrent_sessions,
                max_lifetime_sessions: self.max_lifetime_sessions,
            },
            SeatKind::Own => Size {
                max_concurrent_sessions: self
                    .max_concurrent_sessions
                    .or(Some(limits.max_concurrent_sessions)),
                max_lifetime_sessions: Some(0),
            },
        }
    }
}

words! {
    /// Whether browsers are kept from what is not theirs.
    pub enum SealMode ("seal") {
        /// As far as the kernel can.
        Auto = "auto",
        /// Wholly, or there is no worker.
        Required = "required",
        /// Not at all.
        Off = "off",
    }
}

fn found(what: &'static str) -> Form<Option<PathBuf>> {
    optional("auto", path(what))
}

fn pod() -> Form<Pod> {
    scalar(
        "a pod such as browsers/worker-7d9f",
        |text, _| text.parse().ok(),
        |pod: &Pod, _| yaml_text(&pod.to_string()),
    )
}
