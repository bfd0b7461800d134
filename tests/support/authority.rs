//! A certificate authority of a test's own, and the certificates it signs.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate for `localhost` and 127.0.0.1, and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let key = KeyPair::generate().expect("there is randomness");
        let mut params = named("Authority of a test", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = params.self_signed(&key).expect("nothing odd in it");
        std::fs::write(folder.path().join("ca.pem"), own.pem()).expect("a new file");
        let issuer = Issuer::new(params, key);
        Authority { folder, issuer }
    }

    /// What others have to trust.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Signs a certificate whose files are called `name`; with less than no days it has expired.
    pub fn issue(&self, name: &str, days: i32) -> Certificate {
        let now = SystemTime::now();
        let away = DAY * days.unsigned_abs();
        let mut params = named(name, &["localhost", "127.0.0.1"]);
        params.not_before = (now - 90 * DAY).into();
        params.not_after = match days {
            0.. => now + away,
            _ => now - away,
        }
        .into();
        let key = KeyPair::generate().expect("there is randomness");
        let signed = params
            .signed_by(&key, &self.issuer)
            .expect("nothing odd in it");
        let file = |ending: &str| self.folder.path().join(format!("{name}.{ending}"));
        let certificate = Certificate {
            cert: file("pem"),
            key: file("key"),
        };
        std::fs::write(&certificate.cert, signed.pem()).expect("a new file");
        std::fs::write(&certificate.key, key.serialize_pem()).expect("a new file");
        certificate
    }
}

fn named(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("names and addresses");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Certificate {
    /// Puts these in the place of others, one after the other as a renewal does.
    pub fn replace(&self, others: &Certificate) {
        for (new, old) in [(&self.cert, &others.cert), (&self.key, &others.key)] {
            let beside = old.with_extension("new");
            std::fs::copy(new, &beside).expect("a new file");
            std::fs::rename(&beside, old).expect("in the same folder");
        }
    }

    /// As a section of the configuration.
    pub fn yaml(&self) -> String {
        let (cert, key) = (self.cert.display(), self.key.display());
        format!("tls: {{ cert: \"{cert}\", key: \"{key}\" }}\n")
    }
}
