//! Pictures of one session's pages, of whichever is the newest: over Playwright's own screencast, on
//! connections beside the session's.
//!
//! Another client of the browser's server sees the contexts of its own alone. So it is asked for a second
//! server on the same browser (`Browser.startServer`), a Unix socket in the same folder, which shows them
//! all (playwright-core 1.65.1, `server/browser.ts`, `remote/playwrightPipeServer.ts`). Where the session
//! has opened that one itself (`browser.bind()`), it is used and left open.
//!
//! The browser sends the next picture when an earlier one is acknowledged, and that is done so many times a
//! second: whoever looks, and however slowly, the session's browser has no more to do.

use super::address::ServerAddress;
use super::wire::{Plain, Wire, WireError};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;

/// Between two pictures, but for the first few: a person can follow that, and it costs little.
pub const INTERVAL: Duration = Duration::from_millis(100);
/// Largest picture, in pixels; pages are scaled down to it.
const SIZE: [u32; 2] = [1280, 800];
/// Of JPEG, of 100.
const QUALITY: u32 = 60;
/// Pages that are kept in mind. Of more, the oldest are forgotten.
const MAX_PAGES: usize = 1000;
/// Pictures that are not acknowledged. Chromium sends five; where others acknowledge too there may be more.
const MAX_IN_FLIGHT: usize = 8;
/// How long a server may take to say what it is asked at the end.
const PARTING: Duration = Duration::from_secs(3);

/// What there is to be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picture {
    /// Nothing: no page is open, or its first picture has not come.
    Awaited,
    /// A JPEG in base64, as it came.
    Frame(Arc<str>),
    /// Nothing more will come, for this reason.
    Ended(String),
}

/// Connections to a browser that show its pages.
pub struct Screencast {
    server: Wire<WebSocketStream<UnixStream>>,
    browser: String,
    /// Whether the second server is ours to stop.
    started: bool,
    pipe: Wire<Plain>,
    pages: Pages,
    /// The page whose pictures come.
    shown: Option<String>,
    /// What is to be acknowledged: page and number.
    in_flight: VecDeque<(String, Value)>,
    acknowledged: Instant,
}

impl Screencast {
    /// Connects to the browser behind `server`. `language` is that of the session's client: what is said
    /// here is the language of error texts for everybody on the browser (`remote/playwrightConnection.ts`).
    /// The caller sets a limit.
    ///
    /// # Errors
    ///
    /// Why there is nothing to see.
    pub async fn open(address: &ServerAddress, language: &str) -> Result<Screencast, String> {
        let said = |error: WireError| format!("the browser server does not answer: {error}");
        let mut server = Wire::connect(address).await.map_err(said)?;
        let initialize = json!({"sdkLanguage": language});
        let id = server.send("", "initialize", initialize.clone()).await;
        let mut browser = None;
        answer(&mut server, id.map_err(said)?, |message| {
            let params = &message["params"];
            if message["method"] == "__create__" && params["type"] == "Browser" {
                browser = params["guid"].as_str().map(str::to_owned);
            }
        })
        .await?;
        let browser = browser.ok_or("the browser server introduces no browser")?;
        let (started, socket) = start_server(&mut server, &browser).await?;
        let stream = address.connect_beside(&socket).await;
        let stream = stream.map_err(|error| format!("the browser shows nothing: {error}"))?;
        let mut pipe = Wire::new(Plain::new(stream));
        let id = pipe.send("", "initialize", initialize).await;
        let mut pages = Pages::default();
        answer(&mut pipe, id.map_err(said)?, |message| pages.note(message)).await?;
        Ok(Screencast {
            server,
            browser,
            started,
            pipe,
            pages,
            shown: None,
            in_flight: VecDeque::new(),
            acknowledged: Instant::now(),
        })
    }

    /// Shows what there is, until the browser ends or the session stops it; says why.
    pub async fn run(&mut self, pictures: &watch::Sender<Picture>) -> String {
        let error = loop {
            if let Err(error) = self.follow(pictures).await {
                break error;
            }
            let next = self.acknowledged + INTERVAL;
            tokio::select! {
                message = self.pipe.receive() => match message {
                    Ok(message) => self.take(message, pictures),
                    Err(error) => break error,
                },
                () = sleep_until(next), if !self.in_flight.is_empty() => {}
            }
        };
        // The second server is gone: if there is one, it is the session's.
        self.started = false;
        format!("the browser shows no more: {error}")
    }

    /// Ends the screencast and closes what was opened for it.
    pub async fn close(mut self) {
        drop(self.pipe);
        if self.started {
            let stopping = async {
                let id = self
                    .server
                    .send(&self.browser, "stopServer", json!({}))
                    .await;
                answer(
                    &mut self.server,
                    id.map_err(|error| error.to_string())?,
                    |_| {},
                )
                .await
            };
            // Of a browser that has ended nothing is open.
            timeout(PARTING, stopping).await.ok();
        }
    }

    fn take(&mut self, mut message: Value, pictures: &watch::Sender<Picture>) {
        if message["method"] != "screencastFrame" {
            return self.pages.note(&message);
        }
        let page = message["guid"].as_str().unwrap_or_default().to_owned();
        let is_shown = self.shown.as_ref() == Some(&page);
        let number = message["params"]["frameId"].take();
        self.in_flight.push_back((page, number));
        if let Value::String(data) = message["params"]["data"].take()
            && is_shown
        {
            pictures.send_replace(Picture::Frame(data.into()));
        }
    }

