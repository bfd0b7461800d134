//! The part of a Kubernetes API server that keeps the pods of one namespace, over TLS: reads, lists,
//! watches, merge patches, deletions, and evictions that a disruption budget may refuse. Proxies have the
//! account of the chart, which may read and patch a pod; the cluster's own controllers ([`Pods`]) may all.
//!
//! As there, a pod that is deleted stays until its kubelet is done with it.

use super::Authority;
use super::replica_set::{Candidate, Phase};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader as BlockingReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

const TOKEN: &str = "token-of-a-service-account";
const CONTROLLERS_TOKEN: &str = "token-of-the-controllers";
const NAMESPACE: &str = "browsers";
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

pub struct KubernetesApi {
    address: SocketAddr,
    /// What a pod finds where its service account is.
    account: TempDir,
    state: Arc<State>,
}

struct State {
    cluster: Mutex<Cluster>,
    /// The last change, for those who watch.
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct Cluster {
    /// Whole, as they are answered.
    pods: BTreeMap<String, Value>,
    /// Every change, as those who watch are told.
    events: Vec<(u64, Value)>,
    patches: usize,
    /// Requests that are answered with an error first.
    failures: usize,
    /// What the proxies' account asked for and is not there, or not for it.
    refused: Vec<String>,
    /// Pods that the disruption budget wants ready.
    budget: usize,
}

/// What came of the wish to evict a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    Granted,
    /// The disruption budget is used up.
    Refused,
}

impl KubernetesApi {
    /// With these pods in its one namespace, ready, each on a node of its own.
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
        let state = Arc::new(State {
            cluster: Mutex::default(),
            version: watch::channel(0).0,
        });
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, state) = (acceptor.clone(), shared.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        // Whoever hangs up has its reasons.
                        serve(stream, &state).await.ok();
                    }
                });
            }
        });
        let api = KubernetesApi {
            address,
            account,
            state,
        };
        for pod in pods {
            api.add(pod, &format!("node-of-{pod}"));
        }
        api
    }

    /// The folder of the service account.
    pub fn account(&self) -> &Path {
        self.account.path()
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.state.cluster.lock().expect("nobody panics with it")
    }

    /// A pod that is ready from this moment on.
    pub fn add(&self, pod: &str, node: &str) {
        let now = timestamp(Duration::ZERO);
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": pod,
                "namespace": NAMESPACE,
                "uid": format!("uid-of-{pod}"),
                "creationTimestamp": now,
                "annotations": {},
            },
            "spec": { "nodeName": node },
            "status": {
                "phase": "Running",
                "conditions": [ { "type": "Ready", "status": "True", "lastTransitionTime": now } ],
                "containerStatuses": [ { "restartCount": 0 } ],
            },
        });
        self.change("ADDED", pod, object);
    }

    /// Makes a pod ready for so long already.
    pub fn ready_for(&self, pod: &str, time: Duration) {
        let mut object = self.pod(pod);
        let since = timestamp(time);
        object["metadata"]["creationTimestamp"] = since.clone().into();
        object["status"]["conditions"][0]["lastTransitionTime"] = since.into();
        self.change("MODIFIED", pod, object);
    }

    /// The kubelet is done with a pod.
    pub fn finished(&self, pod: &str) {
        let object = self.pod(pod);
        assert!(is_deleted(&object), "nobody told {pod} to end");
        self.change("DELETED", pod, object);
    }

    /// The disruption budget of all pods: so many have to be ready.
    pub fn wants_ready(&self, pods: usize) {
        self.cluster().budget = pods;
    }

    fn pod(&self, pod: &str) -> Value {
        self.cluster().pods[pod].clone()
    }

    fn change(&self, kind: &str, pod: &str, object: Value) {
        self.state.change(&mut self.cluster(), kind, pod, object);
    }

    /// The next requests get an error.
    pub fn fail(&self, requests: usize) {
        self.cluster().failures = requests;
    }

    pub fn failures_left(&self) -> usize {
        self.cluster().failures
    }

    pub fn annotation(&self, pod: &str, name: &str) -> Option<String> {
        let found = self.cluster().pods.get(pod)?["metadata"]["annotations"][name].clone();
        found.as_str().map(str::to_owned)
    }

    /// How often something was written.
    pub fn patches(&self) -> usize {
        self.cluster().patches
    }

    /// Requests of the proxies for what is not there, or without the right.
    pub fn refused(&self) -> Vec<String> {
        self.cluster().refused.clone()
    }

    /// What the cluster's controllers see.
    pub fn controllers(&self) -> Pods {
        Pods::watch(self)
    }
}

