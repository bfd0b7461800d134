//! What the tests are written with.
//!
//! * [`grid`]: [`Grid`], the real `playhouse` in processes of its own, on free ports.
//! * [`operations`]: what an operator does to a running grid: new configuration, new binary.
//! * [`proxy`]: [`Proxy`], its two ports, for questions.
//! * [`playwright`]: real Playwright clients in Python and Node; [`crowd`]: many that come and go.
//! * [`suite`]: Playwright's own test runner against a grid.
//! * [`websocket`] and [`http`]: clients of our own, where Playwright would be too polite.
//! * [`fake_playwright`]: a Playwright server that misbehaves on request.
//! * [`authority`]: certificates and who signs them.
//! * [`balancer`]: a service of Kubernetes in front of several proxies.
//! * [`middlebox`]: what stands between a client and a grid and cuts who is silent.
//! * [`scrape`]: what Prometheus understands of our metrics.
//! * [`kubernetes_api`]: the part of Kubernetes that keeps pods; [`replica_set`]: which of them go first.
//! * [`chart`]: what the Helm chart makes of values; [`prometheus`]: a real one.
//! * [`redis_server`]: a real Redis that can be killed and paused; [`books`]: what it has on record;
//!   [`redis_user`]: who may do what there.
//! * [`sentinels`]: two of those, and three sentinels that watch them.
//! * [`original_worker`]: a worker that speaks the original's schema and nothing of ours.
//! * [`visitors`]: many short sessions at once, of clients without a browser.
//! * [`control_group`]: limits on what processes have together, as in a container.
//! * [`process`]: who is a child of whom, and whether it is gone.
//! * [`stock`]: what there is of everything, to find what is left behind.
//! * [`eventually`]: waiting for something without sleeping for it.
//! * [`machine`]: what tests share: cores, ports, the tools of `make setup`.
#![allow(
    dead_code,
    unused_imports,
    reason = "the kit is whole: what one test needs today another needs tomorrow"
)]

mod authority;
mod balancer;
mod books;
mod chart;
mod control_group;
mod crowd;
mod eventually;
mod fake_playwright;
mod grid;
mod http;
mod kubernetes_api;
mod machine;
mod middlebox;
mod operations;
mod original_worker;
mod playwright;
mod process;
mod prometheus;
mod proxy;
mod redis_server;
mod redis_user;
pub mod replica_set;
mod scrape;
mod sentinels;
mod stock;
mod suite;
mod visitors;
mod websocket;

pub use authority::{Authority, Certificate};
pub use balancer::Balancer;
pub use books::{Account, Books};
pub use chart::Chart;
pub use control_group::ControlGroup;
pub use crowd::{Crowd, Sample, Visit};
pub use eventually::{eventually, eventually_equal};
pub use fake_playwright::{Behaviour, FakePlaywright};
pub use grid::{Grid, GridBuilder, patient};
pub use http::{Answer, get, raw, read_to_close};
pub use kubernetes_api::{Eviction, KubernetesApi, Pods};
pub use machine::{Share, compiled, examples, free_port, repository, room, script, tools, version};
pub use middlebox::Middlebox;
pub use original_worker::OriginalWorker;
pub use playwright::{Driver, Language, run_client, run_example};
pub use process::{Kind, Process, Tree};
pub use prometheus::Prometheus;
pub use proxy::{Capacity, Pool, Proxy, SessionView, WorkerView};
pub use redis_server::RedisServer;
pub use redis_user::RedisUser;
pub use scrape::Scrape;
pub use sentinels::Sentinels;
pub use stock::Stock;
pub use suite::SuiteRun;
pub use visitors::Visitors;
pub use websocket::{Connected, Dial, Refusal};
