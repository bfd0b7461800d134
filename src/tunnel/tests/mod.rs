//! The tunnel from the outside: what goes in at one end comes out at the other, and what is said
//! when a session ends. [`rig`] has the two ends; bytes are tested over TCP in real time, limits
//! over in-memory streams in paused time.

mod buffering;
mod endings;
mod frames;
mod limits;
mod relaying;
pub(super) mod rig;
