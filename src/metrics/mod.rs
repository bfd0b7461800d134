//! What is counted, and how it is shown to Prometheus.
//!
//! One registry for a proxy and one for each worker ([`WorkerMetrics`]), made here and passed to whoever counts. Label sets are closed: browsers, states,
//! reasons and worker ids, never a session, a token or a client's address. Gauges that mirror a
//! state (workers, slots, queue) and what the store counts for the whole grid (recycles) are not
//! kept up to date but read when somebody scrapes: see [`Metrics::set_fleet`] and
//! [`Metrics::set_recycles`].

pub mod cache;
mod register;
mod worker;

pub use worker::WorkerMetrics;

use crate::config::Outcome;
use crate::logging;
use crate::model::{Browser, PoolState, RecycleReason, WorkerStatus};
use crate::tunnel::EndReason;
use prometheus::{
    Encoder, Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use register::Register;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Buckets for what should be quick, in seconds: 0.1 ms to 10 s.
const LATENCY_BUCKETS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0,
];
/// Buckets for sessions, in seconds: 100 ms to 4 h.
const SESSION_BUCKETS: [f64; 12] = [
    0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0,
];

/// Everything that is counted.
pub struct Metrics {
    registry: Registry,
    pub sessions_active: IntGaugeVec,
    pub sessions_total: IntCounterVec,
    pub session_duration: Histogram,
    pub phases: Phases,
    pub queue_depth: IntGaugeVec,
    pub queue_wait: Histogram,
    pub rejections: IntCounterVec,
    pub workers: IntGaugeVec,
    pub slots: IntGaugeVec,
    demand: IntGaugeVec,
    pub worker_active: IntGaugeVec,
    pub worker_lifetime: IntGaugeVec,
    recycles: IntCounterVec,
    oom_kills: IntCounter,
    pub dial_failures: IntCounter,
    /// From clients to workers.
    pub bytes_in: IntCounter,
    /// From workers to clients.
    pub bytes_out: IntCounter,
    pub live_views: IntGauge,
    pub live_views_total: IntCounter,
    pub store_up: IntGauge,
    /// Time of the store's reservations.
    pub store_reserve: Histogram,
    pub config_reloads: IntCounterVec,
    /// Connections open on the data port, sessions included.
    pub connections: IntGauge,
    log_dropped: IntCounter,
    start_time: Gauge,
    scraping: Mutex<()>,
}

/// The time of each phase on the way to a session. Looked up here and not by each session.
pub struct Phases {
    pub queue: Histogram,
    pub select: Histogram,
    pub reserve: Histogram,
    pub dial: Histogram,
    pub upgrade: Histogram,
}

/// Notes a time in seconds.
pub trait ObserveTime {
    fn observe_time(&self, took: Duration);
}

impl ObserveTime for Histogram {
    fn observe_time(&self, took: Duration) {
        self.observe(took.as_secs_f64());
    }
}

/// One worker's part of the gauges that are set at a scrape.
pub struct WorkerGauges {
    pub id: String,
    pub browser: Browser,
    pub status: WorkerStatus,
    pub active: u32,
    pub lifetime: u32,
    /// Seats it offers: none unless it takes sessions.
    pub free: u32,
}

