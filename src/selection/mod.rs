//! Which worker is next.
//!
//! [`policy`] says it as a pure function over plain facts, slowly and plainly: the specification.
//! `strategy` holds what the choice of a strategy changes of it.
//! [`index`] gives the same answer at a cost that hardly depends on the size of the fleet.
//! [`balancing`] puts the index behind Pingora's `BackendSelection`. Nothing here takes a
//! seat: two selections at once may name the same worker, and the reservation decides.

pub mod balancing;
pub mod index;
pub mod policy;
mod strategy;

pub use balancing::{IndexSelection, SharedIndex, candidates, worker_key};
pub use index::{Cursor, Index};
pub use policy::{Facts, Policy};
