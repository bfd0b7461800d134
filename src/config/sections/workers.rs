//! The workers and the pools that the configuration names: `workers` and `pools`.

use super::{browser, seat};
use crate::model::{Browser, Endpoint, Pool, SeatKind, Version};
use crate::settings::forms::{list, mapped, optional, scalar, yaml_text};
use crate::settings::{Form, Masking, element, unique};

element! {
    /// A Playwright server that somebody else runs.
    #[derive(Eq)]
    pub struct StaticWorker, static_worker

    /// Where it listens.
    endpoint: Endpoint, endpoint(), secret;

    /// The browser that it serves.
    browser: Browser = Browser::Chromium, browser();

    /// Its Playwright's version, if it is known.
    version: Option<Version> = None, version();
}

element! {
    /// A pool that may be empty.
    #[derive(Eq)]
    pub struct ExpectedPool, expected_pool

    /// The browser that it serves.
    browser: Browser = Browser::Chromium, browser();

    /// Its Playwright's version.
    version: Version, known_version();

    /// Kind of seat for its clients.
    seat: SeatKind = SeatKind::Shared, seat();
}

impl From<ExpectedPool> for Pool {
    fn from(pool: ExpectedPool) -> Pool {
        let ExpectedPool {
            browser,
            version,
            seat,
        } = pool;
        Pool {
            browser,
            version: Some(version),
            seat,
        }
    }
}

impl ExpectedPool {
    fn of(pool: &Pool) -> Option<ExpectedPool> {
        let Pool {
            browser,
            version,
            seat,
        } = *pool;
        Some(ExpectedPool {
            browser,
            version: version?,
            seat,
        })
    }
}

/// `workers`: Playwright servers without an agent.
pub fn static_workers() -> Form<Vec<StaticWorker>> {
    let form = list("workers, each with its endpoint", static_worker());
    unique(form, |worker| [("endpoint", worker.endpoint.to_string())])
}

/// `pools`: what an autoscaler starts workers of.
pub fn pools() -> Form<Vec<Pool>> {
    let form = list("pools, each with its version", expected_pool());
    let form = unique(form, |pool: &ExpectedPool| {
        let ExpectedPool {
            browser,
            version,
            seat,
        } = pool;
        [("version", format!("{browser} {version} {seat}"))]
    });
    mapped(
        form,
        |pools| pools.into_iter().map(Pool::from).collect(),
        |pools: &Vec<Pool>| pools.iter().filter_map(ExpectedPool::of).collect(),
    )
}

/// A worker's address; its path is a capability and is masked.
fn endpoint() -> Form<Endpoint> {
    scalar(
        "a worker's address such as ws://10.0.0.5:3131/path (ws or wss, no user, no password)",
        |text, _| text.parse().ok(),
        |endpoint: &Endpoint, masking| match masking {
            Masking::Whole => yaml_text(&endpoint.to_string()),
            Masking::Masked => {
                let scheme = if endpoint.tls { "wss" } else { "ws" };
                yaml_text(&format!("{scheme}://{}/***", endpoint.authority()))
            }
        },
    )
}

fn version() -> Form<Option<Version>> {
    optional("unknown", known_version())
}

fn known_version() -> Form<Version> {
    scalar(
        "a Playwright version in quotes such as \"1.65\"",
        |text, _| text.parse().ok(),
        |version: &Version, _| yaml_text(&version.to_string()),
    )
}
