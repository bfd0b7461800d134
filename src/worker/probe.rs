//! Questions to a browser server of ours: does it answer, and can its browser open a page?
//!
//! The second one speaks Playwright's wire format, which is internal to Playwright and may change
//! with any version. It is kept to four messages (all of them unchanged from 1.62 to 1.65), and a
//! server that does not understand them is told apart from a browser that does not work.
//!
//! One connection serves all checks of a browser, and it is made before there is a client:
//! `initialize` sets the language of the error texts of everybody on that browser, and the last one
//! who says it wins (playwright-core, `remote/playwrightConnection.ts`).

use super::address::ServerAddress;
use super::wire::{Wire, WireError};
use crate::model::{DevToolsVersion, GetVersion};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_tungstenite::WebSocketStream;

/// Largest answer to `GET /json` that is read.
const MAX_ANSWER: u64 = 4096;
/// Longest part of a browser's own words that is passed on, in bytes.
const MAX_WORDS: usize = 200;

/// Why a check did not go well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// No answer in time. It may be slow, or hung.
    #[error("the browser does not answer, for {0:?}")]
    Suspect(Duration),
    /// It answered that it cannot, or its server is gone.
    #[error("the browser is broken: {0}")]
    Broken(String),
    /// The wire format is not the one known here. Says nothing about the browser.
    #[error("the server does not speak as expected: {0}")]
    NotUnderstood(String),
}

impl From<WireError> for CheckError {
    fn from(error: WireError) -> CheckError {
        match error {
            WireError::Gone(why) => CheckError::Broken(format!("its server is gone: {why}")),
            WireError::Garbage(what) => CheckError::NotUnderstood(what),
        }
    }
}

/// Finds out whether a browser can open a page.
pub trait Probe: Send {
    /// Opens a page in a context of its own and closes both, as a client would; 30 ms of work.
    /// `patience` is for each answer: a browser that is slow answers some of them.
    fn check(&mut self, patience: Duration) -> impl Future<Output = Result<(), CheckError>> + Send;
}

