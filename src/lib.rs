//! Playhouse: a self-hosted Playwright grid.
//!
//! The folders tell the story of a session, in the order it meets them:
//!
//! * [`proxy`]: the data port. What is asked for, refusals, and the hand-over to a session.
//! * [`admission`]: who may come in, and in which order those wait for whom there is no seat.
//! * [`selection`]: which worker is next. Pure, and the load balancer's `BackendSelection`.
//! * [`fleet`]: what this proxy believes about the workers: discovery, health, counters.
//! * [`store`]: the truth that all proxies and workers share: memory or Redis.
//! * [`session`]: the seat as a guard, the registry of open sessions, the release.
//! * [`tunnel`]: the bytes of a session, both ways, until one side ends it.
//! * [`worker`]: the browser servers themselves: start, heartbeat, drain, recycle.
//! * [`kubernetes`]: what a cluster is told of the workers' pods.
//!
//! Around them: [`model`] (the words), [`launch`] (what a client may have its browser started with), [`cli`], [`config`] (the keys, read by [`settings`]), [`logging`],
//! [`metrics`], [`events`], [`admin`], and [`app`], the only place that sees everything.

pub mod admin;
pub mod admission;
pub mod app;
pub mod cli;
pub mod config;
pub mod events;
pub mod fleet;
pub mod kubernetes;
pub mod launch;
pub mod logging;
pub mod metrics;
pub mod model;
pub mod proxy;
pub mod selection;
pub mod session;
pub mod settings;
pub mod store;
#[cfg(test)]
mod tests;
pub mod tunnel;
pub mod worker;
