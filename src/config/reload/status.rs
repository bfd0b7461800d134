//! What a reload came to, for the admin API and for those who react to a change.

use crate::config::load::Setting;
use crate::model::words;
use serde::Serialize;
use std::sync::Arc;

/// One key whose value is new. Secrets are masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: &'static str,
    pub from: String,
    pub to: String,
}

words! {
    /// What the last load came to, also as the metric's label `result`.
    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Outcome ("outcome") {
        /// The one at start; no reload so far.
        Started = "started",
        /// What is hot in it is in force.
        Applied = "applied",
        /// It is what was in force already, as far as it is hot.
        Unchanged = "unchanged",
        /// It has mistakes; what was in force still is.
        Invalid = "invalid",
        /// All of it is in force but the certificate, which cannot be served; the old one still is.
        CertificateRefused = "certificate_refused",
    }
}

impl Outcome {
    /// What a reload can come to.
    pub const OF_RELOADS: [Outcome; 4] = [
        Outcome::Applied,
        Outcome::Unchanged,
        Outcome::Invalid,
        Outcome::CertificateRefused,
    ];
}

/// The state of the configuration, for the admin API and for those who react to a change.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReloadStatus {
    /// Rises with every valid load, also when only a certificate's file is new.
    pub generation: u64,
    /// When the last load ended, in milliseconds since the epoch.
    pub at: u64,
    pub outcome: Outcome,
    /// The mistakes of the last load, one each; empty unless something was refused.
    pub errors: Vec<String>,
    /// Restart-only keys whose value in the file is not the one in force.
    pub pending_restart: Vec<&'static str>,
    /// Every key as it is in force, secrets masked.
    pub settings: Arc<[Setting]>,
}
