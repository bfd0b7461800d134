//! The part of a Kubernetes API server that keeps pods: over TLS, for whoever has the token of the
//! service account, with GET and merge patches, one request a connection.

use super::Authority;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

const TOKEN: &str = "token-of-a-service-account";
const NAMESPACE: &str = "browsers";

pub struct KubernetesApi {
    address: SocketAddr,
    /// What a pod finds where its service account is.
    account: TempDir,
    pods: Arc<Mutex<Pods>>,
}

#[derive(Default)]
struct Pods {
    annotations: BTreeMap<String, BTreeMap<String, String>>,
    patches: usize,
    /// Requests that are answered with an error first.
    failures: usize,
    /// What was asked for and is not there, or not with this token.
    refused: Vec<String>,
}

impl KubernetesApi {
    /// With these pods in its one namespace.
    pub async fn start(pods: &[&str]) -> Self {
        let authority = Authority::new();
        let account = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| {
            std::fs::write(account.path().join(name), text).expect("a new file");
        };
        write("token", TOKEN);
        write("namespace", NAMESPACE);
        let ca = std::fs::read_to_string(authority.file()).expect("it was made");
        write("ca.crt", &ca);
        let acceptor = acceptor(&authority);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let annotations = pods.iter().map(|pod| ((*pod).to_owned(), BTreeMap::new()));
        let pods = Arc::new(Mutex::new(Pods {
            annotations: annotations.collect(),
            ..Pods::default()
        }));
        let shared = pods.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, pods) = (acceptor.clone(), shared.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        // Whoever hangs up has its reasons.
                        serve(stream, &pods).await.ok();
                    }
                });
            }
        });
        KubernetesApi {
            address,
            account,
            pods,
        }
    }

    /// The folder of the service account.
    pub fn account(&self) -> &Path {
        self.account.path()
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    fn pods(&self) -> MutexGuard<'_, Pods> {
        self.pods.lock().expect("nobody panics with it")
    }

    /// The next requests get an error.
    pub fn fail(&self, requests: usize) {
        self.pods().failures = requests;
    }

    pub fn failures_left(&self) -> usize {
        self.pods().failures
    }

    pub fn annotation(&self, pod: &str, name: &str) -> Option<String> {
        self.pods().annotations.get(pod)?.get(name).cloned()
    }

    /// How often something was written.
    pub fn patches(&self) -> usize {
        self.pods().patches
    }

    /// Requests for what is not there, or without the right.
    pub fn refused(&self) -> Vec<String> {
        self.pods().refused.clone()
    }
}

fn acceptor(authority: &Authority) -> TlsAcceptor {
    let certificate = authority.issue("kubernetes", 1);
    let path = |path: &PathBuf| path.clone();
    let chain = CertificateDer::pem_file_iter(path(&certificate.cert))
        .expect("it was made")
        .collect::<Result<Vec<_>, _>>()
        .expect("it is PEM");
    let key = PrivateKeyDer::from_pem_file(path(&certificate.key)).expect("it was made");
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("it has some")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("they belong together");
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    pods: &Mutex<Pods>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let header = |name: &str| {
        let line = head
            .lines()
            .find(|line| line.to_ascii_lowercase().starts_with(name))?;
        Some(line.split_once(": ")?.1.to_owned())
    };
    let length = header("content-length:").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    let request = head.lines().next().unwrap_or_default().to_owned();
    let authorized = header("authorization:") == Some(format!("Bearer {TOKEN}"));
    let (status, answer) = answer(&request, authorized, &body, pods);
    let answer = answer.to_string();
    let answer = format!(
        "HTTP/1.1 {status} \r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{answer}",
        answer.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

fn answer(request: &str, authorized: bool, body: &[u8], pods: &Mutex<Pods>) -> (u16, Value) {
    let mut pods = pods.lock().expect("nobody panics with it");
    if pods.failures > 0 {
        pods.failures -= 1;
        return (500, json!({ "kind": "Status" }));
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next(), words.next().unwrap_or_default());
    let prefix = format!("/api/v1/namespaces/{NAMESPACE}/pods/");
    let name = path.strip_prefix(&prefix).unwrap_or_default().to_owned();
    if !authorized || !pods.annotations.contains_key(&name) {
        pods.refused.push(request.to_owned());
        return (
            if authorized { 404 } else { 401 },
            json!({ "kind": "Status" }),
        );
    }
    if method == Some("PATCH") {
        let patch: Value = serde_json::from_slice(body).unwrap_or_default();
        let given = patch["metadata"]["annotations"].as_object().cloned();
        let annotations = pods.annotations.get_mut(&name).expect("looked up above");
        for (key, value) in given.unwrap_or_default() {
            // As in Kubernetes, all values are texts; a null removes.
            match value {
                Value::String(text) => annotations.insert(key, text),
                Value::Null => annotations.remove(&key),
                _ => return (400, json!({ "kind": "Status" })),
            };
        }
        pods.patches += 1;
    }
    let annotations = &pods.annotations[&name];
    (
        200,
        json!({ "kind": "Pod", "metadata": { "name": name, "annotations": annotations } }),
    )
}
