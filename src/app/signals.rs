//! What the signals to a process ask of it.
//!
//! They are received on a thread of their own, so that nothing that hangs elsewhere keeps them
//! from being heard; and whoever is told to stop at once ends soon whatever hangs.

use super::terminal::Terminal;
use crate::logging;
use std::io;
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::sync::mpsc;

/// How long a process that is told to stop at once may take to do that in good order. Less than the
/// ten seconds after which Docker kills.
const STOP_LIMIT: Duration = Duration::from_secs(6);

/// On a machine with much to do a terminal is taken away long after the signal that says so: for this
/// long, and so often, it is looked at again.
const DOUBT: Duration = Duration::from_secs(30);
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// What a signal asks for, by rank: a higher one takes the place of a lower one
/// that is being obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// SIGQUIT: a new process takes over the listeners.
    HandOver,
    /// SIGTERM: finish what runs, take nothing new.
    Drain,
    /// SIGINT, a second SIGTERM, or the end of the terminal: end at once.
    Stop,
}

/// The signals to this process.
pub struct Signals {
    /// Whether anybody asks for them yet.
    attended: Arc<AtomicBool>,
    signals: mpsc::UnboundedReceiver<Signal>,
    /// SIGHUPs that ask for the configuration to be read again.
    reloads: Option<mpsc::UnboundedReceiver<()>>,
}

impl Signals {
    /// Takes the signals over from their defaults. With `terminal` the end of the controlling
    /// terminal is one to stop.
    ///
    /// # Errors
    /// When the process has no descriptors or threads left.
    pub fn listen(terminal: Option<Terminal>) -> io::Result<Signals> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _inside = runtime.enter();
            SignalStreams::new(terminal)?
        };
        let (sender, receiver) = mpsc::unbounded_channel();
        let (reload, reloads) = mpsc::unbounded_channel();
        let attended = Arc::new(AtomicBool::new(false));
        let is_attended = attended.clone();
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(signals.pass_on(sender, reload, &is_attended)))?;
        Ok(Signals {
            attended,
            signals: receiver,
            reloads: Some(reloads),
        })
    }

    /// The next one. Safe to drop and call again.
    pub async fn next(&mut self) -> Signal {
        self.attended.store(true, Ordering::Release);
        match self.signals.recv().await {
            Some(signal) => signal,
            // The thread that sends them lives as long as the process.
            None => std::future::pending().await,
        }
    }

    /// Waits for one that ends a process without sessions.
    pub async fn to_end(&mut self) {
        while self.next().await == Signal::HandOver {
            log::warn!("asked to hand over before this process serves");
        }
    }

    /// The SIGHUPs that ask for a reload, for the one who does that.
    pub fn reloads(&mut self) -> mpsc::UnboundedReceiver<()> {
        self.reloads.take().expect("they are taken once")
    }
}

struct SignalStreams {
    term: unix::Signal,
    int: unix::Signal,
    quit: unix::Signal,
    hangup: unix::Signal,
    terminal: Option<Terminal>,
}

impl SignalStreams {
    fn new(terminal: Option<Terminal>) -> io::Result<SignalStreams> {
        Ok(SignalStreams {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            terminal,
        })
    }

    /// Passes signals on until one is to stop at once; then sees to it that the process ends.
    async fn pass_on(
        mut self,
        signals: mpsc::UnboundedSender<Signal>,
        reloads: mpsc::UnboundedSender<()>,
        attended: &AtomicBool,
    ) {
        let mut drains = false;
        // Until when the terminal from which a SIGHUP may have come is looked at again.
        let mut doubted: Option<Instant> = None;
        loop {
            let signal = tokio::select! {
                _ = self.term.recv() => if drains { Signal::Stop } else { Signal::Drain },
                _ = self.int.recv() => Signal::Stop,
                _ = self.quit.recv() => Signal::HandOver,
                _ = self.hangup.recv() => match &self.terminal {
                    Some(terminal) if terminal.is_gone().await => Signal::Stop,
                    terminal => {
                        doubted = terminal.as_ref().map(|_| Instant::now() + DOUBT);
                        reloads.send(()).ok();
                        continue;
                    }
                },
                () = tokio::time::sleep(CHECK_INTERVAL), if doubted.is_some() => {
                    if Terminal::is_there() {
                        doubted = doubted.filter(|until| Instant::now() < *until);
                        continue;
                    }
                    Signal::Stop
                }
            };
            if signal >= Signal::Drain && !attended.load(Ordering::Acquire) {
                // Still starting, and perhaps held up by a file or a name server: nobody has a
                // session here.
                break;
            }
            drains |= signal == Signal::Drain;
            // It fails when nobody obeys: the process ends already.
            signals.send(signal).ok();
            if signal == Signal::Stop {
                self.see_to_the_end().await;
                break;
            }
        }
        logging::flush();
        exit(0);
    }

    async fn see_to_the_end(&mut self) {
        tokio::select! {
            () = tokio::time::sleep(STOP_LIMIT) => {
                log::warn!("something hangs and is left as it is");
            }
            // Who asks once more does not want to wait.
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