    /// Turns to the newest page, and acknowledges what is due.
    async fn follow(&mut self, pictures: &watch::Sender<Picture>) -> Result<(), WireError> {
        let due = self.acknowledged.elapsed() >= INTERVAL || self.in_flight.len() > MAX_IN_FLIGHT;
        if due && let Some((page, number)) = self.in_flight.pop_front() {
            self.acknowledged = Instant::now();
            let frame = json!({"frameId": number});
            self.pipe.send(&page, "screencastFrameAck", frame).await?;
        }
        let newest = self.pages.newest();
        if newest == self.shown.as_deref() {
            return Ok(());
        }
        let newest = newest.map(str::to_owned);
        if let Some(shown) = &self.shown
            && self.pages.is_open(shown)
        {
            self.pipe.send(shown, "screencastStop", json!({})).await?;
        }
        pictures.send_replace(Picture::Awaited);
        self.shown = newest;
        if let Some(page) = &self.shown {
            let [width, height] = SIZE;
            let wanted = json!({
                "size": {"width": width, "height": height}, "quality": QUALITY, "sendFrames": true,
            });
            self.pipe.send(page, "screencastStart", wanted).await?;
        }
        Ok(())
    }
}

/// Asks for a second server; whether it is new, and its socket as seen from the first one's folder.
async fn start_server(
    server: &mut Wire<WebSocketStream<UnixStream>>,
    browser: &str,
) -> Result<(bool, String), String> {
    let title = json!({"title": "playhouse"});
    let id = server.send(browser, "startServer", title).await;
    let id = id.map_err(|error| error.to_string())?;
    match answer(server, id, |_| {}).await {
        Ok(result) => match result["endpoint"].as_str() {
            Some(endpoint) => Ok((true, endpoint.to_owned())),
            None => Err("the browser server names no socket".to_owned()),
        },
        Err(why) if why.contains("already started") => Ok((false, socket_of(browser))),
        Err(why) => Err(why),
    }
}

/// Where the server of a browser listens that was started by somebody else (`utils/fileUtils.ts`).
fn socket_of(browser: &str) -> String {
    let name: String = browser.chars().take(14).collect();
    let name = name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "-");
    format!("browser/{name}.sock")
}

/// Waits for the answer to a request; `note` hears what else is said.
async fn answer<T: super::wire::Transport>(
    wire: &mut Wire<T>,
    id: u64,
    mut note: impl FnMut(&Value),
) -> Result<Value, String> {
    loop {
        let mut message = wire.receive().await.map_err(|error| error.to_string())?;
        if message["id"] != id {
            note(&message);
            continue;
        }
        return match message.get("error") {
            Some(error) => {
                let words = error["error"]["message"].as_str().unwrap_or("it failed");
                Err(words.lines().next().unwrap_or_default().to_owned())
            }
            None => Ok(message["result"].take()),
        };
    }
}

/// The pages that are open, oldest first. Pure.
#[derive(Debug, Default)]
struct Pages(VecDeque<Page>);

#[derive(Debug)]
struct Page {
    context: String,
    id: String,
}

impl Pages {
    /// Takes in what the server says of its objects.
    fn note(&mut self, message: &Value) {
        let object = message["guid"].as_str().unwrap_or_default();
        let params = &message["params"];
        match message["method"].as_str() {
            Some("__create__") if params["type"] == "Page" => {
                let id = params["guid"].as_str().unwrap_or_default().to_owned();
                let context = object.to_owned();
                self.0.push_back(Page { context, id });
                if self.0.len() > MAX_PAGES {
                    self.0.pop_front();
                }
            }
            // A page that crashed shows nothing until it is loaded anew; it stays what it is.
            Some("__dispose__") => self
                .0
                .retain(|page| page.id != object && page.context != object),
            _ => {}
        }
    }

    fn newest(&self) -> Option<&str> {
        self.0.back().map(|page| page.id.as_str())
    }

    fn is_open(&self, id: &str) -> bool {
        self.0.iter().any(|page| page.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created(context: &str, page: &str) -> Value {
        json!({"guid": context, "method": "__create__", "params": {"type": "Page", "guid": page}})
    }

    fn disposed(object: &str) -> Value {
        json!({"guid": object, "method": "__dispose__", "params": {}})
    }

    #[test]
    fn the_newest_page_that_is_open_is_shown() {
        let mut pages = Pages::default();
        assert_eq!(pages.newest(), None);
        for (context, page) in [("c1", "p1"), ("c2", "p2"), ("c2", "p3")] {
            pages.note(&created(context, page));
            assert_eq!(pages.newest(), Some(page));
        }
        pages.note(&disposed("p3"));
        assert_eq!((pages.newest(), pages.is_open("p3")), (Some("p2"), false));
        pages.note(&disposed("c2"));
        assert_eq!(pages.newest(), Some("p1"));
        pages.note(&disposed("p1"));
        assert_eq!(pages.newest(), None);
    }

    #[test]
    fn a_session_with_any_number_of_pages_is_kept_in_bounds() {
        let mut pages = Pages::default();
        for page in 0..MAX_PAGES + 10 {
            pages.note(&created("c", &page.to_string()));
        }
        assert_eq!(pages.0.len(), MAX_PAGES);
        assert!(!pages.is_open("0"));
    }

    #[test]
    fn the_socket_of_a_browser_that_is_bound_has_its_name() {
        assert_eq!(
            socket_of("browser@14edcc248edc"),
            "browser/browser-14edcc.sock"
        );
        assert_eq!(socket_of("../../x"), "browser/------x.sock");
    }
}
