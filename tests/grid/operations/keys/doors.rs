//! Who comes in and through which door: ports, tokens, origins, certificates, workers of the file,
//! and what is logged of it.

use super::super::tenants::{token, with_token};
use super::{Changing, entries};
use crate::support::{
    Authority, FakePlaywright, Grid, eventually, eventually_equal, free_port, raw,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The harness gives ports through the environment; here they stand in the file.
#[tokio::test]
pub async fn ports_are_where_they_are_told_to_be() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    let (data, admin) = (free_port(), free_port());
    let workers = entries(&[&fake]);
    let with = |more: &str| {
        format!(
            "listen: 127.0.0.1:{data}\nadmin: {{ listen: \"0.0.0.0:{admin}\"{more} }}\n{workers}"
        )
    };
    grid.configure(&with(""));
    let refused = grid.program("proxy").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(said.contains("admin.listen"), "{said}");

    grid.configure(&with(", allow_unprotected: true"));
    let mut another = grid.program("proxy").spawn().unwrap();
    for (port, path) in [(data, "/json"), (admin, "/v1/workers")] {
        eventually("it serves", async || {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            TcpStream::connect(address).await.ok()?;
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            let answer = raw(address, request.as_bytes()).await;
            answer.starts_with("HTTP/1.1 200").then_some(())
        })
        .await;
    }
    another.kill().unwrap();
    another.wait().unwrap();
}

#[tokio::test]
pub async fn the_admin_port_wants_its_token() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).admin_token("sesame");
    let grid = grid.start().await;
    for path in [
        "/v1/workers",
        "/v1/sessions",
        "/v1/capacity",
        "/v1/config",
        "/metrics",
    ] {
        assert_eq!(grid.admin("GET", path).await.status, 200, "{path}");
        assert_eq!(
            grid.admin_with("GET", path, &[]).await.status,
            401,
            "{path}"
        );
    }
    for path in ["/healthz", "/readyz", "/"] {
        assert_eq!(
            grid.admin_with("GET", path, &[]).await.status,
            200,
            "{path}"
        );
    }
    let wrong = [("Authorization", "Bearer wrong")];
    let drain = grid.admin_with("POST", "/v1/workers/x/drain", &wrong).await;
    assert_eq!(drain.status, 401);
}

#[tokio::test]
pub async fn an_old_tls_is_refused() {
    let authority = Authority::new();
    let certificate = authority.issue("grid", 30);
    let fake = FakePlaywright::start().await;
    for (min_version, old_is_welcome) in [("1.2", true), ("1.3", false)] {
        let grid = Grid::new()
            .fakes(&[&fake])
            .tls(&authority, &certificate)
            .env("PLAYHOUSE_TLS_MIN_VERSION", min_version)
            .start()
            .await;
        let ports = [grid.address(), grid.admin_address()];
        for port in ports {
            let shakes_hands = async |version| {
                let stream = TcpStream::connect(port).await.unwrap();
                let name = "localhost".try_into().unwrap();
                let connector = TlsConnector::from(client(&authority, version));
                connector.connect(name, stream).await.is_ok()
            };
            assert!(shakes_hands(&rustls::version::TLS13).await);
            let old = shakes_hands(&rustls::version::TLS12).await;
            assert_eq!(old, old_is_welcome, "{min_version}");
        }
    }
}

fn client(authority: &Authority, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(authority.file()).unwrap();
    roots.add(root).unwrap();
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(ring)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

#[tokio::test]
pub async fn tokens_and_origins_are_followed() {
    let fake = FakePlaywright::start().await;
    let changing = Changing::start(Grid::new(), &[&fake], "").await;
    let grid = &changing.grid;
    let mut early = grid.connect().await;

    let tokens = format!("auth: {{ tokens: [ {} ] }}", token("ci", "sesame", ""));
    changing.now(&tokens).await;
    let refusal = grid.dial().refused().await;
    assert_eq!(refusal.status, 401);
    let session = with_token(grid.dial(), "sesame").connect().await;
    session.unwrap().close().await;
    early.echo("the door was open when I came").await;
    early.close().await;

    changing.now("").await;
    let page = || grid.dial().header("Origin", "https://trace.example.com");
    let refusal = page().refused().await;
    assert_eq!(refusal.status, 403);
    changing
        .now("auth: { allowed_origins: [ \"https://trace.example.com\" ] }")
        .await;
    page().connect().await.unwrap().close().await;
    grid.idle().await;
    assert!(!grid.log().contains("sesame"));
}

#[tokio::test]
pub async fn workers_of_the_file_come_and_go() {
    let (one, two) = (FakePlaywright::start().await, FakePlaywright::start().await);
    let changing = Changing::start(Grid::new(), &[&one], "").await;
    let grid = &changing.grid;
    let mut stays = grid.connect().await;
    let known = async || {
        let workers = grid.workers().await;
        let mut ports: Vec<u16> = workers
            .iter()
            .filter(|it| it.serves())
            .map(|it| it.endpoint.rsplit(':').next().unwrap().parse().unwrap())
            .collect();
        ports.sort_unstable();
        ports
    };
    let mut both = vec![one.address().port(), two.address().port()];
    both.sort_unstable();
    changing.write(&entries(&[&one, &two])).await;
    eventually_equal("workers", both, known).await;
    changing.write(&entries(&[&two])).await;
    eventually_equal("workers", vec![two.address().port()], known).await;
    grid.connect().await.close().await;
    assert_eq!((one.upgrades(), two.upgrades()), (1, 1));
    stays.echo("my worker left the file, not me").await;
    stays.close().await;
    grid.idle().await;
    eventually_equal("workers", 1, async || grid.workers().await.len()).await;
}

#[tokio::test]
pub async fn the_log_follows() {
    let fake = FakePlaywright::start().await;
    // The harness asks for text; the file has a say only without that.
    let builder = Grid::new().env("LOG_FORMAT", "");
    let changing = Changing::start(builder, &[&fake], "log: { format: text }").await;
    let grid = &changing.grid;
    let last_start = || {
        let log = grid.log();
        let mut lines = log.lines().filter(|line| line.contains("session started"));
        lines.next_back().map(str::to_owned)
    };
    grid.connect().await.close().await;
    let text = eventually("the session is logged", async || last_start()).await;
    assert!(text.contains(" INFO "), "{text}");

    changing.now("log: { format: json, level: info }").await;
    grid.connect().await.close().await;
    let line = eventually("it is logged as JSON", async || {
        last_start().filter(|line| line.starts_with('{'))
    })
    .await;
    let json: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(json["session"].is_string(), "{line}");

    changing.now("log: { format: json, level: error }").await;
    grid.idle().await;
    let before = grid.log().matches("session started").count();
    let silent = grid.connect().await;
    silent.close().await;
    grid.idle().await;
    changing.now("log: { format: json, level: debug }").await;
    let loud = grid.connect().await;
    let id = loud.session().to_owned();
    loud.close().await;
    eventually("it is logged again", async || {
        grid.log().contains(&id).then_some(())
    })
    .await;
    let starts = grid.log().matches("session started").count();
    assert_eq!(starts, before + 1, "one of the two was not to be logged");
}
