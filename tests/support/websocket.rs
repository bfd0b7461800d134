//! A WebSocket client that can be anybody, and sees exactly what a refusal says.

use super::http::{Answer, read_to_close};
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

/// A connection about to be made.
#[derive(Clone, Debug)]
pub struct Dial {
    address: SocketAddr,
    target: String,
    headers: Vec<(String, String)>,
    /// Over TLS, with a certificate for `localhost` of this authority.
    authority: Option<PathBuf>,
}

/// A connection, encrypted or not.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// An accepted upgrade.
pub struct Connected {
    pub answer: Answer,
    pub socket: WebSocketStream<Box<dyn Stream>>,
}

/// An upgrade that was answered with something else.
pub type Refusal = Answer;

impl Dial {
    pub fn new(address: SocketAddr) -> Self {
        Dial {
            address,
            target: "/".to_owned(),
            headers: Vec::new(),
            authority: None,
        }
    }

    /// Path and query.
    pub fn target(mut self, target: &str) -> Self {
        self.target = target.to_owned();
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn tls(mut self, authority: &Path) -> Self {
        self.authority = Some(authority.to_owned());
        self
    }

    async fn stream(&self) -> Box<dyn Stream> {
        match &self.authority {
            None => Box::new(self.tcp().await),
            Some(authority) => Box::new(self.shake_hands(authority).await),
        }
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("it listens")
    }

    async fn shake_hands(&self, authority: &Path) -> TlsStream<TcpStream> {
        let connector = TlsConnector::from(trusting(authority));
        let name = "localhost".try_into().expect("a name");
        let shaken = connector.connect(name, self.tcp().await).await;
        shaken.expect("a certificate of the authority")
    }

    /// The certificate that a new connection is shown.
    pub async fn certificate(&self) -> CertificateDer<'static> {
        let authority = self.authority.as_ref().expect("it speaks TLS");
        let stream = self.shake_hands(authority).await;
        let chain = stream.get_ref().1.peer_certificates();
        chain.expect("there always is one")[0].clone().into_owned()
    }

    /// What Playwright's Python client of this version sends.
    pub fn playwright(self, version: &str) -> Self {
        let agent = format!("Playwright/{version} (x64; debian 12) python/3.11");
        self.header("User-Agent", &agent)
            .header("x-playwright-browser", "chromium")
    }

    /// Asks for the upgrade, and is refused.
    pub async fn refused(self) -> Refusal {
        match self.connect().await {
            Ok(_) => panic!("it was not refused"),
            Err(refusal) => refusal,
        }
    }

    /// Asks for the upgrade.
    pub async fn connect(self) -> Result<Connected, Refusal> {
        let mut stream = self.stream().await;
        let mut head = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            self.target, self.address
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream
            .write_all(head.as_bytes())
            .await
            .expect("a request is taken");
        let (mut answer, rest) = read_head(&mut stream).await;
        if answer.status == 101 {
            let any_size = WebSocketConfig::default().max_message_size(None);
            let any_size = Some(any_size.max_frame_size(None));
            let socket =
                WebSocketStream::from_partially_read(stream, rest, Role::Client, any_size).await;
            return Ok(Connected { answer, socket });
        }
        answer.body =
            String::from_utf8_lossy(&rest).into_owned() + &read_to_close(&mut stream).await;
        Err(answer)
    }
}

fn trusting(authority: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(authority).expect("a certificate");
    roots.add(root).expect("one that can be a root");
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .expect("ring can do them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// The head of an answer, and the bytes that came after it.
async fn read_head(stream: &mut (impl Stream + ?Sized)) -> (Answer, Vec<u8>) {
    let mut bytes = Vec::new();
    loop {
        let mut slots = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut slots);
        if let Ok(httparse::Status::Complete(length)) = response.parse(&bytes) {
            let pairs = response.headers.iter().map(|header| {
                let name: http::HeaderName = header.name.parse().expect("a header name");
                let value = http::HeaderValue::from_bytes(header.value).expect("a header value");
                (name, value)
            });
            let answer = Answer {
                status: response.code.expect("complete"),
                headers: pairs.collect(),
                body: String::new(),
            };
            return (answer, bytes[length..].to_vec());
        }
        let n = stream.read_buf(&mut bytes).await.unwrap_or(0);
        assert!(
            n > 0,
            "closed without an answer after {:?}",
            String::from_utf8_lossy(&bytes)
        );
    }
}

impl Connected {
    /// The session's id, as the grid tells it.
    pub fn session(&self) -> &str {
        let id = self.answer.header("x-playhouse-session");
        id.expect("an accepted upgrade names its session")
    }

    pub async fn send(&mut self, text: &str) {
        let message = Message::text(text);
        self.socket
            .send(message)
            .await
            .expect("the session is open");
    }

    /// The next text; pings and pongs are not seen.
    pub async fn text(&mut self) -> String {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return text.to_string(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("a text was expected, not {other:?}"),
            }
        }
    }

    /// Says something to a server that echoes, and hears it.
    pub async fn echo(&mut self, text: &str) {
        self.send(text).await;
        assert_eq!(self.text().await, text);
    }

    /// Pings whoever is at the other end of the session: also a real Playwright server says pong.
    pub async fn answers_a_ping(&mut self) -> bool {
        let ping = Message::Ping("there?".into());
        if self.socket.send(ping).await.is_err() {
            return false;
        }
        while let Some(Ok(message)) = self.socket.next().await {
            if matches!(&message, Message::Pong(answer) if &answer[..] == b"there?") {
                return true;
            }
        }
        false
    }

    /// Reads until the end, and tells the other side's close frame, if there was one.
    pub async fn closed(&mut self) -> Option<CloseFrame> {
        let mut frame = None;
        while let Some(Ok(message)) = self.socket.next().await {
            if let Message::Close(close) = message {
                frame = close;
            }
        }
        frame
    }

    pub async fn close(mut self) {
        // The other side may have been faster.
        self.socket.close(None).await.ok();
        self.closed().await;
    }
}
