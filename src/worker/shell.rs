//! Carries out what the life cycle decides: tasks for servers and their entries in the store, and
//! word to whoever watches.

use super::agent::Shared;
use super::gateway::Connections;
use super::lifecycle::{Generation, Input, Lifecycle, Output};
use super::machine::MemoryClaim;
use super::progress::Progress;
use super::registration::{Desired, DesiredStatus, Registrar, Registration};
use super::rules::rules;
use super::supervision::{DesiredServer, Supervision, Up};
use crate::model::{WorkerId, WorkerKey, WorkerRecord, WorkerStatus, unix_millis};
use crate::store::{Event, Store};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};

/// A generation as the shell knows it.
struct GenerationHandles {
    key: WorkerKey,
    server: watch::Sender<DesiredServer>,
    /// Set once it is up.
    up: Option<Up>,
    /// Set once it is to have a record in the store.
    desired: Option<watch::Sender<Desired>>,
    /// Has its browser looked at at once.
    check_now: Arc<Notify>,
    /// The memory that is kept for it until it serves.
    claim: Option<MemoryClaim>,
}

/// See the module's description. Dropping it ends its tasks, and with them the servers.
pub struct Shell {
    shared: Arc<Shared>,
    registrar: Arc<Registrar>,
    lifecycle: Lifecycle,
    start_over: bool,
    lives: HashMap<Generation, GenerationHandles>,
    /// The tasks that own the servers; each says at its end why.
    pub servers: JoinSet<String>,
    /// Whose task is whose.
    generations: HashMap<Id, Generation>,
    /// The tasks that keep the entries in the store.
    pub entries: JoinSet<()>,
    ups: mpsc::Sender<Up>,
    /// Every server is gone, and nothing is left to decide.
    pub finished: bool,
}

impl Shell {
    /// A shell without generations; the first tick starts one.
    pub fn new(
        shared: Arc<Shared>,
        store: Arc<dyn Store>,
        start_over: bool,
        ups: mpsc::Sender<Up>,
    ) -> Shell {
        let registrar = Registrar::new(Arc::clone(&shared.config), store, shared.inputs.clone());
        Shell {
            shared,
            registrar: Arc::new(registrar),
            lifecycle: Lifecycle::default(),
            start_over,
            lives: HashMap::new(),
            servers: JoinSet::new(),
            generations: HashMap::new(),
            entries: JoinSet::new(),
            ups,
            finished: false,
        }
    }

    /// Takes in what happened, and does what follows from it.
    pub fn take_in(&mut self, input: Input) {
        let config = self.shared.config.load();
        let machine = Arc::clone(&self.shared.machine);
        let mut claims = Vec::new();
        let outputs = {
            // What is found to be free is still free when it is claimed.
            let mut budget = machine.budget();
            let rules = rules(&config, self.start_over, budget.room());
            let outputs = self.lifecycle.step(Instant::now(), input, &rules);
            for output in &outputs {
                if let Output::Spawn { memory, .. } = output {
                    claims.push(machine.claim(&mut budget, *memory));
                }
            }
            outputs
        };
        for output in outputs {
            self.carry_out(output, &mut claims);
        }
    }

    /// Looks whether the kernel has ended processes for want of memory.
    pub fn note_oom_kills(&mut self) {
        let (kills, cause) = {
            let mut budget = self.shared.machine.budget();
            (budget.take_oom_kills(), budget.oom_cause())
        };
        if kills > 0 {
            log::error!(processes = kills; "the kernel ended pages or browsers, {cause}");
            let registrar = Arc::clone(&self.registrar);
            self.entries
                .spawn(async move { registrar.count_oom_kills(kills).await });
        }
    }

    /// A server is up.
    pub fn up(&mut self, up: Up) {
        let generation = up.generation;
        let took = up.took;
        if let Some(life) = self.lives.get_mut(&generation) {
            life.up = Some(up);
            self.take_in(Input::Answered { generation, took });
        }
    }

    /// The task of a server has ended, and with it the server.
    pub fn server_ended(&mut self, ended: Result<(Id, String), JoinError>) {
        let (task, why) = match ended {
            Ok(ended) => ended,
            Err(error) => (error.id(), format!("its supervision failed: {error}")),
        };
        if let Some(generation) = self.generations.remove(&task) {
            self.take_in(Input::Exited(generation, why));
            self.lives.remove(&generation);
        }
    }

