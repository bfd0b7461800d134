//! The live view: what a session's pages show, for an operator whom a proxy has let in.
//!
//! A proxy asks for it with the path that it would send a session to, which no session and no client knows,
//! and names the session in a header. The answer is a stream of parts (`multipart/x-mixed-replace`):
//! pictures as JPEG, and words as JSON, of which the last says why it ended.
//!
//! However many watch a session, its browser makes one screencast, which ends with the last of them or
//! with the session. Each of them gets the newest picture when it has taken the one before: who is slow
//! misses some, and holds up nobody.

use super::connection::Answer;
use super::contexts::{ContextSet, Contexts};
use super::request::header;
use crate::model::SessionId;
use crate::tunnel::hung_up;
use crate::worker::screencast::{INTERVAL, Picture, Screencast, ShownBrowser};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};

/// A proxy names the session in it to a worker that can show it.
pub const SESSION_HEADER: &str = "x-playhouse-session";
/// A proxy names the session in it whose pages an operator wants to see.
pub const LIVE_HEADER: &str = "x-playhouse-live";
/// Operators that watch through one worker at a time.
const MAX_VIEWERS: usize = 16;
/// How long somebody may take no bytes.
const STALL: Duration = Duration::from_secs(30);
/// A page that does not change is shown again after this long, so that everybody in between knows that
/// somebody watches.
const REPEAT: Duration = Duration::from_secs(5);
/// How long somebody may watch. It bounds what a tab costs that was forgotten.
const MAX_VIEWING: Duration = Duration::from_secs(3600);

/// The last word of a viewing that lasted as long as its session.
const OVER: &str = "the session has ended";
const BOUNDARY: &str = "playhouse-picture";

/// Who watches through one gateway, and what they could watch.
pub(super) struct LiveViews {
    screens: Screens,
    places: Arc<Semaphore>,
}

/// The sessions that can be watched.
type Screens = Arc<Mutex<HashMap<SessionId, Arc<Screen>>>>;

/// What one session shows.
struct Screen {
    language: &'static str,
    /// Its browser, once it has one.
    browser: watch::Sender<Option<Arc<ShownBrowser>>>,
    /// Its contexts, which are not all that its browser has; none are known where it is driven by the DevTools
    /// protocol.
    contexts: Option<watch::Receiver<ContextSet>>,
    /// Where pictures come while somebody watches.
    pictures: Mutex<Option<Arc<watch::Sender<Picture>>>>,
    /// True once the session is over.
    over: watch::Sender<bool>,
}

/// A session that can be looked at until this is dropped.
#[must_use]
pub(super) struct ScreenGuard {
    session: SessionId,
    screen: Arc<Screen>,
    screens: Screens,
}

impl Drop for ScreenGuard {
    fn drop(&mut self) {
        let mut screens = locked(&self.screens);
        if screens
            .get(&self.session)
            .is_some_and(|screen| Arc::ptr_eq(screen, &self.screen))
        {
            screens.remove(&self.session);
        }
        drop(screens);
        self.screen.over.send_replace(true);
    }
}

impl ScreenGuard {
    /// The session has its browser.
    pub(super) fn has_browser(&self, browser: Arc<ShownBrowser>) {
        browser.has_client(self.screen.language);
        self.screen.browser.send_replace(Some(browser));
    }
}

/// Somebody who watches.
pub(super) struct Viewer {
    pictures: watch::Receiver<Picture>,
    _place: OwnedSemaphorePermit,
}

impl Default for LiveViews {
    fn default() -> LiveViews {
        LiveViews {
            screens: Screens::default(),
            places: Arc::new(Semaphore::new(MAX_VIEWERS)),
        }
    }
}

impl LiveViews {
    /// A session of this handshake that can be looked at from here on; to be shown what its browser's server
    /// says to it. `None` if the proxy does not name it.
    pub(super) fn add(&self, head: &[u8]) -> Option<(ScreenGuard, Contexts)> {
        let known = watch::Sender::default();
        let guard = self.add_with(head, Some(known.subscribe()))?;
        Some((guard, Contexts::new(known)))
    }

    /// The same for one that is driven by the DevTools protocol: operators are told that it cannot be shown.
    pub(super) fn add_unseen(&self, head: &[u8]) -> Option<ScreenGuard> {
        self.add_with(head, None)
    }

