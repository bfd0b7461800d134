//! HTTP as anybody speaks it: an ordinary client, and a bare connection for what no client sends.

use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Far beyond what any answer takes.
const DEADLINE: Duration = Duration::from_secs(180);

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether it says how long it is, and is that long.
    pub fn is_whole(&self) -> bool {
        let length = self
            .header("content-length")
            .and_then(|length| length.parse().ok());
        length == Some(self.body.len())
    }

    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{error} in the answer {self:?}"))
    }
}

/// One request on a connection of its own; `Err` when there was no answer at all.
pub async fn request(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
) -> Result<Answer, ureq::Error> {
    // Fails when it has been done already.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    // Certificates are looked at by the clients of the tests about them.
    let unverified = ureq::tls::TlsConfig::builder().disable_verification(true);
    let agent = ureq::Agent::config_builder()
        .tls_config(unverified.build())
        .http_status_as_error(false)
        .timeout_global(Some(DEADLINE))
        .max_redirects(0)
        .build()
        .new_agent();
    let mut request = http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(()).expect("the test's own request is valid");
    tokio::task::spawn_blocking(move || {
        let (parts, mut body) = agent.run(request)?.into_parts();
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.read_to_string()?,
        })
    })
    .await
    .expect("the request does not panic")
}

/// A plain request that has to be answered.
pub async fn get(url: &str) -> Answer {
    let answer = request("GET", url, &[]).await;
    answer.unwrap_or_else(|error| panic!("GET {url}: {error}"))
}

/// Writes bytes as they are and reads until the other side closes: everything it had to say.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    // It may close before it took everything: then what it said counts, not that.
    stream.write_all(bytes).await.ok();
    read_to_close(&mut stream).await
}

/// What the other side says until it closes. It has to close by itself.
pub async fn read_to_close(stream: &mut (impl AsyncRead + Unpin + ?Sized)) -> String {
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    let read = async {
        // A reset is a close like another.
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            said.extend_from_slice(&buffer[..n]);
        }
    };
    tokio::time::timeout(DEADLINE, read)
        .await
        .expect("the connection is closed by the other side");
    String::from_utf8_lossy(&said).into_owned()
}
