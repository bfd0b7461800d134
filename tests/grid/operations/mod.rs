//! What operators do, while users use the grid.
//!
//! * [`admin`]: what operators see, and what nobody sees.
//! * [`keys`]: every key of the configuration, and what it does.
//! * [`reloads`]: the configuration changes under load.
//! * [`upgrades`]: a new binary takes over under load.
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
pub mod tenants;
mod tls;
mod upgrades;
