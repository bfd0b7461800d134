//! Keeps the connection: opens it, says hello, writes down again what is ours, and does so anew
//! whenever it is lost. One log line and one event for each change, however many attempts.

use super::keys;
use super::link::{Live, State, WRONG_TYPE, describe};
use super::location::Finder;
use super::{Inner, StoreRole, mistyped, peers, scripts, wire};
use crate::store::{Event, StoreError};
use backon::{BackoffBuilder, ExponentialBuilder};
use redis::{ErrorKind, PushInfo, PushKind, RedisError, RedisResult, Value};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// Between attempts, with jitter, doubling.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Time within which workers come back to a Redis that came back empty, for there may be very many;
/// proxies, whose seats somebody may wait for, come at once.
const SPREAD: Duration = Duration::from_secs(1);
/// After a connection that lived this long the next is opened without a pause.
const STEADY: Duration = Duration::from_secs(1);
/// Sessions or workers in one script call: some hundred microseconds of Redis' time.
pub const BATCH: usize = 200;

/// Workers that are restored in one script call.
const RESTORE_BATCH: usize = 50;
/// How long a restored worker lives without a heartbeat: three of the default.
const RESTORED_TTL: Duration = Duration::from_secs(15);

/// Keeps the connection for good. Runs until it is dropped.
pub async fn keep(inner: Arc<Inner>) {
    let mut pauses = backoff();
    let mut finder = inner.location.finder();
    loop {
        let opened = match &mut finder {
            Ok(finder) => open(&inner, finder).await,
            Err(error) => Err(error.clone()),
        };
        let never = opened.as_ref().err().filter(|error| is_final(error));
        let outcome = never.map_or(Ok(()), |error| Err(StoreError::Refused(describe(error))));
        inner
            .tried
            .send_if_modified(|tried| tried.replace(outcome).is_none());
        match opened {
            Ok(live) => {
                let since = live.since;
                arrived(&inner, live);
                inner.link.until_lost().await;
                pauses = backoff();
                if inner.role == StoreRole::Worker && inner.grid().stale() {
                    tokio::time::sleep(SPREAD.mul_f64(rand::random())).await;
                }
                if since.elapsed() >= STEADY {
                    continue;
                }
            }
            Err(error) => away(&inner, &error),
        }
        let pause = pauses.next().unwrap_or(BACKOFF.1);
        tokio::time::sleep(pause).await;
    }
}

fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(BACKOFF.0)
        .with_max_delay(BACKOFF.1)
        .without_max_times()
        .with_jitter()
        .with_jitter_seed(rand::random())
        .build()
}

fn arrived(inner: &Inner, live: Live) {
    let epoch = live.epoch;
    inner.listening.store(epoch, Ordering::Relaxed);
    // Nobody is seated from a share from here on, before anybody is told that a seat is free.
    let was_reachable = inner.reachable.swap(true, Ordering::AcqRel);
    inner.link.set(State::Live(live));
    if !was_reachable {
        log::info!(store = inner.address.as_str(), name = inner.proxy.as_str(); "the store answers");
        inner.emit(Event::Reachable(true));
    }
    match inner.role {
        StoreRole::Proxy => inner.missed.notify_one(),
        StoreRole::Worker => inner.emit(Event::Resync),
    }
    // What came in while the ledger was being written down.
    inner.outbox.notify_one();
    // Whoever is alive reaps, for however short a time it may be.
    inner.reaping.notify_one();
    if inner.grid().stale() {
        inner.link.lose(epoch);
    }
}

fn away(inner: &Inner, error: &RedisError) {
    let reason = describe(error);
    inner.link.set(State::Away(reason.as_str().into()));
    let was_reachable = inner.reachable.swap(false, Ordering::Relaxed);
    let first = !inner.said_away.swap(true, Ordering::Relaxed);
    if !was_reachable && !first && inner.link.is_news(error) {
        log::warn!(store = inner.address.as_str(), reason = reason.as_str(); "the store answers and refuses");
    }
    if was_reachable || first {
        log::warn!(store = inner.address.as_str(), reason = reason.as_str(); "the store is away");
        inner.emit(Event::Reachable(false));
    }
}

/// Whether trying again is of no use.
fn is_final(error: &RedisError) -> bool {
    error.kind() == ErrorKind::InvalidClientConfig
}

async fn open(inner: &Arc<Inner>, finder: &mut Finder<'_>) -> RedisResult<Live> {
    let epoch = inner.epoch.fetch_add(1, Ordering::Relaxed) + 1;
    // Announcements missed meanwhile are made up for by hello.
    inner.grid().announced = None;
    let listener = Arc::downgrade(inner);
    let mut live = Live {
        connection: finder
            .connect(move |push| hear(&listener, epoch, push))
            .await?,
        epoch,
        grid: Arc::default(),
        since: Instant::now(),
    };
    is_a_redis(&mut live).await?;
    // First listen, then write: nothing that happens from here on is missed.
    subscribe(inner, &mut live).await?;
    let mut met = meet(inner, &mut live).await;
    if met
        .as_ref()
        .is_err_and(|error| error.code() == Some(WRONG_TYPE))
    {
        // Nobody who is connected may be left to put that right.
        mistyped::delete_mistyped(inner, &mut live).await?;
        met = meet(inner, &mut live).await;
    }
    inner.presence().heard(met?);
    live.since = Instant::now();
    Ok(live)
}

