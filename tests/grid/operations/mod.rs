//! What operators do, while users use the grid.
//!
//! * [`reloads`]: the configuration changes under load.
//! * [`upgrades`]: a new binary takes over under load.
//! * [`tenants`]: a hundred clients of one tenant beside one of another.
//! * [`tls`]: certificates, of both ports and of workers.
//! * [`load`]: clients that come and go, and miss nothing.

mod load;
mod reloads;
mod tenants;
mod tls;
mod upgrades;