impl Metrics {
    /// A fresh set on a registry of its own. `rejections` are the reasons for which clients are
    /// refused, so that each is 0 and not absent.
    pub fn new(rejections: &[&str]) -> Arc<Metrics> {
        let registry = new_registry();
        let put = Register(&registry);
        let phases = put.histograms(
            "connect_duration_seconds",
            "Time to a session, by phase: queue, select, reserve, dial, upgrade.",
            &["phase"],
        );
        let relay_bytes = put.counters(
            "relay_bytes_total",
            "Bytes relayed: in is client to worker, out is worker to client.",
            &["direction"],
        );
        let store_operations = put.histograms(
            "store_operation_duration_seconds",
            "Time of the store's operations.",
            &["op"],
        );
        let metrics = Metrics {
            sessions_active: put.gauges(
                "sessions_active",
                "Open sessions of this proxy.",
                &["browser"],
            ),
            sessions_total: put.counters(
                "sessions_total",
                "Ended sessions, by how they ended.",
                &["browser", "outcome"],
            ),
            session_duration: put.histogram(
                "session_duration_seconds",
                "How long sessions lasted.",
                &SESSION_BUCKETS,
            ),
            phases: Phases {
                queue: phases.with_label_values(&["queue"]),
                select: phases.with_label_values(&["select"]),
                reserve: phases.with_label_values(&["reserve"]),
                dial: phases.with_label_values(&["dial"]),
                upgrade: phases.with_label_values(&["upgrade"]),
            },
            queue_depth: put.gauges("queue_depth", "Clients waiting for a seat.", &["browser"]),
            queue_wait: put.histogram(
                "queue_wait_seconds",
                "How long clients waited that had to wait.",
                &LATENCY_BUCKETS,
            ),
            rejections: put.counters("rejections_total", "Refused clients.", &["reason"]),
            workers: put.gauges("workers", "Known workers.", &["browser", "status"]),
            slots: put.gauges("slots", "Seats of the grid.", &["browser", "state"]),
            demand: put.gauges(
                "demand",
                "Seats in use and clients waiting in the whole grid, the same at every proxy.",
                &["browser", "version", "seat"],
            ),
            worker_active: put.gauges(
                "worker_active_sessions",
                "Open or reserved sessions.",
                &["worker"],
            ),
            worker_lifetime: put.gauges(
                "worker_lifetime_sessions",
                "Sessions ever given to the worker.",
                &["worker"],
            ),
            oom_kills: put.counter(
                "worker_oom_kills_total",
                "Pages and browsers of the whole grid that a kernel ended for want of memory.",
            ),
            recycles: put.counters(
                "worker_recycles_total",
                "Recycled workers of the whole grid, the same at every proxy.",
                &["reason"],
            ),
            dial_failures: put.counter(
                "worker_dial_failures_total",
                "Workers that could not be dialled.",
            ),
            bytes_in: relay_bytes.with_label_values(&["in"]),
            bytes_out: relay_bytes.with_label_values(&["out"]),
            live_views: put.gauge(
                "live_views",
                "Operators that look at a session at this moment.",
            ),
            live_views_total: put.counter(
                "live_views_total",
                "Times that an operator looked at a session.",
            ),
            store_up: put.gauge("store_up", "1 while the store answers."),
            store_reserve: store_operations.with_label_values(&["reserve"]),
            config_reloads: put.counters(
                "config_reloads_total",
                "Reloads of the configuration.",
                &["result"],
            ),
            connections: put.gauge("connections", "Open connections on the data port."),
            log_dropped: put.counter(
                "log_lines_dropped_total",
                "Lines of the log that nobody read in time.",
            ),
            start_time: put.float("start_time_seconds", "When the process started, Unix time."),
            scraping: Mutex::new(()),
            registry,
        };
        metrics.fill(rejections);
        metrics
            .start_time
            .set(crate::model::unix_millis() as f64 / 1000.0);
        Arc::new(metrics)
    }

    /// Makes the series whose labels are known beforehand, so that they are 0 and not absent.
    fn fill(&self, rejections: &[&str]) {
        for browser in Browser::ALL {
            self.sessions_active.with_label_values(&[browser.as_str()]);
            self.queue_depth.with_label_values(&[browser.as_str()]);
            for status in WorkerStatus::ALL {
                self.workers
                    .with_label_values(&[browser.as_str(), status.as_str()]);
            }
            for state in ["used", "free"] {
                self.slots.with_label_values(&[browser.as_str(), state]);
            }
        }
        for browser in Browser::ALL {
            for why in EndReason::ALL {
                self.sessions_total
                    .with_label_values(&[browser.as_str(), why.as_str()]);
            }
        }
        for code in rejections {
            self.rejections.with_label_values(&[code]);
        }
        for reason in RecycleReason::ALL {
            self.recycles.with_label_values(&[reason.as_str()]);
        }
        for outcome in Outcome::OF_RELOADS {
            self.config_reloads.with_label_values(&[outcome.as_str()]);
        }
    }

