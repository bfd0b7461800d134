//! Where the process listens, and TLS.

use super::auth::digest;
use crate::config::Role;
use crate::model::words;
use crate::settings::forms::{boolean, choice, optional, path, scalar, yaml_text};
use crate::settings::{Form, section};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Beside the data port.
const ADMIN_PORT: u16 = 8081;

section! {
    /// The admin port.
    pub struct Admin: "admin" (_role: Role)

    /// Admin port. Other than loopback only with a token.
    // Loopback, because it can end sessions.
    listen: SocketAddr = (Ipv4Addr::LOCALHOST, ADMIN_PORT).into(), address(), .env(&["ADMIN_ADDR"]);

    /// SHA-256 of the token that the admin port asks for.
    token_sha256: Option<[u8; 32]> = None, optional("none", digest()), .secret();

    /// Lets operators with the admin token see what a session's pages show (GET
    /// /v1/sessions/{id}/live, and the dashboard). Each look is a line in the log.
    // Off, because pages show what is nobody else's business.
    live_view: bool = false, boolean();

    /// Allows an address other than loopback without a token.
    allow_unprotected: bool = false, boolean();
}

section! {
    /// TLS on both ports, when there is a certificate.
    pub struct Tls: "tls" (_role: Role)

    /// Certificate chain, PEM. With it both ports speak TLS only. The file is read again when it
    /// changes.
    cert: Option<PathBuf> = None, file();

    /// Private key of the certificate, PEM.
    key: Option<PathBuf> = None, file();

    /// Oldest version of TLS that is spoken.
    // What every client of the last ten years speaks.
    min_version: TlsVersion = TlsVersion::V1_2, choice(TlsVersion::WORDS);
}

/// What TLS is served with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub min_version: TlsVersion,
}

impl Tls {
    /// What TLS is served with; `None` without a certificate.
    pub fn files(&self) -> Option<TlsFiles> {
        Some(TlsFiles {
            cert: self.cert.clone()?,
            key: self.key.clone()?,
            min_version: self.min_version,
        })
    }
}

words! {
    /// The oldest version of TLS that is spoken.
    pub enum TlsVersion ("version") {
        V1_2 = "1.2",
        V1_3 = "1.3",
    }
}
fn file() -> Form<Option<PathBuf>> {
    optional("none", path("the path of a file"))
}

/// `host:port`; without a host all addresses, as Go's programs have it.
pub fn address() -> Form<SocketAddr> {
    scalar(
        "an address with a port such as 127.0.0.1:8080, [::1]:8080 or localhost:8080",
        |text, _| match text.split_once(':') {
            Some(("localhost", port)) => Some(([127, 0, 0, 1], port.parse().ok()?).into()),
            Some(("", port)) if !port.contains(':') => Some(([0; 4], port.parse().ok()?).into()),
            _ => text.parse().ok(),
        },
        |address: &SocketAddr, _| match address {
            SocketAddr::V4(_) => address.to_string(),
            SocketAddr::V6(_) => yaml_text(&address.to_string()),
        },
    )
}
