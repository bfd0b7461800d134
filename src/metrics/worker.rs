//! What one worker counts, for whoever scrapes its port.

use super::register::Register;
use super::{new_registry, text_of};
use http::StatusCode;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};
use std::sync::Arc;

/// The counters and gauges of one worker, on a registry of their own.
pub struct WorkerMetrics {
    registry: Registry,
    gateway_answers: IntCounterVec,
    browsers: IntGauge,
    sessions: IntGauge,
}

impl WorkerMetrics {
    /// A fresh set.
    pub fn new() -> Arc<WorkerMetrics> {
        let registry = new_registry();
        let put = Register(&registry);
        let gateway_answers = put.counters(
            "worker_answers_total",
            "What the worker's port has answered, by status; 101 is a session.",
            &["status"],
        );
        let browsers = put.gauge(
            "worker_browsers",
            "Browsers that are up, old ones included.",
        );
        let sessions = put.gauge("worker_sessions", "Sessions on them.");
        gateway_answers.with_label_values(&["101"]);
        Arc::new(WorkerMetrics {
            gateway_answers,
            browsers,
            sessions,
            registry,
        })
    }

    /// Answers of the worker's port with this status.
    pub fn gateway_answers(&self, status: StatusCode) -> IntCounter {
        self.gateway_answers.with_label_values(&[status.as_str()])
    }

    /// Everything in Prometheus' text format, with the numbers of the moment.
    pub fn text(&self, browsers: usize, sessions: usize) -> Vec<u8> {
        self.browsers.set(browsers as i64);
        self.sessions.set(sessions as i64);
        text_of(&self.registry)
    }
}
