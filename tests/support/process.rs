//! Processes as the kernel sees them: who descends from whom, what kind each is, whether it is
//! gone. Kills only what it is told to, by id.

use super::eventually::eventually_equal;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::process::{Process as Proc, Stat};
use std::collections::HashMap;

/// What a process of a grid is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Playhouse,
    /// A Playwright browser server.
    Node,
    /// A browser's first process.
    Browser,
    /// A renderer, a zygote, a GPU process.
    BrowserChild,
    Other,
}

/// One process. Ids are used again; with the time of its start it is one of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub kind: Kind,
    pub zombie: bool,
    started: u64,
    pub command: String,
}

impl Process {
    fn read(stat: Stat) -> Self {
        let arguments = Proc::new(stat.pid).and_then(|process| process.cmdline());
        let command = arguments.unwrap_or_default().join(" ");
        Process {
            pid: stat.pid,
            parent: stat.ppid,
            kind: kind(&command),
            zombie: stat.state == 'Z',
            started: stat.starttime,
            command,
        }
    }

    /// Sends SIGKILL and nothing gentler.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    pub fn signal(&self, signal: Signal) {
        if self.exists() {
            let sent = kill(Pid::from_raw(self.pid), signal);
            // It may have ended since it was looked at.
            assert!(matches!(sent, Ok(()) | Err(Errno::ESRCH)), "{sent:?}");
        }
    }

    /// Whether it is still there, be it as a zombie.
    pub fn exists(&self) -> bool {
        Proc::new(self.pid)
            .and_then(|process| process.stat())
            .is_ok_and(|stat| stat.starttime == self.started)
    }
}

fn kind(command: &str) -> Kind {
    // Browsers rewrite what the kernel shows of their children: its words count, not its parts.
    let program = command.split_whitespace().next().unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or(program);
    let has = |mark: fn(&str) -> bool| command.split_whitespace().any(mark);
    match name {
        "playhouse" => Kind::Playhouse,
        "node" if has(|word| word == "launch-server") => Kind::Node,
        _ if name.starts_with("chrom") || name.starts_with("firefox") => {
            if has(|word| word.starts_with("--type=") || word == "-contentproc") {
                Kind::BrowserChild
            } else {
                Kind::Browser
            }
        }
        _ => Kind::Other,
    }
}

/// A process and all that descend from it, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    pub processes: Vec<Process>,
}

impl Tree {
    /// Everything at and below the given processes. Orphans that a subreaper took in are below it.
    pub fn below(roots: &[u32]) -> Self {
        let mut children: HashMap<i32, Vec<Stat>> = HashMap::new();
        let mut found = Vec::new();
        for process in procfs::process::all_processes()
            .expect("/proc is there")
            .flatten()
        {
            // It may be gone since it was listed.
            let Ok(stat) = process.stat() else { continue };
            if roots.contains(&(stat.pid as u32)) {
                found.push(stat);
            } else {
                children.entry(stat.ppid).or_default().push(stat);
            }
        }
        let mut next = 0;
        while let Some(parent) = found.get(next).map(|stat| stat.pid) {
            found.extend(children.remove(&parent).unwrap_or_default());
            next += 1;
        }
        Tree {
            processes: found.into_iter().map(Process::read).collect(),
        }
    }

    pub fn of_kind(&self, kind: Kind) -> Vec<&Process> {
        self.processes
            .iter()
            .filter(|process| process.kind == kind && !process.zombie)
            .collect()
    }

    pub fn zombies(&self) -> usize {
        self.processes
            .iter()
            .filter(|process| process.zombie)
            .count()
    }

    pub fn still_there(&self) -> Vec<String> {
        self.processes
            .iter()
            .filter(|process| process.exists())
            .map(|process| format!("{} {:.120}", process.pid, process.command))
            .collect()
    }

    /// Waits until every one of them is gone.
    pub async fn gone(&self) {
        eventually_equal(
            "no process is left behind",
            Vec::<String>::new(),
            async || self.still_there(),
        )
        .await;
    }
}
