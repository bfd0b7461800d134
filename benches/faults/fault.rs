//! What is done to the grid in a round, and what a round may cost.

use crate::lab::{Lab, Loss};
use crate::machine::Way;
use anyhow::Result;
use nix::sys::signal::Signal;
use std::time::Duration;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One proxy and Redis lose what they send each other.
    ProxyFromRedis(Way),
    /// The same for longer than a proxy is believed to be alive.
    ProxyFromRedisForLong,
    /// All but one.
    TwoProxiesFromRedis,
    /// All at the same moment, workers too.
    EverybodyFromRedis,
    WorkerFromRedis(Way),
    WorkerFromProxies,
    /// What Redis says comes slowly, to everybody.
    SlowRedis,
    FrozenRedis,
    EmptyRedis,
    OldRedis,
    FlushedRedis,
    KilledProxy,
    FrozenProxy,
    KilledWorker,
}

pub const ALL: [Fault; 18] = [
    Fault::ProxyFromRedis(Way::Both),
    Fault::ProxyFromRedis(Way::There),
    Fault::ProxyFromRedis(Way::Back),
    Fault::ProxyFromRedisForLong,
    Fault::TwoProxiesFromRedis,
    Fault::EverybodyFromRedis,
    Fault::WorkerFromRedis(Way::Both),
    Fault::WorkerFromRedis(Way::There),
    Fault::WorkerFromRedis(Way::Back),
    Fault::WorkerFromProxies,
    Fault::SlowRedis,
    Fault::FrozenRedis,
    Fault::EmptyRedis,
    Fault::OldRedis,
    Fault::FlushedRedis,
    Fault::KilledProxy,
    Fault::FrozenProxy,
    Fault::KilledWorker,
];

impl Fault {
    pub fn name(self) -> String {
        let way = |way| match way {
            Way::Both => "both ways",
            Way::There => "what it sends",
            Way::Back => "what it is sent",
        };
        match self {
            Fault::ProxyFromRedis(lost) => format!("a proxy cut off from Redis, {}", way(lost)),
            Fault::ProxyFromRedisForLong => "a proxy cut off from Redis for 20 s".into(),
            Fault::TwoProxiesFromRedis => "two of three proxies cut off from Redis".into(),
            Fault::EverybodyFromRedis => "everybody cut off from Redis".into(),
            Fault::WorkerFromRedis(lost) => format!("a worker cut off from Redis, {}", way(lost)),
            Fault::WorkerFromProxies => "a worker cut off from the proxies".into(),
            Fault::SlowRedis => "Redis sends 100 kbit/s".into(),
            Fault::FrozenRedis => "Redis frozen".into(),
            Fault::EmptyRedis => "Redis killed, back empty".into(),
            Fault::OldRedis => "Redis killed, back as it was 5 s before".into(),
            Fault::FlushedRedis => "Redis emptied under way".into(),
            Fault::KilledProxy => "a proxy killed".into(),
            Fault::FrozenProxy => "a proxy frozen for 20 s".into(),
            Fault::KilledWorker => "a worker killed".into(),
        }
    }

    pub fn length(self) -> Duration {
        Duration::from_secs(match self {
            Fault::ProxyFromRedisForLong | Fault::FrozenProxy => 20,
            Fault::FlushedRedis => 0,
            Fault::OldRedis | Fault::EmptyRedis => 2,
            _ => 7,
        })
    }

    /// Whose sessions may end with it.
    pub fn takes(self) -> Loss {
        match self {
            Fault::KilledProxy => Loss::OfProxy,
            Fault::KilledWorker => Loss::OfWorker,
            _ => Loss::None,
        }
    }

    /// Sessions that a worker may have beyond its limit, by docs/redis.md; `None` where a proxy that
    /// is taken for dead runs on what it has.
    pub fn bound(self) -> Option<usize> {
        let of_cut_off = |cut_off: usize| cut_off * (crate::lab::SEATS / crate::lab::PROXIES);
        match self {
            Fault::ProxyFromRedis(_) => Some(of_cut_off(1)),
            Fault::TwoProxiesFromRedis => Some(of_cut_off(2)),
            Fault::ProxyFromRedisForLong | Fault::FrozenProxy => None,
            _ => Some(0),
        }
    }

    /// Does it. `n` says to which of those that are alike.
    pub fn begin(self, lab: &mut Lab, n: usize) -> Result<()> {
        self.links(lab, n, true)?;
        match self {
            Fault::SlowRedis => lab.redis.slow_down(Some(100)),
            Fault::FrozenRedis => lab.redis.signal(Signal::SIGSTOP),
            Fault::EmptyRedis | Fault::OldRedis => lab.redis.kill(),
            Fault::FlushedRedis => lab.redis_command(&["FLUSHALL"]),
            Fault::KilledProxy => lab.proxy(n).kill(),
            Fault::FrozenProxy => lab.proxy(n).signal(Signal::SIGSTOP),
            Fault::KilledWorker => lab.worker(n).kill(),
            _ => Ok(()),
        }
    }

    /// Undoes it.
    pub fn end(self, lab: &mut Lab, n: usize) -> Result<()> {
        self.links(lab, n, false)?;
        match self {
            Fault::SlowRedis => lab.redis.slow_down(None),
            Fault::FrozenRedis => lab.redis.signal(Signal::SIGCONT),
            Fault::EmptyRedis => {
                lab.forget_snapshot()?;
                lab.redis.restart()
            }
            Fault::OldRedis => lab.redis.restart(),
            Fault::KilledProxy => lab.proxy(n).restart(),
            Fault::FrozenProxy => lab.proxy(n).signal(Signal::SIGCONT),
            Fault::KilledWorker => lab.worker(n).restart(),
            _ => Ok(()),
        }
    }

    fn links(self, lab: &mut Lab, n: usize, lost: bool) -> Result<()> {
        let redis = lab.redis.address;
        match self {
            Fault::ProxyFromRedis(way) => lab.proxy(n).lose(redis, way, lost),
            Fault::ProxyFromRedisForLong => lab.proxy(n).lose(redis, Way::Both, lost),
            Fault::TwoProxiesFromRedis => {
                (n..n + 2).try_for_each(|proxy| lab.proxy(proxy).lose(redis, Way::Both, lost))
            }
            Fault::EverybodyFromRedis => lab.redis.unplug(lost),
            Fault::WorkerFromRedis(way) => lab.worker(n).lose(redis, way, lost),
            Fault::WorkerFromProxies => {
                let proxies = lab.proxy_addresses();
                let worker = lab.worker(n);
                proxies
                    .iter()
                    .try_for_each(|proxy| worker.lose(*proxy, Way::Both, lost))
            }
            _ => Ok(()),
        }
    }
}
