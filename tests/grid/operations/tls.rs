//! Certificates: whom clients believe, how one is replaced, and what is said of a wrong one.

use super::load::{Load, all_work};
use super::reloads::reload_status;
use crate::support::{
    Authority, Certificate, Driver, FakePlaywright, Grid, Language, eventually, eventually_equal,
    version,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

#[tokio::test]
pub async fn playwright_connects_over_tls() {
    let authority = Authority::new();
    let certificate = authority.issue("grid", 30);
    let grid = Grid::new().workers(1).tls(&authority, &certificate);
    let grid = grid.start().await;
    let ca = authority.file();
    let trusting = [("NODE_EXTRA_CA_CERTS", ca.to_str().unwrap())];
    let playwright = version("PLAYWRIGHT_VERSION");
    for language in Language::BOTH {
        let mut driver = Driver::start_with(language, playwright, &grid.url(), &[], &trusting);
        driver.open("a").await.unwrap();
        driver.works("a").await.unwrap();
        driver.close("a").await.unwrap();
        driver.quit().await;

        let mut suspicious = Driver::start(language, &grid.url());
        let error = suspicious.open("a").await.unwrap_err();
        assert!(error.contains("certificate"), "{error}");
        suspicious.quit().await;
    }
    grid.idle().await;
}

#[tokio::test]
async fn a_certificate_is_replaced_without_a_failed_connect() {
    let authority = Authority::new();
    let certificate = authority.issue("served", 30);
    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .fakes(&[&fake])
        .capacity(50)
        .tls(&authority, &certificate);
    let grid = grid.start().await;
    let mut open = vec![grid.connect().await, grid.connect().await];
    let load = Load::start(grid.dial(), 4);
    for n in 0..3 {
        let served = load.served();
        let renewed = authority.issue(&format!("renewed-{n}"), 30);
        renewed.replace(&certificate);
        let der = CertificateDer::from_pem_file(&renewed.cert).unwrap();
        eventually("the new certificate is shown", async || {
            (grid.dial().certificate().await == der).then_some(())
        })
        .await;
        eventually("the load goes on", async || {
            (load.served() > served + 10).then_some(())
        })
        .await;
    }
    all_work(&mut open).await;
    load.finish().await;
    for session in open {
        session.close().await;
    }
    grid.idle().await;
}

/// What is wrong with them, and what has to be said.
fn wrong_ones(authority: &Authority) -> Vec<(Certificate, &'static str)> {
    let good = authority.issue("good", 30);
    let nowhere = good.cert.with_file_name("nowhere.pem");
    let with_cert = |cert: &std::path::Path| Certificate {
        cert: cert.to_owned(),
        key: good.key.clone(),
    };
    let with_key = |key: &std::path::Path| Certificate {
        cert: good.cert.clone(),
        key: key.to_owned(),
    };
    vec![
        (authority.issue("expired", -1), "expired at"),
        (
            with_key(&authority.issue("other", 30).key),
            "does not belong",
        ),
        (with_cert(&nowhere), "cannot read"),
        (with_key(&nowhere), "cannot read"),
        (with_cert(&good.key), "no certificate"),
        (with_key(&good.cert), "no private key"),
    ]
}

#[tokio::test]
async fn a_wrong_certificate_is_told_at_check_and_changes_nothing_at_a_reload() {
    let authority = Authority::new();
    let certificate = authority.issue("served", 30);
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).tls(&authority, &certificate);
    let grid = grid.start().await;
    let served = std::fs::read_to_string(grid.config_file()).unwrap();
    for (wrong, told) in wrong_ones(&authority) {
        grid.configure(&served.replace(&certificate.yaml(), &wrong.yaml()));
        let check = grid.command(&["check"]).await;
        let said = String::from_utf8_lossy(&check.stderr).into_owned();
        assert_eq!(check.status.code(), Some(78), "{said}");
        assert!(said.contains(told) && said.contains("tls."), "{said}");
        let reloaded = eventually("the reload is refused", async || {
            let status = reload_status(&grid).await;
            let errors = status["errors"].to_string();
            errors.contains(told).then_some(status)
        })
        .await;
        assert_eq!(reloaded["outcome"], "certificate_refused");
        grid.connect().await.close().await;
    }
    grid.configure(&served);
    eventually_equal("errors", "[]".to_owned(), async || {
        reload_status(&grid).await["errors"].to_string()
    })
    .await;
    // The same, with the files that are served: the content changes, the configuration does not.
    let kept = authority.issue("kept", 30);
    kept.replace(&certificate);
    authority.issue("worn-out", -1).replace(&certificate);
    eventually("the expired one is refused", async || {
        let errors = reload_status(&grid).await["errors"].to_string();
        errors.contains("expired at").then_some(())
    })
    .await;
    grid.connect().await.close().await;
    grid.idle().await;
}

/// Keys that wait for a restart, once they are these; the configuration is valid all the while.
async fn pending(grid: &Grid, keys: &[&str]) {
    eventually_equal("keys that wait", serde_json::json!(keys), async || {
        let status = reload_status(grid).await;
        assert_ne!(status["outcome"], "invalid", "{status}");
        status["pendingRestart"].clone()
    })
    .await;
}

