//! Endurance: sessions that come and go for a long time and move data of all sizes, every byte
//! verified and the proxy's memory watched; and connects by the million, to see whether one is lost.

use crate::client::{Door, Lost, Session};
use crate::echo::Echo;
use crate::process::Process;
use crate::process::free_port;
use crate::proxies::Kind;
use crate::report::median;
use crate::wire::{self, BINARY, FIN, TEXT};
use anyhow::{Context, bail};
use clap::Parser;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::LocalSet;

/// How long a session lives, seconds.
const LIFE: std::ops::Range<u64> = 1..120;
/// Longest silence between two messages of a session, in milliseconds.
const MAX_PAUSE: u64 = 8_000;
/// Sizes of messages go up to two to this power, each power as often as the next.
const MAX_SIZE_BITS: u32 = 20;
/// One message in so many is larger than that: as large as this.
const HUGE_ONE_IN: u32 = 2_000;
const HUGE: usize = 16 * 1024 * 1024;
/// One message in so many comes in several frames.
const FRAGMENTED_ONE_IN: u32 = 8;
/// One session in so many hangs up without a word.
const RUDE_ONE_IN: u32 = 10;
/// How often memory is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Growth of memory from the second quarter of the time to the last that is no leak yet.
const FLAT: f64 = 1.05;
const FLAT_BYTES: f64 = 4.0 * 1024.0 * 1024.0;

#[derive(Parser)]
pub struct Soak {
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// Sessions at any time.
    #[arg(long, default_value_t = 2000)]
    sessions: usize,
}

#[derive(Parser)]
pub struct Storm {
    #[arg(long, default_value_t = 1_000_000)]
    connects: u64,
    /// Clients that connect at the same time.
    #[arg(long, default_value_t = 128)]
    crowd: usize,
}

/// What happened so far.
#[derive(Default)]
struct Count {
    opened: Cell<u64>,
    messages: Cell<u64>,
    bytes: Cell<u64>,
    lost: RefCell<BTreeMap<String, u64>>,
}

impl Count {
    fn lose(&self, doing: &str, lost: &Lost) {
        let mut all = self.lost.borrow_mut();
        *all.entry(format!("{doing}: {lost}")).or_default() += 1;
    }

    fn tell(&self, since: Instant, memory: u64) {
        println!(
            "{:>5} s  {:>8} sessions  {:>9} messages  {:>8.1} GB verified  {:>3} lost  {:>6.1} MiB",
            since.elapsed().as_secs(),
            self.opened.get(),
            self.messages.get(),
            self.bytes.get() as f64 / 1e9,
            self.lost.borrow().values().sum::<u64>(),
            memory as f64 / 1024.0 / 1024.0,
        );
    }

    fn verdict(&self) -> anyhow::Result<()> {
        let lost = self.lost.borrow();
        for (what, count) in lost.iter() {
            println!("lost {count} times: {what}");
        }
        let opened = self.opened.get();
        match lost.values().sum::<u64>() {
            0 => {
                println!("0 lost of {opened} sessions, every byte as it was sent");
                Ok(())
            }
            some => bail!("{some} lost of {opened} sessions"),
        }
    }
}

impl Soak {
    pub async fn run(self) -> anyhow::Result<()> {
        let echo = Echo::start(free_port()?)?;
        let proxy = Kind::playhouse().start(echo.address).await?;
        let process = proxy.process.as_ref().context("it is a process")?;
        let began = Instant::now();
        let until = began + Duration::from_secs(self.seconds);
        let count = Rc::new(Count::default());
        let set = LocalSet::new();
        for seed in 0..self.sessions {
            let (door, count) = (proxy.door.clone(), count.clone());
            set.spawn_local(one_after_the_other(door, seed as u64, until, count));
        }
        let mut memory = Vec::new();
        let watch = async {
            while Instant::now() < until {
                tokio::time::sleep(LOOK).await;
                let now = process.memory()?;
                memory.push(now as f64);
                count.tell(began, now);
            }
            anyhow::Ok(())
        };
        set.run_until(watch).await?;
        // The last sessions have their time to end.
        set.await;
        count.tell(began, process.memory()?);
        count.verdict()?;
        is_flat(&memory)?;
        println!("soak passed");
        Ok(())
    }
}

/// Memory fills up at first; from the second quarter on it has to stay.
fn is_flat(memory: &[f64]) -> anyhow::Result<()> {
    let quarter = memory.len() / 4;
    if quarter == 0 {
        return Ok(());
    }
    let early = median(&memory[quarter..2 * quarter]);
    let late = median(&memory[memory.len() - quarter..]);
    let mib = |bytes: f64| bytes / 1024.0 / 1024.0;
    println!(
        "memory: {:.1} MiB in the second quarter, {:.1} MiB in the last",
        mib(early),
        mib(late)
    );
    if late > early * FLAT + FLAT_BYTES {
        bail!("memory grows");
    }
    Ok(())
}

