//! Playwright's wire format from a client's side, over a connection to a server of ours: messages in
//! JSON, each for an object and a method of it (playwright-core, `client/connection.ts`). What they mean
//! is the caller's business.

use super::address::ServerAddress;
use super::own::pipe::END;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::fmt::Display;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

/// Largest message that is read where there are no frames, in bytes.
const MAX_MESSAGE: usize = 16 << 20;

/// Why nothing more is said on a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("{0}")]
    Gone(String),
    /// What came is no message.
    #[error("{0}")]
    Garbage(String),
}

/// What messages are sent over.
pub trait MessageStream {
    fn send(&mut self, message: String) -> impl Future<Output = Result<(), WireError>> + Send;

    /// The next message. Nothing is lost when the future is dropped.
    fn receive(&mut self) -> impl Future<Output = Result<Value, WireError>> + Send;
}

/// A client's end of a connection.
pub struct Wire<T> {
    stream: T,
    last_id: u64,
}

impl<T: MessageStream> Wire<T> {
    /// Over a stream of messages that nobody has read from.
    pub fn new(stream: T) -> Wire<T> {
        Wire { stream, last_id: 0 }
    }

    /// Sends a request; returns its number.
    pub async fn send(
        &mut self,
        object: &str,
        method: &str,
        params: Value,
    ) -> Result<u64, WireError> {
        self.last_id += 1;
        let metadata = json!({"wallTime": crate::model::unix_millis(), "internal": true});
        let request = json!({
            "id": self.last_id, "guid": object, "method": method,
            "params": params, "metadata": metadata,
        });
        self.stream.send(request.to_string()).await?;
        Ok(self.last_id)
    }

    /// The next message. Nothing is lost when the future is dropped.
    pub async fn receive(&mut self) -> Result<Value, WireError> {
        self.stream.receive().await
    }
}

impl Wire<WebSocketStream<UnixStream>> {
    /// A connection to the server that clients are passed on to.
    pub async fn connect(server: &ServerAddress) -> Result<Self, WireError> {
        let stream = server.connect().await.map_err(gone)?;
        let url = format!("ws://localhost{}", server.path());
        let (socket, _) = client_async(url, stream).await.map_err(gone)?;
        Ok(Wire::new(socket))
    }
}

impl MessageStream for WebSocketStream<UnixStream> {
    async fn send(&mut self, message: String) -> Result<(), WireError> {
        SinkExt::send(self, Message::text(message))
            .await
            .map_err(gone)
    }

    async fn receive(&mut self) -> Result<Value, WireError> {
        loop {
            match self.next().await {
                Some(Ok(Message::Text(text))) => return parse(text.as_bytes()),
                Some(Ok(Message::Close(_))) | None => {
                    return Err(gone("it closed the connection"));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(gone(error)),
            }
        }
    }
}

/// A connection without frames: each message ends in NUL.
pub struct Plain {
    stream: BufReader<UnixStream>,
    /// What has come of the next message.
    message: Vec<u8>,
}

impl Plain {
    /// Over a socket that nobody has read from.
    pub fn new(stream: UnixStream) -> Plain {
        Plain {
            stream: BufReader::new(stream),
            message: Vec::new(),
        }
    }
}

impl MessageStream for Plain {
    async fn send(&mut self, message: String) -> Result<(), WireError> {
        let mut bytes = message.into_bytes();
        bytes.push(END);
        self.stream.write_all(&bytes).await.map_err(gone)
    }

    async fn receive(&mut self) -> Result<Value, WireError> {
        let left = MAX_MESSAGE.saturating_sub(self.message.len());
        let mut limited = (&mut self.stream).take(left as u64);
        // What has been read stays where it is when this is dropped.
        let read = limited.read_until(END, &mut self.message).await;
        read.map_err(gone)?;
        if self.message.pop_if(|last| *last == END).is_none() {
            return Err(match self.message.len() {
                MAX_MESSAGE.. => WireError::Garbage("a message is too large".to_owned()),
                _ => gone("it closed the connection"),
            });
        }
        let parsed = parse(&self.message);
        self.message.clear();
        // A picture was large; what comes between pictures is not.
        self.message.shrink_to(1 << 20);
        parsed
    }
}

fn parse(message: &[u8]) -> Result<Value, WireError> {
    serde_json::from_slice(message).map_err(|error| WireError::Garbage(error.to_string()))
}

fn gone(error: impl Display) -> WireError {
    WireError::Gone(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_message_that_comes_in_pieces_is_whole_whoever_stops_listening() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut wire = Wire::new(Plain::new(ours));
        let mut received = Vec::new();
        for byte in b"{\"a\":1}\0{\"b\":2}\0" {
            let impatient = tokio::time::timeout(Duration::ZERO, wire.receive()).await;
            received.extend(impatient.map(Result::unwrap));
            theirs.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        while received.len() < 2 {
            received.push(wire.receive().await.unwrap());
        }
        assert_eq!(received, [json!({"a": 1}), json!({"b": 2})]);
        drop(theirs);
        let gone = wire.receive().await.unwrap_err();
        assert!(matches!(gone, WireError::Gone(_)), "{gone}");
    }

    #[tokio::test]
    async fn what_has_no_end_is_no_message() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut wire = Wire::new(Plain::new(ours));
        let flood = tokio::spawn(async move {
            let piece = vec![b' '; 1 << 20];
            while theirs.write_all(&piece).await.is_ok() {}
        });
        let refused = wire.receive().await.unwrap_err();
        assert!(matches!(refused, WireError::Garbage(_)), "{refused}");
        drop(wire);
        flood.await.unwrap();
    }
}
