//! Pictures of one session's pages, of whichever is the newest: over Playwright's own screencast, on
//! connections beside the session's.
//!
//! Another client of the browser's server sees the contexts of its own alone. So it is asked for a second
//! server on the same browser (`Browser.startServer`), a Unix socket in the same folder, which shows them
//! all (playwright-core 1.65.1, `server/browser.ts`, `remote/playwrightPipeServer.ts`). A browser has one
//! of them, for all who watch its sessions. Where a session has opened it itself (`browser.bind()`), it is
//! used and left open.
//!
//! The browser sends the next picture when an earlier one is acknowledged, and that is done so many times a
//! second: whoever looks, and however slowly, the session's browser has no more to do.

use super::address::ServerAddress;
use super::wire::{MessageStream, Plain, Wire, WireError};
use serde_json::{Value, json};
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
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
/// How long a browser may take to begin.
const BEGINNING: Duration = Duration::from_secs(10);
/// How long a server may take to say what it is asked at the end.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

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

/// A browser whose pages can be shown.
pub struct ShownBrowser {
    server: ServerAddress,
    language: Mutex<&'static str>,
    second: tokio::sync::Mutex<SecondServer>,
}

/// The browser's server for those who look.
#[derive(Default)]
struct SecondServer {
    /// How many look.
    screencasts: usize,
    /// Its socket, seen from the browser's folder, when it is ours to stop.
    socket: Option<String>,
}

impl ShownBrowser {
    /// A browser whose sessions can be watched, behind this server.
    pub fn new(server: ServerAddress) -> Arc<ShownBrowser> {
        Arc::new(ShownBrowser {
            server,
            language: Mutex::new("javascript"),
            second: tokio::sync::Mutex::default(),
        })
    }

    /// A client has come that speaks this language. That of the last one is the language of error texts for
    /// everybody on the browser (`remote/playwrightConnection.ts`), whoever has said it.
    pub fn has_client(&self, language: &'static str) {
        *self.language.lock().unwrap_or_else(PoisonError::into_inner) = language;
    }

    fn initialize(&self) -> Value {
        let language = self.language.lock().unwrap_or_else(PoisonError::into_inner);
        json!({"sdkLanguage": *language})
    }
}

/// Connections to a browser that show pages of it.
pub struct Screencast {
    browser: Arc<ShownBrowser>,
    server: Wire<WebSocketStream<UnixStream>>,
    /// The browser's name in the wire format.
    name: String,
    pipe: Wire<Plain>,
    pages: Pages,
    /// The contexts whose pages are shown.
    contexts: watch::Receiver<HashSet<String>>,
    /// The page whose pictures come.
    shown: Option<String>,
    /// What is to be acknowledged: page and number.
    in_flight: VecDeque<(String, Value)>,
    acknowledged: Instant,
}

