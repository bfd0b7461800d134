//! What stands in Redis and on its channels, to and from the model: a worker's hash, the messages
//! of the events channel, the answers of scripts. Pure.

use crate::model::{Counts, Heartbeat, SeatKind, SessionId, Size, Waiter, WorkerKey, WorkerRecord};
use crate::store::{Event, Granted, LineServed, Reserved, Served, WorkerView};
use serde::Deserialize;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// A record's fields and values. The first six are the original's.
pub fn fields(record: &WorkerRecord) -> Vec<(&'static str, String)> {
    let mut fields = vec![
        ("id", record.key.id.to_string()),
        ("browserType", record.key.browser.to_string()),
        ("endpoint", record.endpoint.to_string()),
        ("status", record.status.as_str().to_owned()),
        ("startedAt", record.started_at.to_string()),
        ("lastHeartbeat", record.last_heartbeat.to_string()),
        ("replacesItself", record.replaces_itself.to_string()),
    ];
    if record.seat != SeatKind::Shared {
        fields.push(("seat", record.seat.to_string()));
    }
    if let Some(most) = record.size.max_concurrent_sessions {
        fields.push(("maxConcurrentSessions", most.to_string()));
    }
    if let Some(most) = record.size.max_lifetime_sessions {
        fields.push(("maxLifetimeSessions", most.to_string()));
    }
    if record.fixed {
        fields.push(("fixed", "true".to_owned()));
    }
    if let Some(version) = record.version {
        fields.push(("playwrightVersion", version.to_string()));
    }
    if let Some(version) = &record.browser_version {
        fields.push(("browserVersion", version.clone()));
    }
    if let Some(devtools) = record.devtools.as_ref().map(serde_json::to_string) {
        fields.push(("devtools", devtools.expect("texts with names are JSON")));
    }
    if let Some(memory) = record.memory {
        fields.push(("memory", memory.to_string()));
    }
    if let Some(pod) = &record.pod {
        fields.push(("pod", pod.to_string()));
    }
    if let Some(reason) = &record.end_reason {
        fields.push(("endReason", reason.clone()));
    }
    if let Some(options) = &record.launch_options {
        fields.push(("launchOptions", options.clone()));
    }
    if let Some(seal) = &record.seal {
        fields.push(("seal", seal.clone()));
    }
    fields
}

/// Fields that change with every heartbeat, and by which nobody decides: nobody is told of their changes.
pub const MEASURED: [&str; 2] = ["lastHeartbeat", "memory"];

/// The fields that a heartbeat rewrites.
pub fn heartbeat_fields(heartbeat: &Heartbeat) -> Vec<(&'static str, String)> {
    let mut fields = vec![
        ("status", heartbeat.status.as_str().to_owned()),
        ("lastHeartbeat", heartbeat.at.to_string()),
    ];
    if let Some(memory) = heartbeat.memory {
        fields.push(("memory", memory.to_string()));
    }
    fields
}

/// The record in a hash. The key names the worker, whatever the hash says. Workers of the original
/// have fewer fields; `None` when there is no endpoint or status, or a seat that is not to be
/// understood.
pub fn record(key: WorkerKey, fields: &HashMap<String, String>) -> Option<WorkerRecord> {
    let text = |name: &str| fields.get(name).map(String::as_str);
    let number = |name: &str| text(name)?.parse::<u64>().ok();
    let limit = |name: &str| text(name)?.parse::<u32>().ok();
    Some(WorkerRecord {
        key,
        endpoint: text("endpoint")?.parse().ok()?,
        status: text("status")?.parse().ok()?,
        version: text("playwrightVersion").and_then(|version| version.parse().ok()),
        browser_version: text("browserVersion").map(str::to_owned),
        devtools: text("devtools").and_then(|told| serde_json::from_str(told).ok()),
        replaces_itself: text("replacesItself") == Some("true"),
        seat: text("seat").map_or(Some(SeatKind::Shared), |seat| seat.parse().ok())?,
        size: Size {
            max_concurrent_sessions: limit("maxConcurrentSessions").filter(|most| *most > 0),
            max_lifetime_sessions: limit("maxLifetimeSessions"),
        },
        fixed: text("fixed") == Some("true"),
        started_at: number("startedAt").unwrap_or(0),
        last_heartbeat: number("lastHeartbeat").unwrap_or(0),
        memory: number("memory"),
        end_reason: text("endReason").map(str::to_owned),
        pod: text("pod").and_then(|pod| pod.parse().ok()),
        launch_options: text("launchOptions").map(str::to_owned),
        seal: text("seal").map(str::to_owned),
    })
}

/// What a client waits for, as `line.lua` has it: the version, empty for any, and behind a colon the
/// kind of seat if it is not a shared one. Clients that wait for the same stand in one lane.
pub fn wanted(waiter: &Waiter) -> String {
    let version = waiter.version.map_or(String::new(), |it| it.to_string());
    match waiter.seat {
        SeatKind::Shared => version,
        seat => format!("{version}:{seat}"),
    }
}

