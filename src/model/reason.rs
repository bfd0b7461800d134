//! Why browsers are replaced: what the worker decides, the store counts and the metrics tell.

use super::words;

words! {
    /// Why a browser is replaced.
    pub enum RecycleReason ("reason") {
        /// It has had the sessions of a life.
        Lifetime = "lifetime",
        /// Its process tree uses too much memory.
        Memory = "memory",
        /// Its sessions have left too much on its disk.
        Disk = "disk",
        /// It is old.
        Age = "age",
        /// It failed its checks several times in a row.
        Failures = "failures",
        /// An operator ordered it, with `playhouse drain`.
        Operator = "operator",
    }
}
