//! Configuration: one YAML, the environment over it, flags over both, parsed once into
//! [`Config`].
//!
//! [`keys`] is the one table of all keys; the rest is derived from it. [`Sources::load`] goes
//! through `document` (the file's tree, from `yaml`), `environment` and `store_url`, then `relations`.
//! `form` knows how values are written, `problems` collects what is wrong, `show` writes a
//! configuration out again.

pub mod certificate;
pub mod keys;

mod defaults;
mod document;
mod environment;
mod form;
mod lists;
mod load;
mod model;
mod problems;
mod relations;
mod reload;
mod show;
mod store_url;
mod writers;
mod yaml;

pub use defaults::Role;
pub use environment::{Environment, Flag, Flags};
pub use load::{Loaded, Setting, Sources};
pub use model::*;
pub use problems::{ConfigErrors, Origin, Problem};
pub use reload::{Change, OnReload, Outcome, ReloadStatus, Reloader};
pub use show::documented;

use arc_swap::ArcSwap;
use std::sync::Arc;

/// The configuration in force. Readers `load()` it where they need it, so that a reload reaches
/// them at their next decision; nobody keeps a copy of a hot value.
pub type LiveConfig = Arc<ArcSwap<Config>>;

#[cfg(test)]
mod tests;