impl Screencast {
    /// Connects to a browser, to show the pages of these contexts. The caller sets no limit: half
    /// opened it would be left open.
    ///
    /// # Errors
    ///
    /// Why there is nothing to see.
    pub async fn open(
        browser: Arc<ShownBrowser>,
        contexts: watch::Receiver<HashSet<String>>,
    ) -> Result<Screencast, String> {
        let late = |_| format!("the browser did not answer within {BEGINNING:?}");
        let opening = async {
            let (mut server, name) = introduce(&browser).await?;
            let mut second = browser.second.lock().await;
            let (pipe, pages) = second.connect(&browser, &mut server, &name).await?;
            second.screencasts += 1;
            drop(second);
            Ok(Screencast {
                browser: Arc::clone(&browser),
                server,
                name,
                pipe,
                pages,
                contexts,
                shown: None,
                in_flight: VecDeque::new(),
                acknowledged: Instant::now(),
            })
        };
        timeout(BEGINNING, opening).await.map_err(late)?
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
                () = changed(&mut self.contexts) => {}
            }
        };
        if let WireError::Gone(_) = error {
            // And the second server with it: if there is one, it is a session's.
            self.browser.second.lock().await.socket = None;
        }
        format!("the browser shows no more: {error}")
    }

    /// Ends the screencast, and with the last one of its browser what was opened for them.
    pub async fn close(mut self) {
        drop(self.pipe);
        let mut second = self.browser.second.lock().await;
        second.screencasts -= 1;
        if second.screencasts == 0 && second.socket.take().is_some() {
            let stopping = request(
                &mut self.server,
                &self.name,
                "stopServer",
                json!({}),
                |_| {},
            );
            // Of a browser that has ended nothing is open.
            timeout(STOP_TIMEOUT, stopping).await.ok();
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
        let newest = {
            let contexts = self.contexts.borrow();
            self.pages.newest(|context| contexts.contains(context))
        };
        if newest == self.shown {
            return Ok(());
        }
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

impl SecondServer {
    /// Connects to it, and starts it if there is none.
    async fn connect(
        &mut self,
        browser: &ShownBrowser,
        server: &mut Wire<WebSocketStream<UnixStream>>,
        name: &str,
    ) -> Result<(Wire<Plain>, Pages), String> {
        let stream = self.find_or_start(browser, server, name).await?;
        let mut pipe = Wire::new(Plain::new(stream));
        let mut pages = Pages::default();
        let note = |message: &Value| pages.note(message);
        request(&mut pipe, "", "initialize", browser.initialize(), note).await?;
        Ok((pipe, pages))
    }

    /// Connects to it, or to the one that a session has started: a browser has one at a time.
    async fn find_or_start(
        &mut self,
        browser: &ShownBrowser,
        server: &mut Wire<WebSocketStream<UnixStream>>,
        name: &str,
    ) -> Result<UnixStream, String> {
        if let Some(socket) = &self.socket
            && let Ok(stream) = browser.server.connect_beside(socket).await
        {
            return Ok(stream);
        }
        // It is not there yet, or a session has stopped it.
        self.socket = start(server, name).await?;
        if self.socket.is_none() {
            if let Ok(stream) = browser.server.connect_beside(&socket_of(name)).await {
                return Ok(stream);
            }
            // The file of a server that listens, whoever started it (`serverRegistry.ts`).
            if browser
                .server
                .has_beside(&format!(".cache/ms-playwright/b/{name}"))
            {
                return Err("a session has this browser listen on a port (browser.bind)".to_owned());
            }
            // Somebody's try that failed: Playwright takes it for a server until it is told to stop that.
            request(server, name, "stopServer", json!({}), |_| {}).await?;
            self.socket = start(server, name).await?;
        }
        let socket = self.socket.as_deref().ok_or("a session has started one")?;
        let connected = browser.server.connect_beside(socket).await;
        connected.map_err(|error| format!("the browser shows nothing: {error}"))
    }
}

/// Connects to the browser's first server; what the browser is called there.
async fn introduce(
    browser: &ShownBrowser,
) -> Result<(Wire<WebSocketStream<UnixStream>>, String), String> {
    let said = |error: WireError| format!("the browser server does not answer: {error}");
    let mut server = Wire::connect(&browser.server).await.map_err(said)?;
    let mut name = None;
    let note = |message: &Value| {
        let params = &message["params"];
        if message["method"] == "__create__" && params["type"] == "Browser" {
            name = params["guid"].as_str().map(str::to_owned);
        }
    };
    request(&mut server, "", "initialize", browser.initialize(), note).await?;
    let name = name.ok_or("the browser server introduces no browser")?;
    Ok((server, name))
}

/// Starts a second server; its socket as seen from the first one's folder, or `None` if one is said to run.
async fn start(
    server: &mut Wire<WebSocketStream<UnixStream>>,
    browser: &str,
) -> Result<Option<String>, String> {
    let title = json!({"title": "playhouse"});
    match request(server, browser, "startServer", title, |_| {}).await {
        Ok(result) => match result["endpoint"].as_str() {
            Some(endpoint) => Ok(Some(endpoint.to_owned())),
            None => Err("the browser server names no socket".to_owned()),
        },
        Err(why) if why.contains("already started") => Ok(None),
        Err(why) => Err(why),
    }
}

/// Where the server of a browser listens that was started by somebody else (`utils/fileUtils.ts`).
fn socket_of(browser: &str) -> String {
    let name: String = browser.chars().take(14).collect();
    let name = name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "-");
    format!("browser/{name}.sock")
}

/// Returns when there is news of contexts.
async fn changed(contexts: &mut watch::Receiver<HashSet<String>>) {
    if contexts.changed().await.is_err() {
        // Of a session that is over there will be none.
        std::future::pending().await
    }
}

/// Asks for something and waits for the answer; `note` hears what else is said.
async fn request<T: MessageStream>(
    wire: &mut Wire<T>,
    object: &str,
    method: &str,
    params: Value,
    mut note: impl FnMut(&Value),
) -> Result<Value, String> {
    let id = wire.send(object, method, params).await;
    let id = id.map_err(|error| error.to_string())?;
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

    /// The newest one that is in a context to be shown.
    fn newest(&self, is_shown: impl Fn(&str) -> bool) -> Option<String> {
        let mut newest_first = self.0.iter().rev();
        let newest = newest_first.find(|page| is_shown(&page.context));
        newest.map(|page| page.id.clone())
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
        let all = |pages: &Pages| pages.newest(|_| true);
        let of = |pages: &Pages, context: &str| pages.newest(|it| it == context);
        let page = |name: &str| Some(name.to_owned());
        assert_eq!(all(&pages), None);
        for (context, name) in [("c1", "p1"), ("c2", "p2"), ("c2", "p3")] {
            pages.note(&created(context, name));
            assert_eq!(all(&pages), page(name));
        }
        assert_eq!(of(&pages, "c1"), page("p1"));
        assert_eq!(of(&pages, "c3"), None);
        pages.note(&disposed("p3"));
        assert_eq!((all(&pages), pages.is_open("p3")), (page("p2"), false));
        pages.note(&disposed("c2"));
        assert_eq!((all(&pages), of(&pages, "c2")), (page("p1"), None));
        pages.note(&disposed("p1"));
        assert_eq!(all(&pages), None);
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
