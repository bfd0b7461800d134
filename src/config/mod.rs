//! Configuration: one YAML, the environment over it, flags over both, parsed once into
//! [`Config`].

mod model;

pub use model::*;

use arc_swap::ArcSwap;
use std::sync::Arc;

/// The configuration in force. Readers `load()` it where they need it, so that a reload reaches
/// them at their next decision; nobody keeps a copy of a hot value.
pub type LiveConfig = Arc<ArcSwap<Config>>;
