//! Texts that many may ask for and that cost something to make: made once a second at most,
//! however many ask, and however slow it is.

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// How old a text may be.
const MAX_AGE: Duration = Duration::from_secs(1);

/// One text.
#[derive(Default)]
pub struct Cache(Mutex<Option<Made>>);

struct Made {
    at: Instant,
    version: usize,
    /// Everybody who asks waits for the same one. Whoever is left carries it on when others go.
    text: Shared<BoxFuture<'static, Bytes>>,
}

impl Cache {
    /// The text, made anew when it is too old or of another version.
    pub fn of(
        &self,
        version: usize,
        make: impl FnOnce() -> BoxFuture<'static, Bytes>,
    ) -> Shared<BoxFuture<'static, Bytes>> {
        let mut made = self
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let fresh = made
            .as_ref()
            .filter(|made| made.version == version && made.at.elapsed() < MAX_AGE);
        if let Some(fresh) = fresh {
            return fresh.text.clone();
        }
        let text = make().shared();
        *made = Some(Made {
            at: Instant::now(),
            version,
            text: text.clone(),
        });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_text_is_made_once_a_second_whoever_asks() {
        let cache = Cache::default();
        let made = Arc::new(AtomicUsize::new(0));
        let ask = |version| {
            let made = made.clone();
            cache.of(version, || {
                async move {
                    let n = made.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(MAX_AGE / 2).await;
                    Bytes::from(n.to_string())
                }
                .boxed()
            })
        };
        // The first one goes before it has an answer.
        assert!(ask(0).now_or_never().is_none());
        let (one, other) = tokio::join!(ask(0), ask(0));
        assert_eq!((&one[..], &other[..]), (&b"0"[..], &b"0"[..]));
        assert_eq!(&ask(1).await[..], b"1");
        tokio::time::sleep(MAX_AGE).await;
        assert_eq!(&ask(1).await[..], b"2");
    }
}
