//! The command line: what can be typed, and which keys of the configuration it sets. Running the
//! commands is `app`'s.

use crate::config::{Environment, Flags, Role, Sources};
use crate::model::Browser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit codes, which scripts and service managers rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked.
    Clean,
    /// It failed while running.
    Failure,
    /// The command line makes no sense.
    Usage,
    /// The configuration is wrong (`EX_CONFIG` of sysexits); nothing was bound.
    Config,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Clean => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::Config => 78,
        })
    }
}

/// A self-hosted Playwright grid.
///
/// Clients connect to one address; each session is seated on a warm browser of one of the workers.
#[derive(Parser, Clone, Debug)]
#[command(name = "playhouse", version, after_help = EXAMPLES, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  playhouse up                            a grid with two workers at ws://127.0.0.1:8080
  playhouse up --workers 4 --listen 0.0.0.0:8080
  playhouse proxy -c /etc/playhouse.yaml  the load balancer alone
  playhouse worker                        one worker, with REDIS_URL in the environment
  playhouse check -c playhouse.yaml       all mistakes of a configuration at once

Exit codes: 0 clean, 1 failure while running, 2 usage, 78 bad configuration.";

#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Run the whole grid on this machine: one proxy and its workers, state in memory
    Up(Up),
    /// Run the load balancer alone
    Proxy(Proxy),
    /// Run one worker: a warm browser that registers itself in the store
    Worker(Worker),
    /// Check the configuration and print the effective one, secrets masked
    Check(Check),
    /// Show workers, sessions and queue of a running grid
    Status(Status),
    /// Have a worker replace its browser: the sessions on it finish, new ones get the fresh one
    Drain(Drain),
    /// End a session
    Kill(Kill),
    /// Exit 0 when the process on this machine is ready, or with --live alive
    Healthcheck(Healthcheck),
    /// Make a token, and print it with the hash that goes into the configuration
    Token(Token),
}

/// What every command takes.
#[derive(Args, Clone, Debug, Default)]
pub struct Common {
    /// Configuration file (YAML), else PLAYHOUSE_CONFIG; conf/playhouse.yaml documents every key
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How much is logged: off, error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", help_heading = "Logging")]
    pub log_level: Option<String>,
    /// How it is logged: auto, json, text
    #[arg(long, value_name = "FORMAT", help_heading = "Logging")]
    pub log_format: Option<String>,
}

/// The two ports.
#[derive(Args, Clone, Debug, Default)]
pub struct PortFlags {
    /// Data port, where clients connect
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Admin port
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<String>,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  playhouse up
  playhouse up --workers 4 --browser firefox
  playhouse up --seat own                 a browser process for each session
  playhouse up --listen 0.0.0.0:8080      for clients on other machines")]
pub struct Up {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub ports: PortFlags,
    /// Workers, each with one browser
    #[arg(short, long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub workers: u16,
    #[arg(short, long, value_name = "BROWSER", help = format!("Their browser: {}", Browser::either()))]
    pub browser: Option<String>,
    /// What sessions get: shared, a place on a warm browser; own, a browser process of their own
    #[arg(long, value_name = "KIND")]
    pub seat: Option<String>,
    #[command(flatten)]
    pub limits: LimitFlags,
}

#[derive(Args, Clone, Debug, Default)]
pub struct LimitFlags {
    /// Sessions at once on one worker
    #[arg(long, value_name = "N")]
    pub max_concurrent_sessions: Option<String>,
    /// Sessions until a worker gets a fresh browser; 0 = never
    #[arg(long, value_name = "N")]
    pub max_lifetime_sessions: Option<String>,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  REDIS_URL=redis://redis:6379 playhouse proxy
  playhouse proxy -c /etc/playhouse.yaml
  playhouse proxy -c /etc/playhouse.yaml --upgrade, then SIGQUIT to the old process")]
pub struct Proxy {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub ports: PortFlags,
    #[command(flatten)]
    pub limits: LimitFlags,
    /// Where the shared state is: redis://…, rediss://…, redis+unix://… or memory. A password
    /// belongs into REDIS_PASSWORD_FILE: flags are visible to everybody on the machine
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// Take the listening sockets over from the running proxy
    #[arg(long)]
    pub upgrade: bool,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  REDIS_URL=redis://redis:6379 playhouse worker
  playhouse worker --store redis://redis:6379 --browser firefox --port 0")]
pub struct Worker {
    #[command(flatten)]
    pub common: Common,
    /// Where the shared state is: redis://…, rediss://… or redis+unix://…. A password belongs
    /// into REDIS_PASSWORD_FILE: flags are visible to everybody on the machine
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    #[arg(short, long, value_name = "BROWSER", help = format!("Its browser: {}", Browser::either()))]
    pub browser: Option<String>,
    /// What sessions get: shared, a place on a warm browser; own, a browser process of their own
    #[arg(long, value_name = "KIND")]
    pub seat: Option<String>,
    /// Port of the worker; 0 picks a free one
    #[arg(long, value_name = "PORT")]
    pub port: Option<String>,
    /// Name or address under which proxies reach it
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub struct Check {
    #[command(flatten)]
    pub common: Common,
    /// The command whose defaults and demands apply
    #[arg(long = "for", value_name = "COMMAND", default_value = "proxy")]
    pub role: CheckRole,
    /// Print the JSON Schema of the file instead, for editors that complete and check it
    #[arg(long)]
    pub schema: bool,
}

/// The commands that run on a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckRole {
    Up,
    Proxy,
    Worker,
}

/// How the admin port of a running grid is reached.
#[derive(Args, Clone, Debug, Default)]
pub struct Operator {
    #[command(flatten)]
    pub common: Common,
    /// Admin port of the grid, as host:port or http(s)://host:port; admin.listen of the
    /// configuration unless given
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<String>,
    /// File that holds the admin port's token; else PLAYHOUSE_ADMIN_TOKEN_FILE, else
    /// PLAYHOUSE_ADMIN_TOKEN
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Authority (PEM) that the certificate of an https:// admin port has to come from, else those
    /// of this machine; on loopback nothing is asked for unless this is given
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub struct Status {
    #[command(flatten)]
    pub operator: Operator,
    /// The admin port's answers, as JSON
    #[arg(long)]
    pub json: bool,
    /// Refresh until interrupted
    #[arg(short, long, conflicts_with = "json")]
    pub watch: bool,
}

#[derive(Args, Clone, Debug)]
pub struct Drain {
    #[command(flatten)]
    pub operator: Operator,
    /// Id of the worker, as `playhouse status` shows it
    pub worker: String,
}

#[derive(Args, Clone, Debug)]
pub struct Kill {
    #[command(flatten)]
    pub operator: Operator,
    /// Id of the session, as `playhouse status` shows it
    pub session: String,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Asks every playhouse process of this user on this machine, over its socket in the runtime folder:
PLAYHOUSE_RUNTIME_DIR, else playhouse/ in XDG_RUNTIME_DIR, else /run/playhouse, else
playhouse-UID/ among the temporary files. Reads no configuration.")]
pub struct Healthcheck {
    #[command(flatten)]
    pub common: Common,
    /// Exit 0 also when it is not ready, as long as it answers
    #[arg(long)]
    pub live: bool,
    /// Only the process of this id
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
}

#[derive(Args, Clone, Debug)]
pub struct Token {
    #[command(flatten)]
    pub common: Common,
    /// Name of the token's holder, for the entry that is printed
    #[arg(long, default_value = "ci")]
    pub name: String,
}

impl Command {
    /// Where this command's configuration comes from.
    pub fn sources(&self, environment: Environment) -> Sources {
        let named = || environment.value("PLAYHOUSE_CONFIG").map(PathBuf::from);
        Sources {
            role: self.role(),
            file: self.common().config.clone().or_else(named),
            environment,
            flags: self.flags(),
        }
    }

