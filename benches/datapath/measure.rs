//! The measurements: each is one short load on one proxy, repeated by the caller.

use crate::client::{Lost, Session};
use crate::process::{Cpu, Process};
use crate::proxies::Proxy;
use crate::redis::Redis;
use crate::wire::{self, BINARY, FIN, NO_MASK, TEXT};
use anyhow::{Context, bail};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::LocalSet;

/// Sessions opened in one go when the rate is measured.
const CONNECTS: usize = 10_000;
/// Clients that do so at the same time.
const CROWD: usize = 64;
/// Sessions opened one after the other when the time is measured.
const ALONE: usize = 400;
/// Sessions that exchange small messages at the same time, and how many in all.
const TALKERS: usize = 32;
const SMALL_MESSAGES: usize = 200_000;
const SMALL: usize = 256;
/// Round trips of one session that has the machine to itself.
const ROUND_TRIPS: usize = 4000;
/// Sessions that exchange large messages at the same time, and bytes in all, both ways.
const LOADED: usize = 4;
const VOLUME: usize = 2_000_000_000;
/// Idle sessions between which memory is compared.
const FEW: usize = 3000;
const MANY: usize = 9000;
/// Memory has settled when it changes by less than this between two looks.
const SETTLED: u64 = 64 * 1024;
const LOOK: Duration = Duration::from_millis(300);
const LOOKS: usize = 10;

/// What is told of one measurement.
pub type Values = Vec<(Row, f64)>;

/// A line of the table, in the table's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    ConnectsPerSecond,
    CpuPerConnect,
    CrowdP50,
    CrowdP99,
    AloneP50,
    AloneP99,
    SmallCpu,
    SmallPerSecond,
    RoundTripP50,
    RoundTripP99,
    Cpu64K,
    Rate64K,
    Cpu1M,
    Rate1M,
    IdleMemory,
    RedisCpu,
    FirstPage,
    Evaluate,
    SessionsPerSecond,
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Measure {
    /// Sessions opened and closed, many at a time.
    Connects,
    /// The same, one after the other.
    Alone,
    /// 256-byte messages, many sessions at a time.
    Small,
    /// The same, one session.
    RoundTrip,
    /// 64 KiB messages.
    #[value(name = "64k")]
    Large,
    /// 1 MiB messages.
    #[value(name = "1m")]
    Huge,
    /// Memory of idle sessions; in a process started for it.
    Idle,
    /// What one session costs Redis and all the proxies that share it.
    Together,
    /// A real browser with real clients.
    Browser,
    /// The stages of a session on seats of each kind.
    Lifecycle,
}

impl Measure {
    pub async fn run(self, proxy: &Proxy) -> anyhow::Result<Values> {
        match self {
            Measure::Connects => connects(proxy).await,
            Measure::Alone => alone(proxy).await,
            Measure::Small => small(proxy).await,
            Measure::RoundTrip => round_trip(proxy).await,
            Measure::Large => large(proxy, 64 * 1024, Row::Cpu64K, Row::Rate64K).await,
            Measure::Huge => large(proxy, 1024 * 1024, Row::Cpu1M, Row::Rate1M).await,
            Measure::Idle => idle(proxy).await,
            Measure::Together | Measure::Browser | Measure::Lifecycle => {
                bail!("this is measured elsewhere")
            }
        }
    }
}

/// Notes wall clock and the proxy's processor time from here on.
struct Clock<'a> {
    proxy: &'a Proxy,
    began: Instant,
    cpu: Option<Cpu>,
    /// Of the Redis behind it.
    redis: Option<Cpu>,
}

/// What a load took.
struct Spent {
    seconds: f64,
    /// Processor time of the proxy in seconds; none without a proxy.
    cpu: Option<f64>,
    /// The same of the Redis behind it.
    redis: Option<f64>,
}

