//! What an operator does to a running grid: writes its configuration anew, signals a process, puts
//! a new binary in the place of the old one.

use super::eventually::eventually;
use super::grid::{Grid, Spawned};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

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
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.processes[0].child.id() as i32);
        kill(pid, signal).expect("it is running");
    }

    pub(super) fn upgrade_socket(&self, n: usize) -> PathBuf {
        self.folder.path().join(format!("upgrade-{n}.sock"))
    }

    /// A new process takes over from the first one, which is left to finish its sessions. Returns
    /// when the new one serves.
    pub async fn upgrade(&mut self) {
        let successor = self.start_successor();
        self.signal(Signal::SIGQUIT);
        serves(&successor).await;
        let old = std::mem::replace(&mut self.processes[0], successor);
        self.predecessors.push(old);
    }

    /// Starts the successor of the first process, which waits to be handed the listeners.
    fn start_successor(&self) -> Spawned {
        let old = &self.processes[0];
        let mut command = Command::new(old.command.get_program());
        command.env_clear().args(old.command.get_args());
        if !old
            .command
            .get_args()
            .any(|argument| argument == "--upgrade")
        {
            command.arg("--upgrade");
        }
        for (name, value) in old.command.get_envs() {
            command.env(name, value.expect("none is taken away"));
        }
        command
            .current_dir(old.command.get_current_dir().expect("it was set"))
            .stdin(Stdio::null());
        let name = format!(
            "{} after {} upgrades",
            self.role(),
            self.predecessors.len() + 1
        );
        self.spawn(command, name)
    }

    fn role(&self) -> &str {
        let name = &self.processes[0].name;
        name.split(" after").next().expect("there is a first part")
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

async fn serves(process: &Spawned) {
    eventually("the successor serves", async || {
        let log = std::fs::read_to_string(&process.log).ok()?;
        log.contains("serving").then_some(())
    })
    .await;
}
