//! Reloads: notices that a file changed or that somebody asked, loads everything again, and puts
//! what is hot into force. A configuration with a mistake changes nothing.
//!
//! The files are looked at, not watched: that works with editors that replace a file, with
//! Kubernetes' swapped links and on every file system. No open session is touched from here.

use super::LiveConfig;
use super::form::Masking;
use super::keys::KEYS;
use super::load::{Fingerprints, Loaded, Setting, Sources, fingerprints};
use super::problems::{ConfigErrors, Origin, Problems};
use super::relations;
use crate::logging;
use crate::model::unix_millis;
use arc_swap::ArcSwap;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// How often the files are looked at: with [`SETTLE`] well within the promised second.
const POLL: Duration = Duration::from_millis(300);
/// A file that has not changed for this long is written to its end.
const SETTLE: Duration = Duration::from_millis(200);
/// Longest text of a changed value in the log, in characters.
const MAX_SHOWN: usize = 200;

/// One key whose value is new. Secrets are masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: &'static str,
    pub from: String,
    pub to: String,
}

/// What the last load came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The one at start; no reload so far.
    Started,
    /// What is hot in it is in force.
    Applied,
    /// It is what was in force already, as far as it is hot.
    Unchanged,
    /// It has mistakes; what was in force still is.
    Invalid,
}

impl Outcome {
    /// The value of the metric's `result` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Started => "started",
            Outcome::Applied => "applied",
            Outcome::Unchanged => "unchanged",
            Outcome::Invalid => "invalid",
        }
    }
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
    /// The mistakes of the last load, one each; empty unless it was invalid.
    pub errors: Vec<String>,
    /// Restart-only keys whose value in the file is not the one in force.
    pub pending_restart: Vec<&'static str>,
    /// Every key as it is in force, secrets masked.
    pub settings: Arc<[Setting]>,
}

/// Told the outcome of each reload, for the metric that counts them.
pub type OnReload = Box<dyn Fn(Outcome) + Send + Sync>;

/// The configuration in force together with what it takes to load it again.
pub struct Reloader {
    sources: Sources,
    live: LiveConfig,
    in_force: Loaded,
    /// The files as the last load read them.
    read: Fingerprints,
    status: watch::Sender<ReloadStatus>,
    on_reload: OnReload,
}

impl Reloader {
    /// Takes over what was loaded at start.
    pub fn new(sources: Sources, loaded: Loaded, on_reload: OnReload) -> Reloader {
        let status = ReloadStatus {
            generation: 0,
            at: unix_millis(),
            outcome: Outcome::Started,
            errors: Vec::new(),
            pending_restart: Vec::new(),
            settings: loaded.settings().into(),
        };
        Reloader {
            sources,
            live: Arc::new(ArcSwap::from_pointee(loaded.config.clone())),
            read: loaded.read.clone(),
            in_force: loaded,
            status: watch::Sender::new(status),
            on_reload,
        }
    }

    /// The configuration in force, which this changes.
    pub fn live(&self) -> LiveConfig {
        Arc::clone(&self.live)
    }

    /// What came of the last load; wakes at each.
    pub fn status(&self) -> watch::Receiver<ReloadStatus> {
        self.status.subscribe()
    }

