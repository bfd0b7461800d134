//! What an operator does to a running grid: writes its configuration anew, signals a process, puts
//! a new binary in the place of the old one.

use super::eventually::eventually;
use super::grid::{Grid, Spawned};
use super::machine::free_port;
use super::proxy::Proxy;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::HashSet;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output, Stdio};

impl Grid {
    /// The configuration file of every process.
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("playhouse.yaml")
    }

    /// The grid's own folder, for files that belong to a test.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Replaces the file in one step, as careful editors do.
    pub fn configure(&self, yaml: &str) {
        let new = self.folder.path().join("playhouse.yaml.new");
        std::fs::write(&new, yaml).expect("a new file");
        std::fs::rename(&new, self.config_file()).expect("in the same folder");
    }

    /// Sends a signal to the first process.
    pub fn signal(&self, wanted: Signal) {
        signal(&self.processes[0], wanted);
    }

    /// Leaves the first process so many descriptors beyond those it has open. Returns the limit
    /// there was.
    pub fn limit_descriptors(&self, left: u64) -> u64 {
        let folder = format!("/proc/{}/fd", self.processes[0].child.id());
        let open = std::fs::read_dir(folder).expect("it is running").flatten();
        let open: HashSet<u64> = open
            .filter_map(|it| it.file_name().to_str()?.parse().ok())
            .collect();
        // The kernel gives the lowest number that is free, and none from the limit on.
        let mut free = (0..).filter(|number| !open.contains(number));
        let limit = free.nth(left as usize).expect("there is no end of numbers");
        self.set_descriptor_limit(limit)
    }

    /// Sets how many descriptors the first process may have. Returns the limit there was.
    pub fn set_descriptor_limit(&self, soft: u64) -> u64 {
        let pid = self.processes[0].child.id() as i32;
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: prlimit(2) reads and writes the two structures, which live on this stack.
        let done = unsafe {
            let asked = libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit);
            let new = libc::rlimit {
                rlim_cur: soft,
                ..limit
            };
            asked
                | libc::prlimit(
                    pid,
                    libc::RLIMIT_NOFILE,
                    &raw const new,
                    std::ptr::null_mut(),
                )
        };
        assert_eq!(done, 0, "the process is ours");
        limit.rlim_cur
    }

    pub(super) fn upgrade_socket(&self, n: usize) -> PathBuf {
        self.folder.path().join(format!("upgrade-{n}.sock"))
    }

    /// A new process takes over from the first one, which is left to finish its sessions. Returns
    /// when the new one serves.
    pub async fn upgrade(&mut self) {
        self.upgrade_at(0).await;
    }

    /// The same for one of several proxies, such as `proxy 1`.
    pub async fn upgrade_proxy(&mut self, name: &str) {
        self.upgrade_at(self.position(name)).await;
    }

    /// Starts the process that would take over from the first one, if that were told to hand over.
    pub fn start_successor(&self) -> Aside {
        Aside(self.spawn_successor(0))
    }

    /// The same with other settings.
    pub fn start_successor_with(&self, environment: &[(&str, &str)]) -> Aside {
        let mut command = copy(&self.processes[0].command);
        command.arg("--upgrade").envs(environment.iter().copied());
        Aside(self.spawn(command, "successor aside".to_owned()))
    }

    /// Starts one more process, in the surroundings of the grid, that is not counted as its own.
    pub fn start_aside(&self, role: &str, environment: &[(&str, &str)]) -> Aside {
        let mut command = self.program(role);
        command.envs(environment.iter().copied());
        Aside(self.spawn(command, format!("{role} aside")))
    }

    fn spawn_successor(&self, position: usize) -> Spawned {
        let old = &self.processes[position];
        let mut command = copy(&old.command);
        let upgrades = |argument| argument == "--upgrade";
        if !old.command.get_args().any(upgrades) {
            // It waits to be handed the listeners.
            command.arg("--upgrade");
        }
        self.spawn(command, self.name_of_successor(position))
    }

    /// Kills the processes that were replaced, and waits until they are gone.
    pub fn kill_predecessors(&mut self) {
        for mut old in self.predecessors.drain(..) {
            old.child.kill().expect("it is running");
            old.child.wait().expect("it is ours");
        }
    }

    async fn upgrade_at(&mut self, position: usize) {
        let successor = self.spawn_successor(position);
        signal(&self.processes[position], Signal::SIGQUIT);
        serves(&successor).await;
        self.succeed(position, successor);
    }

    /// How many processes it was started as.
    pub fn processes(&self) -> usize {
        self.processes.len()
    }

    /// Waits until a process such as `worker 0` has ended, cleanly.
    pub async fn ended(&mut self, name: &str) {
        let status = self.died(name).await;
        assert!(status.success(), "{name}");
    }

    /// Waits until this process is gone, and tells how it went.
    pub async fn died(&mut self, name: &str) -> ExitStatus {
        let position = self.position(name);
        let child = &mut self.processes[position].child;
        eventually("the process ends", async || {
            child.try_wait().expect("it is ours")
        })
        .await
    }

    /// Tells a worker process to end, and starts another like it at once. The old one is left to
    /// finish its sessions.
    pub fn restart_worker(&mut self, name: &str) {
        let position = self.position(name);
        let old = &self.processes[position];
        signal(old, Signal::SIGTERM);
        let command = copy(&old.command);
        let successor = self.spawn(command, self.name_of_successor(position));
        self.succeed(position, successor);
    }

    /// One more proxy, with the settings of the first and ports of its own. Returns its number.
    pub fn start_proxy(&mut self) -> usize {
        let n = self.proxies.len();
        let proxy = Proxy {
            data: ([127, 0, 0, 1], free_port()).into(),
            admin: ([127, 0, 0, 1], free_port()).into(),
            ..self.proxies[0].clone()
        };
        let mut command = copy(&self.processes[self.position("proxy 0")].command);
        command
            .env("LISTEN_ADDR", proxy.data.to_string())
            .env("ADMIN_ADDR", proxy.admin.to_string())
            .env("PLAYHOUSE_SERVER_UPGRADE_SOCKET", self.upgrade_socket(n));
        let spawned = self.spawn(command, format!("proxy {n}"));
        self.processes.push(spawned);
        self.proxies.push(proxy);
        n
    }

    /// One more worker, with what the first proxy was told of the store. Returns its name.
    pub fn start_worker(&mut self, environment: &[(&str, &str)]) -> String {
        let is_worker = |it: &&Spawned| it.name.starts_with("worker");
        let name = format!("worker {}", self.processes.iter().filter(is_worker).count());
        let mut command = self.program("worker");
        for (variable, value) in self.processes[self.position("proxy 0")].command.get_envs() {
            command.env(variable, value.expect("none is taken away"));
        }
        for variable in [
            "LISTEN_ADDR",
            "ADMIN_ADDR",
            "PLAYHOUSE_SERVER_UPGRADE_SOCKET",
        ] {
            command.env_remove(variable);
        }
        command.env("PORT", "0").envs(environment.iter().copied());
        let spawned = self.spawn(command, name.clone());
        self.processes.push(spawned);
        name
    }

    /// Sends a signal to one of several processes, such as `proxy 1`.
    pub fn signal_to(&self, name: &str, wanted: Signal) {
        signal(&self.processes[self.position(name)], wanted);
    }

    /// What `playhouse healthcheck` says of one process.
    pub async fn is_healthy(&self, name: &str) -> bool {
        let process = &self.processes[self.position(name)];
        let mut command = self.program("healthcheck");
        command.args(["--pid", &process.child.id().to_string()]);
        let ran = tokio::task::spawn_blocking(move || command.output());
        let output = ran.await.expect("it does not panic");
        output.expect("the binary was built").status.success()
    }

    /// SIGKILL for one of several processes, such as `proxy 1`. Returns when it is gone.
    pub fn kill(&mut self, name: &str) {
        let position = self.position(name);
        let doomed = &mut self.processes[position].child;
        doomed.kill().expect("it is ours");
        doomed.wait().expect("it was not waited for");
    }

    /// Starts a process that was killed once more, as an orchestrator does.
    pub fn start_again(&mut self, name: &str) {
        let position = self.position(name);
        self.processes[position].child.wait().expect("it is ours");
        let command = copy(&self.processes[position].command);
        self.processes[position] = self.spawn(command, name.to_owned());
    }

    /// The same for a proxy, with the same ports. Returns when it serves.
    pub async fn revive(&mut self, name: &str) {
        self.start_again(name);
        serves(&self.processes[self.position(name)]).await;
    }

    fn succeed(&mut self, position: usize, successor: Spawned) {
        let old = std::mem::replace(&mut self.processes[position], successor);
        self.predecessors.push(old);
    }

    /// Where the process that was started under this name is, or the one in its place.
    pub(super) fn position(&self, name: &str) -> usize {
        let position = self.processes.iter().position(|it| role(it) == name);
        position.unwrap_or_else(|| panic!("there is no process {name}"))
    }

    fn name_of_successor(&self, position: usize) -> String {
        let role = role(&self.processes[position]);
        format!("{role} after {} upgrades", self.predecessors.len() + 1)
    }

    /// How many of the processes that were replaced still run.
    pub fn predecessors(&mut self) -> usize {
        self.predecessors
            .retain_mut(|old| match old.child.try_wait().expect("it is ours") {
                None => true,
                Some(status) => {
                    assert!(status.success(), "{} ended with {status}", old.name);
                    false
                }
            });
        self.predecessors.len()
    }

    /// Runs a command of `playhouse` against this grid's file and admin port.
    pub async fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_playhouse"));
        let first = &self.processes[0].command;
        command
            .args(arguments)
            .arg("--config")
            .arg(self.config_file());
        command.env_clear();
        for (name, value) in first.get_envs() {
            command.env(name, value.expect("none is taken away"));
        }
        tokio::task::spawn_blocking(move || command.output().expect("the binary was built"))
            .await
            .expect("it does not panic")
    }
}

