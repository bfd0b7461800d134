//! Questions to a browser server of ours: does it answer, and can its browser open a page?
//!
//! The second one speaks Playwright's wire format, which is internal to Playwright and may change
//! with any version. It is kept to four messages (all of them unchanged from 1.62 to 1.65), and a
//! server that does not understand them is told apart from a browser that does not answer.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

/// How long opening and closing a page may take in a browser that did it before: 30 ms, more on a
/// busy machine.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer to `GET /json` that is read.
const MAX_ANSWER: u64 = 4096;

/// Why a server or its browser is not well.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("the server does not answer: {0}")]
    Server(String),
    #[error("the browser does not answer within {0:?}")]
    Hung(Duration),
    /// The wire format is not the one known here. Says nothing about the browser.
    #[error("the server does not speak as expected: {0}")]
    Strange(String),
}

/// Where a server of ours is asked: its address on this machine, and its secret path.
#[derive(Clone, PartialEq, Eq)]
pub struct Door {
    pub address: SocketAddr,
    pub path: String,
}

/// Asks for `GET /json`, which the server answers without its browser: in a millisecond, or in
/// many seconds where everything is read from disk for the first time. The caller sets the limit.
pub async fn answers(door: &Door) -> Result<(), ProbeError> {
    let exchange = async {
        let mut stream = TcpStream::connect(door.address).await?;
        let request = format!(
            "GET /json HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            door.address
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = exchange
        .await
        .map_err(|error| ProbeError::Server(error.to_string()))?;
    // Another server on the port would answer as well, but not with our secret.
    if answer.starts_with("HTTP/1.1 200") && answer.contains(&door.path) {
        Ok(())
    } else {
        Err(ProbeError::Server("another server answers".to_owned()))
    }
}

/// Opens a page in a context of its own and closes both, as a client would. Returns the browser's
/// version, if it says one.
pub async fn opens_page(door: &Door) -> Result<Option<String>, ProbeError> {
    opens_page_within(door, PAGE_TIMEOUT).await
}

/// The same, for a browser that may have a reason to be slow.
pub async fn opens_page_within(
    door: &Door,
    patience: Duration,
) -> Result<Option<String>, ProbeError> {
    tokio::time::timeout(patience, open_and_close_page(door))
        .await
        .map_err(|_| ProbeError::Hung(patience))?
}

async fn open_and_close_page(door: &Door) -> Result<Option<String>, ProbeError> {
    let mut talk = Talk::open(door).await?;
    talk.ask("", "initialize", json!({"sdkLanguage": "javascript"}))
        .await?;
    let browser = talk
        .browser
        .take()
        .ok_or_else(|| ProbeError::Strange("no browser was introduced".to_owned()))?;
    let answer = talk.ask(&browser, "newContext", json!({})).await?;
    let context = answer["context"]["guid"]
        .as_str()
        .ok_or_else(|| ProbeError::Strange("no context in the answer".to_owned()))?
        .to_owned();
    talk.ask(&context, "newPage", json!({})).await?;
    talk.ask(&context, "close", json!({})).await?;
    // The server drops what is left when the connection ends, with or without a goodbye.
    talk.socket.close(None).await.ok();
    Ok(talk.browser_version)
}

/// One conversation in Playwright's wire format: requests with an id, answers with the same id, and
/// messages without one in between.
struct Talk {
    socket: WebSocketStream<TcpStream>,
    asked: u64,
    /// The browser that the server introduced.
    browser: Option<String>,
    browser_version: Option<String>,
}

impl Talk {
    async fn open(door: &Door) -> Result<Talk, ProbeError> {
        let server = |error: String| ProbeError::Server(error);
        let stream = TcpStream::connect(door.address)
            .await
            .map_err(|error| server(error.to_string()))?;
        let url = format!("ws://{}{}", door.address, door.path);
        let (socket, _) = client_async(url, stream)
            .await
            .map_err(|error| server(error.to_string()))?;
        Ok(Talk {
            socket,
            asked: 0,
            browser: None,
            browser_version: None,
        })
    }

    async fn ask(
        &mut self,
        object: &str,
        method: &str,
        params: Value,
    ) -> Result<Value, ProbeError> {
        self.asked += 1;
        let metadata = json!({"wallTime": crate::model::unix_millis(), "internal": true});
        let request = json!({
            "id": self.asked, "guid": object, "method": method,
            "params": params, "metadata": metadata,
        });
        self.socket
            .send(Message::text(request.to_string()))
            .await
            .map_err(|error| ProbeError::Server(error.to_string()))?;
        loop {
            let mut message = self.read().await?;
            if message["method"] == "__create__" && message["params"]["type"] == "Browser" {
                let params = &message["params"];
                let version = &params["initializer"]["version"];
                self.browser = params["guid"].as_str().map(str::to_owned);
                self.browser_version = version.as_str().map(str::to_owned);
            }
            if message["id"] == self.asked {
                return match message.get("error") {
                    Some(error) => Err(ProbeError::Strange(error.to_string())),
                    None => Ok(message["result"].take()),
                };
            }
        }
    }

    async fn read(&mut self) -> Result<Value, ProbeError> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text)
                        .map_err(|error| ProbeError::Strange(error.to_string()));
                }
                Some(Ok(Message::Close(_))) | None => {
                    return Err(ProbeError::Server("it closed the connection".to_owned()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(ProbeError::Server(error.to_string())),
            }
        }
    }
}