    fn add_with(
        &self,
        head: &[u8],
        contexts: Option<watch::Receiver<ContextSet>>,
    ) -> Option<ScreenGuard> {
        let session = header(head, SESSION_HEADER)?.parse().ok()?;
        let user_agent = header(head, "user-agent").unwrap_or_default();
        let screen = Arc::new(Screen {
            language: language_of(&user_agent),
            browser: watch::Sender::new(None),
            contexts,
            pictures: Mutex::default(),
            over: watch::Sender::new(false),
        });
        locked(&self.screens).insert(session, Arc::clone(&screen));
        Some(ScreenGuard {
            session,
            screen,
            screens: Arc::clone(&self.screens),
        })
    }

    /// Begins the live view of a session.
    ///
    /// # Errors
    ///
    /// The answer that is no live view.
    pub(super) fn begin(&self, session: &str) -> Result<Viewer, Answer> {
        let screen = session.parse().ok().and_then(|session: SessionId| {
            let screens = locked(&self.screens);
            screens.get(&session).cloned()
        });
        let Some(screen) = screen else {
            let why = "The session has ended, or its proxy had the live view off when it began.";
            return Err(Answer::text(StatusCode::NOT_FOUND, why));
        };
        let Some(contexts) = screen.contexts.clone() else {
            let why = "The session is driven by the DevTools protocol: the live view is for sessions of \
                       Playwright's protocol.";
            return Err(Answer::text(StatusCode::CONFLICT, why));
        };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let why = format!("{MAX_VIEWERS} operators look through this worker already.");
            return Err(Answer::text(StatusCode::TOO_MANY_REQUESTS, why));
        };
        Ok(Viewer {
            pictures: screen.watch(contexts),
            _place: place,
        })
    }
}

impl Screen {
    /// Pictures of it, from the screencast that there is or a new one.
    fn watch(self: &Arc<Self>, contexts: watch::Receiver<ContextSet>) -> watch::Receiver<Picture> {
        let mut current = locked(&self.pictures);
        if let Some(pictures) = &*current {
            return pictures.subscribe();
        }
        let pictures = Arc::new(watch::Sender::new(Picture::Awaited));
        let viewer = pictures.subscribe();
        *current = Some(Arc::clone(&pictures));
        tokio::spawn(Arc::clone(self).show(pictures, contexts));
        viewer
    }

    /// Makes pictures for as long as somebody watches and the session lasts.
    async fn show(
        self: Arc<Self>,
        pictures: Arc<watch::Sender<Picture>>,
        contexts: watch::Receiver<ContextSet>,
    ) {
        let mut over = self.over.subscribe();
        let nobody = || "nobody looks".to_owned();
        let browser = tokio::select! {
            biased;
            _ = over.wait_for(|over| *over) => Err(OVER.to_owned()),
            () = self.unwatched(&pictures) => Err(nobody()),
            browser = self.browser() => Ok(browser),
        };
        // Not to be dropped half-way; it ends soon by itself.
        let opened = match browser {
            Ok(browser) => Screencast::open(browser, contexts).await,
            Err(why) => Err(why),
        };
        let (why, screencast) = match opened {
            Ok(mut screencast) => {
                let why = tokio::select! {
                    biased;
                    _ = over.wait_for(|over| *over) => OVER.to_owned(),
                    () = self.unwatched(&pictures) => nobody(),
                    why = screencast.run(&pictures) => why,
                };
                (why, Some(screencast))
            }
            Err(_) if *over.borrow() => (OVER.to_owned(), None),
            Err(why) => (why, None),
        };
        // Whoever comes from here on has another screencast.
        locked(&self.pictures).take_if(|current| Arc::ptr_eq(current, &pictures));
        pictures.send_replace(Picture::Ended(why));
        if let Some(screencast) = screencast {
            screencast.close().await;
        }
    }

    /// Its browser, which may be on its way.
    async fn browser(&self) -> Arc<ShownBrowser> {
        let mut browser = self.browser.subscribe();
        // The sender is ours: it cannot be gone.
        let browser = browser.wait_for(Option::is_some).await;
        match browser.ok().and_then(|browser| browser.clone()) {
            Some(browser) => browser,
            None => std::future::pending().await,
        }
    }