    fn common(&self) -> &Common {
        match self {
            Command::Up(up) => &up.common,
            Command::Proxy(proxy) => &proxy.common,
            Command::Worker(worker) => &worker.common,
            Command::Check(check) => &check.common,
            Command::Status(status) => &status.operator.common,
            Command::Drain(drain) => &drain.operator.common,
            Command::Kill(kill) => &kill.operator.common,
            Command::Healthcheck(health) => &health.common,
            Command::Token(token) => &token.common,
        }
    }

    fn role(&self) -> Role {
        match self {
            Command::Up(_) => Role::Up,
            Command::Worker(_) => Role::Worker,
            Command::Check(check) => match check.role {
                CheckRole::Up => Role::Up,
                CheckRole::Proxy => Role::Proxy,
                CheckRole::Worker => Role::Worker,
            },
            Command::Proxy(_) => Role::Proxy,
            _ => Role::Operator,
        }
    }

    fn flags(&self) -> Flags {
        let common = self.common();
        let flags = Flags::default()
            .with("--log-level", "log.level", &common.log_level)
            .with("--log-format", "log.format", &common.log_format);
        match self {
            Command::Up(up) => up
                .limits
                .add(up.ports.add(flags))
                .with("--browser", "worker.browser", &up.browser)
                .with("--seat", "worker.seat", &up.seat),
            Command::Proxy(proxy) => {
                let flags = proxy.limits.add(proxy.ports.add(flags));
                flags.with("--store", "store.url", &proxy.store)
            }
            Command::Worker(worker) => flags
                .with("--store", "store.url", &worker.store)
                .with("--browser", "worker.browser", &worker.browser)
                .with("--seat", "worker.seat", &worker.seat)
                .with("--port", "worker.port", &worker.port)
                .with("--hostname", "worker.hostname", &worker.hostname),
            _ => flags,
        }
    }
}

impl PortFlags {
    fn add(&self, flags: Flags) -> Flags {
        flags.with("--listen", "listen", &self.listen).with(
            "--admin-listen",
            "admin.listen",
            &self.admin_listen,
        )
    }
}

impl LimitFlags {
    fn add(&self, flags: Flags) -> Flags {
        flags
            .with(
                "--max-concurrent-sessions",
                "limits.max_concurrent_sessions",
                &self.max_concurrent_sessions,
            )
            .with(
                "--max-lifetime-sessions",
                "limits.max_lifetime_sessions",
                &self.max_lifetime_sessions,
            )
    }
}

#[cfg(test)]
mod tests;
