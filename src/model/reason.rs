//! Why browsers are replaced: what the worker decides, the store counts and the metrics tell.

use std::fmt;
use std::str::FromStr;

/// Why a browser is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
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

impl Reason {
    pub const ALL: [Reason; 6] = [
        Reason::Lifetime,
        Reason::Memory,
        Reason::Disk,
        Reason::Age,
        Reason::Failures,
        Reason::Operator,
    ];

    /// The value of the metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Lifetime => "lifetime",
            Reason::Memory => "memory",
            Reason::Disk => "disk",
            Reason::Age => "age",
            Reason::Failures => "failures",
            Reason::Operator => "operator",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Reason {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is = |reason: &Reason| reason.as_str() == text;
        Reason::ALL.into_iter().find(is).ok_or(())
    }
}