    /// Returns when nobody watches, and whoever comes will not watch these pictures.
    async fn unwatched(&self, pictures: &Arc<watch::Sender<Picture>>) {
        loop {
            pictures.closed().await;
            let mut current = locked(&self.pictures);
            if pictures.receiver_count() == 0 {
                current.take_if(|current| Arc::ptr_eq(current, pictures));
                return;
            }
        }
    }
}

/// Shows a viewer what there is, until one side ends it.
pub(super) async fn serve(stream: TcpStream, mut viewer: Viewer) {
    let (mut read, mut write) = stream.into_split();
    let showing = async {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary={BOUNDARY}\r\n\
             Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        );
        let mut bytes = head.into_bytes();
        let until = Instant::now() + MAX_VIEWING;
        loop {
            let mut picture = viewer.pictures.borrow_and_update().clone();
            if Instant::now() >= until {
                picture = Picture::Ended(format!("you have looked for {MAX_VIEWING:?}"));
            }
            put_part(&mut bytes, &picture);
            let written = timeout(STALL, write.write_all(&bytes)).await;
            if !matches!(written, Ok(Ok(()))) {
                return;
            }
            if let Picture::Ended(_) = picture {
                write.shutdown().await.ok();
                return;
            }
            bytes.clear();
            sleep(INTERVAL).await;
            // The last word is there even when nobody is left to change it.
            timeout(REPEAT, viewer.pictures.changed()).await.ok();
        }
    };
    tokio::select! {
        () = showing => {}
        () = hung_up(&mut read) => {}
    }
}

/// One part of the stream.
fn put_part(bytes: &mut Vec<u8>, picture: &Picture) {
    let word = |word: serde_json::Value| ("application/json", word.to_string().into_bytes());
    let (kind, body) = match picture {
        Picture::Awaited => word(json!({"awaited": "no page is open, or it shows nothing yet"})),
        Picture::Ended(why) => word(json!({"ended": why})),
        Picture::Frame(data) => match STANDARD.decode(data.as_bytes()) {
            Ok(picture) => ("image/jpeg", picture),
            Err(_) => word(json!({"awaited": "the browser sent something that is no picture"})),
        },
    };
    let length = body.len();
    let head = format!("--{BOUNDARY}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n");
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(b"\r\n");
    if let Picture::Ended(_) = picture {
        bytes.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    }
}

/// In which language a client's errors are, as it says at the end of its user agent
/// (playwright-core, `server/utils/userAgent.ts`).
fn language_of(user_agent: &str) -> &'static str {
    let names = |language: &str| {
        let mut words = user_agent.split(' ');
        words.any(|word| {
            word.split_once('/')
                .is_some_and(|(name, _)| name == language)
        })
    };
    let others = ["python", "java", "csharp"].into_iter();
    others
        .into_iter()
        .find(|it| names(it))
        .unwrap_or("javascript")
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_is_that_of_the_client() {
        for (user_agent, language) in [
            ("Playwright/1.65.1 (x64; debian 12) python/3.11", "python"),
            ("Playwright/1.65.1 (x64; debian 12) java/21 CI/1", "java"),
            ("Playwright/1.65.1 (x64; debian 12) csharp/8.0", "csharp"),
            ("Playwright/1.65.1 (x64; debian 12) node/22.1", "javascript"),
            ("my tests", "javascript"),
        ] {
            assert_eq!(language_of(user_agent), language, "{user_agent}");
        }
    }

    #[test]
    fn pictures_and_words_are_parts_of_their_kind() {
        let put = |picture| {
            let mut bytes = Vec::new();
            put_part(&mut bytes, &picture);
            String::from_utf8(bytes).unwrap()
        };
        let frame = Picture::Frame("cGljdHVyZQ==".into());
        assert_eq!(
            put(frame),
            "--playhouse-picture\r\nContent-Type: image/jpeg\r\nContent-Length: 7\r\n\r\npicture\r\n"
        );
        assert!(put(Picture::Frame("no base64".into())).contains("application/json"));
        let end = put(Picture::Ended("over".to_owned()));
        assert!(end.contains(r#"{"ended":"over"}"#), "{end}");
        assert!(end.ends_with("--playhouse-picture--\r\n"), "{end}");
    }
}
