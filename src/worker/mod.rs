//! The workers themselves: browser servers that are started, kept on the store's books, drained,
//! replaced and ended.
//!
//! * `toolchain`: what a browser server is made of, and what is missing.
//!   `recorder`: the part of it that records videos.
//! * [`lifecycle`]: what to do next. Pure.
//! * `agent`: tells it what happens. `shell` carries out what it decides, with the help of
//!   `process` (one server), `supervision` (its task) and `registration` (its entry in the
//!   store).
//! * `machine`: what the agents of one process share. `memory`: how much of that there is.
//! * `presence`: how another process of this machine finds the servers.
//! * [`guard`]: the process that cleans up after a killed one.
//!
//! Proxies dial the Playwright servers directly: no session traffic passes through here.

mod agent;
mod diagnosis;
mod fill;
pub mod guard;
mod leftovers;
pub mod lifecycle;
mod machine;
mod memory;
mod presence;
mod probe;
mod process;
mod progress;
mod recorder;
mod registration;
mod shell;
mod sockets;
mod spawn;
mod supervision;
mod toolchain;
mod tree;

pub use agent::{Agent, Shutdown};
pub use guard::Guard;
pub use machine::MachineShared;
pub use presence::servers_here;
pub use progress::{Observer, Progress};
pub use toolchain::{MissingTool, Toolchain, locate};