/// Says hello and writes down what is ours. Returns when the sign of life set out that this was.
async fn meet(inner: &Inner, live: &mut Live) -> RedisResult<Instant> {
    let mut get = redis::cmd("GET");
    get.arg(inner.keys.name(keys::GRID));
    let present: Option<String> = get.query_async(&mut live.connection).await?;
    let marked = match &present {
        Some(grid) => scripts::has_mark(&mut live.connection, grid).await?,
        None => false,
    };
    let name = format!("{:016x}", rand::random::<u64>());
    if !marked {
        // Before anybody reads it: who finds a grid without a mark begins another one.
        scripts::mark(&mut live.connection, &name).await?;
    }
    let unmarked = present.filter(|_| !marked).unwrap_or_default();
    let sent = Instant::now();
    let young = hello(inner, live, &name, &unmarked).await?;
    scripts::mark(&mut live.connection, &live.grid).await?;
    restate(inner, live).await?;
    // What else it needs permission for.
    let mut index = inner.scripts.index.key(inner.keys.name(keys::GRID));
    index.arg(&*live.grid);
    let _: Value = index.invoke_async(&mut live.connection).await?;
    let mut grid = inner.grid();
    grid.known = Some(live.grid.clone());
    grid.young_until = Some(sent + young);
    Ok(sent)
}

/// Scripts touch keys of many workers at once, which in a cluster live on many servers.
async fn is_a_redis(live: &mut Live) -> RedisResult<()> {
    let hello: HashMap<String, Value> = redis::cmd("HELLO")
        .query_async(&mut live.connection)
        .await?;
    let wrong = match hello.get("mode").and_then(text) {
        Some("cluster") => {
            "this is a Redis Cluster, where the keys of one grid live on many servers: Playhouse \
             wants one server, or a primary and replicas watched by Sentinel (redis+sentinel://)"
        }
        Some("sentinel") => {
            "this is a Sentinel and no Redis server: write \
             redis+sentinel://HOST:PORT/NAME, NAME being what it calls the primary"
        }
        _ => return Ok(()),
    };
    Err(RedisError::from((ErrorKind::InvalidClientConfig, wrong)))
}

async fn subscribe(inner: &Inner, live: &mut Live) -> RedisResult<()> {
    let mut channels = vec![inner.keys.reset.clone()];
    if inner.role == StoreRole::Proxy {
        channels.push(inner.keys.events.clone());
        channels.push(inner.grants_channel.clone());
    }
    for registration in inner.ledger().registrations(Instant::now()) {
        channels.push(inner.keys.command(&registration.record.key));
    }
    live.connection.subscribe(channels).await
}

/// Returns for how long those who knew an earlier grid are awaited.
async fn hello(inner: &Inner, live: &mut Live, name: &str, old: &str) -> RedisResult<Duration> {
    let mut hello = inner.scripts.hello.prepare_invoke();
    hello
        .key(inner.keys.name(keys::GRID))
        .arg(name)
        .arg(inner.ledger().revision())
        .arg(inner.grid().known.as_deref().unwrap_or_default())
        .arg(old);
    if inner.role == StoreRole::Proxy {
        let proxies = inner.presence().proxies();
        hello
            .key(&inner.identity_key)
            .arg(&inner.proxy)
            .arg(live.epoch)
            .arg(millis(inner.proxy_ttl))
            .arg(inner.grid().awaited(proxies, Instant::now()));
    }
    let sent = Instant::now();
    let (grid, showed, young): (String, i64, u64) =
        hello.invoke_async(&mut live.connection).await?;
    inner
        .clock
        .observe(sent.into_std(), Instant::now().into_std(), showed);
    live.grid = grid.into();
    Ok(Duration::from_millis(young))
}

/// Makes Redis agree with the ledger. Nothing of ours is under way meanwhile: this connection is
/// not live yet, and older ones are fenced off.
async fn restate(inner: &Inner, live: &mut Live) -> RedisResult<()> {
    let known = inner.grid().known.clone();
    let is_another = known.as_ref() != Some(&live.grid);
    if inner.role == StoreRole::Proxy {
        if is_another {
            inner.revisions().forget();
            restore(inner, live).await?;
            let mut grid = inner.grid();
            grid.renewed = known.as_ref().map(|_| Instant::now());
            grid.untold |= known.is_some();
        }
        let leases = leases(inner, live).await?;
        let mut ledger = inner.ledger();
        ledger.mark_unsynced();
        ledger.compare(&leases, true);
    }
    match inner.role {
        // What ended is told when this connection is live: until then a session may begin in a seat that is free
        // because of that, from a share, which is to be known before the seat is anybody's.
        StoreRole::Proxy => inner.flush_adoptions(live).await?,
        StoreRole::Worker => inner.flush(live).await?,
    }
    let registrations = inner.ledger().registrations(Instant::now());
    for registration in registrations {
        inner.write_registration(live, &registration).await?;
    }
    Ok(())
}

