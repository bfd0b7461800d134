//! Why this proxy does not reach a worker, and what that usually comes from. Pure: who finds out,
//! and what follows, is elsewhere.

use std::fmt;
use std::io;

/// What was met on the way to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Its name has no address here.
    Unresolved,
    /// Nothing listens at its address.
    Refused,
    /// Nothing came back from its address, or there is no way to it.
    NoRoute,
    /// It takes connections and says nothing.
    Silent,
    /// What listens there does not answer as it does.
    OtherServer,
    Other,
}

impl Obstacle {
    /// What a failed attempt to connect means.
    pub fn of_connecting(error: &io::Error) -> Obstacle {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Obstacle::Refused,
            io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable => Obstacle::NoRoute,
            _ => Obstacle::Other,
        }
    }
}

/// A worker that is not reached from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    pub obstacle: Obstacle,
    /// What the attempt ended with.
    pub error: String,
}

impl Unreachable {
    /// An attempt that ended with this error.
    pub fn new(obstacle: Obstacle, error: impl fmt::Display) -> Unreachable {
        Unreachable {
            obstacle,
            error: error.to_string(),
        }
    }

    /// What it usually comes from, for whoever can do something about it. A `fixed` worker stands
    /// in the configuration; any other one told its address itself.
    pub fn likely_cause(&self, fixed: bool) -> String {
        let told = if fixed {
            "its endpoint under `workers:`"
        } else {
            "its PRIVATE_HOSTNAME"
        };
        match self.obstacle {
            Obstacle::Unresolved => format!("{told} is a name that is not known here"),
            Obstacle::Refused => format!(
                "{told} leads to another machine, its port is not published, or it is ending"
            ),
            Obstacle::NoRoute => {
                format!(
                    "a firewall, or {told} is an address of a network that this proxy is not in"
                )
            }
            Obstacle::Silent => "its server hangs, or its machine is overloaded".to_owned(),
            Obstacle::OtherServer => format!("{told} and port lead to another server"),
            Obstacle::Other => format!("the network between, or {told}"),
        }
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
    }
}

/// What is in the way of one worker, by how it was found.
#[derive(Debug, Default)]
pub(super) struct Obstacles {
    /// Its name was looked up in vain.
    pub name: Option<Unreachable>,
    /// How the last health check ended, if it failed, and how many did in a row.
    failed: Option<(Unreachable, u32)>,
}

/// Failed checks in a row after which a worker is out of selection. One may be a hiccup.
const FAILURES_TO_UNHEALTHY: u32 = 2;

impl Obstacles {
    /// Why it is not reached, if it is not.
    pub fn first(&self) -> Option<&Unreachable> {
        let unhealthy = |it: &&(Unreachable, u32)| it.1 >= FAILURES_TO_UNHEALTHY;
        let check = self.failed.as_ref().filter(unhealthy);
        self.name.as_ref().or(check.map(|(why, _)| why))
    }

    /// A health check ended.
    pub fn checked(&mut self, outcome: Result<(), Unreachable>) {
        let before = self.failed.take().map_or(0, |(_, times)| times);
        self.failed = outcome.err().map(|why| (why, before.saturating_add(1)));
    }

    /// Whether the last health check failed.
    pub fn fails_checks(&self) -> bool {
        self.failed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_reached_when_nothing_is_in_the_way_any_more() {
        let why = |obstacle| Unreachable::new(obstacle, "because");
        let mut obstacles = Obstacles::default();
        obstacles.checked(Err(why(Obstacle::Silent)));
        assert_eq!(obstacles.first(), None, "one failed check is no reason");
        obstacles.checked(Err(why(Obstacle::Refused)));
        assert_eq!(obstacles.first(), Some(&why(Obstacle::Refused)));
        obstacles.checked(Ok(()));
        assert_eq!(obstacles.first(), None);
        obstacles.checked(Err(why(Obstacle::Silent)));
        assert_eq!(obstacles.first(), None, "they have to be in a row");
    }

    #[test]
    fn what_the_kernel_says_is_told_apart() {
        for (kind, obstacle) in [
            (io::ErrorKind::ConnectionRefused, Obstacle::Refused),
            (io::ErrorKind::HostUnreachable, Obstacle::NoRoute),
            (io::ErrorKind::TimedOut, Obstacle::NoRoute),
            (io::ErrorKind::PermissionDenied, Obstacle::Other),
        ] {
            assert_eq!(Obstacle::of_connecting(&kind.into()), obstacle);
        }
    }

    #[test]
    fn the_cause_names_the_setting_that_this_worker_has() {
        let refused = Unreachable::new(Obstacle::Refused, "no");
        assert!(refused.likely_cause(false).contains("PRIVATE_HOSTNAME"));
        let fixed = refused.likely_cause(true);
        assert!(fixed.contains("`workers:`") && !fixed.contains("PRIVATE_HOSTNAME"));
    }
}
