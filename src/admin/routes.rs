//! The admin port's paths. Pure, so that any path can be thrown at it.

use crate::model::PoolFilter;
use http::{Method, StatusCode};
use percent_encoding::percent_decode_str;

/// What a request is for.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    Dashboard,
    Metrics,
    Healthz,
    Readyz,
    Workers,
    Sessions,
    Capacity,
    Events,
    History,
    Config,
    DrainWorker(String),
    KillSession(String),
    LiveView(String),
}

/// Why a request is for nothing.
#[derive(Debug, PartialEq, Eq)]
pub enum Miss {
    NotFound,
    MethodNotAllowed,
}

impl Route {
    /// Health is for whoever asks; everything else wants the token, if there is one. The dashboard
    /// itself holds nothing: it asks the API.
    pub fn needs_token(&self) -> bool {
        !matches!(self, Route::Healthz | Route::Readyz | Route::Dashboard)
    }

    /// Whether it changes something, beyond being asked.
    pub fn acts(&self) -> bool {
        matches!(self, Route::DrainWorker(_) | Route::KillSession(_))
    }
}

impl Miss {
    /// Status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Miss::NotFound => StatusCode::NOT_FOUND,
            Miss::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// Code in the answer's JSON.
    pub fn code(&self) -> &'static str {
        match self {
            Miss::NotFound => "not_found",
            Miss::MethodNotAllowed => "method_not_allowed",
        }
    }

    /// What the answer says, for people.
    pub fn message(&self) -> &'static str {
        match self {
            Miss::NotFound => {
                "There is nothing at this path. Try /v1/workers, /v1/sessions, /v1/capacity, \
                 /v1/events, /v1/history, /v1/config, /metrics, /healthz or /readyz."
            }
            Miss::MethodNotAllowed => "This path does not answer this method.",
        }
    }
}

/// The pools that the query `pool=…` names; `None` for all.
///
/// # Errors
/// When it names none that could be.
pub fn pool(query: Option<&str>) -> Result<Option<PoolFilter>, ()> {
    let pairs = query.unwrap_or_default().split('&');
    let named = pairs.filter_map(|pair| pair.strip_prefix("pool=")).next();
    let decode = |text| percent_decode_str(text).decode_utf8_lossy().parse();
    named.map(decode).transpose()
}

/// Finds what a request is for.
pub fn route(method: &Method, path: &str) -> Result<Route, Miss> {
    let reading = matches!(*method, Method::GET | Method::HEAD);
    let read = |route: Route| {
        if reading {
            Ok(route)
        } else {
            Err(Miss::MethodNotAllowed)
        }
    };
    let decoded = |id: &str| percent_decode_str(id).decode_utf8_lossy().into_owned();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match parts.as_slice() {
        [""] => read(Route::Dashboard),
        ["metrics"] => read(Route::Metrics),
        ["healthz"] => read(Route::Healthz),
        ["readyz"] => read(Route::Readyz),
        ["v1", "workers"] => read(Route::Workers),
        ["v1", "sessions"] => read(Route::Sessions),
        ["v1", "capacity"] => read(Route::Capacity),
        ["v1", "events"] => read(Route::Events),
        ["v1", "history"] => read(Route::History),
        ["v1", "config"] => read(Route::Config),
        ["v1", "workers", id, "drain"] if *method == Method::POST => {
            Ok(Route::DrainWorker(decoded(id)))
        }
        ["v1", "sessions", id] if *method == Method::DELETE => Ok(Route::KillSession(decoded(id))),
        ["v1", "sessions", id, "live"] if *method == Method::GET => {
            Ok(Route::LiveView(decoded(id)))
        }
        ["v1", "workers", _, "drain"] | ["v1", "sessions", _] | ["v1", "sessions", _, "live"] => {
            Err(Miss::MethodNotAllowed)
        }
        _ => Err(Miss::NotFound),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_are_decoded_and_methods_checked() {
        let drain = route(&Method::POST, "/v1/workers/chromium%3Aab/drain");
        assert_eq!(drain, Ok(Route::DrainWorker("chromium:ab".into())));
        assert_eq!(
            route(&Method::GET, "/v1/workers/x/drain"),
            Err(Miss::MethodNotAllowed)
        );
        assert_eq!(
            route(&Method::DELETE, "/v1/sessions/0123456789abcdef"),
            Ok(Route::KillSession("0123456789abcdef".into()))
        );
        assert_eq!(
            route(&Method::POST, "/v1/workers"),
            Err(Miss::MethodNotAllowed)
        );
        assert_eq!(route(&Method::GET, "/v1"), Err(Miss::NotFound));
    }

    #[test]
    fn a_query_names_a_pool_or_none() {
        assert_eq!(pool(None), Ok(None));
        assert_eq!(pool(Some("a=b")), Ok(None));
        let named = pool(Some("a=b&pool=chromium%2F1.65%2Fshared"));
        assert_eq!(named, Ok("chromium/1.65/shared".parse().ok()));
        assert_eq!(pool(Some("pool=netscape")), Err(()));
    }

    proptest! {
        #[test]
        fn any_path_has_an_answer(path in ".*") {
            let _ = route(&Method::GET, &path);
            let _ = route(&Method::DELETE, &format!("/v1/sessions/{path}"));
        }
    }
}
