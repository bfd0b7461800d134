//! The way between processes and Redis: one link for each process, that can be cut, slow, or frozen one
//! way or both, and a server that can go away, hang, and come back empty or old.
//!
//! A message is late, or it is lost with its connection; it is repeated by whoever sent it. What was
//! on its way when a process gave its connection up, or died, may still arrive.

use super::database::Database;
use super::lua::{Vm, error, plain};
use super::watch;
use redis::aio::ConnectionLike;
use redis::{
    Client, Cmd, Pipeline, PushInfo, PushKind, RedisError, RedisFuture, RedisResult, Value,
};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

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

/// One connection of a process, as the store holds it.
#[derive(Clone)]
pub struct Connection {
    requests: mpsc::UnboundedSender<Request>,
    link: watch::Receiver<Condition>,
}

fn io(kind: ErrorKind, text: &'static str) -> RedisError {
    RedisError::from(std::io::Error::new(kind, text))
}

/// Opens a connection; the host in the address is the process' name.
pub async fn open(
    client: &Client,
    hear: impl Fn(PushInfo) -> Result<(), ()> + Send + Sync + 'static,
) -> RedisResult<Connection> {
    let network = PRESENT.with_borrow(Clone::clone).expect("a schedule runs");
    let address = client.get_connection_info().addr().to_string();
    let process = address.split(':').next().unwrap_or_default().to_owned();
    let (mut link, mut server) = (
        network.link(&process).subscribe(),
        network.server.subscribe(),
    );
    let way = async {
        let latency = link.borrow().latency;
        tokio::time::sleep(latency * 2).await;
        let open = |it: &Condition| it.closed || !(it.holds_requests() || it.holds_answers());
        let closed = link.wait_for(open).await.unwrap().closed;
        closed || server.wait_for(open).await.unwrap().closed
    };
    match timeout(CONNECT_TIMEOUT, way).await {
        Ok(false) => {}
        Ok(true) => return Err(io(ErrorKind::ConnectionRefused, "refused")),
        Err(_) => return Err(io(ErrorKind::TimedOut, "nobody answers")),
    }
    let number = {
        let mut connections = network.connections.lock().unwrap();
        *connections += 1;
        *connections
    };
    let (requests, incoming) = mpsc::unbounded_channel();
    let (answers, outgoing) = mpsc::unbounded_channel();
    let breaks = (link.borrow().breaks, server.borrow().breaks);
    let ours = link.clone();
    let hear: Hear = Arc::new(hear);
    let connection = Wire {
        network,
        process,
        number,
        link,
        server,
        breaks,
    };
    let back = connection.clone();
    tokio::spawn(async move {
        let number = connection.number;
        let network = connection.network.clone();
        connection.deliver_requests(incoming, answers).await;
        network.forget(number);
    });
    tokio::spawn(back.deliver_answers(outgoing, hear));
    Ok(Connection {
        requests,
        link: ours,
    })
}

/// A connection as the network has it.
#[derive(Clone)]
struct Wire {
    network: Arc<Network>,
    process: String,
    number: u64,
    link: watch::Receiver<Condition>,
    server: watch::Receiver<Condition>,
    breaks: (u64, u64),
}

impl Wire {
    fn broken(&self) -> bool {
        (self.link.borrow().breaks, self.server.borrow().breaks) != self.breaks
    }

    /// Waits until what was sent then has passed; `false` when the connection breaks before.
    async fn pass(&mut self, sent: Instant, held: impl Fn(&Condition) -> bool) -> bool {
        let latency = self.link.borrow().latency;
        let breaks = self.breaks;
        if sent + latency > Instant::now() {
            tokio::select! {
                biased;
                _ = self.link.wait_for(|it| it.breaks != breaks.0) => return false,
                _ = self.server.wait_for(|it| it.breaks != breaks.1) => return false,
                () = sleep_until(sent + latency) => {}
            }
        }
        // Either may be held anew while the other is waited for.
        while !self.broken() && (held(&self.link.borrow()) || held(&self.server.borrow())) {
            tokio::select! {
                biased;
                _ = self.link.changed() => {}
                _ = self.server.changed() => {}
            }
        }
        !self.broken()
    }

