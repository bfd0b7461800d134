//! The certificate of `tls.cert` and its key: whether they can be served, told at `check`, at
//! start and at a reload rather than by the first client.

use super::load::read_small_file;
use super::model::TlsFiles;
use crate::settings::ReadFile;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::parse_x509_certificate;

/// Why a certificate cannot be served. Never shows what is in a key's file.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("cannot read {0}: {1}")]
    UnreadableCertificate(PathBuf, std::io::Error),
    #[error("cannot read {0}: {1}")]
    UnreadableKey(PathBuf, std::io::Error),
    #[error("{0} holds no certificate in PEM")]
    NoCertificate(PathBuf),
    #[error("{0} holds a certificate that cannot be parsed")]
    Malformed(PathBuf),
    #[error("{0} holds no private key in PEM")]
    NoKey(PathBuf),
    #[error("the key in {0} is of no kind that can be used")]
    UnusableKey(PathBuf),
    #[error("the key in {0} does not belong to the certificate")]
    WrongKey(PathBuf),
    #[error("the certificate in {0} expired at {date}", date = humantime::format_rfc3339_seconds(*.1))]
    Expired(PathBuf, SystemTime),
    #[error("the certificate in {0} is not valid before {date}", date = humantime::format_rfc3339_seconds(*.1))]
    NotYetValid(PathBuf, SystemTime),
}

impl CertificateError {
    /// The key of the configuration that has to change.
    pub fn key(&self) -> &'static str {
        match self {
            CertificateError::UnreadableKey(..)
            | CertificateError::NoKey(_)
            | CertificateError::UnusableKey(_)
            | CertificateError::WrongKey(_) => "tls.key",
            _ => "tls.cert",
        }
    }
}

/// The chain and the key as the files hold them, ready to serve.
///
/// # Errors
/// Whatever would make handshakes fail, the certificate's dates included.
pub fn load(tls: &TlsFiles) -> Result<CertifiedKey, CertificateError> {
    load_with(tls, &read_small_file, SystemTime::now())
}

/// Like [`load`], with files and time as parameters.
///
/// # Errors
/// As [`load`].
pub fn load_with(
    tls: &TlsFiles,
    read_file: ReadFile<'_>,
    now: SystemTime,
) -> Result<CertifiedKey, CertificateError> {
    let cert = read_file(&tls.cert)
        .map_err(|error| CertificateError::UnreadableCertificate(tls.cert.clone(), error))?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(cert.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| CertificateError::NoCertificate(tls.cert.clone()))?;
    let Some(leaf) = chain.first() else {
        return Err(CertificateError::NoCertificate(tls.cert.clone()));
    };
    let (_, parsed) =
        parse_x509_certificate(leaf).map_err(|_| CertificateError::Malformed(tls.cert.clone()))?;
    let (from, until) = (
        time(parsed.validity().not_before.timestamp()),
        time(parsed.validity().not_after.timestamp()),
    );
    if now > until {
        return Err(CertificateError::Expired(tls.cert.clone(), until));
    }
    if now < from {
        return Err(CertificateError::NotYetValid(tls.cert.clone(), from));
    }
    let key = read_file(&tls.key)
        .map_err(|error| CertificateError::UnreadableKey(tls.key.clone(), error))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| CertificateError::NoKey(tls.key.clone()))?;
    match CertifiedKey::from_der(chain, key, &default_provider()) {
        Ok(certified) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(CertificateError::WrongKey(tls.key.clone())),
        Err(rustls::Error::InvalidCertificate(_)) => {
            Err(CertificateError::Malformed(tls.cert.clone()))
        }
        Err(_) => Err(CertificateError::UnusableKey(tls.key.clone())),
    }
}

/// Seconds since the epoch; dates before it count as it.
fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.max(0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const YEAR: Duration = Duration::from_secs(31_557_600);

    /// A certificate of a hundred years, its key and a key of another.
    fn read(path: &Path) -> std::io::Result<String> {
        match path.to_str() {
            Some("garbage.pem") => {
                Ok("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned())
            }
            Some("empty.pem") => Ok(String::new()),
            _ => {
                let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls");
                std::fs::read_to_string(folder.join(path))
            }
        }
    }

    fn answer(cert: &str, key: &str, now: SystemTime) -> String {
        let tls = TlsFiles {
            cert: cert.into(),
            key: key.into(),
            min_version: crate::config::TlsVersion::V1_2,
        };
        match load_with(&tls, &read, now) {
            Ok(certified) => format!("{} certificate", certified.cert.len()),
            Err(error) => format!("{}: {error}", error.key()),
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_certificate() {
        let now = SystemTime::now();
        assert_eq!(answer("cert.pem", "key.pem", now), "1 certificate");
        for (cert, key, expected) in [
            (
                "missing.pem",
                "key.pem",
                "tls.cert: cannot read missing.pem: ",
            ),
            (
                "cert.pem",
                "missing.pem",
                "tls.key: cannot read missing.pem: ",
            ),
            (
                "empty.pem",
                "key.pem",
                "tls.cert: empty.pem holds no certificate in PEM",
            ),
            (
                "key.pem",
                "key.pem",
                "tls.cert: key.pem holds no certificate in PEM",
            ),
            (
                "garbage.pem",
                "key.pem",
                "tls.cert: garbage.pem holds a certificate that cannot be parsed",
            ),
            (
                "cert.pem",
                "cert.pem",
                "tls.key: cert.pem holds no private key in PEM",
            ),
            (
                "cert.pem",
                "other-key.pem",
                "tls.key: the key in other-key.pem does not belong to the certificate",
            ),
        ] {
            let given = answer(cert, key, now);
            assert!(given.starts_with(expected), "{cert} with {key}: {given}");
        }
        let expired = answer("cert.pem", "key.pem", now + 200 * YEAR);
        assert!(
            expired.starts_with("tls.cert: the certificate in cert.pem expired at 21"),
            "{expired}"
        );
        let early = answer("cert.pem", "key.pem", now - 20 * YEAR);
        assert!(
            early.starts_with("tls.cert: the certificate in cert.pem is not valid before 20"),
            "{early}"
        );
    }
}
