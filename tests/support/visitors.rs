//! Many short sessions at once, of clients without a browser: each connects, is answered once,
//! leaves, and comes again through the next proxy, and tries nothing twice.

use super::proxy::Proxy;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;

/// How long a session stays open.
const STAY: std::ops::Range<u64> = 0..20;

pub struct Visitors {
    shared: Arc<Shared>,
    visitors: JoinSet<()>,
}

struct Shared {
    /// Sessions that may still begin.
    left: AtomicUsize,
    served: AtomicUsize,
    stop: AtomicBool,
    failures: Mutex<Vec<String>>,
}

impl Visitors {
    /// So many clients at a time, and so many sessions in all, spread over the proxies.
    pub fn start(proxies: &[Proxy], clients: usize, sessions: usize) -> Self {
        let shared = Arc::new(Shared {
            left: AtomicUsize::new(sessions),
            served: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            failures: Mutex::default(),
        });
        let mut visitors = JoinSet::new();
        for n in 0..clients {
            visitors.spawn(come_and_go(n, proxies.to_vec(), Arc::clone(&shared)));
        }
        Visitors { shared, visitors }
    }

    /// Sessions that have come to a good end so far.
    pub fn served(&self) -> usize {
        self.shared.served.load(Ordering::SeqCst)
    }

    /// What became of those that did not.
    pub fn failures(&self) -> Vec<String> {
        let failures = self.shared.failures.lock();
        failures
            .expect("nothing panics while it holds this")
            .clone()
    }

    pub fn are_gone(&mut self) -> bool {
        while let Some(ended) = self.visitors.try_join_next() {
            ended.expect("a visitor does not panic");
        }
        self.visitors.is_empty()
    }

    /// Lets them finish the sessions they have, and begin no more.
    pub async fn leave(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.visitors.join_next().await {
            ended.expect("a visitor does not panic");
        }
    }
}

async fn come_and_go(first: usize, proxies: Vec<Proxy>, shared: Arc<Shared>) {
    let one_less = |left: usize| left.checked_sub(1);
    for proxy in proxies.iter().cycle().skip(first % proxies.len()) {
        let left = &shared.left;
        let begins = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
        if begins.is_err() || shared.stop.load(Ordering::SeqCst) {
            return;
        }
        match visit(proxy).await {
            Ok(()) => {
                shared.served.fetch_add(1, Ordering::SeqCst);
            }
            Err(why) => {
                let mut failures = shared.failures.lock();
                let failures = failures
                    .as_mut()
                    .expect("nothing panics while it holds this");
                failures.push(why);
            }
        }
    }
}

async fn visit(proxy: &Proxy) -> Result<(), String> {
    let session = proxy.dial().connect().await;
    let mut session =
        session.map_err(|refusal| format!("refused: {} {}", refusal.status, refusal.body))?;
    let stay = rand::random_range(STAY);
    tokio::time::sleep(Duration::from_millis(stay)).await;
    let answers = session.answers_a_ping().await;
    session.close().await;
    if answers {
        Ok(())
    } else {
        Err("ended on its own".to_owned())
    }
}