    /// The store tells something; `None`: some of it was missed.
    pub fn event(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Counts(key, counts)) => {
                if let Some(generation) = self.generation_of(&key) {
                    self.take_in(Input::Counts(generation, counts));
                }
            }
            // A heartbeat tells the order together with the counts that explain it, and registers
            // again who is still there.
            Some(Event::Recycle(key) | Event::Gone(key)) => {
                if let Some(generation) = self.generation_of(&key) {
                    self.request_heartbeat(generation);
                }
            }
            Some(Event::Suspect(key)) => {
                let life = self.generation_of(&key).and_then(|it| self.lives.get(&it));
                if let Some(life) = life {
                    life.check_now.notify_one();
                }
            }
            Some(Event::Worker(_) | Event::Reachable(false)) => {}
            Some(Event::Resync | Event::Reachable(true)) | None => {
                let all: Vec<Generation> = self.lives.keys().copied().collect();
                all.into_iter()
                    .for_each(|generation| self.request_heartbeat(generation));
            }
        }
    }

    fn generation_of(&self, key: &WorkerKey) -> Option<Generation> {
        let found = self.lives.iter().find(|(_, life)| life.key == *key);
        found.map(|(generation, _)| *generation)
    }

    fn request_heartbeat(&self, generation: Generation) {
        self.set_desired(generation, |desired| desired.heartbeats_requested += 1);
    }

    fn carry_out(&mut self, output: Output, claims: &mut Vec<MemoryClaim>) {
        match output {
            Output::Spawn {
                generation,
                at_once,
                ..
            } => self.spawn(generation, at_once, claims.pop()),
            Output::Register(generation) => self.register(generation),
            Output::SetStatus(generation, status) => self.set_status(generation, status),
            Output::Suspend(generation, suspended) => {
                self.set_desired(generation, |desired| desired.suspended = suspended);
            }
            Output::Evict(generation, why) => self.evict(generation, why),
            Output::NoRoom { needed, room } => log::warn!(
                needed_mib = needed >> 20, free_mib = room.free >> 20, limit_mib = room.limit >> 20;
                "a replacement does not fit into memory beside the browsers that are there: waiting \
                 for sessions to end, and ending the old browser first where that does not help"
            ),
            Output::Deregister(generation) => self.set_desired(generation, |desired| {
                desired.status = DesiredStatus::Unregistered;
            }),
            Output::Stop { generation, now } => self.stop(generation, now),
            Output::RequestRecyclePermit(generation) => {
                self.set_desired(generation, |desired| desired.wants_recycle_permit = true);
            }
            Output::Ready(generation) => self.report_ready(generation),
            Output::Recycling(generation, reason) => {
                self.set_desired(generation, |desired| desired.recycled = Some(reason));
                self.observe(generation, |id| Progress::Recycling { id, reason });
            }
            Output::Crashed {
                generation,
                why,
                retry_in,
            } => self.report_crash(generation, why, retry_in),
            Output::Drained {
                generation,
                evicted,
            } => self.observe(generation, |id| Progress::Drained { id, evicted }),
            Output::Finished => self.finished = true,
        }
    }

    fn set_status(&self, generation: Generation, status: WorkerStatus) {
        if status == WorkerStatus::Draining {
            if self.shutting_down() {
                self.observe(generation, |id| Progress::Draining { id });
            }
            self.set_desired_server(generation, DesiredServer::Drain);
        }
        self.set_desired(generation, |desired| {
            desired.status = DesiredStatus::Registered(status);
        });
    }

    fn evict(&self, generation: Generation, why: Option<String>) {
        if let Some(connections) = self.connections(generation) {
            connections.close(why.as_deref());
        }
        if let Some(why) = why.clone() {
            self.observe(generation, |id| Progress::Condemned { id, why });
        }
        self.set_desired(generation, |desired| {
            desired.status = DesiredStatus::Registered(WorkerStatus::ShuttingDown);
            desired.end_reason = why;
        });
    }

    fn stop(&self, generation: Generation, now: bool) {
        if let Some(connections) = self.connections(generation) {
            connections.end();
        }
        let desired = match now {
            true => DesiredServer::StopNow,
            false => DesiredServer::StopGracefully,
        };
        self.set_desired_server(generation, desired);
    }

    fn spawn(&mut self, generation: Generation, at_once: bool, claim: Option<MemoryClaim>) {
        let id = format!("{:016x}", rand::random::<u64>());
        let key = WorkerKey::new(self.shared.toolchain.browser, id);
        let (server, desired) = watch::channel(DesiredServer::Serve);
        let check_now = Arc::new(Notify::new());
        let supervision = Supervision {
            shared: Arc::clone(&self.shared),
            generation,
            at_once,
            check_now: Arc::clone(&check_now),
            key: key.clone(),
            store: self.registrar.store.clone(),
            desired,
            ups: self.ups.clone(),
        };
        let task = self.servers.spawn(supervision.run());
        self.generations.insert(task.id(), generation);
        let life = GenerationHandles {
            key,
            server,
            up: None,
            desired: None,
            check_now,
            claim,
        };
        self.lives.insert(generation, life);
        self.observe(generation, |id| Progress::Starting { id });
    }

    fn register(&mut self, generation: Generation) {
        let Some(life) = self.lives.get_mut(&generation) else {
            return;
        };
        let up = life.up.as_ref().expect("only what is up is registered");
        let now = unix_millis();
        let record = WorkerRecord {
            version: Some(up.toolchain.version),
            browser_version: up.browser_version.clone(),
            devtools: up.devtools.clone(),
            replaces_itself: self.registrar.replaces_itself(),
            seat: self.registrar.config.load().worker.seat,
            size: self.registrar.size(),
            pod: self.registrar.config.load().worker.pod.clone(),
            launch_options: self.registrar.config.load().worker.launch_options(),
            seal: Some(self.shared.seal.to_string()),
            ..WorkerRecord::new(life.key.clone(), up.endpoint.clone(), now)
        };
        let (sender, desired) = watch::channel(Desired {
            status: DesiredStatus::Registered(WorkerStatus::Available),
            heartbeats_requested: 0,
            wants_recycle_permit: false,
            suspended: false,
            end_reason: None,
            recycled: None,
        });
        life.desired = Some(sender);
        let registrar = Arc::clone(&self.registrar);
        let registration = Registration::new(
            registrar,
            generation,
            record,
            up.processes.clone(),
            up.folder.clone(),
            up.connections.clone(),
            desired,
        );
        self.entries.spawn(registration.run());
    }

    /// The sessions of a generation that is up.
    fn connections(&self, generation: Generation) -> Option<&Connections> {
        let up = self.lives.get(&generation)?.up.as_ref()?;
        Some(&up.connections)
    }

    /// What is wanted of its processes.
    fn set_desired_server(&self, generation: Generation, desired: DesiredServer) {
        if let Some(life) = self.lives.get(&generation) {
            life.server
                .send_modify(|server| *server = desired.max(*server));
        }
    }

    /// What is wanted of its entry in the store.
    fn set_desired(&self, generation: Generation, change: impl FnOnce(&mut Desired)) {
        let life = self.lives.get(&generation);
        if let Some(desired) = life.and_then(|life| life.desired.as_ref()) {
            desired.send_modify(change);
        }
    }

    /// The memory that was claimed for its start shows in its processes from here on.
    fn report_ready(&mut self, generation: Generation) {
        let Some(life) = self.lives.get_mut(&generation) else {
            return;
        };
        life.claim = None;
        if let Some(up) = &life.up {
            let authority = up.endpoint.authority();
            let (browser, release) = (up.toolchain.browser, up.toolchain.release.clone());
            let took = up.took;
            self.observe(generation, |id| Progress::Ready {
                id,
                authority,
                browser,
                release,
                took,
            });
        }
    }

    fn report_crash(&self, generation: Generation, why: String, retry_in: Option<Duration>) {
        let life = self.lives.get(&generation);
        let was_up = life.is_some_and(|life| life.up.is_some());
        self.observe(generation, |id| Progress::Crashed {
            id,
            was_up,
            why,
            retry_in,
        });
    }

    fn observe(&self, generation: Generation, progress: impl FnOnce(WorkerId) -> Progress) {
        if let Some(life) = self.lives.get(&generation) {
            let progress = progress(life.key.id.clone());
            progress.log();
            (self.shared.observer)(progress);
        }
    }

    fn shutting_down(&self) -> bool {
        self.lifecycle.is_ending()
    }
}
