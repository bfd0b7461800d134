//! What operators do, while users use the grid.
//!
//! * [`reloads`]: the configuration changes under load.
//! * [`upgrades`]: a new binary takes over under load.
//! * [`load`]: clients that come and go, and miss nothing.

mod load;
mod reloads;
mod upgrades;