/// The body of a `w` message, as `prelude.lua` writes it.
#[derive(Deserialize)]
struct Announcement {
    worker: String,
    fields: HashMap<String, String>,
}

/// Whether a message tells of changes.
pub fn is_change(message: &str) -> bool {
    ["= ", "c ", "w ", "g "]
        .iter()
        .any(|verb| message.starts_with(verb))
}

/// Reads a message of changes, as `prelude.lua` writes it: behind which revision they begin, their last
/// revision, and a line for each.
pub fn changes(message: &str) -> Option<(u64, u64, impl Iterator<Item = &str>)> {
    let mut lines = message.strip_prefix("= ")?.split('\n');
    let (before, last) = lines.next()?.split_once(' ')?;
    let range = (before.parse().ok()?, last.parse().ok()?);
    Some((range.0, range.1, lines))
}

/// Reads one change. The verbs are those of `prelude.lua`.
pub fn event(message: &str) -> Option<Event> {
    let (verb, rest) = message.split_once(' ')?;
    match verb {
        "c" => {
            let (counts, worker) = leading_counts(rest)?;
            Some(Event::Counts(worker.parse().ok()?, counts))
        }
        "w" => {
            let (counts, body) = leading_counts(rest)?;
            let body: Announcement = serde_json::from_str(body).ok()?;
            let record = record(body.worker.parse().ok()?, &body.fields)?;
            Some(Event::Worker(Box::new(WorkerView { record, counts })))
        }
        "g" => {
            let (_revision, worker) = rest.split_once(' ')?;
            Some(Event::Gone(worker.parse().ok()?))
        }
        _ => None,
    }
}

fn leading_counts(text: &str) -> Option<(Counts, &str)> {
    let mut parts = text.splitn(4, ' ');
    let counts = Counts {
        active: parts.next()?.parse().ok()?,
        lifetime: parts.next()?.parse().ok()?,
        revision: parts.next()?.parse().ok()?,
    };
    Some((counts, parts.next()?))
}

/// How many proxies there are, from a message that one has come.
pub fn proxies(payload: &str) -> Option<usize> {
    payload.strip_prefix("p ")?.parse().ok()
}

/// Reads the answer of `reserve.lua`.
pub fn reserved(answer: &[String]) -> Option<Reserved> {
    let (verb, rest) = answer.split_first()?;
    match (verb.as_str(), rest) {
        ("gone", []) => Some(Reserved::Gone),
        ("seat", [worker, active, lifetime, revision]) => Some(Reserved::Seat {
            worker: worker.parse().ok()?,
            counts: counts(active, lifetime, revision)?,
        }),
        ("full", [revision, workers @ ..]) => {
            let each = workers
                .chunks_exact(3)
                .map(|one| Some((one[0].parse().ok()?, counts(&one[1], &one[2], revision)?)));
            Some(Reserved::Full {
                counts: each.collect::<Option<_>>()?,
            })
        }
        _ => None,
    }
}

/// The answer of `line.lua`.
pub type LineAnswer = (
    String,
    Vec<String>,
    Vec<String>,
    Vec<String>,
    String,
    usize,
    i64,
);

/// Reads the answer of `line.lua`.
pub fn served(answer: &LineAnswer) -> Option<Served> {
    let (verb, places, grants, looked_at, revision, elsewhere, _) = answer;
    if verb == "unknown" {
        return Some(Served::Unknown);
    }
    let place = |it: &[String]| Some((it[0].parse().ok()?, it[1].parse().ok()?));
    let grant = |it: &[String]| {
        Some(Granted {
            session: it[0].parse().ok()?,
            worker: it[1].parse().ok()?,
            counts: counts(&it[2], &it[3], &it[4])?,
        })
    };
    let looked = |it: &[String]| {
        let worker: WorkerKey = it[0].parse().ok()?;
        let gone = it[1].starts_with('-');
        Some((
            worker,
            (!gone).then(|| counts(&it[1], &it[2], revision)).flatten(),
        ))
    };
    Some(Served::Line(LineServed {
        places: places.chunks_exact(2).map(place).collect::<Option<_>>()?,
        granted: grants.chunks_exact(5).map(grant).collect::<Option<_>>()?,
        looked_at: looked_at
            .chunks_exact(3)
            .map(looked)
            .collect::<Option<_>>()?,
        elsewhere: *elsewhere,
    }))
}

fn counts(active: &str, lifetime: &str, revision: &str) -> Option<Counts> {
    Some(Counts {
        active: active.parse().ok()?,
        lifetime: lifetime.parse().ok()?,
        revision: revision.parse().ok()?,
    })
}

/// Reads a proxy's leases. What is no session or worker is left out; only a person can have
/// written it.
pub fn leases(hash: HashMap<String, String>) -> HashMap<SessionId, WorkerKey> {
    hash.into_iter()
        .filter_map(|(session, worker)| Some((session.parse().ok()?, worker.parse().ok()?)))
        .collect()
}