    async fn deliver_requests(
        mut self,
        mut incoming: mpsc::UnboundedReceiver<Request>,
        answers: mpsc::UnboundedSender<Outgoing>,
    ) {
        let breaks = self.breaks;
        let (mut link, mut server) = (self.link.clone(), self.server.clone());
        loop {
            let request = tokio::select! {
                biased;
                _ = link.wait_for(|it| it.breaks != breaks.0) => return,
                _ = server.wait_for(|it| it.breaks != breaks.1) => return,
                request = incoming.recv() => request,
            };
            let Some(request) = request else { return };
            if !self.pass(request.sent, Condition::holds_requests).await {
                return;
            }
            let result = self
                .network
                .execute(self.number, &self.process, &request, &answers);
            answers
                .send(Outgoing::Answer(result, request.answer, Instant::now()))
                .ok();
        }
    }

    async fn deliver_answers(
        mut self,
        mut outgoing: mpsc::UnboundedReceiver<Outgoing>,
        hear: Hear,
    ) {
        while let Some(out) = outgoing.recv().await {
            let (Outgoing::Answer(_, _, sent) | Outgoing::Push(_, _, sent)) = &out;
            if !self.pass(*sent, Condition::holds_answers).await {
                break;
            }
            match out {
                Outgoing::Answer(result, answer, _) => {
                    (self.network.answered)(&self.process);
                    answer.send(result).ok();
                }
                Outgoing::Push(channel, payload, _) => {
                    let data = [channel, payload].map(|text| Value::BulkString(text.into_bytes()));
                    let kind = PushKind::Message;
                    hear(PushInfo {
                        kind,
                        data: data.into(),
                    })
                    .ok();
                }
            }
        }
        let (kind, data) = (PushKind::Disconnection, Vec::new());
        hear(PushInfo { kind, data }).ok();
    }
}

impl Connection {
    async fn ask(&self, commands: Vec<Cmd>) -> RedisResult<Vec<Value>> {
        let (answer, mut answered) = oneshot::channel();
        let sent = Instant::now();
        let broken = || io(ErrorKind::BrokenPipe, "the connection is lost");
        self.requests
            .send(Request {
                commands,
                sent,
                answer,
            })
            .map_err(|_| broken())?;
        let mut link = self.link.clone();
        loop {
            match timeout(RESPONSE_TIMEOUT, &mut answered).await {
                Ok(Ok(result)) => return result,
                Ok(Err(_)) => return Err(broken()),
                // Whoever is stopped finds the answer when it goes on.
                Err(_) if link.borrow().stopped => {
                    link.wait_for(|it| !it.stopped).await.ok();
                }
                Err(_) => return Err(io(ErrorKind::TimedOut, "no answer in time")),
            }
        }
    }

    pub async fn subscribe(&mut self, channels: impl redis::ToRedisArgs) -> RedisResult<()> {
        redis::cmd("SUBSCRIBE").arg(channels).exec_async(self).await
    }

    pub async fn unsubscribe(&mut self, channels: impl redis::ToRedisArgs) -> RedisResult<()> {
        redis::cmd("UNSUBSCRIBE")
            .arg(channels)
            .exec_async(self)
            .await
    }
}

fn word(arg: redis::Arg<&[u8]>) -> &str {
    match arg {
        redis::Arg::Simple(bytes) => std::str::from_utf8(bytes).unwrap(),
        _ => "0",
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let mut values = self.ask(vec![command.clone()]).await?;
            Ok(values.pop().unwrap_or(Value::Nil))
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let values = self.ask(pipeline.cmd_iter().cloned().collect()).await?;
            Ok(values.into_iter().skip(offset).take(count).collect())
        })
    }

    fn get_db(&self) -> i64 {
        0
    }
}
