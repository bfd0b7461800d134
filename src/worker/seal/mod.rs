//! The seal: what a browser server and its browser may touch, enforced by the kernel (Landlock) from
//! their first instruction, whatever a session makes them do.
//!
//! A session drives a whole browser and, through Playwright's protocol, the Node process in front of
//! it. Both open ports, write and read files where they are told to. Under the seal they bind no TCP
//! port, write below their own folder only, read what a browser is made of and little else, and
//! neither signal nor reach by an abstract socket what is not theirs.
//!
//! * `rules`: which files and folders, and why.
//!
//! What a kernel cannot do is said, and never worked around.

mod rules;

use super::toolchain::Toolchain;
use crate::config::{self, SealMode};
use landlock::{
    ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    Scope, path_beneath_rules,
};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::Once;

/// The newest of Landlock's versions whose rights are used here: all of them were tried.
const WANTED: ABI = ABI::V6;

/// What each version of Landlock added that is missed without it: the version, and what a session
/// can do then.
const MISSED: [(i32, &str); 4] = [
    (1, "read and write files"),
    (3, "truncate files"),
    (4, OPEN_PORTS),
    (6, "signal other processes"),
];

const OPEN_PORTS: &str = "open ports";
/// Of a process outside, its environment, memory and open files are out of reach all the same.
const SEE_PROCESSES: &str = "read other processes' names and arguments in /proc";

/// The rules' descriptor, and that of a group, are above this: those below are given to a browser that is driven over a pipe.
pub const ABOVE: i32 = 10;

/// How far browsers are sealed on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seal {
    Full,
    /// What sessions can do that they should not.
    Partial(Vec<&'static str>),
    Off,
}

/// Why no browser is started.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(
        "worker.seal is required, and the seal would be {0}. It takes Linux 6.12 with Landlock, and \
         Chromium"
    )]
    Lacking(Seal),
    #[error("the browser cannot be sealed: {0}")]
    Ruleset(#[from] RulesetError),
    #[error("the browser cannot be sealed: {0}")]
    Descriptor(#[from] io::Error),
}

impl Seal {
    /// What `mode` comes to for this browser on this kernel.
    ///
    /// # Errors
    ///
    /// It is required and not to be had.
    pub fn of_this_machine(mode: SealMode, toolchain: &Toolchain) -> Result<Seal, SealError> {
        let seal = Seal::under(mode, landlock_version(), toolchain);
        match (mode, &seal) {
            (SealMode::Required, Seal::Partial(_)) => Err(SealError::Lacking(seal)),
            _ => Ok(seal),
        }
    }

    /// Says it in the log, once a process.
    pub fn log(&self) {
        static SAID: Once = Once::new();
        SAID.call_once(|| match self {
            Seal::Full => log::info!("browsers are sealed: no ports, no files but their own"),
            Seal::Partial(_) => log::warn!("browsers cannot be sealed wholly here: {self}"),
            Seal::Off => log::warn!("browsers are not sealed (worker.seal: off)"),
        });
    }

    fn under(mode: SealMode, version: i32, toolchain: &Toolchain) -> Seal {
        if mode == SealMode::Off {
            return Seal::Off;
        }
        let over_a_port = toolchain.is_driven_over_a_port();
        let missed = MISSED
            .iter()
            .filter(|(since, what)| version < *since || (over_a_port && *what == OPEN_PORTS));
        let mut missed: Vec<_> = missed.map(|(_, what)| *what).collect();
        if version >= MISSED[0].0 && rules::needs_own_maps(toolchain.browser) {
            missed.push(SEE_PROCESSES);
        }
        match missed.is_empty() {
            true => Seal::Full,
            false => Seal::Partial(missed),
        }
    }

    /// The rules for one server, whose folder is `folder`; `None` where there are none to be had.
    ///
    /// # Errors
    ///
    /// The kernel refuses them.
    pub fn prepare(
        &self,
        toolchain: &Toolchain,
        settings: &config::Worker,
        folder: &Path,
    ) -> Result<Option<Sealing>, SealError> {
        if *self == Seal::Off {
            return Ok(None);
        }
        let mut ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(WANTED))?
            .scope(Scope::from_all(WANTED))?;
        if !toolchain.is_driven_over_a_port() {
            ruleset = ruleset.handle_access(AccessNet::BindTcp)?;
        }
        let mut ruleset = ruleset.create()?;
        for rule in rules::of(toolchain, settings, folder) {
            // What does not exist needs no rule.
            ruleset = ruleset.add_rules(path_beneath_rules([&rule.path], rule.access))?;
        }
        let Some(ruleset) = Option::<OwnedFd>::from(ruleset) else {
            return Ok(None);
        };
        let moved = fcntl(&ruleset, FcntlArg::F_DUPFD_CLOEXEC(ABOVE)).map_err(io::Error::from)?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
        Ok(Some(Sealing(unsafe { OwnedFd::from_raw_fd(moved) })))
    }
}

impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seal::Full => f.write_str("full"),
            Seal::Partial(missed) => write!(f, "partial: sessions can {}", missed.join(", ")),
            Seal::Off => f.write_str("off"),
        }
    }
}

/// Rules that a process can be put under.
pub struct Sealing(OwnedFd);

impl Sealing {
    /// Puts the calling thread, and all that it will start, under the rules for good. To be called
    /// between fork and exec: makes two system calls, allocates nothing.
    pub fn enter(&self) -> io::Result<()> {
        let checked = |result: libc::c_long| match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        };
        // SAFETY: both calls take numbers only, and the descriptor is open.
        unsafe {
            // Without it only a privileged process may restrict itself.
            checked(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
            let ruleset = self.0.as_raw_fd();
            checked(libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0))
        }
    }
}

/// The version of this kernel's Landlock; 0 or less where there is none.
fn landlock_version() -> i32 {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call takes no pointer.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0usize,
            VERSION,
        )
    };
    version.try_into().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Browser;

    #[test]
    fn a_kernel_is_told_by_what_it_lacks() {
        let settings = crate::config::Config::defaults(crate::config::Role::Worker).worker;
        let mut toolchain = super::super::locate(&settings).unwrap();
        let under = |version| Seal::under(SealMode::Auto, version, &toolchain).to_string();
        assert_eq!(under(7), "full");
        assert_eq!(under(6), "full");
        assert_eq!(under(5), "partial: sessions can signal other processes");
        assert_eq!(
            under(-1),
            "partial: sessions can read and write files, truncate files, open ports, signal other processes"
        );
        assert_eq!(Seal::under(SealMode::Off, 7, &toolchain), Seal::Off);
        toolchain.browser = Browser::Firefox;
        let firefox = "partial: sessions can read other processes' names and arguments in /proc";
        let under = |version| Seal::under(SealMode::Auto, version, &toolchain).to_string();
        assert_eq!(under(7), firefox);
    }

    /// Tries, and says for each attempt what came of it.
    const INTRUDER: &str = r#"
        const [secret, outside, inside, abstract] = process.argv.slice(1);
        const [fs, net] = [require("fs"), require("net")];
        const told = {};
        const tried = (what, does) => {
            try { does(); told[what] = "done"; } catch (error) { told[what] = error.code; }
        };
        tried("read", () => fs.readFileSync(secret));
        tried("write", () => fs.writeFileSync(outside, ""));
        tried("write inside", () => fs.writeFileSync(inside, ""));
        tried("signal", () => process.kill(process.ppid, 0));
        const heard = (what, socket, event) => new Promise((resolve) => {
            socket.once(event, () => { told[what] = "done"; resolve(); });
            socket.once("error", (error) => { told[what] = error.code; resolve(); });
        });
        Promise.all([
            heard("bind", net.createServer().listen(0, "127.0.0.1"), "listening"),
            heard("abstract", net.connect("\0" + abstract), "connect"),
        ]).then(() => { console.log(JSON.stringify(told)); process.exit(); });
    "#;

    #[tokio::test]
    async fn whatever_runs_in_a_browsers_place_is_kept_there() {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::{SocketAddr, UnixListener};

        let settings = crate::config::Config::defaults(crate::config::Role::Worker).worker;
        let toolchain = super::super::locate(&settings).unwrap();
        let (outside, inside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let secret = outside.path().join("secret");
        std::fs::write(&secret, "nobody's").unwrap();
        let name = outside.path().to_string_lossy().into_owned();
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        let ask = async |seal: Seal| {
            let sealing = seal.prepare(&toolchain, &settings, inside.path()).unwrap();
            let mut command = tokio::process::Command::new(&toolchain.node);
            command.args(["-e", INTRUDER, "--"]);
            command.args([
                &secret,
                &outside.path().join("new"),
                &inside.path().join("new"),
            ]);
            command.arg(&name).stdout(std::process::Stdio::piped());
            let child = crate::worker::spawn::spawn(command, sealing, None)
                .await
                .unwrap();
            let output = child.wait_with_output().await.unwrap();
            serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
        };
        let sealed = ask(Seal::of_this_machine(SealMode::Required, &toolchain).unwrap()).await;
        let told = serde_json::json!({
            "read": "EACCES", "write": "EACCES", "write inside": "done",
            "signal": "EPERM", "bind": "EACCES", "abstract": "EPERM",
        });
        assert_eq!(sealed, told);
        let unsealed = ask(Seal::Off).await;
        let all_done = unsealed
            .as_object()
            .unwrap()
            .values()
            .all(|it| it == "done");
        assert!(all_done, "{unsealed}");
    }
}
