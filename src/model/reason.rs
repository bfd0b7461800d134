//! Why browsers are replaced: what the worker decides, the store counts and the metrics tell.

use std::fmt;
use std::str::FromStr;

/// Why a browser is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecycleReason {
    /// It has had the sessions of a life.
    Lifetime,
    /// Its process tree uses too much memory.
    Memory,
    /// Its sessions have left too much on its disk.
    Disk,
    /// It is old.
    Age,
    /// It failed its checks, or sessions, several times in a row.
    Failures,
    /// Somebody asked for it.
    Operator,
}

impl RecycleReason {
    pub const ALL: [RecycleReason; 6] = [
        RecycleReason::Lifetime,
        RecycleReason::Memory,
        RecycleReason::Disk,
        RecycleReason::Age,
        RecycleReason::Failures,
        RecycleReason::Operator,
    ];

    /// The value of the metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            RecycleReason::Lifetime => "lifetime",
            RecycleReason::Memory => "memory",
            RecycleReason::Disk => "disk",
            RecycleReason::Age => "age",
            RecycleReason::Failures => "failures",
            RecycleReason::Operator => "operator",
        }
    }
}

impl fmt::Display for RecycleReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for RecycleReason {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is = |reason: &RecycleReason| reason.as_str() == text;
        RecycleReason::ALL.into_iter().find(is).ok_or(())
    }
}
