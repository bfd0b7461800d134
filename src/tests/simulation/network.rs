//! The way between processes and Redis: one link for each process, that can be cut, slow, or frozen one
//! way or both, and a server that can go away, hang, and come back empty or old.
//!
//! A message is late, or it is lost with its connection; it is repeated by whoever sent it. What was
//! on its way when a process gave its connection up, or died, may still arrive.

mod connection;

pub use connection::{Connection, open};

use super::database::Database;
use super::lua::Vm;
use super::lua::error;
use super::lua::plain;
use super::watch;
use connection::word;
use redis::{Cmd, PushInfo, RedisResult, Value};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// As the store has them (`store/redis/link.rs`, `store/redis/connection.rs`).
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The server's clock when a schedule begins, in microseconds.
const EPOCH: u64 = 1_800_000_000_000_000;

/// How a way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Rises when all connections break.
    pub breaks: u64,
    /// No connection can be opened.
    pub closed: bool,
    pub latency: Duration,
    /// Nothing arrives at the server's end, or at the process' end.
    pub requests_held: bool,
    pub answers_held: bool,
    /// The process at its end is stopped: nothing passes, and it does not notice.
    pub stopped: bool,
}

impl Condition {
    pub const fn good() -> Condition {
        Condition {
            breaks: 0,
            closed: false,
            latency: Duration::from_millis(1),
            requests_held: false,
            answers_held: false,
            stopped: false,
        }
    }

    fn holds_requests(&self) -> bool {
        self.requests_held || self.stopped
    }

    fn holds_answers(&self) -> bool {
        self.answers_held || self.stopped
    }
}

type Way = watch::Sender<Condition>;
type Observer = Box<dyn Fn(&Database, &str) + Send + Sync>;
type Answered = Box<dyn Fn(&str) + Send + Sync>;
type Hear = Arc<dyn Fn(PushInfo) -> Result<(), ()> + Send + Sync>;

/// All links of a schedule, and the server behind them.
pub struct Network {
    began: Instant,
    pub vm: Arc<Vm>,
    /// What happens is printed.
    traced: bool,
    links: Mutex<BTreeMap<String, Way>>,
    server: Way,
    subscribers: Mutex<Vec<Subscriber>>,
    connections: Mutex<u64>,
    /// Looks at the database after each command, and hears whose it was.
    observer: Observer,
    /// Hears that a process had an answer.
    answered: Answered,
}

struct Subscriber {
    connection: u64,
    channels: BTreeSet<String>,
    answers: mpsc::UnboundedSender<Outgoing>,
}

enum Outgoing {
    Answer(RedisResult<Vec<Value>>, Answer, Instant),
    Push(String, String, Instant),
}

type Answer = oneshot::Sender<RedisResult<Vec<Value>>>;

struct Request {
    commands: Vec<Cmd>,
    sent: Instant,
    answer: Answer,
}

thread_local! {
    static PRESENT: RefCell<Option<Arc<Network>>> = const { RefCell::new(None) };
}

impl Network {
    /// Connections that this thread opens behind this call lead here.
    pub fn install(
        vm: Arc<Vm>,
        traced: bool,
        observer: Observer,
        answered: Answered,
    ) -> Arc<Network> {
        vm.database().clear();
        vm.database().receivers.clear();
        vm.restart();
        let network = Arc::new(Network {
            began: Instant::now(),
            vm,
            traced,
            links: Mutex::default(),
            server: watch::Sender::new(Condition::good()),
            subscribers: Mutex::default(),
            connections: Mutex::default(),
            observer,
            answered,
        });
        PRESENT.set(Some(network.clone()));
        network
    }

    /// Changes the way between a process and the server.
    pub fn change(&self, process: &str, change: impl FnOnce(&mut Condition)) {
        self.link(process).send_modify(change);
    }

    /// Changes the server.
    pub fn change_server(&self, change: impl FnOnce(&mut Condition)) {
        self.server.send_modify(change);
    }

    pub fn is_up(&self) -> bool {
        !self.server.borrow().closed
    }

    /// Looks at the database, and may change it, as nobody on the way could.
    pub fn inspect<T>(&self, at: impl FnOnce(&mut Database) -> T) -> T {
        let mut database = self.vm.database();
        database.now = self.clock();
        at(&mut database)
    }