impl State {
    fn change(&self, cluster: &mut Cluster, kind: &str, pod: &str, mut object: Value) {
        let version = cluster.events.len() as u64 + 1;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let event = json!({ "type": kind, "object": object });
        match kind {
            "DELETED" => cluster.pods.remove(pod),
            _ => cluster.pods.insert(pod.to_owned(), object),
        };
        cluster.events.push((version, event));
        self.version.send_replace(version);
    }
}

fn is_deleted(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_string()
}

fn timestamp(ago: Duration) -> String {
    humantime::format_rfc3339_seconds(SystemTime::now() - ago).to_string()
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

/// One request.
struct Request {
    method: String,
    path: String,
    query: String,
    token: String,
    content_type: String,
    body: Value,
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<Request>> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Ok(None);
        }
    }
    let header = |name: &str| {
        let line = head
            .lines()
            .find(|line| line.to_ascii_lowercase().starts_with(name));
        let (_, value) = line
            .and_then(|line| line.split_once(": "))
            .unwrap_or_default();
        value.to_owned()
    };
    let mut body = vec![0; header("content-length:").parse().unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    let mut words = head.split(' ').map(str::to_owned);
    let (method, target) = (words.next(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    Ok(Some(Request {
        method: method.unwrap_or_default(),
        path: path.to_owned(),
        query: query.to_owned(),
        token: header("authorization:").replace("Bearer ", ""),
        content_type: header("content-type:"),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    }))
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    state: &State,
) -> std::io::Result<()> {
    let Some(request) = read(&mut stream).await? else {
        return Ok(());
    };
    if request.query.contains("watch=true") && request.token == CONTROLLERS_TOKEN {
        return tell_changes(&mut stream, &request.query, state).await;
    }
    let (status, answer) = answer(&request, state);
    let answer = answer.to_string();
    let answer = format!(
        "HTTP/1.1 {status} \r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{answer}",
        answer.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// A watch: one JSON document a line, from the version on that the query names, for ever.
async fn tell_changes(
    stream: &mut (impl AsyncWrite + Unpin),
    query: &str,
    state: &State,
) -> std::io::Result<()> {
    let named = query
        .split('&')
        .find_map(|it| it.strip_prefix("resourceVersion="));
    let mut told: u64 = named.and_then(|it| it.parse().ok()).unwrap_or(0);
    let head =
        "HTTP/1.1 200 \r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut version = state.version.subscribe();
    loop {
        let last = *version.borrow_and_update();
        let news: Vec<String> = {
            let cluster = state.cluster.lock().expect("nobody panics with it");
            let news = cluster.events.iter().filter(|(at, _)| *at > told);
            news.map(|(_, event)| format!("{event}\n")).collect()
        };
        for line in news {
            let chunk = format!("{:x}\r\n{line}\r\n", line.len());
            stream.write_all(chunk.as_bytes()).await?;
        }
        stream.flush().await?;
        told = told.max(last);
        if version.changed().await.is_err() {
            return Ok(());
        }
    }
}

fn status(code: u16, reason: &str) -> (u16, Value) {
    (
        code,
        json!({ "kind": "Status", "status": "Failure", "reason": reason, "code": code }),
    )
}

fn answer(request: &Request, state: &State) -> (u16, Value) {
    let mut cluster = state.cluster.lock().expect("nobody panics with it");
    let is_controller = request.token == CONTROLLERS_TOKEN;
    if cluster.failures > 0 && !is_controller {
        cluster.failures -= 1;
        return status(500, "InternalError");
    }
    let line = format!("{} {}", request.method, request.path);
    let refuse = |cluster: &mut Cluster, code, reason| {
        cluster.refused.push(format!("{code} {line}"));
        status(code, reason)
    };
    if !is_controller && request.token != TOKEN {
        return refuse(&mut cluster, 401, "Unauthorized");
    }
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let below = request.path.strip_prefix(&pods).unwrap_or_default();
    let below = below.trim_start_matches('/');
    let (name, part) = below.split_once('/').unwrap_or((below, ""));
    // What the chart's Role allows.
    let allowed = matches!(request.method.as_str(), "GET" | "PATCH") && !name.is_empty();
    if !(is_controller || allowed && part.is_empty()) {
        return refuse(&mut cluster, 403, "Forbidden");
    }
    if name.is_empty() {
        let version = cluster.events.len().to_string();
        let items: Vec<&Value> = cluster.pods.values().collect();
        let metadata = json!({ "resourceVersion": version });
        return (
            200,
            json!({ "kind": "PodList", "metadata": metadata, "items": items }),
        );
    }
    let Some(pod) = cluster.pods.get(name).cloned() else {
        return refuse(&mut cluster, 404, "NotFound");
    };
    match (request.method.as_str(), part) {
        ("GET", "") => (200, pod),
        ("PATCH", "") => patch(request, state, &mut cluster, name, pod),
        ("DELETE", "") => (200, delete(state, &mut cluster, name, pod)),
        ("POST", "eviction") if !may_go(&cluster, &pod) => status(429, "TooManyRequests"),
        ("POST", "eviction") => (201, delete(state, &mut cluster, name, pod)),
        _ => status(405, "MethodNotAllowed"),
    }
}

fn patch(
    request: &Request,
    state: &State,
    cluster: &mut Cluster,
    name: &str,
    mut pod: Value,
) -> (u16, Value) {
    if request.content_type != "application/merge-patch+json" {
        return status(415, "UnsupportedMediaType");
    }
    let given = request.body["metadata"]["annotations"].as_object().cloned();
    for (key, value) in given.unwrap_or_default() {
        // As in Kubernetes, all values are texts; a null removes.
        let annotations = pod["metadata"]["annotations"].as_object_mut();
        let annotations = annotations.expect("every pod has some");
        match value {
            Value::String(_) => annotations.insert(key, value),
            Value::Null => annotations.remove(&key),
            _ => return status(400, "BadRequest"),
        };
    }
    cluster.patches += 1;
    state.change(cluster, "MODIFIED", name, pod.clone());
    (200, pod)
}

/// The first step of a deletion: its kubelet is told. The second is [`KubernetesApi::finished`].
fn delete(state: &State, cluster: &mut Cluster, name: &str, mut pod: Value) -> Value {
    if !is_deleted(&pod) {
        pod["metadata"]["deletionTimestamp"] = timestamp(Duration::ZERO).into();
        state.change(cluster, "MODIFIED", name, pod.clone());
    }
    pod
}

fn may_go(cluster: &Cluster, pod: &Value) -> bool {
    let ready = cluster.pods.values().filter(|pod| !is_deleted(pod)).count();
    is_deleted(pod) || ready > cluster.budget
}

/// The pods as a controller knows them: listed once, and watched from then on.
pub struct Pods {
    known: Arc<Mutex<BTreeMap<String, Value>>>,
    agent: ureq::Agent,
    base: String,
}

impl Pods {
    fn watch(api: &KubernetesApi) -> Pods {
        let ca = std::fs::read(api.account().join("ca.crt")).expect("it was made");
        let ca = ureq::tls::Certificate::from_pem(&ca).expect("it is PEM");
        let tls = ureq::tls::TlsConfig::builder()
            .root_certs(ureq::tls::RootCerts::new_with_certs(&[ca]))
            .unversioned_rustls_crypto_provider(Arc::new(
                tokio_rustls::rustls::crypto::ring::default_provider(),
            ))
            .build();
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .tls_config(tls)
            .build()
            .new_agent();
        let pods = Pods {
            known: Arc::default(),
            agent,
            base: format!("https://{}/api/v1/namespaces/{NAMESPACE}/pods", api.address),
        };
        let (known, agent, base) = (pods.known.clone(), pods.agent.clone(), pods.base.clone());
        std::thread::spawn(move || {
            let list = call(&agent, "GET", &base).1;
            let version = list["metadata"]["resourceVersion"]
                .as_str()
                .expect("it has one");
            for pod in list["items"].as_array().expect("it is a list") {
                note(&known, "ADDED", pod);
            }
            let url = format!("{base}?watch=true&resourceVersion={version}");
            let request = request_of("GET", &url);
            let Ok(mut stream) = agent.run(request) else {
                return;
            };
            let lines = BlockingReader::new(stream.body_mut().as_reader()).lines();
            // It ends with the server.
            for line in lines.map_while(Result::ok) {
                let event: Value = serde_json::from_str(&line).expect("one document a line");
                note(
                    &known,
                    event["type"].as_str().expect("it has one"),
                    &event["object"],
                );
            }
        });
        pods
    }

    /// Names of the pods, without those that were told to end.
    pub fn standing(&self) -> Vec<String> {
        let known = self.known.lock().expect("nobody panics with it");
        let standing = known.iter().filter(|(_, pod)| !is_deleted(pod));
        standing.map(|(name, _)| name.clone()).collect()
    }

    /// Those that were told to end, and have not.
    pub fn ending(&self) -> Vec<String> {
        let known = self.known.lock().expect("nobody panics with it");
        let ending = known.iter().filter(|(_, pod)| is_deleted(pod));
        ending.map(|(name, _)| name.clone()).collect()
    }

    /// What a ReplicaSet looks at, for each of [`Pods::standing`].
    pub fn candidates(&self) -> Vec<Candidate> {
        let known = self.known.lock().expect("nobody panics with it");
        let standing = known.values().filter(|pod| !is_deleted(pod));
        standing.map(candidate).collect()
    }

    /// What a ReplicaSet does to those that go.
    pub async fn delete(&self, pod: &str) {
        let (status, _) = self.call("DELETE", &format!("{}/{pod}", self.base)).await;
        assert_eq!(status, 200, "{pod}");
    }

    /// What whoever empties a node does to its pods.
    pub async fn evict(&self, pod: &str) -> Eviction {
        match self
            .call("POST", &format!("{}/{pod}/eviction", self.base))
            .await
        {
            (201, _) => Eviction::Granted,
            (429, _) => Eviction::Refused,
            (status, answer) => panic!("{status} {answer}"),
        }
    }

    async fn call(&self, method: &'static str, url: &str) -> (u16, Value) {
        let (agent, url) = (self.agent.clone(), url.to_owned());
        let called = tokio::task::spawn_blocking(move || call(&agent, method, &url));
        called.await.expect("it does not panic")
    }
}

fn request_of(method: &str, url: &str) -> http::Request<String> {
    let body = if method == "POST" {
        r#"{"kind":"Eviction","apiVersion":"policy/v1"}"#
    } else {
        ""
    };
    http::Request::builder()
        .method(method)
        .uri(url)
        .header("Authorization", format!("Bearer {CONTROLLERS_TOKEN}"))
        .body(body.to_owned())
        .expect("it is a request")
}

fn call(agent: &ureq::Agent, method: &str, url: &str) -> (u16, Value) {
    let mut answer = agent.run(request_of(method, url)).expect("it answers");
    let text = answer.body_mut().read_to_string().expect("it is text");
    let value = serde_json::from_str(&text).expect("it is JSON");
    (answer.status().as_u16(), value)
}

fn note(known: &Mutex<BTreeMap<String, Value>>, kind: &str, pod: &Value) {
    let name = pod["metadata"]["name"]
        .as_str()
        .expect("it has one")
        .to_owned();
    let mut known = known.lock().expect("nobody panics with it");
    match kind {
        "DELETED" => known.remove(&name),
        _ => known.insert(name, pod.clone()),
    };
}

fn candidate(pod: &Value) -> Candidate {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let milliseconds = |value: &Value| {
        let time = humantime::parse_rfc3339(value.as_str()?).ok()?;
        let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(since.as_millis() as u64)
    };
    let ready = &pod["status"]["conditions"][0];
    let is_ready = ready["status"] == "True";
    let cost = pod["metadata"]["annotations"][COST].as_str();
    Candidate {
        uid: text(&pod["metadata"]["uid"]).unwrap_or_default(),
        node: text(&pod["spec"]["nodeName"]),
        phase: match pod["status"]["phase"].as_str() {
            Some("Running") => Phase::Running,
            Some("Pending") => Phase::Pending,
            _ => Phase::Unknown,
        },
        ready_since: is_ready
            .then(|| milliseconds(&ready["lastTransitionTime"]))
            .flatten(),
        deletion_cost: cost.and_then(|cost| cost.parse().ok()).unwrap_or(0),
        restarts: pod["status"]["containerStatuses"][0]["restartCount"]
            .as_u64()
            .unwrap_or(0) as u32,
        created: milliseconds(&pod["metadata"]["creationTimestamp"]).unwrap_or(0),
    }
}
