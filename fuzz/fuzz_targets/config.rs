//! The configuration against arbitrary text: it is accepted or told what is wrong with it, the same
//! each time, and what is accepted shows no secret and is what `check` prints.
//!
//! `cargo +nightly fuzz run config -- -max_total_time=300`

#![no_main]

use libfuzzer_sys::fuzz_target;
use playhouse::config::{Environment, Flags, Role, Sources};
use std::io::{Error, ErrorKind};
use std::path::Path;

fuzz_target!(|text: &str| {
    for role in [Role::Proxy, Role::Up, Role::Worker] {
        let sources = Sources {
            role,
            file: Some("playhouse.yaml".into()),
            environment: Environment::default(),
            flags: Flags::default(),
        };
        // Whatever other file it names is not there: nothing of this machine is read.
        let read = |path: &Path| match path.to_str() {
            Some("playhouse.yaml") => Ok(text.to_owned()),
            _ => Err(Error::from(ErrorKind::NotFound)),
        };
        match sources.load_with(&read) {
            Ok(loaded) => {
                let whole = loaded.config.to_yaml();
                let again = |path: &Path| match path.to_str() {
                    Some("playhouse.yaml") => Ok(whole.clone()),
                    _ => Err(Error::from(ErrorKind::NotFound)),
                };
                let again = sources.load_with(&again);
                let again = again.expect("what is in force can be written down and read");
                assert_eq!(again.config.to_yaml(), whole);
            }
            Err(errors) => assert!(!errors.to_string().is_empty()),
        }
    }
});