    fn link(&self, process: &str) -> Way {
        let mut links = self.links.lock().unwrap();
        let good = || watch::Sender::new(Condition::good());
        links.entry(process.to_owned()).or_insert_with(good).clone()
    }

    fn clock(&self) -> u64 {
        EPOCH + self.began.elapsed().as_micros() as u64
    }

    fn execute(
        &self,
        connection: u64,
        process: &str,
        request: &Request,
        answers: &mpsc::UnboundedSender<Outgoing>,
    ) -> RedisResult<Vec<Value>> {
        let mut results = Vec::new();
        for command in &request.commands {
            let words: Vec<&str> = command.args_iter().map(word).collect();
            self.vm.database().now = self.clock();
            let result = self.command(connection, &words, answers);
            self.trace(process, &words, &result);
            (self.observer)(&self.vm.database(), process);
            results.push(result?);
        }
        self.publish();
        Ok(results)
    }

    fn command(
        &self,
        connection: u64,
        command: &[&str],
        answers: &mpsc::UnboundedSender<Outgoing>,
    ) -> RedisResult<Value> {
        let (name, args) = command
            .split_first()
            .ok_or_else(|| error("ERR no command"))?;
        match *name {
            "HELLO" => {
                let mode = (
                    Value::SimpleString("mode".into()),
                    Value::SimpleString("standalone".into()),
                );
                Ok(Value::Map(vec![mode]))
            }
            "SCRIPT" if args[0] == "LOAD" => Ok(self.vm.load(args[1])),
            "SCRIPT" => Ok(self.vm.has(args[1])),
            "EVALSHA" => {
                let keys: usize = args[1].parse().map_err(|_| error("ERR no number"))?;
                let (keys, args) = args[2..].split_at(keys);
                self.vm.run(command[1], keys, args)
            }
            "SUBSCRIBE" | "UNSUBSCRIBE" => {
                let mut subscribers = self.subscribers.lock().unwrap();
                let known = subscribers
                    .iter()
                    .position(|it| it.connection == connection);
                let at = known.unwrap_or_else(|| {
                    subscribers.push(Subscriber {
                        connection,
                        channels: BTreeSet::new(),
                        answers: answers.clone(),
                    });
                    subscribers.len() - 1
                });
                for channel in args {
                    match *name == "SUBSCRIBE" {
                        true => subscribers[at].channels.insert((*channel).to_owned()),
                        false => subscribers[at].channels.remove(*channel),
                    };
                }
                self.count_receivers(&subscribers);
                Ok(Value::Okay)
            }
            _ => self
                .vm
                .database()
                .execute(command)
                .map(plain)
                .map_err(|text| error(&text)),
        }
    }

    /// Prints what happens, for whoever looks into a seed.
    fn trace(&self, process: &str, command: &[&str], result: &RedisResult<Value>) {
        if !self.traced || command[0] == "SCRIPT" {
            return;
        }
        let (what, args) = match command[0] {
            "EVALSHA" => (self.vm.title(command[1]), &command[3..]),
            name => (name.to_owned(), &command[1..]),
        };
        println!(
            "{:>7} {process} {what} {args:?} = {result:?}",
            self.began.elapsed().as_millis()
        );
    }

    /// Sends what was published on its way.
    pub fn publish(&self) {
        let published = std::mem::take(&mut self.vm.database().published);
        let subscribers = self.subscribers.lock().unwrap();
        for (channel, payload) in published {
            for subscriber in subscribers
                .iter()
                .filter(|it| it.channels.contains(&channel))
            {
                let push = Outgoing::Push(channel.clone(), payload.clone(), Instant::now());
                subscriber.answers.send(push).ok();
            }
        }
    }

    fn forget(&self, connection: u64) {
        let mut subscribers = self.subscribers.lock().unwrap();
        subscribers.retain(|it| it.connection != connection);
        self.count_receivers(&subscribers);
    }

    fn count_receivers(&self, subscribers: &[Subscriber]) {
        let mut receivers = BTreeMap::new();
        for channel in subscribers.iter().flat_map(|it| &it.channels) {
            *receivers.entry(channel.clone()).or_default() += 1;
        }
        self.vm.database().receivers = receivers;
    }
}
