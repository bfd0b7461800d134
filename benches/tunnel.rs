//! What relaying costs: processor time of the relaying thread alone, for a tunnel and for tokio's
//! plain copy, over loopback, interleaved.
//! `cargo bench --bench tunnel -- [--rounds=5] [--load=256] [--relay=tunnel]`
//!
//! A floor, not the product's number: no accept, no HTTP, one session. The load generator measures
//! the whole grid.

use bytes::Bytes;
use playhouse::model::SessionId;
use playhouse::tunnel::{self, Ends, SessionLimits, Side, Traffic, Transport};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream as AsyncStream;

const LIMITS: SessionLimits = SessionLimits {
    idle_timeout: None,
    max_duration: None,
    ping_interval: Some(Duration::from_secs(20)),
    ping_timeout: Duration::from_secs(60),
    write_timeout: Duration::from_secs(60),
};

/// How the two connections are joined.
#[derive(Clone, Copy)]
enum Relay {
    Tunnel,
    /// tokio's copy, with buffers of this size each way.
    Copy(usize),
}

const RELAYS: [(&str, Relay); 3] = [
    ("tunnel", Relay::Tunnel),
    ("copy, 8 KiB", Relay::Copy(8 << 10)),
    ("copy, 64 KiB", Relay::Copy(64 << 10)),
];

/// What the session does.
#[derive(Clone, Copy)]
enum Load {
    /// The worker answers each message with one of the same size.
    Echo { size: usize, times: usize },
    /// The worker sends messages and the client reads them.
    Stream { size: usize, times: usize },
}

const LOADS: [(&str, Load); 6] = [
    (
        "256 B, echo",
        Load::Echo {
            size: 256,
            times: 40_000,
        },
    ),
    (
        "64 KiB, echo",
        Load::Echo {
            size: 64 << 10,
            times: 8_000,
        },
    ),
    (
        "1 MiB, echo",
        Load::Echo {
            size: 1 << 20,
            times: 800,
        },
    ),
    (
        "64 KiB, stream",
        Load::Stream {
            size: 64 << 10,
            times: 32_000,
        },
    ),
    (
        "1 MiB, stream",
        Load::Stream {
            size: 1 << 20,
            times: 2_000,
        },
    ),
    (
        "16 MiB, stream",
        Load::Stream {
            size: 16 << 20,
            times: 125,
        },
    ),
];

/// A binary message that is masked if a client sends it.
fn message(size: usize, masked: bool) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut wire = vec![0x82];
    if size < 65_536 {
        wire.push(mask | 126);
        wire.extend((size as u16).to_be_bytes());
    } else {
        wire.push(mask | 127);
        wire.extend((size as u64).to_be_bytes());
    }
    if masked {
        wire.extend([0; 4]);
    }
    wire.resize(wire.len() + size, 7);
    wire
}

/// One session under one load. Seconds of processor time of the relaying thread.
fn measure(relay: Relay, load: Load) -> f64 {
    let front = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let back = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let front_address = front.local_addr().expect("it is bound");
    let back_address = back.local_addr().expect("it is bound");
    let relaying = thread::spawn(move || {
        let client = front.accept().expect("the client comes").0;
        let worker = TcpStream::connect(back_address).expect("the worker listens");
        for stream in [&client, &worker] {
            stream.set_nodelay(true).expect("a socket option");
            stream.set_nonblocking(true).expect("a socket option");
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let before = processor_time();
        runtime.block_on(join(relay, client, worker));
        processor_time() - before
    });
    let working = thread::spawn(move || work(load, back.accept().expect("the relay comes").0));
    let mut client = TcpStream::connect(front_address).expect("the relay listens");
    client.set_nodelay(true).expect("a socket option");
    use_session(load, &mut client);
    drop(client);
    working.join().expect("the worker does not panic");
    relaying.join().expect("the relay does not panic")
}

async fn join(relay: Relay, client: TcpStream, worker: TcpStream) {
    let mut client = AsyncStream::from_std(client).expect("a runtime runs");
    let mut worker = AsyncStream::from_std(worker).expect("a runtime runs");
    match relay {
        Relay::Tunnel => {
            let side = |stream| Side {
                stream: Transport::from(stream),
                early: Bytes::new(),
            };
            let ends = Ends {
                client: side(client),
                worker: side(worker),
            };
            let (_stop, stopped) = tokio::sync::oneshot::channel();
            let traffic = Arc::new(Traffic::new());
            tunnel::run(SessionId::random(), ends, LIMITS, traffic, stopped).await;
        }
        Relay::Copy(size) => {
            let copied = copy_bidirectional_with_sizes(&mut client, &mut worker, size, size);
            // Ends with a reset when the client leaves.
            drop(copied.await);
        }
    }
}

fn work(load: Load, mut stream: TcpStream) {
    stream.set_nodelay(true).expect("a socket option");
    let (Load::Echo { size, times } | Load::Stream { size, times }) = load;
    let out = message(size, false);
    let mut read = message(size, true);
    for _ in 0..times {
        if matches!(load, Load::Echo { .. }) {
            stream.read_exact(&mut read).expect("the client sends");
        }
        stream.write_all(&out).expect("the client reads");
    }
    // The client leaves first.
    while stream.read(&mut read).is_ok_and(|count| count > 0) {}
}

fn use_session(load: Load, stream: &mut TcpStream) {
    let (Load::Echo { size, times } | Load::Stream { size, times }) = load;
    let out = message(size, true);
    let mut read = message(size, false);
    for _ in 0..times {
        if matches!(load, Load::Echo { .. }) {
            stream.write_all(&out).expect("the worker reads");
        }
        stream.read_exact(&mut read).expect("the worker sends");
    }
}

fn processor_time() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a live timespec of ours, which the call fills.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0, "every Linux has this clock");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let rounds = option("--rounds=").map_or(5, |text| text.parse().expect("a number"));
    let load_part = option("--load=").unwrap_or_default();
    let relay_part = option("--relay=").unwrap_or_default();
    let relays = RELAYS.iter().filter(|(name, _)| name.contains(&relay_part));
    let relays: Vec<_> = relays.collect();
    let loads = LOADS.iter().filter(|(name, _)| name.contains(&load_part));
    println!("processor time of the relay, medians of {rounds} interleaved rounds");
    for &(load_name, load) in loads {
        let mut times = vec![Vec::new(); relays.len()];
        for _ in 0..rounds {
            for ((_, relay), times) in relays.iter().zip(&mut times) {
                times.push(measure(*relay, load));
            }
        }
        let (messages, bytes) = match load {
            Load::Echo { size, times } => (2 * times, 2 * times * size),
            Load::Stream { size, times } => (times, times * size),
        };
        println!("{load_name}");
        for ((name, _), times) in relays.iter().zip(times) {
            let time = median(times);
            let message = time / messages as f64 * 1e6;
            let gigabyte = time / bytes as f64 * 1e9;
            println!("  {name:14} {message:9.2} µs a message  {gigabyte:7.3} s a GB");
        }
    }
}

/// What follows `name` among the arguments.
fn option(name: &str) -> Option<String> {
    std::env::args().find_map(|argument| Some(argument.strip_prefix(name)?.to_owned()))
}