impl<'a> Clock<'a> {
    fn start(proxy: &'a Proxy) -> anyhow::Result<Clock<'a>> {
        let cpu = proxy.process.as_ref().map(Process::cpu).transpose()?;
        let redis = proxy.redis.as_ref().map(Redis::cpu).transpose()?;
        Ok(Clock {
            proxy,
            cpu,
            redis,
            began: Instant::now(),
        })
    }

    fn stop(self) -> anyhow::Result<Spent> {
        let seconds = self.began.elapsed().as_secs_f64();
        let cpu = match (&self.proxy.process, self.cpu) {
            (Some(process), Some(before)) => Some(process.cpu()?.since(before).as_secs_f64()),
            _ => None,
        };
        let redis = match (&self.proxy.redis, self.redis) {
            (Some(server), Some(before)) => Some(server.cpu()?.since(before).as_secs_f64()),
            _ => None,
        };
        Ok(Spent {
            seconds,
            cpu,
            redis,
        })
    }
}

/// Runs `work` on a number of lanes until it was done `count` times.
pub async fn in_lanes<W, F>(lanes: usize, count: usize, work: W) -> anyhow::Result<()>
where
    W: Fn() -> F + Clone + 'static,
    F: Future<Output = Result<(), Lost>>,
{
    let left = Rc::new(Cell::new(count));
    let set = LocalSet::new();
    let lanes: Vec<_> = (0..lanes)
        .map(|_| {
            let (left, work) = (left.clone(), work.clone());
            set.spawn_local(async move {
                while left.get() > 0 {
                    left.set(left.get() - 1);
                    work().await?;
                }
                Ok::<_, Lost>(())
            })
        })
        .collect();
    set.run_until(async move {
        for lane in lanes {
            lane.await??;
        }
        Ok(())
    })
    .await
}

/// Opens and closes sessions; the times they took to open, in seconds, sorted.
async fn open_and_close(proxy: &Proxy, lanes: usize, count: usize) -> anyhow::Result<Vec<f64>> {
    let times = Rc::new(Cell::new(Vec::with_capacity(count)));
    let (door, noted) = (proxy.door.clone(), times.clone());
    in_lanes(lanes, count, move || {
        let (door, noted) = (door.clone(), noted.clone());
        async move {
            let began = Instant::now();
            let session = Session::open(&door).await?;
            let mut times = noted.take();
            times.push(began.elapsed().as_secs_f64());
            noted.set(times);
            session.close().await
        }
    })
    .await
    .with_context(|| format!("a session through {} was lost", proxy.door.name))?;
    let mut times = times.take();
    times.sort_by(f64::total_cmp);
    Ok(times)
}

async fn connects(proxy: &Proxy) -> anyhow::Result<Values> {
    let clock = Clock::start(proxy)?;
    let times = open_and_close(proxy, CROWD, CONNECTS).await?;
    let spent = clock.stop()?;
    let count = CONNECTS as f64;
    let mut values = vec![
        (Row::ConnectsPerSecond, count / spent.seconds),
        (Row::CrowdP50, percentile(&times, 0.5) * 1e3),
        (Row::CrowdP99, percentile(&times, 0.99) * 1e3),
    ];
    values.extend(spent.cpu.map(|cpu| (Row::CpuPerConnect, cpu / count * 1e6)));
    values.extend(spent.redis.map(|cpu| (Row::RedisCpu, cpu / count * 1e6)));
    Ok(values)
}

async fn alone(proxy: &Proxy) -> anyhow::Result<Values> {
    let times = open_and_close(proxy, 1, ALONE).await?;
    Ok(vec![
        (Row::AloneP50, percentile(&times, 0.5) * 1e6),
        (Row::AloneP99, percentile(&times, 0.99) * 1e6),
    ])
}

/// Sessions that send a message back and forth until there were `count` round trips, whose times in
/// seconds are returned sorted. Opening and closing is not part of what was spent.
async fn talk(
    proxy: &Proxy,
    sessions: usize,
    count: usize,
    frame: Vec<u8>,
) -> anyhow::Result<(Spent, Vec<f64>)> {
    let mut open = Vec::new();
    for _ in 0..sessions {
        open.push(Session::open(&proxy.door).await?);
    }
    let clock = Clock::start(proxy)?;
    let left = Rc::new(Cell::new(count));
    let frame: Rc<[u8]> = frame.into();
    let set = LocalSet::new();
    let talks: Vec<_> = open
        .into_iter()
        .map(|mut session| {
            let (left, frame) = (left.clone(), frame.clone());
            set.spawn_local(async move {
                let mut times = Vec::new();
                while left.get() > 0 {
                    left.set(left.get() - 1);
                    let began = Instant::now();
                    session.exchange(&frame).await?;
                    times.push(began.elapsed().as_secs_f64());
                }
                Ok::<_, Lost>((session, times))
            })
        })
        .collect();
    set.run_until(async move {
        let mut done = Vec::new();
        for talk in talks {
            done.push(talk.await??);
        }
        let spent = clock.stop()?;
        let mut all = Vec::with_capacity(count);
        for (session, times) in done {
            all.extend(times);
            session.close().await?;
        }
        all.sort_by(f64::total_cmp);
        Ok((spent, all))
    })
    .await
}

async fn small(proxy: &Proxy) -> anyhow::Result<Values> {
    let frame = wire::client_frame(FIN | TEXT, &[b'x'; SMALL], NO_MASK);
    let (spent, _) = talk(proxy, TALKERS, SMALL_MESSAGES / 2, frame).await?;
    let count = SMALL_MESSAGES as f64;
    let mut values = vec![(Row::SmallPerSecond, count / spent.seconds)];
    values.extend(spent.cpu.map(|cpu| (Row::SmallCpu, cpu / count * 1e6)));
    Ok(values)
}

async fn round_trip(proxy: &Proxy) -> anyhow::Result<Values> {
    let frame = wire::client_frame(FIN | TEXT, &[b'x'; SMALL], NO_MASK);
    let (_, times) = talk(proxy, 1, ROUND_TRIPS, frame).await?;
    Ok(vec![
        (Row::RoundTripP50, percentile(&times, 0.5) * 1e6),
        (Row::RoundTripP99, percentile(&times, 0.99) * 1e6),
    ])
}

async fn large(proxy: &Proxy, size: usize, cpu: Row, rate: Row) -> anyhow::Result<Values> {
    let frame = wire::client_frame(FIN | BINARY, &vec![7; size], NO_MASK);
    let (spent, times) = talk(proxy, LOADED, VOLUME / size / 2, frame).await?;
    let gigabytes = (times.len() * size * 2) as f64 / 1e9;
    let mut values = vec![(rate, gigabytes / spent.seconds)];
    values.extend(spent.cpu.map(|seconds| (cpu, seconds / gigabytes)));
    Ok(values)
}

async fn idle(proxy: &Proxy) -> anyhow::Result<Values> {
    let Some(process) = &proxy.process else {
        return Ok(Vec::new());
    };
    let open = Rc::new(RefCell::new(Vec::new()));
    let mut memory = Vec::new();
    for count in [FEW, MANY] {
        let more = count - open.borrow().len();
        let (door, kept) = (proxy.door.clone(), open.clone());
        in_lanes(CROWD, more, move || {
            let (door, kept) = (door.clone(), kept.clone());
            async move {
                let session = Session::open(&door).await?;
                kept.borrow_mut().push(session);
                Ok(())
            }
        })
        .await?;
        memory.push(settled(process).await? as f64);
    }
    let per_session = (memory[1] - memory[0]) / (MANY - FEW) as f64;
    Ok(vec![(Row::IdleMemory, per_session / 1024.0)])
}

/// A process's memory once it has come to rest.
async fn settled(process: &Process) -> anyhow::Result<u64> {
    let mut before = process.memory()?;
    for _ in 0..LOOKS {
        tokio::time::sleep(LOOK).await;
        let now = process.memory()?;
        if now.abs_diff(before) < SETTLED {
            return Ok(now);
        }
        before = now;
    }
    Ok(before)
}

/// A percentile of sorted numbers.
pub fn percentile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = (last as f64 * part).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}