/// A Redis that came back empty knows no worker, one that came back old has old counts. Those that have an agent register again at once;
/// until they all have, and for those of the original, which do not, every proxy writes down what
/// it remembers, so that there is no moment without workers; and the lifetimes of those that fell silent, for
/// their return.
async fn restore(inner: &Inner, live: &mut Live) -> RedisResult<()> {
    let remembered = inner.ledger().remembered();
    for batch in remembered.chunks(RESTORE_BATCH) {
        let mut restore = inner.fenced(&inner.scripts.restore, live.epoch);
        restore.arg(millis(RESTORED_TTL));
        for view in batch {
            let fields = wire::fields(&view.record);
            restore
                .key(inner.keys.record(&view.record.key))
                .arg(view.record.key.to_string())
                .arg(view.counts.lifetime)
                .arg(view.counts.active)
                .arg(fields.len() * 2)
                .arg(&fields);
        }
        let _: u32 = restore.invoke_async(&mut live.connection).await?;
    }
    let silent = inner.ledger().silent();
    for batch in silent.chunks(BATCH) {
        let mut restore = inner.fenced(&inner.scripts.restore, live.epoch);
        restore.arg(millis(RESTORED_TTL));
        for (worker, lifetime) in batch {
            restore.key(inner.keys.record(worker));
            restore.arg(worker.to_string()).arg(lifetime).arg(0).arg(0);
        }
        let _: u32 = restore.invoke_async(&mut live.connection).await?;
    }
    Ok(())
}

/// The leases that Redis has under this proxy's name.
pub async fn leases(
    inner: &Inner,
    live: &mut Live,
) -> RedisResult<HashMap<crate::model::SessionId, crate::model::WorkerKey>> {
    let hash = redis::cmd("HGETALL")
        .arg(&inner.leases_key)
        .query_async(&mut live.connection)
        .await?;
    Ok(wire::leases(hash))
}

/// A TTL as Redis takes it, in ms.
pub fn millis(duration: Duration) -> u64 {
    // Redis refuses a TTL of 0.
    (duration.as_millis() as u64).max(1)
}

/// Takes what Redis pushes. Called by the connection's driver, so it must not block.
fn hear(inner: &Weak<Inner>, epoch: u64, push: PushInfo) -> Result<(), ()> {
    let inner = inner.upgrade().ok_or(())?;
    if epoch != inner.epoch.load(Ordering::Relaxed) {
        // From a connection that was given up.
        return Ok(());
    }
    match push.kind {
        PushKind::Disconnection => inner.link.lose(epoch),
        PushKind::Message => {
            if let [channel, payload] = push.data.as_slice()
                && let (Some(channel), Some(payload)) = (text(channel), text(payload))
            {
                message(&inner, epoch, channel, payload);
            }
        }
        _ => {}
    }
    Ok(())
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

fn message(inner: &Inner, epoch: u64, channel: &str, payload: &str) {
    if channel == inner.keys.events {
        let knows_us = inner.listening.load(Ordering::Relaxed) == epoch && !inner.grid().stale();
        if !knows_us && wire::is_change(payload) {
            // Of a grid that may not know yet what this process remembers: its counts are too low. What
            // was told until then is read.
            return;
        }
        if let Some((before, last, changes)) = wire::changes(payload) {
            changes
                .filter_map(wire::event)
                .for_each(|event| inner.hear(event));
            inner.revisions().hear(before, last);
        } else if let Some(event) = wire::event(payload) {
            // Of a process of 0.1, which tells of each change by itself.
            if let Some(revision) = event.revision() {
                inner.revisions().hear(revision.saturating_sub(1), revision);
            }
            inner.hear(event);
        } else if let Some(proxies) = wire::proxies(payload) {
            inner.counted_proxies(proxies);
        } else if let Some(word) = peers::parse(payload) {
            inner.peer_queries.on_message(word, &inner.proxy);
        }
    } else if channel == inner.grants_channel {
        if let Ok(session) = payload.parse() {
            inner.hear_grant(session);
        }
    } else if channel == inner.keys.reset {
        let mut grid = inner.grid();
        grid.announced = Some(payload.into());
        if grid.stale() {
            drop(grid);
            inner.link.lose(epoch);
        }
    } else if let Some(worker) = inner.keys.ordered(channel) {
        match payload {
            // Channels know no database: only the key tells whether the order is meant for this
            // grid.
            keys::SHUTDOWN => {
                inner.announced.try_send(worker).ok();
            }
            keys::CHECK => inner.emit(Event::Suspect(worker)),
            _ => {}
        }
    }
}
