//! Pings and time limits, in paused time over in-memory streams: nothing here waits.

use super::rig::*;
use crate::model::SessionId;
use crate::tunnel::{EndReason, Ends, Party, SessionLimits, Side, Traffic, Transport, run};
use bytes::Bytes;
use nix::sys::socket::{getsockopt, sockopt};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, advance, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

fn pinging() -> SessionLimits {
    SessionLimits {
        ping_interval: Some(20 * SECOND),
        ping_timeout: 60 * SECOND,
        ..NO_LIMITS
    }
}

#[tokio::test(start_paused = true)]
async fn silent_sides_are_pinged_and_answers_keep_the_session_alive() {
    let mut rig = Rig::memory(pinging(), 4096);
    let start = Instant::now();
    for round in 1..=10 {
        let to_client = read_frame(&mut rig.client).await.unwrap();
        let to_worker = read_frame(&mut rig.worker).await.unwrap();
        assert_eq!((to_client.opcode, to_client.masked), (9, false));
        assert_eq!((to_worker.opcode, to_worker.masked), (9, true));
        assert!(start.elapsed() >= round * 20 * SECOND);
        rig.client
            .write_all(&frame(10, true, true, b""))
            .await
            .unwrap();
        rig.worker
            .write_all(&frame(10, true, false, b""))
            .await
            .unwrap();
        assert_eq!(read_frame(&mut rig.worker).await.unwrap().opcode, 10);
        assert_eq!(read_frame(&mut rig.client).await.unwrap().opcode, 10);
    }
    assert_eq!(rig.traffic.messages_in() + rig.traffic.messages_out(), 0);
    assert!(!rig.task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_answers_no_ping_ends_the_session() {
    let mut rig = Rig::memory(pinging(), 4096);
    let start = Instant::now();
    let close = loop {
        let read = read_frame(&mut rig.client).await.unwrap();
        if read.opcode == 8 {
            break read.close();
        }
        let pong = frame(10, true, true, b"");
        rig.client.write_all(&pong).await.unwrap();
    };
    assert!(start.elapsed() >= 60 * SECOND && start.elapsed() < 62 * SECOND);
    assert_eq!(close.0, 1011);
    assert!(close.1.contains("no answer for 1m"), "{}", close.1);
    let ended = rig.ended().await;
    assert_eq!(
        (ended.why, ended.by),
        (EndReason::WorkerSilent, Party::Worker)
    );
}

/// A client at a breakpoint: its kernel takes what comes, and nobody reads it.
#[tokio::test(start_paused = true)]
async fn a_client_that_answers_no_ping_is_pinged_on_and_keeps_its_session() {
    let mut rig = Rig::memory(pinging(), 4096);
    let start = Instant::now();
    while start.elapsed() < 3600 * SECOND {
        assert_eq!(read_frame(&mut rig.worker).await.unwrap().opcode, 9);
        let pong = frame(10, true, false, b"");
        rig.worker.write_all(&pong).await.unwrap();
    }
    assert!(!rig.task.is_finished());
    let mut pings = 0;
    while let Ok(read) = timeout(Duration::from_millis(1), read_frame(&mut rig.client)).await {
        pings += usize::from(read.unwrap().opcode == 9);
    }
    assert!(pings >= 170, "{pings} pings keep what is in between awake");
    let answer = message(true, b"back again");
    rig.client.write_all(&answer).await.unwrap();
    while read_frame(&mut rig.worker).await.unwrap().opcode != 2 {}
    assert!(!rig.task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_session_without_messages_is_idle_whatever_pongs_pass() {
    let limits = SessionLimits {
        idle_timeout: Some(90 * SECOND),
        ..NO_LIMITS
    };
    let mut rig = Rig::memory(limits, 4096);
    advance(60 * SECOND).await;
    rig.client
        .write_all(&message(true, b"still here"))
        .await
        .unwrap();
    assert_eq!(read_frame(&mut rig.worker).await.unwrap().opcode, 2);
    let from = Instant::now();
    rig.client
        .write_all(&frame(10, true, true, b""))
        .await
        .unwrap();
    assert_eq!(read_frame(&mut rig.worker).await.unwrap().opcode, 10);
    let (code, reason) = read_frame(&mut rig.client).await.unwrap().close();
    assert!(from.elapsed() >= 89 * SECOND && from.elapsed() < 92 * SECOND);
    assert_eq!(code, 1008);
    assert!(reason.contains("idle for 1m 30s"), "{reason}");
    assert_eq!(rig.ended().await.why, EndReason::Idle);
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_at_its_longest_duration_however_busy() {
    let limits = SessionLimits {
        max_duration: Some(1800 * SECOND),
        ..pinging()
    };
    let mut rig = Rig::memory(limits, 4096);
    let start = Instant::now();
    let close = loop {
        let data = message(false, b"busy");
        rig.worker.write_all(&data).await.unwrap();
        assert_eq!(read_frame(&mut rig.client).await.unwrap().opcode, 2);
        // Not `advance`, which would step over the tunnel's timer.
        match timeout(7 * SECOND, read_frame(&mut rig.client)).await {
            Ok(read) => break read.unwrap().close(),
            Err(_) => {
                let data = message(true, b"busy too");
                rig.client.write_all(&data).await.unwrap();
                assert_eq!(read_frame(&mut rig.worker).await.unwrap().opcode, 2);
            }
        }
    };
    let age = start.elapsed();
    assert!(age >= 1800 * SECOND && age < 1801 * SECOND, "{age:?}");
    assert_eq!(close.0, 1008);
    assert!(close.1.contains("exceeded 30m"), "{}", close.1);
    assert_eq!(rig.ended().await.why, EndReason::TooLong);
}

#[tokio::test(start_paused = true)]
async fn a_ping_waits_for_the_end_of_a_frame() {
    let mut rig = Rig::memory(pinging(), 4096);
    let long = message(false, &[5; 1000]);
    for part in long.chunks(200) {
        // Slower than the interval: in all this time the client gets no ping, and is not missed.
        rig.worker.write_all(part).await.unwrap();
        sleep(30 * SECOND).await;
    }
    let read = read_frame(&mut rig.client).await.unwrap();
    assert_eq!((read.opcode, read.payload.len()), (2, 1000));
    assert_eq!(read_frame(&mut rig.client).await.unwrap().opcode, 9);
    assert!(!rig.task.is_finished());
}

fn impatient() -> SessionLimits {
    SessionLimits {
        write_timeout: 30 * SECOND,
        ..pinging()
    }
}

/// Writes messages until nobody takes them; says how many bytes went.
async fn write_until_stuck(to: &mut DuplexStream, masked: bool) -> usize {
    let data = message(masked, &[7; 1000]);
    let mut written = 0;
    loop {
        match timeout(5 * SECOND, to.write(&data[written % data.len()..])).await {
            Ok(count) => written += count.unwrap(),
            Err(_) => return written,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_holds_little_and_ends_the_session() {
    let mut rig = Rig::memory(impatient(), 4096);
    let written = write_until_stuck(&mut rig.worker, false).await;
    assert!(written <= 64 * 1024 + 2 * 4096, "{written} bytes are held");
    let (code, reason) = loop {
        let read = read_frame(&mut rig.worker).await.unwrap();
        match read.opcode {
            8 => break read.close(),
            other => assert_eq!(other, 9, "only pings come before the close"),
        }
    };
    assert_eq!(code, 1013);
    assert!(reason.contains("too slow"), "{reason}");
    let ended = rig.ended().await;
    assert_eq!(
        (ended.by, ended.why),
        (Party::Client, EndReason::ClientSlow)
    );
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_reads_nothing_ends_the_session() {
    let mut rig = Rig::memory(impatient(), 4096);
    let written = write_until_stuck(&mut rig.client, true).await;
    assert!(written <= 64 * 1024 + 2 * 4096, "{written} bytes are held");
    let close = loop {
        let read = read_frame(&mut rig.client).await.unwrap();
        if read.opcode == 8 {
            break read.close();
        }
    };
    assert_eq!(close.0, 1011);
    let ended = rig.ended().await;
    assert_eq!(
        (ended.by, ended.why),
        (Party::Worker, EndReason::WorkerSlow)
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_is_not_ended() {
    let limits = SessionLimits {
        write_timeout: 30 * SECOND,
        ..NO_LIMITS
    };
    let rig = Rig::memory(limits, 4096);
    let all = message(false, &[7; 1000]).repeat(300);
    let (mut reader, mut writer) = (rig.client, rig.worker);
    let mut read = vec![0; all.len()];
    let reading = async {
        for part in read.chunks_mut(4000) {
            sleep(20 * SECOND).await;
            reader.read_exact(part).await.unwrap();
        }
    };
    tokio::join!(reading, async { writer.write_all(&all).await.unwrap() });
    assert!(read == all);
    assert!(!rig.task.is_finished());
}

/// Whether the kernel watches the worker's connection at the end of a session in which the client
/// said so much and then, like the worker, nothing more.
async fn kernel_watches(limits: SessionLimits, said: &[u8]) -> bool {
    let (mut client, near_client) = tcp_pair(None).await;
    let (mut worker, near_worker) = tcp_pair(None).await;
    let socket = near_worker.as_fd().try_clone_to_owned().unwrap();
    let near = |stream| Side {
        stream: Transport::from(stream),
        early: Bytes::new(),
    };
    let ends = Ends {
        client: near(near_client),
        worker: near(near_worker),
    };
    let (_stop, stopped) = oneshot::channel();
    let traffic = Arc::new(Traffic::new());
    let task = tokio::spawn(run(SessionId::random(), ends, limits, traffic, stopped));
    client.write_all(said).await.unwrap();
    read_exactly(&mut worker, said.len()).await;
    tokio::time::pause();
    task.await.unwrap();
    tokio::time::resume();
    getsockopt(&socket, sockopt::KeepAlive).unwrap()
}

#[tokio::test]
async fn the_kernel_watches_a_worker_that_cannot_be_pinged() {
    let whole = message(true, b"hello");
    let half = &whole[..8];
    let without_pings = SessionLimits {
        max_duration: Some(60 * SECOND),
        ..NO_LIMITS
    };
    assert!(kernel_watches(without_pings, &whole).await);
    let with_an_end = SessionLimits {
        max_duration: Some(600 * SECOND),
        ..pinging()
    };
    assert!(kernel_watches(with_an_end, half).await);
    assert!(!kernel_watches(pinging(), &whole).await);
}
