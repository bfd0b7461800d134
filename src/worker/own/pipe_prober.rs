//! Checks a browser that a session drives over its pipe. Whoever relays the session has both ends of that:
//! it writes a check's commands between two of the client's, and keeps what the browser says to them, and
//! of the check's page, from the client.
//!
//! What is asked is what every client may: a context of its own, a page in it, and an expression, which takes
//! a renderer (`Target` and `Runtime` of the DevTools protocol).

use super::pipe::END;
use crate::worker::probe::{CheckError, Probe, shortened};
use serde_json::{Value, json};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Numbers of a check's commands, from here downwards. The browser takes any of 32 bits, and clients count
/// upwards from 0 or 1.
pub const FIRST_ID: i64 = -2_000_000_000;
/// Answers and events of one check that wait to be taken in: it takes some ten.
const ANSWERS: usize = 64;
/// Shortest time after which a browser's answer is looked for again.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
/// Errors of these codes are about the command, and not about the browser (JSON-RPC 2.0, section 5.1).
const OF_THE_COMMAND: [i64; 4] = [-32700, -32600, -32601, -32602];

/// One command of a check.
pub struct CheckCommand {
    /// With its end.
    pub message: Vec<u8>,
    /// To be told when the command is about to be written.
    pub written: oneshot::Sender<()>,
}

/// What the relay of a session has of its browser's checks.
#[derive(Debug)]
pub struct Checked {
    /// To be written between two commands of the client.
    pub commands: mpsc::Receiver<CheckCommand>,
    /// Takes what the client is not to hear.
    pub answers: mpsc::Sender<Value>,
    pub held_up: HeldUp,
}

/// How long what a browser says has waited for a client that takes nothing: for so long its answers could
/// not come.
#[derive(Clone, Debug, Default)]
pub struct HeldUp(Arc<Mutex<Waits>>);

#[derive(Debug, Default)]
struct Waits {
    ended: Duration,
    since: Option<Instant>,
}

/// A wait for the client, to the drop of this.
#[must_use]
pub struct Waiting<'a>(&'a HeldUp);

impl HeldUp {
    /// Something waits from here on.
    pub fn begin(&self) -> Waiting<'_> {
        self.waits().since = Some(Instant::now());
        Waiting(self)
    }

    /// All waits together, up to this moment.
    fn total(&self) -> Duration {
        let waits = self.waits();
        waits.ended + waits.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waits = self.0.waits();
        if let Some(since) = waits.since.take() {
            waits.ended += since.elapsed();
        }
    }
}

/// Checks one browser, for as long as its session lasts.
#[derive(Debug)]
pub struct PipeProber {
    commands: mpsc::Sender<CheckCommand>,
    answers: mpsc::Receiver<Value>,
    held_up: HeldUp,
    next_id: i64,
    /// The context of a check that did not come to its end.
    context: Option<String>,
}

impl PipeProber {
    /// A prober, and the browser's end of it for the gateway.
    pub fn new() -> (PipeProber, Checked) {
        let (commands, to_write) = mpsc::channel(1);
        let (to_take, answers) = mpsc::channel(ANSWERS);
        let held_up = HeldUp::default();
        let prober = PipeProber {
            commands,
            answers,
            held_up: held_up.clone(),
            next_id: FIRST_ID,
            context: None,
        };
        let checked = Checked {
            commands: to_write,
            answers: to_take,
            held_up,
        };
        (prober, checked)
    }

    async fn call(
        &mut self,
        session: Option<&str>,
        method: &str,
        params: Value,
        patience: Duration,
    ) -> Result<Value, CheckError> {
        let id = self.send(session, method, params).await;
        let (began, before) = (Instant::now(), self.held_up.total());
        loop {
            let held_up = self.held_up.total() - before;
            let left = patience.saturating_sub(began.elapsed().saturating_sub(held_up));
            if left.is_zero() {
                return Err(CheckError::Suspect(patience));
            }
            let received = timeout(left.max(SHORTEST_WAIT), self.answers.recv()).await;
            match received {
                Ok(Some(mut message)) if message["id"] == id => return result_of(&mut message),
                // An event, or an answer that came too late.
                Ok(Some(_)) | Err(_) => {}
                Ok(None) => return over().await,
            }
        }
    }

    /// Returns the command's number when it is about to be written, which takes a client that has said only
    /// half a message as long as it likes.
    async fn send(&mut self, session: Option<&str>, method: &str, params: Value) -> i64 {
        let id = self.next_id;
        self.next_id -= 1;
        let mut command = json!({"id": id, "method": method, "params": params});
        if let Some(session) = session {
            command["sessionId"] = session.into();
        }
        let mut message = command.to_string().into_bytes();
        message.push(END);
        let (written, is_written) = oneshot::channel();
        let command = CheckCommand { message, written };
        if self.commands.send(command).await.is_err() || is_written.await.is_err() {
            return over().await;
        }
        id
    }
}