/// The address in the answer to `CLIENT INFO`; a Unix socket has none.
pub fn client_address(info: &str) -> Option<IpAddr> {
    let address = info
        .split_whitespace()
        .find_map(|part| part.strip_prefix("addr="))?;
    let address: SocketAddr = address.parse().ok()?;
    Some(address.ip())
}

/// Where others reach this machine: at the address that its packets to Redis have, `own`. When that
/// is loopback and Redis still sees us, `seen`, at another address of this machine, something here passes
/// bytes on to another machine, and that address is the one the others know.
pub fn advertised(own: Option<IpAddr>, seen: Option<IpAddr>) -> Option<IpAddr> {
    let is_ours = |address: &IpAddr| {
        !address.is_loopback() && std::net::UdpSocket::bind((*address, 0)).is_ok()
    };
    match own {
        Some(own) if own.is_loopback() => Some(seen.filter(is_ours).unwrap_or(own)),
        own => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Browser, DevToolsVersion, WorkerStatus};

    fn hash(fields: &[(&str, &str)]) -> HashMap<String, String> {
        fields
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    }

    #[test]
    fn a_record_survives_its_hash() {
        let written = WorkerRecord {
            key: WorkerKey::new(Browser::Firefox, "w1"),
            endpoint: "ws://10.0.0.1:3131/secret".parse().unwrap(),
            status: WorkerStatus::Draining,
            version: "1.65".parse().ok(),
            browser_version: None,
            devtools: Some(DevToolsVersion {
                product: "Chrome/150.0".to_owned(),
                protocol: "1.3".to_owned(),
                user_agent: "Mozilla/5.0 \"x\"".to_owned(),
                v8: "15.0".to_owned(),
                webkit: "537.36 (@0a)".to_owned(),
            }),
            replaces_itself: true,
            seat: SeatKind::Own,
            size: Size {
                max_concurrent_sessions: Some(8),
                max_lifetime_sessions: Some(0),
            },
            fixed: true,
            started_at: 1,
            last_heartbeat: 2,
            memory: Some(3),
            end_reason: Some("it hangs".to_owned()),
            pod: "browsers/worker-a".parse().ok(),
            launch_options: Some("0a".to_owned()),
            seal: Some("full".to_owned()),
        };
        let hash = fields(&written)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        assert_eq!(record(written.key.clone(), &hash), Some(written));
    }

    #[test]
    fn a_worker_of_the_original_has_no_version() {
        let hash = hash(&[
            ("id", "a"),
            ("browserType", "chromium"),
            ("endpoint", "ws://h:1/p"),
            ("status", "available"),
            ("startedAt", "1700000000000"),
            ("lastHeartbeat", "1700000000000"),
        ]);
        let record = record(WorkerKey::new(Browser::Chromium, "a"), &hash).unwrap();
        assert_eq!((record.version, record.replaces_itself), (None, false));
        assert_eq!(
            (record.seat, record.size),
            (SeatKind::Shared, Size::default())
        );
        assert_eq!(record.status, WorkerStatus::Available);
    }

    #[test]
    fn a_client_has_an_address_unless_its_socket_is_a_file() {
        let address = |info| client_address(info).map(|address| address.to_string());
        assert_eq!(
            address("id=3 addr=10.0.0.7:55 laddr=10.0.0.1:6379 fd=8").as_deref(),
            Some("10.0.0.7")
        );
        assert_eq!(address("addr=[::1]:55").as_deref(), Some("::1"));
        assert_eq!(address("addr=/run/redis.sock:0"), None);
    }

    #[test]
    fn what_redis_sees_of_a_proxy_in_between_is_not_advertised() {
        let address = |text: &str| text.parse::<IpAddr>().ok();
        let (own, foreign) = (address("127.0.0.1"), address("192.0.2.7"));
        assert_eq!(advertised(own, own), own);
        assert_eq!(advertised(own, foreign), own);
        assert_eq!(advertised(own, address("127.0.0.9")), own);
        assert_eq!(
            advertised(address("10.0.0.3"), foreign),
            address("10.0.0.3")
        );
        assert_eq!(advertised(None, foreign), None);
    }

    #[test]
    fn a_message_of_changes_has_a_line_for_each() {
        let told = changes("= 4 7\nc 1 2 5 chromium:a\ng 7 chromium:b");
        let (before, last, lines) = told.unwrap();
        let events: Vec<Event> = lines.filter_map(event).collect();
        assert_eq!((before, last, events.len()), (4, 7, 2));
        assert_eq!(changes("= 4 7\n").unwrap().2.filter_map(event).count(), 0);
        assert!(changes("c 1 2 5 chromium:a").is_none());
        assert!(changes("= 4\n").is_none());
    }

    #[test]
    fn nonsense_is_no_event_and_no_answer() {
        for message in [
            "",
            "c",
            "c 1 2 chromium:a",
            "x 1 2 3 chromium:a",
            "w 1 2 3 {}",
            "g 1 lynx:a",
        ] {
            assert_eq!(event(message), None, "{message}");
        }
        assert_eq!(reserved(&[]), None);
        assert_eq!(reserved(&["seat".to_owned()]), None);
    }
}
