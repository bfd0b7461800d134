//! A machine of the campaign: a network namespace with one link to the bridge that the clients
//! stand on, the process that runs there, and what can be done to both.

use crate::support::repository;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The first three parts of every address.
const NETWORK: [u8; 3] = [10, 77, 0];
const BRIDGE: &str = "grid";

/// Leaves the machine's network: everything below happens in a namespace of this process' own, which
/// is gone with it. Has to be called before there are threads.
pub fn leave_network() -> Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .context("no network namespace of one's own: this needs root")?;
    ip(&["link", "set", "lo", "up"])?;
    ip(&["link", "add", BRIDGE, "type", "bridge"])?;
    ip(&["addr", "add", "10.77.0.1/24", "dev", BRIDGE])?;
    ip(&["link", "set", BRIDGE, "up"])
}

/// What runs on a machine, so that it can be started again.
#[derive(Clone)]
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub log: PathBuf,
}

pub struct Machine {
    pub name: String,
    pub address: Ipv4Addr,
    program: Program,
    child: Child,
    /// Holds the namespace while the program is dead.
    keeper: Child,
}

/// Which packets between two machines are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Both,
    There,
    Back,
}

impl Machine {
    pub fn start(name: &str, host: u8, program: Program) -> Result<Machine> {
        let [a, b, c] = NETWORK;
        let address = Ipv4Addr::new(a, b, c, host);
        let keeper = Command::new("unshare")
            .args(["--net", "sleep", "infinity"])
            .spawn()
            .context("unshare is part of util-linux")?;
        let pid = keeper.id().to_string();
        // The link cannot be moved before the keeper has its namespace.
        let own = std::fs::read_link("/proc/self/ns/net")?;
        while std::fs::read_link(format!("/proc/{pid}/ns/net"))? == own {
            std::thread::yield_now();
        }
        ip(&[
            "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", &pid,
        ])?;
        ip(&["link", "set", name, "master", BRIDGE, "up"])?;
        inside(&pid, &["ip", "link", "set", "lo", "up"])?;
        inside(
            &pid,
            &["ip", "addr", "add", &format!("{address}/24"), "dev", "eth0"],
        )?;
        inside(&pid, &["ip", "link", "set", "eth0", "up"])?;
        let child = spawn(&pid, &program)?;
        Ok(Machine {
            name: name.to_owned(),
            address,
            program,
            child,
            keeper,
        })
    }

    fn netns(&self) -> String {
        self.keeper.id().to_string()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id() as i32), signal)?)
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub fn restart(&mut self) -> Result<()> {
        self.child = spawn(&self.netns(), &self.program)?;
        Ok(())
    }

    /// Loses the packets between this machine and another, seen from this one, or ceases to.
    pub fn lose(&self, other: Ipv4Addr, way: Way, lost: bool) -> Result<()> {
        let other = other.to_string();
        let act = if lost { "-A" } else { "-D" };
        if way != Way::Back {
            let there = ["iptables", "-w", act, "OUTPUT", "-d", &other, "-j", "DROP"];
            inside(&self.netns(), &there)?;
        }
        if way != Way::There {
            let back = ["iptables", "-w", act, "INPUT", "-s", &other, "-j", "DROP"];
            inside(&self.netns(), &back)?;
        }
        Ok(())
    }

    /// Takes its link away, from one moment to the next, or puts it back.
    pub fn unplug(&self, unplugged: bool) -> Result<()> {
        let state = if unplugged { "down" } else { "up" };
        ip(&["link", "set", &self.name, state])
    }

    /// What this machine says leaves it at this rate, in kbit/s, or at any.
    pub fn slow_down(&self, rate: Option<u32>) -> Result<()> {
        let netns = self.netns();
        let Some(rate) = rate else {
            return inside(&netns, &["tc", "qdisc", "del", "dev", "eth0", "root"]);
        };
        let rate = format!("{rate}kbit");
        let bucket = ["tbf", "rate", &rate, "burst", "2kb", "latency", "1s"];
        let mut words = vec!["tc", "qdisc", "add", "dev", "eth0", "root"];
        words.extend(bucket);
        inside(&netns, &words)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for child in [&mut self.child, &mut self.keeper] {
            // A stopped process is ended too. Both fail only when it is gone already.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn spawn(netns: &str, program: &Program) -> Result<Child> {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&program.log)?;
    Command::new("nsenter")
        .args(["--target", netns, "--net"])
        .arg(&program.path)
        .args(&program.arguments)
        .current_dir(repository())
        .env_clear()
        .envs(program.environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", program.path.display()))
}

fn inside(netns: &str, words: &[&str]) -> Result<()> {
    let mut all = vec!["nsenter", "--target", netns, "--net"];
    all.extend(words);
    run(&all)
}

fn ip(words: &[&str]) -> Result<()> {
    let mut all = vec!["ip"];
    all.extend(words);
    run(&all)
}

fn run(words: &[&str]) -> Result<()> {
    let output = Command::new(words[0])
        .args(&words[1..])
        .output()
        .with_context(|| format!("{} is missing", words[0]))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {told}", words.join(" "));
    Ok(())
}