    /// Sets the gauges that mirror the fleet, and forgets workers that are gone.
    pub fn set_fleet(&self, workers: &[WorkerGauges]) {
        self.worker_active.reset();
        self.worker_lifetime.reset();
        for browser in Browser::ALL {
            let of = || workers.iter().filter(|worker| worker.browser == browser);
            for status in WorkerStatus::ALL {
                let count = of().filter(|worker| worker.status == status).count();
                self.workers
                    .with_label_values(&[browser.as_str(), status.as_str()])
                    .set(count as i64);
            }
            let used: u32 = of().map(|worker| worker.active).sum();
            let free: u32 = of().map(|worker| worker.free).sum();
            let slots = |state, value: u32| {
                self.slots
                    .with_label_values(&[browser.as_str(), state])
                    .set(i64::from(value));
            };
            slots("used", used);
            slots("free", free);
        }
        for worker in workers {
            self.worker_active
                .with_label_values(&[&worker.id])
                .set(i64::from(worker.active));
            self.worker_lifetime
                .with_label_values(&[&worker.id])
                .set(i64::from(worker.lifetime));
        }
    }

    /// Adds what a session has [relayed](crate::tunnel::Traffic::take_unreported), from the client
    /// and from the worker, in bytes.
    pub fn count_relayed(&self, (bytes_in, bytes_out): (u64, u64)) {
        self.bytes_in.inc_by(bytes_in);
        self.bytes_out.inc_by(bytes_out);
    }

    /// Sets the demand of each pool, and forgets pools that are gone.
    pub fn set_demand(&self, pools: &[PoolState]) {
        self.demand.reset();
        for state in pools {
            let pool = &state.pool;
            let version = pool.version_label();
            let demand = i64::try_from(state.demand()).unwrap_or(i64::MAX);
            self.demand
                .with_label_values(&[pool.browser.as_str(), &version, pool.seat.as_str()])
                .set(demand);
        }
    }

    /// Takes over what the store counted. One that came back empty starts anew, as counters may.
    pub fn set_recycles(&self, recycles: &HashMap<RecycleReason, u64>) {
        for reason in RecycleReason::ALL {
            let counter = self.recycles.with_label_values(&[reason.as_str()]);
            let count = recycles.get(&reason).copied().unwrap_or(0);
            catch_up(&counter, count);
        }
    }

    /// The same for processes that were ended for want of memory.
    pub fn set_oom_kills(&self, kills: u64) {
        catch_up(&self.oom_kills, kills);
    }

    /// Everything in Prometheus' text format, version 0.0.4.
    ///
    /// `mirror` sets the gauges that mirror a state. One scrape at a time does so and reads them:
    /// another one in between would see workers that are not there yet.
    pub fn text(&self, mirror: impl FnOnce(&Metrics)) -> Vec<u8> {
        let _one_at_a_time = self
            .scraping
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        mirror(self);
        let dropped = logging::dropped_lines();
        self.log_dropped
            .inc_by(dropped.saturating_sub(self.log_dropped.get()));
        text_of(&self.registry)
    }
}

/// A registry with our prefix, on which the version is.
fn new_registry() -> Registry {
    let registry = Registry::new_custom(Some("playhouse".into()), None)
        .expect("the prefix is a valid metric name");
    let info = Opts::new("build_info", "Always 1; the label tells the version.")
        .const_label("version", env!("CARGO_PKG_VERSION"));
    let info = IntGauge::with_opts(info).expect("valid");
    info.set(1);
    registry.register(Box::new(info)).expect("registered once");
    registry
}

/// Everything on a registry in Prometheus' text format, version 0.0.4.
fn text_of(registry: &Registry) -> Vec<u8> {
    let mut text = Vec::with_capacity(8 * 1024);
    // Writing to memory fails only for an inconsistent family, which `Register` rules out.
    if let Err(error) = TextEncoder::new().encode(&registry.gather(), &mut text) {
        log::error!(error:% = error; "metrics cannot be encoded");
    }
    text
}

/// The content type of [`Metrics::text`].
pub const TEXT_FORMAT: &str = prometheus::TEXT_FORMAT;

