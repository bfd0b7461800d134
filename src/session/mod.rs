//! A session from its seat to its end: the seat as a guard, the register of open sessions.
//!
//! [`seat`] owns taking and giving back; [`registry`] knows what is open and can end it; [`quota`]
//! keeps tenants to what they may have in the whole grid. The bytes are the tunnel's, the way to the
//! seat is the proxy's.

pub mod quota;
pub mod registry;
pub mod seat;
