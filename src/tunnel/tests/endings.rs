//! Who ends a session, and what the others are told.

use super::rig::*;
use crate::tunnel::{Close, Ended, Party, Why};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_goodbye_passes_and_is_reported_with_its_code() {
    let mut rig = Rig::tcp(NO_LIMITS).await;
    let goodbye = frame(8, true, true, &1000u16.to_be_bytes());
    rig.client.write_all(&goodbye).await.unwrap();
    assert_eq!(read_frame(&mut rig.worker).await.unwrap().close().0, 1000);
    let answer = frame(8, true, false, &1000u16.to_be_bytes());
    rig.worker.write_all(&answer).await.unwrap();
    rig.worker.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut rig.client).await, answer);
    let expected = Ended {
        by: Party::Client,
        why: Why::Closed,
        code: Some(1000),
    };
    assert_eq!(rig.ended().await, expected);
}

#[tokio::test]
async fn both_sides_are_told_when_the_session_is_stopped() {
    for (close, code) in [
        (Close::killed as fn(_) -> _, 1008),
        (Close::draining, 1001),
        (Close::shutting_down, 1001),
    ] {
        let mut rig = Rig::tcp(NO_LIMITS).await;
        let close = close(rig.id);
        rig.stop(close.clone());
        let to_client = read_frame(&mut rig.client).await.unwrap();
        let to_worker = read_frame(&mut rig.worker).await.unwrap();
        assert!(!to_client.masked && to_worker.masked);
        assert_eq!(to_client.close(), (code, close.reason().to_owned()));
        assert_eq!(to_worker.close(), to_client.close());
        assert_eq!(read_frame(&mut rig.client).await, None);
        assert_eq!(read_frame(&mut rig.worker).await, None);
        let expected = Ended {
            by: Party::Playhouse,
            why: close.why(),
            code: Some(code),
        };
        assert_eq!(rig.ended().await, expected);
    }
}

#[tokio::test]
async fn a_lost_worker_is_told_to_the_client_between_two_frames() {
    let mut rig = Rig::tcp(NO_LIMITS).await;
    let last = message(false, b"last words");
    rig.worker.write_all(&last).await.unwrap();
    rig.worker.shutdown().await.unwrap();
    assert_eq!(
        read_frame(&mut rig.client).await.unwrap().payload,
        b"last words"
    );
    let (code, reason) = read_frame(&mut rig.client).await.unwrap().close();
    assert_eq!(code, 1011);
    assert!(reason.starts_with("playhouse: worker lost"), "{reason}");
    assert!(reason.contains(&rig.id.to_string()), "{reason}");
    let ended = rig.ended().await;
    assert_eq!((ended.by, ended.why), (Party::Worker, Why::WorkerLost));
}

#[tokio::test]
async fn a_worker_lost_within_a_frame_just_ends_the_connection() {
    let mut rig = Rig::tcp(NO_LIMITS).await;
    let half = &message(false, &[5; 1000])[..500];
    rig.worker.write_all(half).await.unwrap();
    rig.worker.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut rig.client).await, half);
    assert_eq!(rig.ended().await.why, Why::WorkerLost);
}

#[tokio::test]
async fn a_stop_within_a_frame_lets_the_frame_end_first() {
    let mut rig = Rig::tcp(NO_LIMITS).await;
    let long = message(false, &[5; 100_000]);
    rig.worker.write_all(&long[..40_000]).await.unwrap();
    let mut start = vec![0; 40_000];
    tokio::io::AsyncReadExt::read_exact(&mut rig.client, &mut start)
        .await
        .unwrap();
    rig.stop(Close::killed(rig.id));
    assert_eq!(read_frame(&mut rig.worker).await.unwrap().close().0, 1008);
    let mut rest = long[40_000..].to_vec();
    rest.extend(message(false, b"too late"));
    rig.worker.write_all(&rest).await.unwrap();
    let mut read = start;
    read.extend(read_to_end(&mut rig.client).await);
    assert!(read.starts_with(&long));
    assert!(are_whole_frames(&read));
    let close = read_frame(&mut &read[long.len()..]).await.unwrap();
    assert_eq!(close.close().0, 1008);
    assert_eq!(rig.ended().await.why, Why::Killed);
}
