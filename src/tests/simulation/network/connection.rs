//! A process' connection over the simulated network.

use super::{
    CONNECT_TIMEOUT, Condition, Hear, Network, Outgoing, PRESENT, RESPONSE_TIMEOUT, Request,
};
use crate::tests::simulation::watch;
use redis::aio::ConnectionLike;
use redis::{
    Client, Cmd, Pipeline, PushInfo, PushKind, RedisError, RedisFuture, RedisResult, Value,
};
use std::io::ErrorKind;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

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

pub(super) fn word(arg: redis::Arg<&[u8]>) -> &str {
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
