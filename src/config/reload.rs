//! Reloads: notices that a file changed or that somebody asked, loads everything again, and puts
//! what is hot into force. A configuration with a mistake changes nothing.
//!
//! The files are looked at, not watched: that works with editors that replace a file, with
//! Kubernetes' swapped links and on every file system. No open session is touched from here.
//!
//! A file that is still being written is not taken for finished, for its beginning may be valid by
//! itself. Nobody must have it open for writing, as far as the kernel tells ([`writers`]), and it
//! must have been still for a moment. Where the kernel does not tell, or a generator opens a file
//! more than once, a beginning could still be taken; so the one change that lets everybody in, no
//! tokens where there were some, has to stand for longer, unless it came with a new file in the old
//! one's place, which is written to its end, or somebody asked for it.

mod status;

pub use status::{Change, Outcome, ReloadStatus};

use super::load::{Fingerprints, Loaded, Purpose, Sources, fingerprints};
use super::model::KEYS;
use super::relations;
use super::{Config, LiveConfig};
use crate::model::unix_millis;
use crate::settings::{ConfigErrors, Masking, Origin, Problems, writers};
use arc_swap::ArcSwap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

/// How often the files are looked at: with [`SETTLE`] well within the promised second.
const POLL: Duration = Duration::from_millis(300);
/// A file that has not changed for this long is written to its end.
const SETTLE: Duration = Duration::from_millis(200);
/// A file that was written in place and lets everybody in is taken when it has not changed for this
/// long: much longer than between two parts of a generator, and short enough to wait for.
const SETTLE_OPEN: Duration = Duration::from_secs(5);
/// When a file that stays open for writing is worth a line.
const TELL_WRITER: Duration = Duration::from_secs(5);
/// Longest text of a changed value in the log, in characters.
const MAX_SHOWN: usize = 200;

/// Told the outcome of each reload and what is in force after it: the log follows, and a metric
/// counts.
pub type OnReload = Box<dyn Fn(Outcome, &Config) + Send + Sync>;

