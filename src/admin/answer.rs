//! What the admin port answers: JSON, the errors, and what a page may do with it.

use crate::proxy::refusal::error_json;
use http::StatusCode;

pub(super) const HTML: &str = "text/html; charset=utf-8";

/// Status, content type and body.
pub(super) type Answer = (StatusCode, &'static str, Vec<u8>);

/// Why nothing can be done with the session that an operator names.
pub(super) enum NoSession {
    /// No session has such an id.
    Malformed,
    NotOpen,
    /// It may be open at a proxy that could not be asked.
    Unknown(String),
}

impl NoSession {
    pub(super) fn answer(&self) -> Answer {
        match self {
            NoSession::Malformed => error(
                StatusCode::BAD_REQUEST,
                "bad_request",
                "A session id is 16 hexadecimal digits; GET /v1/sessions lists them.",
            ),
            NoSession::NotOpen => error(
                StatusCode::NOT_FOUND,
                "no_such_session",
                "No such session is open; GET /v1/sessions lists them.",
            ),
            NoSession::Unknown(why) => error(
                StatusCode::SERVICE_UNAVAILABLE,
                "not_confirmed",
                &format!("Not open here, and other proxies could not all be asked: {why}."),
            ),
        }
    }
}

/// The page may run its own script and ask its own port, and nothing else; JSON may do nothing.
pub(super) fn content_security_policy(content_type: &str, nonce: &str) -> String {
    let page = match content_type {
        HTML => format!(
            "script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; "
        ),
        _ => String::new(),
    };
    format!("default-src 'none'; {page}base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
}

pub(super) fn json(value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => (StatusCode::OK, "application/json", body),
        Err(why) => {
            let message = format!("The answer cannot be written: {why}.");
            error(StatusCode::INTERNAL_SERVER_ERROR, "internal", &message)
        }
    }
}

pub(super) fn error(status: StatusCode, code: &str, message: &str) -> Answer {
    (
        status,
        "application/json",
        error_json(code, message).to_vec(),
    )
}
