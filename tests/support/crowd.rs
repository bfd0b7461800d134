//! Users in closed loops: each opens a session, uses it, closes it and comes again at once, and
//! tries nothing twice. Somebody counts the grid's seats all the while.

use super::playwright::{Driver, Language, Opened};
use super::proxy::{Capacity, Proxy};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// One session of one user.
#[derive(Clone, Debug)]
pub struct Visit {
    /// Since the crowd came.
    pub began: Duration,
    pub ended: Duration,
    /// The text of the error, if any part of it failed.
    pub outcome: Result<Opened, String>,
}

/// The grid's seats at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Since the crowd came.
    pub at: Duration,
    pub capacity: Capacity,
    /// Workers that take sessions.
    pub serving: usize,
}

impl Sample {
    pub fn seats(&self) -> u32 {
        self.capacity.slots.used + self.capacity.slots.free
    }
}

/// The users, each a Playwright client in a process of its own.
pub struct Crowd {
    shared: Arc<Shared>,
    users: Vec<JoinHandle<()>>,
}

struct Shared {
    came: Instant,
    /// Sessions that may still begin.
    left: AtomicUsize,
    visits: Mutex<Vec<Visit>>,
}

impl Crowd {
    /// One user for each address, Python and Node in turn; so many sessions in all.
    pub fn start(grids: &[String], sessions: usize) -> Self {
        let languages = Language::BOTH.into_iter().cycle();
        let users = grids.iter().zip(languages);
        Crowd::of(
            users.map(|(grid, language)| Driver::start(language, grid)),
            sessions,
        )
    }

    /// These users.
    pub fn of(drivers: impl IntoIterator<Item = Driver>, sessions: usize) -> Self {
        let shared = Arc::new(Shared {
            came: Instant::now(),
            left: AtomicUsize::new(sessions),
            visits: Mutex::default(),
        });
        let users = drivers.into_iter();
        let users = users.map(|driver| tokio::spawn(come_and_go(driver, Arc::clone(&shared))));
        Crowd {
            users: users.collect(),
            shared,
        }
    }

    /// Sessions that have ended so far, well or not.
    pub fn visits(&self) -> usize {
        self.shared
            .visits
            .lock()
            .expect("nothing panics in there")
            .len()
    }

    /// Whether all users have left.
    pub fn is_gone(&self) -> bool {
        self.users.iter().all(JoinHandle::is_finished)
    }

    /// Counts the seats every 50 ms until the last user has left.
    pub async fn watch(&self, proxy: &Proxy) -> Vec<Sample> {
        let mut ticks = interval(Duration::from_millis(50));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut samples = Vec::new();
        while !self.is_gone() {
            ticks.tick().await;
            let at = self.shared.came.elapsed();
            let capacity = proxy.capacity().await;
            let workers = proxy.workers().await;
            samples.push(Sample {
                at,
                capacity,
                serving: workers.iter().filter(|worker| worker.serves()).count(),
            });
        }
        samples
    }

    /// Lets the users finish the sessions they have, and begin no more.
    pub async fn leave(self) -> Vec<Visit> {
        self.shared.left.store(0, Ordering::Relaxed);
        self.gone().await
    }

    /// Waits until all sessions have ended.
    pub async fn gone(self) -> Vec<Visit> {
        for user in self.users {
            user.await.expect("a user does not panic");
        }
        let mut visits = self.shared.visits.lock().expect("nothing panics in there");
        std::mem::take(&mut visits)
    }
}

async fn come_and_go(mut driver: Driver, shared: Arc<Shared>) {
    let one_less = |left: usize| left.checked_sub(1);
    while shared
        .left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
        .is_ok()
    {
        let began = shared.came.elapsed();
        let outcome = visit(&mut driver).await;
        let visit = Visit {
            began,
            ended: shared.came.elapsed(),
            outcome,
        };
        let mut visits = shared.visits.lock().expect("nothing panics in there");
        visits.push(visit);
    }
    driver.quit().await;
}

async fn visit(driver: &mut Driver) -> Result<Opened, String> {
    let opened = driver.open("a").await?;
    driver.works("a").await?;
    driver.close("a").await?;
    Ok(opened)
}