/// The configuration in force together with what it takes to load it again.
pub struct Reloader {
    sources: Sources,
    live: LiveConfig,
    in_force: Loaded,
    /// The files as the last load read them.
    read: Fingerprints,
    /// Which file it was.
    file_id: Option<(u64, u64)>,
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
            live: Arc::new(ArcSwap::from_pointee(loaded.config.clone())),
            read: loaded.read.clone(),
            file_id: file_id(&sources),
            sources,
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
                } else if self.fingerprints().await == self.read {
                    continue;
                }
                self.reload(by_request, &asked).await;
            }
        };
        tokio::select! {
            () = reloads => {}
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
    }

    /// Reads until two readings agree and nobody writes.
    async fn settled(&self) -> Fingerprints {
        let mut before = self.fingerprints().await;
        let begun = Instant::now();
        let mut told = false;
        loop {
            sleep(SETTLE).await;
            let now = self.fingerprints().await;
            if now == before {
                match self.written().await {
                    None => return now,
                    Some(file) if !told && begun.elapsed() >= TELL_WRITER => {
                        told = true;
                        log::warn!(file:% = file.display();
                            "still open for writing; its content is taken when it is closed");
                    }
                    Some(_) => {}
                }
            }
            before = now;
        }
    }

    /// A file that somebody is writing.
    async fn written(&self) -> Option<PathBuf> {
        let files: Vec<_> = self.read.keys().cloned().collect();
        let look = move || {
            files
                .into_iter()
                .find(|file| writers::is_being_written(file))
        };
        spawn_blocking(look).await.ok().flatten()
    }

    /// Whether the files stay as they are for long enough to let everybody in. Somebody who asks
    /// for it says that they do.
    async fn stays(&self, settled: &Fingerprints, asked: &Notify) -> bool {
        let until = Instant::now() + SETTLE_OPEN;
        while Instant::now() < until {
            let by_request = tokio::time::timeout(SETTLE, asked.notified()).await.is_ok();
            if by_request {
                return true;
            }
            if self.fingerprints().await != *settled {
                return false;
            }
        }
        true
    }

    async fn fingerprints(&self) -> Fingerprints {
        let files: Vec<_> = self.read.keys().cloned().collect();
        let looked = spawn_blocking(move || fingerprints(files)).await;
        // It cannot panic, and is cancelled only with the whole runtime.
        looked.unwrap_or_else(|_| self.read.clone())
    }

    async fn reload(&mut self, by_request: bool, asked: &Notify) {
        let (merged, certificate, mut read, settled, id) = loop {
            let settled = self.settled().await;
            let (sources, piped) = (self.sources.clone(), self.in_force.piped.clone());
            let load = move || {
                let loaded = sources.load_again(piped.as_ref(), Purpose::Reload);
                (loaded, file_id(&sources))
            };
            let Ok(((loaded, read), id)) = spawn_blocking(load).await else {
                return;
            };
            let as_settled = |(file, print)| settled.get(file).is_none_or(|seen| seen == print);
            if !read.iter().all(as_settled) {
                continue;
            }
            let certificate = loaded
                .as_ref()
                .ok()
                .and_then(|it| it.certificate_refused.clone());
            let merged = loaded.and_then(|loaded| merge(&self.in_force, loaded, &self.sources));
            let lets_everybody_in = merged
                .as_ref()
                .is_ok_and(|merged| self.opens(&merged.loaded));
            // Another file in the place of the one that was read last is written to its end.
            let at_once = by_request || !lets_everybody_in || id != self.file_id;
            if at_once || self.stays(&settled, asked).await {
                break (merged, certificate, read, settled, id);
            }
        };
        // The file may name another certificate. The one that is served stays watched.
        let served = self.in_force.config.tls.files();
        for file in served.iter().flat_map(|tls| [&tls.cert, &tls.key]) {
            if let Some(print) = settled.get(file) {
                read.entry(file.clone()).or_insert(*print);
            }
        }
        self.read = read;
        self.file_id = id;
        let outcome = match merged {
            Ok(merged) => self.apply(merged, certificate.as_ref()),
            Err(errors) => self.refuse(&errors),
        };
        (self.on_reload)(outcome, &self.in_force.config);
    }

    /// Whether a configuration gives sessions to everybody, unlike the one in force.
    fn opens(&self, loaded: &Loaded) -> bool {
        !self.in_force.config.auth.tokens.is_empty() && loaded.config.auth.tokens.is_empty()
    }

    fn apply(&mut self, merged: Merged, certificate: Option<&ConfigErrors>) -> Outcome {
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
        if changes.is_empty() {
            log::info!("the configuration was read again; nothing hot is new");
        }
        let outcome = match certificate {
            Some(_) => Outcome::CertificateRefused,
            None if changes.is_empty() => Outcome::Unchanged,
            None => Outcome::Applied,
        };
        let errors = certificate.map_or_else(Vec::new, lines);
        for error in &errors {
            log::error!("{error}; the old certificate stays in force");
        }
        self.live.store(Arc::new(loaded.config.clone()));
        let settings = loaded.settings().into();
        self.in_force = loaded;
        self.status.send_modify(|status| {
            *status = ReloadStatus {
                generation: status.generation + 1,
                at: unix_millis(),
                outcome,
                errors,
                pending_restart,
                settings,
            };
        });
        outcome
    }

    fn refuse(&mut self, errors: &ConfigErrors) -> Outcome {
        let errors = lines(errors);
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
    relations::check(&loaded.config, sources.role, &loaded.origins, &mut problems);
    problems.into_result()?;
    Ok(Merged {
        loaded,
        changes,
        pending_restart,
    })
}

fn lines(errors: &ConfigErrors) -> Vec<String> {
    errors.to_string().lines().map(str::to_owned).collect()
}

/// Device and inode of the file; `None` while there is none.
fn file_id(sources: &Sources) -> Option<(u64, u64)> {
    let about = std::fs::metadata(sources.file.as_ref()?).ok()?;
    Some((about.dev(), about.ino()))
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
