//! The admin port's paths against arbitrary ones: each has one answer, and only the two that are
//! meant to change something do.
//!
//! `cargo +nightly fuzz run routes -- -max_total_time=300`

#![no_main]

use http::Method;
use libfuzzer_sys::fuzz_target;

// The module alone: it needs nothing of the crate.
#[allow(dead_code)]
#[path = "../../src/admin/routes.rs"]
mod routes;

fuzz_target!(|path: &str| {
    for method in [Method::GET, Method::HEAD, Method::POST, Method::DELETE, Method::PUT] {
        let found = routes::route(&method, path);
        let acts = found.as_ref().is_ok_and(routes::Route::acts);
        let is_read = matches!(method, Method::GET | Method::HEAD);
        assert!(!(acts && is_read), "{method} {path} changes something");
        if let Ok(route) = found {
            assert!(!acts || route.needs_token(), "{path} acts for strangers");
            assert!(acts || is_read, "{method} {path} is answered");
        }
    }
});