impl Probe for PipeProber {
    async fn check(&mut self, patience: Duration) -> Result<(), CheckError> {
        if let Some(context) = self.context.take() {
            let left = json!({"browserContextId": context});
            self.send(None, "Target.disposeBrowserContext", left).await;
        }
        let made = self
            .call(None, "Target.createBrowserContext", json!({}), patience)
            .await?;
        let context = json!({"browserContextId": text(&made, "browserContextId")?});
        self.context = Some(text(&made, "browserContextId")?);
        let mut page = context.clone();
        page["url"] = "about:blank".into();
        page["background"] = true.into();
        let made = self
            .call(None, "Target.createTarget", page, patience)
            .await?;
        let target = json!({"targetId": text(&made, "targetId")?, "flatten": true});
        let attached = self
            .call(None, "Target.attachToTarget", target, patience)
            .await?;
        let session = text(&attached, "sessionId")?;
        let expression = json!({"expression": "1"});
        self.call(Some(&session), "Runtime.evaluate", expression, patience)
            .await?;
        self.call(None, "Target.disposeBrowserContext", context, patience)
            .await?;
        self.context = None;
        Ok(())
    }
}

fn text(result: &Value, name: &str) -> Result<String, CheckError> {
    let text = result[name].as_str().map(str::to_owned);
    text.ok_or_else(|| CheckError::NotUnderstood(format!("no {name} in the answer")))
}

fn result_of(message: &mut Value) -> Result<Value, CheckError> {
    let Some(error) = message.get("error") else {
        return Ok(message["result"].take());
    };
    let words = shortened(error["message"].as_str().unwrap_or_default());
    match error["code"].as_i64() {
        Some(code) if !OF_THE_COMMAND.contains(&code) => Err(CheckError::Broken(words)),
        _ => Err(CheckError::NotUnderstood(words)),
    }
}

/// The session has ended, and with it the browser: nobody hears how the check came out.
async fn over<T>() -> T {
    pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A browser that answers what `answers` says to each method.
    async fn browser(mut checked: Checked, answers: impl Fn(&str) -> Option<Value>) {
        while let Some(command) = checked.commands.recv().await {
            command.written.send(()).ok();
            let message = &command.message[..command.message.len() - 1];
            let asked: Value = serde_json::from_slice(message).unwrap();
            if let Some(mut answer) = answers(asked["method"].as_str().unwrap()) {
                answer["id"] = asked["id"].clone();
                checked.answers.send(answer).await.unwrap();
            }
        }
    }

    fn well(method: &str) -> Option<Value> {
        Some(json!({"result": match method {
            "Target.createBrowserContext" => json!({"browserContextId": "C"}),
            "Target.createTarget" => json!({"targetId": "T"}),
            "Target.attachToTarget" => json!({"sessionId": "S"}),
            _ => json!({}),
        }}))
    }

    async fn outcome(
        answers: impl Fn(&str) -> Option<Value> + Send + 'static,
    ) -> Result<(), CheckError> {
        let (mut prober, checked) = PipeProber::new();
        tokio::select! {
            outcome = prober.check(Duration::from_millis(300)) => outcome,
            () = browser(checked, answers) => unreachable!(),
        }
    }

    #[tokio::test]
    async fn an_error_is_the_browsers_unless_it_is_about_the_command() {
        let error = |code: i64| {
            move |method: &str| match method {
                "Runtime.evaluate" => {
                    Some(json!({"error": {"code": code, "message": "Target crashed"}}))
                }
                _ => well(method),
            }
        };
        assert_eq!(outcome(well).await, Ok(()));
        let broken = CheckError::Broken("Target crashed".to_owned());
        assert_eq!(outcome(error(-32000)).await, Err(broken));
        let unknown = outcome(error(-32601)).await;
        assert!(
            matches!(unknown, Err(CheckError::NotUnderstood(_))),
            "{unknown:?}"
        );
        let silent =
            outcome(|method| (method != "Runtime.evaluate").then(|| well(method).unwrap()));
        assert!(matches!(silent.await, Err(CheckError::Suspect(_))));
    }

    /// Its answers are behind what the client does not take.
    #[tokio::test]
    async fn a_browser_whose_client_takes_nothing_is_not_to_blame() {
        let (mut prober, checked) = PipeProber::new();
        let held_up = checked.held_up.clone();
        let waiting = held_up.begin();
        let silent = browser(checked, |_| None);
        let patience = Duration::from_millis(20);
        let checked = async {
            let early = timeout(patience * 20, prober.check(patience)).await;
            assert!(early.is_err(), "{early:?}");
            drop(waiting);
            prober.check(patience).await
        };
        tokio::select! {
            outcome = checked => assert_eq!(outcome, Err(CheckError::Suspect(patience))),
            () = silent => unreachable!(),
        }
    }
}
