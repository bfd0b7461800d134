//! Which worker is next.
//!
//! [`policy`] says it as a pure function over plain facts, slowly and plainly: the specification.
//! [`index`] gives the same answer at a cost that hardly depends on the size of the fleet.
//! [`lifetime_first`] puts the index behind Pingora's `BackendSelection`. Nothing here takes a
//! seat: two selections at once may name the same worker, and the reservation decides.

pub mod index;
pub mod lifetime_first;
pub mod policy;

pub use index::{Cursor, Index};
pub use lifetime_first::{LifetimeFirst, SharedIndex, candidates, worker_key};
pub use policy::{Facts, Policy, Wanted};