/// Another certificate, or none, waits for a restart; the one that is served can be renewed as ever.
#[tokio::test]
async fn another_certificate_waits_for_a_restart() {
    let authority = Authority::new();
    let (certificate, other) = (authority.issue("served", 30), authority.issue("other", 30));
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).tls(&authority, &certificate);
    let grid = grid.start().await;
    let served = std::fs::read_to_string(grid.config_file()).unwrap();
    let shows = async |certificate: &Certificate| {
        let der = CertificateDer::from_pem_file(&certificate.cert).unwrap();
        eventually("the certificate is shown", async || {
            (grid.dial().certificate().await == der).then_some(())
        })
        .await;
        grid.connect().await.close().await;
    };

    let newer = other.yaml().replace(" }", ", min_version: \"1.3\" }");
    grid.configure(&served.replace(&certificate.yaml(), &newer));
    pending(&grid, &["tls.cert", "tls.key", "tls.min_version"]).await;
    grid.logs("at the next start only").await;
    let log = grid.log();
    let line = log.lines().find(|it| it.contains("at the next start only"));
    assert!(line.expect("the log says so").contains("tls.cert, tls.key"));
    shows(&certificate).await;
    authority.issue("renewed", 30).replace(&certificate);
    shows(&certificate).await;

    grid.configure(&served.replace(&certificate.yaml(), ""));
    pending(&grid, &["tls.cert", "tls.key"]).await;
    authority.issue("renewed again", 30).replace(&certificate);
    shows(&certificate).await;

    grid.configure(&served);
    pending(&grid, &[]).await;
    shows(&certificate).await;
    grid.idle().await;
    drop(grid);

    let grid = Grid::new().fakes(&[&fake]).start().await;
    let plain = std::fs::read_to_string(grid.config_file()).unwrap();
    grid.configure(&format!("{}{plain}", certificate.yaml()));
    pending(&grid, &["tls.cert", "tls.key"]).await;
    grid.connect().await.close().await;
    grid.idle().await;
}

#[tokio::test]
async fn operators_reach_an_admin_port_with_tls() {
    let authority = Authority::new();
    let certificate = authority.issue("grid", 30);
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).tls(&authority, &certificate);
    let grid = grid.start().await;
    let session = grid.connect().await;
    let ca = authority.file();
    let ca = ca.to_str().unwrap();
    for arguments in [&["status"][..], &["status", "--ca", ca]] {
        let status = grid.command(arguments).await;
        let said = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(status.status.success(), "{status:?}");
        assert!(said.contains(session.session()), "{said}");
    }
    assert!(grid.command(&["healthcheck"]).await.status.success());

    let stranger = Authority::new();
    let refused = grid
        .command(&["status", "--ca", stranger.file().to_str().unwrap()])
        .await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.contains("--ca"), "{said}");
    session.close().await;
    grid.idle().await;
}

/// What stands in front of a Playwright server and speaks TLS for it.
async fn terminator(certificate: &Certificate, to: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
    let chain = vec![CertificateDer::from_pem_file(&certificate.cert).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&certificate.key).unwrap();
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Health checks do not shake hands; either end may go away at any time.
                if let Ok(mut stream) = acceptor.accept(stream).await
                    && let Ok(mut server) = TcpStream::connect(to).await
                {
                    copy_bidirectional(&mut stream, &mut server).await.ok();
                }
            });
        }
    });
    (address, serving)
}

#[tokio::test]
async fn a_worker_behind_tls_has_to_show_a_certificate_that_is_trusted() {
    let authority = Authority::new();
    let fake = FakePlaywright::start().await;
    let (address, serving) = terminator(&authority.issue("worker", 30), fake.address()).await;
    let endpoint = format!("wss://localhost:{}{}", address.port(), fake.path());
    let worker = format!("workers: [ {{ endpoint: \"{endpoint}\", browser: chromium }} ]");

    let ca = authority.file();
    let grid = Grid::new()
        .static_workers(1)
        .config(&worker)
        .env("SSL_CERT_FILE", ca.to_str().unwrap());
    let grid = grid.start().await;
    let mut session = grid.connect().await;
    session.echo("over two kinds of connections").await;
    let large = "x".repeat(1 << 20);
    session.echo(&large).await;
    session.close().await;
    grid.idle().await;
    drop(grid);

    let stranger = Authority::new();
    let grid = Grid::new()
        .static_workers(1)
        .config(&worker)
        .env("WORKER_SELECT_TIMEOUT", "4")
        .env("SSL_CERT_FILE", stranger.file().to_str().unwrap());
    let grid = grid.start().await;
    let refusal = grid.dial().refused().await;
    assert_eq!(refusal.status, 502, "{refusal:?}");
    grid.logs("ertificate").await;
    let log = grid.log();
    assert!(!log.contains("panicked"), "{log}");
    assert!(!log.contains(fake.path()), "a capability is logged: {log}");
    drop(grid);

    let grid = Grid::new()
        .static_workers(1)
        .config(&worker)
        .env("SSL_CERT_FILE", "/nowhere/ca.pem");
    let (status, log) = grid.start_in_vain().await;
    assert_eq!(status.code(), Some(1));
    assert!(
        log.contains("SSL_CERT_FILE") && !log.contains("panicked"),
        "{log}"
    );
    serving.abort();
}
