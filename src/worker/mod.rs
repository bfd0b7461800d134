//! The workers themselves: browser servers that are started, kept in the store, drained,
//! replaced and ended.
//!
//! * `toolchain`: what a browser server is made of, and what is missing.
//!   `recorder`: the part of it that records videos.
//! * [`lifecycle`]: what to do next, by the `rules` in force and by how fast the worker is filled (`fill`). Pure.
//! * `agent`: tells it what happens. `shell` carries out what it decides, with the help of
//!   `process` (one server, started by a `plan`), `supervision` (its task) and `registration` (its record in the
//!   store).
//! * `grid_permit`: the right to warm up, of which the grid has so many.
//! * `machine`: what the agents of one process share. `memory`: how much of that there is.
//! * `own`: browsers of one session each.
//! * `spawn`: starts child processes that end with this one. `tree`: the processes of a server. `group`: what holds
//!   them together, where the system allows it. `leftovers`: what ended sessions left on the disk.
//! * [`seal`]: what a server and its browser may touch. `sandbox`: whether Chromium's own works here.
//! * `diagnosis`: why a server did not start or died, in words. `progress`: what an agent tells whoever watches it.
//! * [`guard`]: the process that cleans up after a killed one.
//! * `checks`: when a browser is asked whether it works, by a `probe`, and what follows from that.
//! * `screencast`: pictures of a session's pages, for an operator. `wire`: how we speak to a browser server,
//!   for that and for the `probe`.
//! * `gateway`: the worker's port. Proxies come to it, and it passes their sessions on to the browser
//!   server that listens at an `address` of its own on this machine.

mod address;
mod agent;
mod checks;
mod diagnosis;
mod fill;
mod gateway;
mod grid_permit;
mod group;
pub mod guard;
mod leftovers;
pub mod lifecycle;
mod machine;
mod memory;
mod own;
mod plan;
mod probe;
mod process;
mod progress;
mod recorder;
mod registration;
mod rules;
mod sandbox;
mod screencast;
mod seal;
mod shell;
mod spawn;
mod supervision;
mod toolchain;
mod tree;
mod wire;

pub use agent::{Agent, Shutdown};
pub use gateway::{
    CDP, LAUNCH_HEADER, LIVE_HEADER, PATH_HEADER, PROTOCOL_HEADER, SESSION_HEADER, TRIAL_HEADER,
};
pub use guard::Guard;
pub use machine::MachineShared;
pub use progress::{Observer, Progress};
pub use toolchain::{MissingTool, Toolchain, locate};
