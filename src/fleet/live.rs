//! Asking a worker for the live view of one of its sessions.

use super::{Fleet, Target};
use crate::model::{SessionId, WorkerKey};
use crate::worker::LIVE_HEADER;
use bytes::{Bytes, BytesMut};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a worker may take to begin with its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer that is no live view, in bytes.
const MAX_ANSWER: usize = 16 * 1024;
const MAX_HEADERS: usize = 16;
/// What a live view is made of.
const MULTIPART: &str = "multipart/x-mixed-replace;";

/// What a session shows, as it comes.
pub struct LiveView {
    pub stream: TcpStream,
    /// What of it has come already.
    pub early: Bytes,
    /// `multipart/x-mixed-replace` with its boundary.
    pub content_type: String,
}

/// Why there is nothing to be seen.
#[derive(Debug, thiserror::Error)]
pub enum NoLiveView {
    #[error("this proxy does not know its worker")]
    NoSuchWorker,
    #[error("its worker does not answer: {0}")]
    Unreachable(String),
    /// By the worker, with the status of its answer.
    #[error("{why}")]
    Refused { status: u16, why: String },
}

impl Fleet {
    /// Asks for what a session on this worker shows. Dropping what comes of it is the end of the look.
    ///
    /// # Errors
    ///
    /// Why there is nothing to be seen.
    pub async fn live_view(
        &self,
        worker: &WorkerKey,
        session: SessionId,
    ) -> Result<LiveView, NoLiveView> {
        let target = self.target(worker).ok_or(NoLiveView::NoSuchWorker)?;
        let unreachable = |error: io::Error| NoLiveView::Unreachable(error.to_string());
        let late = |_| NoLiveView::Unreachable(format!("no answer within {PATIENCE:?}"));
        timeout(PATIENCE, async {
            let stream = connect(&target).await.map_err(unreachable)?;
            begin(stream, &target, session).await
        })
        .await
        .map_err(late)?
    }
}

async fn connect(target: &Target) -> io::Result<TcpStream> {
    if target.endpoint.tls {
        // Workers of ours do without: it is another server.
        return Err(io::Error::other("behind TLS there is no live view"));
    }
    let mut last = io::Error::other("its name has no address");
    for (address, share) in target.attempts(PATIENCE) {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

async fn begin(
    mut stream: TcpStream,
    target: &Target,
    session: SessionId,
) -> Result<LiveView, NoLiveView> {
    let unreachable = |error: io::Error| NoLiveView::Unreachable(error.to_string());
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\n{LIVE_HEADER}: {session}\r\nConnection: close\r\n\r\n",
        target.endpoint.path, target.authority
    );
    let sent = stream.write_all(request.as_bytes()).await;
    sent.map_err(unreachable)?;
    let mut answer = BytesMut::new();
    loop {
        let read = stream.read_buf(&mut answer).await.map_err(unreachable)?;
        match parse(&answer) {
            Some(head) if head.status == 200 => {
                let early = answer.split_off(head.length).freeze();
                let content_type = head.content_type;
                if !content_type.starts_with(MULTIPART) {
                    return Err(NoLiveView::Unreachable(
                        "it answers something else".to_owned(),
                    ));
                }
                return Ok(LiveView {
                    stream,
                    early,
                    content_type,
                });
            }
            // Its reason ends with the connection.
            Some(head) if read == 0 || answer.len() > MAX_ANSWER => {
                let body = String::from_utf8_lossy(&answer[head.length..]);
                let (status, why) = (head.status, body.trim_end().to_owned());
                return Err(NoLiveView::Refused { status, why });
            }
            None if read == 0 || answer.len() > MAX_ANSWER => {
                return Err(NoLiveView::Unreachable("it answers no HTTP".to_owned()));
            }
            _ => {}
        }
    }
}

/// What matters of an answer's head.
struct Head {
    length: usize,
    status: u16,
    content_type: String,
}

/// `None` when it is not whole, or no HTTP.
fn parse(answer: &[u8]) -> Option<Head> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = parsed.parse(answer).ok()? else {
        return None;
    };
    let mut headers = parsed.headers.iter();
    let kind = headers.find(|header| header.name.eq_ignore_ascii_case("content-type"));
    let kind = kind.and_then(|header| std::str::from_utf8(header.value).ok());
    Some(Head {
        length,
        status: parsed.code?,
        content_type: kind.unwrap_or_default().to_owned(),
    })
}