async fn one_after_the_other(door: Door, seed: u64, until: Instant, count: Rc<Count>) {
    let mut rng = SmallRng::seed_from_u64(seed);
    // They do not all come at once: that is the storm's business.
    let first = Duration::from_millis(rng.random_range(0..5_000));
    tokio::time::sleep(first).await;
    while Instant::now() < until {
        let mut session = match Session::open(&door).await {
            Ok(session) => session,
            Err(lost) => {
                count.opened.set(count.opened.get() + 1);
                count.lose("connect", &lost);
                continue;
            }
        };
        count.opened.set(count.opened.get() + 1);
        let life = Duration::from_secs(rng.random_range(LIFE));
        let end = until.min(Instant::now() + life);
        let lived = live(&mut session, end, &mut rng, &count).await;
        let ended = match lived {
            Ok(()) if rng.random_ratio(1, RUDE_ONE_IN) => Ok(()),
            Ok(()) => session.close().await,
            Err(lost) => Err(lost),
        };
        if let Err(lost) = ended {
            count.lose("session", &lost);
        }
    }
}

/// Messages of all sizes, with pauses of all lengths.
async fn live(
    session: &mut Session,
    end: Instant,
    rng: &mut SmallRng,
    count: &Count,
) -> Result<(), Lost> {
    while Instant::now() < end {
        let size = size(rng);
        let mut payload = vec![0; size];
        rng.fill_bytes(&mut payload);
        exchange(session, &payload, rng).await?;
        count.messages.set(count.messages.get() + 1);
        count.bytes.set(count.bytes.get() + 2 * size as u64);
        let pause = Duration::from_millis(rng.random_range(0..MAX_PAUSE));
        session.idle(pause).await?;
    }
    Ok(())
}

fn size(rng: &mut SmallRng) -> usize {
    if rng.random_ratio(1, HUGE_ONE_IN) {
        return HUGE;
    }
    let bits = rng.random_range(0..=MAX_SIZE_BITS);
    rng.random_range(0..1usize << bits)
}

/// Sends a message, in one frame or in several, and compares what comes back. The backend answers
/// frame by frame.
async fn exchange(session: &mut Session, payload: &[u8], rng: &mut SmallRng) -> Result<(), Lost> {
    let pieces = if rng.random_ratio(1, FRAGMENTED_ONE_IN) {
        rng.random_range(2..5)
    } else {
        1
    };
    let piece = payload.len().div_ceil(pieces).max(1);
    let mut sent = 0;
    let mut opcode = if rng.random() { TEXT } else { BINARY };
    loop {
        let end = (sent + piece).min(payload.len());
        let fin = if end == payload.len() { FIN } else { 0 };
        let frame = wire::client_frame(fin | opcode, &payload[sent..end], rng.random());
        let back = session.exchange(&frame).await?;
        if back != &payload[sent..end] {
            let (sent, back) = (end - sent, back.len());
            return Err(Lost::Changed(format!(
                "{sent} bytes sent, {back} came back"
            )));
        }
        if fin != 0 {
            return Ok(());
        }
        sent = end;
        opcode = 0;
    }
}

impl Storm {
    pub async fn run(self) -> anyhow::Result<()> {
        let echo = Echo::start(free_port()?)?;
        let proxy = Kind::playhouse().start(echo.address).await?;
        let process: &Process = proxy.process.as_ref().context("it is a process")?;
        let began = Instant::now();
        let count = Rc::new(Count::default());
        let left = Rc::new(Cell::new(self.connects));
        let set = LocalSet::new();
        for seed in 0..self.crowd {
            let (door, count, left) = (proxy.door.clone(), count.clone(), left.clone());
            set.spawn_local(async move {
                let mut rng = SmallRng::seed_from_u64(seed as u64);
                while left.get() > 0 {
                    left.set(left.get() - 1);
                    count.opened.set(count.opened.get() + 1);
                    if let Err(lost) = come_and_go(&door, &mut rng, &count).await {
                        count.lose("connect", &lost);
                    }
                }
            });
        }
        let watch = async {
            while left.get() > 0 {
                tokio::time::sleep(LOOK).await;
                count.tell(began, process.memory()?);
            }
            anyhow::Ok(())
        };
        set.run_until(watch).await?;
        set.await;
        count.tell(began, process.memory()?);
        count.verdict()?;
        println!("storm passed");
        Ok(())
    }
}

/// A session of one message.
async fn come_and_go(door: &Door, rng: &mut SmallRng, count: &Count) -> Result<(), Lost> {
    let mut session = Session::open(door).await?;
    let payload: [u8; 32] = rng.random();
    exchange(&mut session, &payload, rng).await?;
    count.messages.set(count.messages.get() + 1);
    count
        .bytes
        .set(count.bytes.get() + 2 * payload.len() as u64);
    session.close().await
}
