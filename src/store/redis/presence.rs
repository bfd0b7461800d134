//! What a proxy knows of who is there: when it was heard itself, and how many share the store. Pure.
//!
//! Both decide what it may give while the store is away, so both err on the careful side.

use std::time::Duration;
use tokio::time::Instant;

/// How many TTLs long fewer proxies have to be counted: one that was cut off for longer than one comes back
/// with seats to give, and this one may not hear of it.
const GONE_AFTER: u32 = 3;

/// Whether this proxy is heard, and how many proxies there are.
#[derive(Debug)]
pub struct Presence {
    /// When the last sign of life that was answered set out.
    heard: Option<Instant>,
    /// How many proxies there are, this one included.
    proxies: usize,
    /// Since when fewer have been counted.
    fewer_since: Option<Instant>,
}

impl Presence {
    /// Of a proxy that has heard nothing yet, and knows of itself alone.
    pub fn new() -> Presence {
        Presence {
            heard: None,
            proxies: 1,
            fewer_since: None,
        }
    }

    /// A sign of life was answered that had set out then.
    pub fn heard(&mut self, sent: Instant) {
        self.heard = self.heard.max(Some(sent));
    }

    /// So many proxies were counted. More count at once; fewer only when it has been so for some TTLs,
    /// also because a store that was emptied counts those first who come back first.
    pub fn counted(&mut self, proxies: usize, now: Instant, ttl: Duration) {
        let since = *self.fewer_since.get_or_insert(now);
        if proxies >= self.proxies {
            self.fewer_since = None;
        } else if now - since < ttl * GONE_AFTER {
            return;
        }
        self.proxies = proxies.max(1);
    }

    /// How many proxies there are, this one included.
    pub fn proxies(&self) -> usize {
        self.proxies
    }

    /// Until when the others leave this proxy what it holds, should it not be heard again; `None`
    /// when there are no others. A tenth of the TTL is left for clocks and ways.
    pub fn holds_until(&self, now: Instant, ttl: Duration) -> Option<Instant> {
        match self.heard {
            None => Some(now),
            Some(_) if self.proxies == 1 => None,
            Some(heard) => Some(heard + (ttl - ttl / 10)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    #[test]
    fn who_was_never_heard_holds_nothing_and_who_is_alone_holds_for_good() {
        let now = Instant::now();
        let mut presence = Presence::new();
        assert_eq!(presence.holds_until(now, TTL), Some(now));
        presence.heard(now);
        assert_eq!(presence.holds_until(now, TTL), None);
        presence.counted(2, now, TTL);
        assert_eq!(presence.holds_until(now, TTL), Some(now + TTL * 9 / 10));
    }

    #[test]
    fn a_lower_count_has_to_last() {
        let now = Instant::now();
        let mut presence = Presence::new();
        presence.counted(3, now, TTL);
        let gone = TTL * GONE_AFTER;
        presence.counted(1, now + gone / 2, TTL);
        presence.counted(2, now + gone, TTL);
        assert_eq!(presence.proxies(), 3);
        presence.counted(3, now + gone, TTL);
        presence.counted(2, now + gone, TTL);
        presence.counted(2, now + gone * 2, TTL);
        assert_eq!(presence.proxies(), 2);
    }
}
