//! A certificate authority of a test's own, and the certificates it signs. Made by `openssl`.

use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

pub struct Authority {
    folder: TempDir,
}

/// A certificate for `localhost` and 127.0.0.1, and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
}

const KIND: [&str; 5] = [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:P-256",
    "-nodes",
];

impl Authority {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = folder.path();
        openssl(at, &["req", "-x509"], |command| {
            command
                .args(KIND)
                .args(["-keyout", "ca.key", "-out", "ca.pem", "-days", "30"])
                .args(["-subj", "/CN=Authority of a test"]);
        });
        Authority { folder }
    }

    /// What others have to trust.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Signs a certificate whose files are called `name`; with less than no days it has expired.
    pub fn issue(&self, name: &str, days: i32) -> Certificate {
        let at = self.folder.path();
        let file = |ending: &str| format!("{name}.{ending}");
        openssl(at, &["req"], |command| {
            command
                .args(KIND)
                .args(["-keyout", &file("key"), "-out", &file("csr")])
                .args(["-subj", &format!("/CN={name}")])
                .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
        });
        openssl(at, &["x509", "-req"], |command| {
            command
                .args(["-in", &file("csr"), "-out", &file("pem")])
                .args(["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"])
                .args(["-copy_extensions", "copy", "-days", &days.to_string()]);
        });
        Certificate {
            cert: at.join(file("pem")),
            key: at.join(file("key")),
        }
    }
}

fn openssl(folder: &Path, words: &[&str], more: impl FnOnce(&mut Command)) {
    let mut command = Command::new("openssl");
    command.current_dir(folder).args(words);
    more(&mut command);
    let output = command.output().expect("openssl is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {words:?}: {errors}");
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
