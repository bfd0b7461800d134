//! Processes that the bench starts and ends itself, and what they use: processor time and memory,
//! their children included.

use anyhow::{Context, bail};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::process::Process as Proc;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// How long a process has to end before it is killed.
const END: Duration = Duration::from_secs(5);
/// How often its end is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// A process of ours; dropping it ends it.
pub struct Process {
    child: Child,
    end_with: Signal,
}

/// Processor time of a process at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Cpu(Duration);

impl Process {
    /// Starts it in such a way that it does not outlive us. `end_with` is what it ends at once for.
    pub fn start(mut command: Command, end_with: Signal) -> anyhow::Result<Process> {
        let name = command.get_program().to_string_lossy().into_owned();
        // SAFETY: between fork and exec only `prctl` is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(move || Ok(prctl::set_pdeathsig(Signal::SIGTERM)?));
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Process { child, end_with })
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Its processor time so far: user and system, with its children's.
    pub fn cpu(&self) -> anyhow::Result<Cpu> {
        // In ns, where `stat` counts ticks of 10 ms. What ended threads used is lost, which none
        // does while it is measured.
        let mut nanoseconds = 0;
        for process in self.tree()? {
            for task in process.tasks()?.flatten() {
                nanoseconds += task.schedstat().map_or(0, |stat| stat.sum_exec_runtime);
            }
        }
        Ok(Cpu(Duration::from_nanos(nanoseconds)))
    }

    /// Its resident memory in bytes, with its children's.
    pub fn memory(&self) -> anyhow::Result<u64> {
        let mut bytes = 0;
        for process in self.tree()? {
            let rollup = process.smaps_rollup()?.memory_map_rollup;
            let rss = rollup
                .0
                .first()
                .and_then(|map| map.extension.map.get("Rss"));
            bytes += rss.context("smaps_rollup without Rss")?;
        }
        Ok(bytes)
    }

    /// The same as [`Process::cpu`] of those that do not end meanwhile.
    pub fn cpu_if_told(&self) -> Duration {
        let mut nanoseconds = 0;
        for process in self.tree().unwrap_or_default() {
            for task in process.tasks().into_iter().flatten().flatten() {
                nanoseconds += task.schedstat().map_or(0, |stat| stat.sum_exec_runtime);
            }
        }
        Duration::from_nanos(nanoseconds)
    }

    /// Its memory in bytes, with its children's, and of what processes share the part of each.
    pub fn shared_out_memory(&self) -> u64 {
        let of = |process: Proc| {
            let rollup = process.smaps_rollup().ok()?.memory_map_rollup;
            rollup.0.first()?.extension.map.get("Pss").copied()
        };
        let tree = self.tree().unwrap_or_default();
        tree.into_iter().filter_map(of).sum()
    }

    fn tree(&self) -> anyhow::Result<Vec<Proc>> {
        let mut tree = vec![Proc::new(self.child.id() as i32)?];
        let mut next = 0;
        while let Some(process) = tree.get(next) {
            let mut children = Vec::new();
            // One may have ended since it was found.
            for task in process.tasks().into_iter().flatten().flatten() {
                children.extend(task.children().unwrap_or_default());
            }
            tree.extend(
                children
                    .into_iter()
                    .filter_map(|id| Proc::new(id as i32).ok()),
            );
            next += 1;
        }
        Ok(tree)
    }
}

impl Cpu {
    pub fn since(self, before: Cpu) -> Duration {
        self.0.saturating_sub(before.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let id = Pid::from_raw(self.child.id() as i32);
        if self.has_ended() {
            return;
        }
        kill(id, self.end_with).ok();
        let deadline = Instant::now() + END;
        while !self.has_ended() && Instant::now() < deadline {
            std::thread::park_timeout(LOOK);
        }
        if !self.has_ended() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

/// A port nobody listens on, below the range of outgoing connections.
pub fn free_port() -> anyhow::Result<u16> {
    const FIRST: u16 = 15_000;
    const COUNT: u16 = 17_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id().wrapping_mul(311) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (start + step) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port")
}
