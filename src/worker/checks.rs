//! When a browser is checked, and when it counts as broken. How one is asked is a [`Probe`]'s business.

use super::lifecycle::{Health, Input};
use super::probe::{CheckError, Probe};
use super::supervision::Supervision;
use super::tree;
use std::time::Duration;

/// A browser is checked with a page of its own at every heartbeat, but within these bounds: 30 ms of
/// work each time.
const CHECK_INTERVAL: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(5)];
/// Between the end of one check and the next, whoever asks for it.
const CHECK_PAUSE: Duration = Duration::from_millis(250);
/// How long each of a browser's answers may take until it is suspected, and then until it counts as
/// broken: together with the interval less than 20 s, so that its sessions learn of it in time.
const SUSPECT_AFTER: Duration = Duration::from_secs(3);
const BROKEN_AFTER: Duration = Duration::from_secs(6);
/// A browser that got no processor while it was asked is asked again, so many times.
const STARVED_CHECKS: u32 = 3;

impl Supervision {
    /// Checks the browser that sessions share, and tells the life cycle. While it drains too: its sessions
    /// have to learn when their browser hangs.
    pub async fn check_until_broken(&self, probe: &mut impl Probe, node: i32) {
        loop {
            tokio::time::sleep(CHECK_PAUSE).await;
            let pause = self.check_interval() - CHECK_PAUSE;
            // Whoever asks is answered by the check.
            tokio::time::timeout(pause, self.check_now.notified())
                .await
                .ok();
            let health = match probe.check(SUSPECT_AFTER).await {
                Ok(()) => {
                    log::debug!(worker:% = self.key.id; "the browser opened a page");
                    Health::Well
                }
                Err(CheckError::NotUnderstood(_)) => Health::Well,
                Err(error) => {
                    log::warn!(worker:% = self.key.id, error:% = error;
                        "the browser is not well, looking once more");
                    self.report(Health::Suspect).await;
                    self.decide(probe, node).await
                }
            };
            let is_broken = matches!(health, Health::Broken(_));
            self.report(health).await;
            if is_broken {
                return;
            }
        }
    }

    /// Checks a browser that nobody has until it is not well, and says why. Nobody is cut off by its end, so that it
    /// is not asked twice.
    pub async fn check_spare(&self, probe: &mut impl Probe, node: i32) -> String {
        let [_, pause] = CHECK_INTERVAL;
        loop {
            tokio::time::sleep(pause).await;
            let waited = run_delay(node).await;
            match probe.check(SUSPECT_AFTER).await {
                Ok(()) | Err(CheckError::NotUnderstood(_)) => {}
                Err(CheckError::Suspect(_))
                    if run_delay(node).await.saturating_sub(waited) > SUSPECT_AFTER / 2 => {}
                Err(error) => return error.to_string(),
            }
        }
    }

    /// Checks a browser that one session has until it is broken, and says why.
    pub async fn check_in_use(&self, probe: &mut impl Probe, node: i32) -> String {
        loop {
            tokio::time::sleep(self.check_interval()).await;
            match probe.check(SUSPECT_AFTER).await {
                Ok(()) => {
                    log::debug!(worker:% = self.key.id; "the browser of a session opened a page");
                }
                Err(CheckError::NotUnderstood(_)) => {}
                Err(error) => {
                    log::info!(worker:% = self.key.id, error:% = error;
                        "the browser of a session is not well, looking once more");
                    if let Health::Broken(why) = self.decide(probe, node).await {
                        return why;
                    }
                }
            }
        }
    }

    fn check_interval(&self) -> Duration {
        let [shortest, longest] = CHECK_INTERVAL;
        let heartbeat = self.shared.config.load().worker.heartbeat_interval;
        heartbeat.clamp(shortest, longest)
    }

    /// The check after the one that failed.
    async fn decide(&self, probe: &mut impl Probe, node: i32) -> Health {
        let mut starved = 0;
        loop {
            let waited = run_delay(node).await;
            match probe.check(BROKEN_AFTER).await {
                Ok(()) | Err(CheckError::NotUnderstood(_)) => return Health::Well,
                // The machine is to blame, and all its browsers would be ended for it.
                Err(CheckError::Suspect(_))
                    if starved < STARVED_CHECKS
                        && run_delay(node).await.saturating_sub(waited) > BROKEN_AFTER / 2 =>
                {
                    starved += 1;
                    log::warn!(worker:% = self.key.id;
                        "the browser gets no processor: this machine has too few of them");
                }
                Err(error) => return Health::Broken(self.or_out_of_memory(error.to_string())),
            }
        }
    }

    async fn report(&self, health: Health) {
        self.shared
            .send(Input::Checked(self.generation, health))
            .await;
    }
}

/// How long the server and its browser have waited for a processor, ever.
async fn run_delay(node: i32) -> Duration {
    let delay = tokio::task::spawn_blocking(move || tree::run_delay(node));
    delay.await.unwrap_or_default()
}
