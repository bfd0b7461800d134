//! How long the end of a session waits for a client that is behind: as long as it takes what was said
//! before, for the reason of the end comes behind that. Pure: it is handed the time and what the client
//! has taken.

use super::close::Close;
use std::time::Duration;
use tokio::time::Instant;

/// How long an end of ours may take where nobody is behind: the rest of the frames in flight, the Close
/// frames, and the sides' answers to them.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long sides may take to follow when one of them has said or shown that it is over.
pub(super) const LINGER: Duration = Duration::from_secs(10);

/// How long a client that was told the end may take to hang up, when nobody else is waited for.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two checks of what a client that is behind has taken.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A client that is behind has to take this many bytes in this time, so that one that takes a byte now and
/// then does not hold a session that is over. Kernels let a slow reader's sender go on in large steps.
const PROGRESS: u64 = 16 * 1024;
const PROGRESS_TIME: Duration = Duration::from_secs(20);

/// No session lasts longer than this beyond its end.
const LONGEST: Duration = Duration::from_secs(600);

/// The end of a session that the client has yet to hear of.
pub(super) struct Closing {
    /// What is said, if the end is ours.
    pub close: Option<Close>,
    latest: Instant,
    /// When the client had last taken [`PROGRESS`].
    since: Instant,
    /// Bytes that its connection took since then.
    taken: u64,
    /// Those that it had not acknowledged then.
    owed: u64,
    /// What it had taken at the last look.
    seen: u64,
}

impl Closing {
    /// An end at `now`. The client has taken nothing `since` then, and not acknowledged so many bytes.
    pub(super) fn new(
        close: Option<Close>,
        now: Instant,
        since: Instant,
        unacknowledged: u32,
    ) -> Closing {
        Closing {
            close,
            latest: now + LONGEST,
            since,
            taken: 0,
            owed: unacknowledged.into(),
            seen: 0,
        }
    }

    /// The client's connection took so many bytes.
    pub(super) fn took(&mut self, bytes: u64) {
        self.taken += bytes;
    }

    /// Whether to wait on. `behind` says that there is something which the client has not taken,
    /// `coming` that the frame goes on before which nothing can be said.
    pub(super) fn goes_on(
        &mut self,
        now: Instant,
        behind: bool,
        coming: bool,
        unacknowledged: u32,
    ) -> bool {
        let unacknowledged = u64::from(unacknowledged);
        let passed = (self.taken + self.owed).saturating_sub(unacknowledged);
        let moved = passed > self.seen;
        self.seen = passed;
        if passed >= PROGRESS {
            self.since = now;
            self.taken = 0;
            self.owed = unacknowledged;
            self.seen = 0;
        }
        let until = self.latest.min(self.since + PROGRESS_TIME);
        (behind || coming && moved) && now < until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For how long a client is waited for that acknowledges so many bytes a second of very many.
    fn waited_for(a_second: u64) -> u64 {
        let begun = Instant::now();
        let mut left = 1 << 30;
        let mut closing = Closing::new(None, begun, begun, left);
        for second in 1.. {
            left -= a_second as u32;
            let now = begun + Duration::from_secs(second);
            if !closing.goes_on(now, true, false, left) {
                return second;
            }
        }
        unreachable!("it is never waited for without end")
    }

    #[test]
    fn who_takes_some_all_the_time_is_waited_for_and_nobody_for_ever() {
        assert_eq!(waited_for(8_000), 600);
        assert_eq!(waited_for(1_000), 600);
        assert_eq!(waited_for(10), 20);
        assert_eq!(waited_for(0), 20);
    }

    #[test]
    fn who_was_behind_for_long_before_is_not_waited_for() {
        let now = Instant::now();
        let mut closing = Closing::new(None, now, now - PROGRESS_TIME, 1000);
        assert!(!closing.goes_on(now + CLOSE_TIMEOUT, true, false, 1000));
    }

    #[test]
    fn a_worker_is_waited_for_only_while_its_frame_goes_on() {
        let now = Instant::now();
        let mut closing = Closing::new(None, now, now, 0);
        closing.took(10);
        assert!(closing.goes_on(now + CLOSE_TIMEOUT, false, true, 0));
        assert!(!closing.goes_on(now + CLOSE_TIMEOUT + CHECK_INTERVAL, false, true, 0));
    }
}
