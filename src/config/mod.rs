//! Configuration: one YAML, the environment over it, flags over both, parsed once into
//! [`Config`].
//!
//! `sections` declares every key once, and `model` is what comes of them; [`KEYS`] is the table of all, from which the rest is derived.
//! [`settings`](crate::settings) reads layers along such a table and knows none of its keys. [`Sources::load`] puts the
//! layers over one another, with `store_url` for the original's variables, then checks
//! `relations`. `certificate` says whether that of `tls` can be served, `reload` follows changes, `show` writes a configuration out again.

pub mod certificate;

mod load;
mod model;
mod relations;
mod reload;
mod sections;
mod show;
mod store_url;

pub use crate::settings::{ConfigErrors, Environment, Flag, Flags, Origin, Problem};
pub use load::{Loaded, Setting, Sources};
pub use model::*;
pub use reload::{Change, OnReload, Outcome, ReloadStatus, Reloader};
pub use show::{documented, schema};

use arc_swap::ArcSwap;
use std::sync::Arc;

/// The configuration in force. Readers `load()` it where they need it, so that a reload reaches
/// them at their next decision; nobody keeps a copy of a hot value.
pub type LiveConfig = Arc<ArcSwap<Config>>;

#[cfg(test)]
mod tests;
