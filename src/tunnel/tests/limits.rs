//! Pings and time limits, in paused time over in-memory streams: nothing here waits.

use super::rig::*;
use crate::tunnel::{Limits, Party, Why};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, advance, timeout};

const SECOND: Duration = Duration::from_secs(1);

fn pinging() -> Limits {
    Limits {
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
async fn a_side_that_answers_no_ping_ends_the_session() {
    for worker_silent in [true, false] {
        let mut rig = Rig::memory(pinging(), 4096);
        let start = Instant::now();
        let answers = if worker_silent {
            &mut rig.client
        } else {
            &mut rig.worker
        };
        let close = loop {
            let read = read_frame(answers).await.unwrap();
            if read.opcode == 8 {
                break read.close();
            }
            let pong = frame(10, true, worker_silent, b"");
            answers.write_all(&pong).await.unwrap();
        };
        assert!(start.elapsed() >= 60 * SECOND && start.elapsed() < 62 * SECOND);
        let (code, why, by) = if worker_silent {
            (1011, Why::WorkerSilent, Party::Worker)
        } else {
            (1008, Why::ClientSilent, Party::Client)
        };
        assert_eq!(close.0, code);
        assert!(close.1.contains("no answer for 1m"), "{}", close.1);
        let ended = rig.ended().await;
        assert_eq!((ended.why, ended.by), (why, by));
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_without_messages_is_idle_whatever_pongs_pass() {
    let limits = Limits {
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
    assert_eq!(rig.ended().await.why, Why::Idle);
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_at_its_longest_duration_however_busy() {
    let limits = Limits {
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
    assert_eq!(rig.ended().await.why, Why::TooLong);
}