/// Brings a counter to what was counted elsewhere.
fn catch_up(counter: &IntCounter, count: u64) {
    if count < counter.get() {
        counter.reset();
    }
    counter.inc_by(count - counter.get());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_promised_family_is_there_from_the_start() {
        let metrics = Metrics::new(&["client_gone"]);
        metrics.rejections.with_label_values(&["queue_full"]).inc();
        metrics
            .sessions_total
            .with_label_values(&["chromium", "client"])
            .inc();
        for count in [5, 9, 2] {
            metrics.set_recycles(&HashMap::from([(RecycleReason::Memory, count)]));
        }
        metrics.store_reserve.observe(0.1);
        let worker = [WorkerGauges {
            id: "w".into(),
            browser: Browser::Chromium,
            status: WorkerStatus::Available,
            active: 2,
            lifetime: 7,
            free: 3,
        }];
        let text = metrics.text(|metrics| metrics.set_fleet(&worker));
        let text = String::from_utf8(text).unwrap();
        for line in [
            "playhouse_sessions_active{browser=\"chromium\"} 0",
            "playhouse_slots{browser=\"chromium\",state=\"free\"} 3",
            "playhouse_worker_lifetime_sessions{worker=\"w\"} 7",
            "playhouse_workers{browser=\"chromium\",status=\"available\"} 1",
            "playhouse_rejections_total{reason=\"queue_full\"} 1",
            "playhouse_worker_recycles_total{reason=\"memory\"} 2",
            "playhouse_worker_recycles_total{reason=\"operator\"} 0",
            "playhouse_rejections_total{reason=\"client_gone\"} 0",
            "playhouse_sessions_total{browser=\"webkit\",outcome=\"killed\"} 0",
            "playhouse_log_lines_dropped_total ",
            "playhouse_store_up 0",
            "playhouse_build_info{version=",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        let text = String::from_utf8(metrics.text(|metrics| metrics.set_fleet(&[]))).unwrap();
        assert!(!text.contains("worker=\"w\""), "gone workers are forgotten");
    }

    /// A table of the families in Prometheus' text: what each is, and its labels.
    fn table(text: &str) -> String {
        let lines: Vec<&str> = text.lines().collect();
        let mut table = "| metric | type | labels | |\n|---|---|---|---|\n".to_owned();
        for (at, line) in lines.iter().enumerate() {
            let Some((name, help)) = line
                .strip_prefix("# HELP ")
                .and_then(|rest| rest.split_once(' '))
                .filter(|(name, _)| name.starts_with("playhouse_"))
            else {
                continue;
            };
            let kind = lines[at + 1].rsplit(' ').next().unwrap();
            let labels = lines[at + 2].split_once('{').map_or("", |(_, rest)| rest);
            let labels: Vec<&str> = labels
                .split("\",")
                .filter_map(|label| Some(label.split_once('=')?.0))
                .filter(|label| *label != "le")
                .collect();
            let labels = labels.join(", ");
            table += &format!("| `{name}` | {kind} | {labels} | {help} |\n");
        }
        table
    }

    /// `PLAYHOUSE_REWRITE=1 cargo test --lib metrics` writes it anew.
    #[test]
    fn the_documents_list_every_metric() {
        let metrics = Metrics::new(&["client_gone"]);
        let worker = [WorkerGauges {
            id: "w".into(),
            browser: Browser::Chromium,
            status: WorkerStatus::Available,
            active: 0,
            lifetime: 0,
            free: 1,
        }];
        let pool = crate::model::Pool {
            browser: Browser::Chromium,
            version: None,
            seat: crate::model::SeatKind::Shared,
        };
        let pools = [PoolState::empty(pool)];
        let text = metrics.text(|metrics| {
            metrics.set_fleet(&worker);
            metrics.set_demand(&pools);
        });
        let proxy = String::from_utf8(text).unwrap();
        let worker = String::from_utf8(WorkerMetrics::new().text(1, 0)).unwrap();
        let whole = format!(
            "# Metrics\n\nProxies tell Prometheus on the admin port (`/metrics`, with the token), and on the data port for who asks \
             with\n`Accept: text/plain`. Families are added, never renamed. What to make of them: \
             [operations](operations.md#watch).\n\n{}\nA worker tells on its own port:\n\n{}",
            table(&proxy),
            table(&worker)
        );
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
        if std::env::var_os("PLAYHOUSE_REWRITE").is_some() {
            std::fs::write(&page, &whole).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&page).unwrap(), whole);
    }

    #[test]
    fn all_scrapers_at_once_see_the_same_series() {
        let metrics = Metrics::new(&[]);
        let workers: Vec<_> = (0..200)
            .map(|n| WorkerGauges {
                id: format!("w{n}"),
                browser: Browser::Chromium,
                status: WorkerStatus::Available,
                active: 1,
                lifetime: 1,
                free: 1,
            })
            .collect();
        let series = || {
            let text = metrics.text(|metrics| metrics.set_fleet(&workers));
            text.iter().filter(|byte| **byte == b'\n').count()
        };
        let whole = series();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..50).for_each(|_| assert_eq!(series(), whole)));
            }
        });
    }
}
