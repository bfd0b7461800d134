//! TLS of both ports: the certificate in force, which can be replaced while connections use it. What
//! can be wrong with one is `config::certificate`'s.

use crate::config::certificate::{self, CertificateError};
use crate::config::{TlsFiles, TlsVersion};
use anyhow::Context;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// The only protocol of the ports: WebSocket begins as HTTP/1.1.
const HTTP_1: &[u8] = b"http/1.1";

/// The certificate in force: new handshakes get it, old connections keep theirs.
#[derive(Debug)]
pub struct Certificate {
    current: ArcSwap<CertifiedKey>,
}

impl Certificate {
    /// Reads and checks certificate and key.
    ///
    /// # Errors
    /// When one is missing, is no PEM, has expired or is not valid yet, or when they do not belong
    /// together.
    pub fn load(tls: &TlsFiles) -> Result<Arc<Certificate>, CertificateError> {
        let current = ArcSwap::from_pointee(certificate::load(tls)?);
        Ok(Arc::new(Certificate { current }))
    }

    /// Replaces it by what the files hold.
    ///
    /// # Errors
    /// As [`Certificate::load`]; the old one stays in force then.
    pub fn reload(&self, tls: &TlsFiles) -> Result<(), CertificateError> {
        self.current.store(Arc::new(certificate::load(tls)?));
        Ok(())
    }

    /// What shakes hands on a port, with the certificate that is in force then. Needs
    /// [`install_crypto`] before.
    pub fn acceptor(self: &Arc<Self>) -> TlsAcceptor {
        let config = ServerConfig::builder().with_no_client_auth();
        let mut config = config.with_cert_resolver(self.clone());
        config.alpn_protocols = vec![HTTP_1.to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Installs the process's cryptography: ring, and below a minimum of TLS 1.3 nothing that TLS 1.2
/// could use. A listener offers whatever the process can do, so this is where the minimum
/// is kept; it holds for connections to Redis and to `wss://` workers as well.
pub fn install_crypto(min_version: TlsVersion) {
    let mut provider = ring::default_provider();
    if min_version == TlsVersion::V1_3 {
        provider
            .cipher_suites
            .retain(|suite| suite.tls13().is_some());
    }
    // Fails when it has been done already, by a test in this process.
    provider.install_default().ok();
}

/// Makes sure that the authorities of `wss://` workers can be read. Pingora would end the process
/// with a panic when they cannot; this says why instead.
///
/// # Errors
/// When `SSL_CERT_FILE` names a file that cannot be read or is no PEM.
pub fn check_authorities() -> anyhow::Result<()> {
    let Some(file) = std::env::var_os("SSL_CERT_FILE") else {
        return Ok(());
    };
    let shown = file.display();
    let pem = std::fs::read(&file).with_context(|| format!("cannot read SSL_CERT_FILE {shown}"))?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        certificate.with_context(|| format!("SSL_CERT_FILE {shown} is no PEM"))?;
    }
    Ok(())
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}
