//! TLS of both ports: a certificate that is checked when it is loaded and can be replaced while
//! connections use it.

use crate::config::{Tls, TlsVersion};
use arc_swap::ArcSwap;
use pingora::listeners::TlsAccept;
use pingora::listeners::tls::TlsSettings;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("tls.cert: {path}: {why}", path = .0.display(), why = .1)]
    Certificate(PathBuf, String),
    #[error("tls.key: {path}: {why}", path = .0.display(), why = .1)]
    Key(PathBuf, String),
    #[error("tls.key does not belong to tls.cert: {0}")]
    Mismatch(String),
}

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
    pub fn load(tls: &Tls) -> Result<Arc<Certificate>, TlsError> {
        let current = ArcSwap::from_pointee(read(tls)?);
        Ok(Arc::new(Certificate { current }))
    }

    /// Replaces it by what the files hold now.
    ///
    /// # Errors
    /// As [`Certificate::load`]; the old one stays in force then.
    pub fn reload(&self, tls: &Tls) -> Result<(), TlsError> {
        self.current.store(Arc::new(read(tls)?));
        Ok(())
    }

    /// What a listener of Pingora's needs.
    ///
    /// # Errors
    /// None that is known of: Pingora's constructor returns a result.
    pub fn settings(self: &Arc<Self>) -> pingora::Result<TlsSettings> {
        // Callbacks that do nothing: this constructor wants no paths.
        let mut settings = TlsSettings::with_callbacks(Box::new(NoCallbacks))?;
        settings.set_cert_resolver(self.clone());
        Ok(settings)
    }
}

struct NoCallbacks;
impl TlsAccept for NoCallbacks {}

/// Installs the process's cryptography: ring, and below a minimum of TLS 1.3 nothing that TLS 1.2
/// could use. Pingora's listeners offer whatever the process can do, so this is where the minimum
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

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn read(tls: &Tls) -> Result<CertifiedKey, TlsError> {
    let of_cert = |why: String| TlsError::Certificate(tls.cert.clone(), why);
    let of_key = |why: String| TlsError::Key(tls.key.clone(), why);
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&bytes(&tls.cert).map_err(of_cert)?)
            .collect::<Result<_, _>>()
            .map_err(|error| of_cert(format!("is not a PEM certificate: {error}")))?;
    let leaf = chain
        .first()
        .ok_or_else(|| of_cert("holds no PEM certificate".into()))?;
    check_dates(leaf).map_err(of_cert)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes(&tls.key).map_err(of_key)?)
        .map_err(|error| of_key(format!("holds no PEM private key: {error}")))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider())
        .map_err(|error| TlsError::Mismatch(error.to_string()))
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))
}

fn check_dates(leaf: &CertificateDer<'_>) -> Result<(), String> {
    let (_, certificate) = X509Certificate::from_der(leaf)
        .map_err(|error| format!("is not an X.509 certificate: {error}"))?;
    let validity = certificate.validity();
    if validity.is_valid() {
        return Ok(());
    }
    Err(format!(
        "is valid from {} to {}, which is not now",
        validity.not_before, validity.not_after
    ))
}