/// Asks for `GET /json`, which the server answers without its browser: in a millisecond, or in
/// many seconds where everything is read from disk for the first time. The caller sets the limit.
/// The error says why there is no such answer.
pub async fn answers(server: &ServerAddress) -> Result<(), String> {
    let exchange = async {
        let mut stream = server.connect().await?;
        let request = b"GET /json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await?;
        let mut answer = String::new();
        stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let answer = exchange
        .await
        .map_err(|error| format!("its server does not answer: {error}"))?;
    if answer.starts_with("HTTP/1.1 200") && answer.contains(server.path()) {
        Ok(())
    } else if answer.is_empty() {
        // It went away over the question: whoever waits for its end knows why.
        Err("its server ended while it was asked".to_owned())
    } else {
        Err("it answers something else than a Playwright server".to_owned())
    }
}

/// Checks one browser, over a connection of its own that lives as long as the browser does.
pub struct Prober {
    wire: Wire<WebSocketStream<UnixStream>>,
    /// The browser that the server introduced, by its name in the wire format.
    browser: String,
    browser_version: Option<String>,
    /// Contexts of checks that did not come to their end.
    contexts: BTreeSet<String>,
}

impl Prober {
    /// Connects, which is to be done before any client does. `patience` is for the connection and
    /// the first answer.
    pub async fn connect(server: &ServerAddress, patience: Duration) -> Result<Prober, CheckError> {
        let wire = tokio::time::timeout(patience, Wire::connect(server))
            .await
            .map_err(|_| CheckError::Suspect(patience))??;
        let mut prober = Prober {
            wire,
            browser: String::new(),
            browser_version: None,
            contexts: BTreeSet::new(),
        };
        let language = json!({"sdkLanguage": "javascript"});
        prober.call("", "initialize", language, patience).await?;
        if prober.browser.is_empty() {
            let missing = "no browser was introduced".to_owned();
            return Err(CheckError::NotUnderstood(missing));
        }
        Ok(prober)
    }

    /// The browser's own version, if the server told it.
    pub fn browser_version(&self) -> Option<&str> {
        self.browser_version.as_deref()
    }

    /// What a Chromium tells clients of the DevTools protocol. `patience` is for each answer.
    pub async fn devtools_version(
        &mut self,
        patience: Duration,
    ) -> Result<DevToolsVersion, CheckError> {
        let browser = self.browser.clone();
        let answer = self
            .call(&browser, "newBrowserCDPSession", json!({}), patience)
            .await?;
        let session = answer["session"]["guid"].as_str().unwrap_or_default();
        let command = json!({"method": "Browser.getVersion"});
        let mut told = self.call(session, "send", command, patience).await?;
        self.call(session, "detach", json!({}), patience).await?;
        serde_json::from_value(told["result"].take())
            .map(|told: GetVersion| told.into())
            .map_err(|error| CheckError::NotUnderstood(error.to_string()))
    }

    async fn call(
        &mut self,
        object: &str,
        method: &str,
        params: Value,
        patience: Duration,
    ) -> Result<Value, CheckError> {
        let exchange = async {
            let id = self.wire.send(object, method, params).await?;
            loop {
                let mut message = self.wire.receive().await?;
                self.take_note(&message);
                if message["id"] == id {
                    return match message.get("error") {
                        Some(error) => Err(of_error(error)),
                        None => Ok(message["result"].take()),
                    };
                }
            }
        };
        tokio::time::timeout(patience, exchange)
            .await
            .map_err(|_| CheckError::Suspect(patience))?
    }

    /// Remembers which objects there are, from what the server says unasked.
    fn take_note(&mut self, message: &Value) {
        let params = &message["params"];
        match (message["method"].as_str(), params["type"].as_str()) {
            (Some("__create__"), Some("Browser")) => {
                let version = &params["initializer"]["version"];
                self.browser = params["guid"].as_str().unwrap_or_default().to_owned();
                self.browser_version = version.as_str().map(str::to_owned);
            }
            (Some("__create__"), Some("BrowserContext")) => {
                self.contexts
                    .extend(params["guid"].as_str().map(str::to_owned));
            }
            (Some("__dispose__"), _) => {
                let object = message["guid"].as_str().unwrap_or_default();
                self.contexts.remove(object);
            }
            _ => {}
        }
    }
}

impl Probe for Prober {
    async fn check(&mut self, patience: Duration) -> Result<(), CheckError> {
        for context in self.contexts.clone() {
            self.wire.send(&context, "close", json!({})).await?;
        }
        let browser = self.browser.clone();
        let answer = self
            .call(&browser, "newContext", json!({}), patience)
            .await?;
        let context = answer["context"]["guid"]
            .as_str()
            .ok_or_else(|| CheckError::NotUnderstood("no context in the answer".to_owned()))?
            .to_owned();
        self.call(&context, "newPage", json!({}), patience).await?;
        self.call(&context, "close", json!({}), patience).await?;
        Ok(())
    }
}

/// What an error in an answer means. The browser's own errors come in as many words as there are
/// faults; those of the wire format have three (playwright-core, `protocol/validatorPrimitives.ts`).
fn of_error(error: &Value) -> CheckError {
    let Some(message) = error["error"]["message"].as_str() else {
        return CheckError::NotUnderstood(shortened(&error.to_string()));
    };
    let first = shortened(message.lines().next().unwrap_or_default());
    let of_the_wire = message.contains(": expected ")
        || message.starts_with("Unknown scheme for")
        || message.starts_with("Mismatching dispatcher");
    if of_the_wire {
        CheckError::NotUnderstood(first)
    } else {
        CheckError::Broken(first)
    }
}

/// The beginning of what somebody said, as much as a log line takes.
pub fn shortened(words: &str) -> String {
    words[..words.floor_char_boundary(MAX_WORDS)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(message: &str) -> CheckError {
        of_error(&json!({"error": {"name": "Error", "message": message, "stack": ""}}))
    }

    #[test]
    fn what_the_browser_cannot_do_is_its_fault_and_what_the_wire_forbids_is_not() {
        for fault in [
            "Target crashed",
            "Target page, context or browser has been closed",
            "Protocol error (Target.createTarget): Failed to open a new tab",
            "words of a version to come",
        ] {
            assert_eq!(meaning(fault), CheckError::Broken(fault.to_owned()));
        }
        for fault in [
            "sdkLanguage: expected one of (javascript|python|java|csharp)",
            "Unknown scheme for Params: Browser.newContext",
            "Mismatching dispatcher: \"Browser\" does not implement \"newContext\"",
        ] {
            assert_eq!(meaning(fault), CheckError::NotUnderstood(fault.to_owned()));
        }
        let value = of_error(&json!({"value": {"s": "thrown"}}));
        assert!(matches!(value, CheckError::NotUnderstood(_)), "{value:?}");
    }

    #[test]
    fn long_words_are_cut_between_letters() {
        let CheckError::Broken(words) = meaning(&"ä".repeat(1000)) else {
            panic!("it is the browser's");
        };
        assert_eq!(words, "ä".repeat(MAX_WORDS / 2));
    }
}
