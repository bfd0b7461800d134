//! What operators do, while users use the grid.
//!
//! * [`admin`]: what operators see, and what nobody sees.
//! * [`keys`]: every key of the configuration, and what it does.
//! * [`reloads`]: the configuration changes under load.
//! * [`upgrades`]: a new binary takes over under load.
//! * [`signals`]: signals that come on top of each other, and what an operator can do in a drain.
//! * [`terminal`]: `playhouse up` in a terminal that closes, and the token it makes.
//! * [`tenants`]: a hundred clients of one tenant beside one of another.
//! * [`service`]: what the service manager is told.
//! * [`tls`]: certificates, of both ports and of workers.
//! * [`bad_inputs`]: all that is wrong on purpose, with the answer it gets.
//! * [`load`]: clients that come and go, and miss nothing.

mod admin;
mod bad_inputs;
pub mod keys;
mod load;
pub mod reloads;
mod service;
mod signals;
pub mod tenants;
mod terminal;
mod tls;
mod upgrades;