    /// Reloads when a file changes and when `asked` (SIGHUP) is notified, until `shutdown` turns
    /// true or its sender is gone.
    pub async fn run(mut self, asked: Arc<Notify>, mut shutdown: watch::Receiver<bool>) {
        let reloads = async {
            loop {
                let by_request = tokio::select! {
                    () = asked.notified() => true,
                    () = sleep(POLL) => false,
                };
                if by_request {
                    log::info!("asked to reload the configuration");
                } else if self.look().await == self.read {
                    continue;
                }
                self.reload().await;
            }
        };
        tokio::select! {
            () = reloads => {}
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
    }

    /// Looks until two looks agree: what somebody is writing may by chance be valid, without its
    /// tokens for example.
    async fn settled(&self) -> Fingerprints {
        let mut before = self.look().await;
        loop {
            sleep(SETTLE).await;
            let now = self.look().await;
            if now == before {
                return now;
            }
            before = now;
        }
    }

    async fn look(&self) -> Fingerprints {
        let files: Vec<_> = self.read.keys().cloned().collect();
        let looked = spawn_blocking(move || fingerprints(files)).await;
        // It cannot panic, and is cancelled only with the whole runtime.
        looked.unwrap_or_else(|_| self.read.clone())
    }

    async fn reload(&mut self) {
        let (loaded, mut read, settled) = loop {
            let settled = self.settled().await;
            let sources = self.sources.clone();
            let Ok((loaded, read)) = spawn_blocking(move || sources.load_fingerprinted()).await
            else {
                return;
            };
            let as_settled = |(file, print)| settled.get(file).is_none_or(|seen| seen == print);
            if read.iter().all(as_settled) {
                break (loaded, read, settled);
            }
        };
        // The file may name another certificate by now. The one that is served stays watched.
        let served = self.in_force.config.tls.iter();
        for file in served.flat_map(|tls| [&tls.cert, &tls.key]) {
            if let Some(print) = settled.get(file) {
                read.entry(file.clone()).or_insert(*print);
            }
        }
        self.read = read;
        let merged = loaded.and_then(|loaded| merge(&self.in_force, loaded, &self.sources));
        let outcome = match merged {
            Ok(merged) => self.apply(merged),
            Err(errors) => self.refuse(&errors),
        };
        (self.on_reload)(outcome);
    }

    fn apply(&mut self, merged: Merged) -> Outcome {
        let Merged {
            loaded,
            changes,
            pending_restart,
        } = merged;
        for Change { key, from, to } in &changes {
            log::info!(key, from = shown(from), to = shown(to); "configuration changed");
        }
        if !pending_restart.is_empty() && pending_restart != self.status.borrow().pending_restart {
            let keys = pending_restart.join(", ");
            log::warn!(keys = keys.as_str(); "these keys changed and take effect at the next start only");
        }
        let outcome = if changes.is_empty() {
            log::info!("the configuration was read again; nothing hot is new");
            Outcome::Unchanged
        } else {
            Outcome::Applied
        };
        if loaded.config.log != self.in_force.config.log {
            logging::init(&loaded.config.log);
        }
        self.live.store(Arc::new(loaded.config.clone()));
        let settings = loaded.settings().into();
        self.in_force = loaded;
        self.status.send_modify(|status| {
            *status = ReloadStatus {
                generation: status.generation + 1,
                at: unix_millis(),
                outcome,
                errors: Vec::new(),
                pending_restart,
                settings,
            };
        });
        outcome
    }

    fn refuse(&mut self, errors: &ConfigErrors) -> Outcome {
        let errors: Vec<_> = errors.to_string().lines().map(str::to_owned).collect();
        log::error!(mistakes = errors.len(); "the configuration has mistakes and changes nothing");
        for error in &errors {
            log::error!("{error}");
        }
        self.status.send_modify(|status| {
            status.at = unix_millis();
            status.outcome = Outcome::Invalid;
            status.errors = errors;
        });
        Outcome::Invalid
    }
}

/// What a valid load comes to in a process that runs.
struct Merged {
    /// To be in force: new where it is hot, as before where it is not.
    loaded: Loaded,
    changes: Vec<Change>,
    pending_restart: Vec<&'static str>,
}

/// Keeps what only a restart may change, and says what is new in the rest.
///
/// # Errors
/// When the mixture of new and old values breaks a relation that each of the two keeps, and when
/// the file is empty: that is what a file looks like between being opened and being written, and
/// a grid must not lose its tokens to it.
fn merge(in_force: &Loaded, mut loaded: Loaded, sources: &Sources) -> Result<Merged, ConfigErrors> {
    let mut problems = Problems::default();
    if loaded.file_is_empty && !in_force.file_is_empty {
        let file = sources.file.iter().map(|file| file.display().to_string());
        let message = format!(
            "{} is empty; write {{}} for all defaults",
            file.collect::<String>()
        );
        problems.add(Origin::Default, "", message);
    }
    let mut changes = Vec::new();
    let mut pending_restart = Vec::new();
    for (index, key) in KEYS.iter().enumerate() {
        if key.same(&in_force.config, &loaded.config) {
            continue;
        }
        if key.hot {
            changes.push(Change {
                key: key.path,
                from: key.show(&in_force.config, Masking::Masked),
                to: key.show(&loaded.config, Masking::Masked),
            });
        } else {
            pending_restart.push(key.path);
            key.copy(&in_force.config, &mut loaded.config);
            loaded.origins[index] = in_force.origins[index].clone();
        }
    }
    relations::settle(&mut loaded.config);
    relations::check(&loaded.config, sources.role, &loaded.origins, &mut problems);
    problems.into_result()?;
    Ok(Merged {
        loaded,
        changes,
        pending_restart,
    })
}

/// A value for one line of the log.
fn shown(value: &str) -> String {
    match value.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests;