/// A process beside those of the grid. Killed when it is dropped.
pub struct Aside(Spawned);

impl Aside {
    /// Waits until it ends by itself.
    pub async fn ends(mut self) -> ExitStatus {
        eventually("the process ends", async || {
            self.0.child.try_wait().expect("it is ours")
        })
        .await
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.0.log).expect("it was made")
    }

    pub fn signal(&self, wanted: Signal) {
        signal(&self.0, wanted);
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        self.0.child.kill().ok();
        self.0.child.wait().ok();
    }
}

fn signal(process: &Spawned, signal: Signal) {
    let pid = Pid::from_raw(process.child.id() as i32);
    kill(pid, signal).expect("it is running");
}

fn role(process: &Spawned) -> &str {
    let name = &process.name;
    name.split(" after").next().expect("there is a first part")
}

/// The same command, to be started once more.
fn copy(old: &Command) -> Command {
    let mut command = Command::new(old.get_program());
    command.env_clear().args(old.get_args());
    for (name, value) in old.get_envs() {
        command.env(name, value.expect("none is taken away"));
    }
    command
        .current_dir(old.get_current_dir().expect("it was set"))
        .stdin(Stdio::null());
    command
}

async fn serves(process: &Spawned) {
    eventually("the successor serves", async || {
        let log = std::fs::read_to_string(&process.log).ok()?;
        log.contains("serving").then_some(())
    })
    .await;
}
