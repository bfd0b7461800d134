//! Who ends a session, and what the others are told.

use super::rig::*;
use crate::tunnel::{Close, EndReason, Ended, Party};
use bytes::Bytes;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

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
        why: EndReason::Closed,
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
    assert_eq!(
        (ended.by, ended.why),
        (Party::Worker, EndReason::WorkerLost)
    );
}

#[tokio::test]
async fn a_worker_lost_within_a_frame_just_ends_the_connection() {
    let mut rig = Rig::tcp(NO_LIMITS).await;
    let half = &message(false, &[5; 1000])[..500];
    rig.worker.write_all(half).await.unwrap();
    rig.worker.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut rig.client).await, half);
    let ended = rig.ended().await;
    assert_eq!(
        (ended.why, ended.code),
        (EndReason::WorkerLost, None),
        "no code was written"
    );
}

/// As slow as may be: each pause is shorter than the closing, all of them are much longer.
#[tokio::test(start_paused = true)]
async fn the_reason_waits_behind_a_large_message_as_long_as_that_moves() {
    let mut rig = Rig::memory(NO_LIMITS, 4096);
    let long = message(false, &vec![5; 3_000_000]);
    let (mut worker, id) = (rig.worker, rig.id);
    let writing = tokio::spawn(async move {
        worker.write_all(&long).await.unwrap();
        while read_frame(&mut worker).await.is_some() {}
        long
    });
    let mut read = vec![0; 40_000];
    rig.client.read_exact(&mut read).await.unwrap();
    let begun = Instant::now();
    let stop = rig.stop.take().unwrap();
    stop.send(Close::killed(id)).unwrap();
    let mut part = vec![0; 40_000];
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let mut took = 0;
        while took < part.len() {
            match rig.client.read(&mut part[took..]).await.unwrap() {
                0 => break,
                count => took += count,
            }
        }
        read.extend_from_slice(&part[..took]);
        if took < part.len() {
            break;
        }
    }
    assert!(begun.elapsed() > Duration::from_secs(60));
    let long = writing.await.unwrap();
    assert!(read.starts_with(&long), "{} bytes", read.len());
    let close = read_frame(&mut &read[long.len()..]).await.unwrap().close();
    assert_eq!(close.0, 1008);
    let ended = rig.task.await.unwrap();
    assert_eq!((ended.why, ended.code), (EndReason::Killed, Some(1008)));
}

/// A client that takes a byte now and then does not hold a session that is over.
#[tokio::test(start_paused = true)]
async fn a_large_message_that_hardly_moves_is_not_waited_for() {
    let mut rig = Rig::memory(NO_LIMITS, 4096);
    let long = message(false, &vec![5; 3_000_000]);
    let mut worker = rig.worker;
    let writing = tokio::spawn(async move { worker.write_all(&long).await.is_ok() });
    let mut read = vec![0; 40_000];
    rig.client.read_exact(&mut read).await.unwrap();
    let begun = Instant::now();
    rig.stop
        .take()
        .unwrap()
        .send(Close::killed(rig.id))
        .unwrap();
    let mut byte = [0];
    while rig.client.read(&mut byte).await.unwrap() > 0 {
        if rig.task.is_finished() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        begun.elapsed() < Duration::from_secs(25),
        "{:?}",
        begun.elapsed()
    );
    let ended = rig.task.await.unwrap();
    assert_eq!((ended.why, ended.code), (EndReason::Killed, None));
    assert!(!writing.await.unwrap());
}

/// Nobody needs its answer: the seat is for somebody else.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_a_goodbye_is_not_waited_for() {
    let goodbye = frame(8, true, false, b"\x03\xe8enough");
    let lost = frame(8, true, false, b"\x03\xe9Browser closed");
    for said in [goodbye, lost, Vec::new()] {
        let mut rig = Rig::memory(NO_LIMITS, 4096);
        let begun = Instant::now();
        rig.worker.write_all(&said).await.unwrap();
        rig.worker.shutdown().await.unwrap();
        rig.task.await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO, "{said:?}");
        // It reads the end all the same, and is not waited for without end.
        assert_eq!(read_frame(&mut rig.client).await.unwrap().opcode, 8);
        assert_eq!(read_frame(&mut rig.client).await, None);
        let left = async {
            while rig
                .client
                .write_all(&message(true, b"still there"))
                .await
                .is_ok()
            {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        left.await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{said:?}");
    }
}

/// A worker that has said goodbye may wait for an answer as long as it likes.
#[tokio::test(start_paused = true)]
async fn a_worker_that_said_goodbye_waits_for_no_client() {
    let mut rig = Rig::memory(NO_LIMITS, 4096);
    let begun = Instant::now();
    let goodbye = frame(8, true, false, b"\x03\xefMalformed message");
    rig.worker.write_all(&goodbye).await.unwrap();
    assert_eq!(read_to_end(&mut rig.worker).await, b"");
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(rig.task.await.unwrap().code, Some(1007));
    assert_eq!(read_to_end(&mut rig.client).await, goodbye);
}

#[tokio::test]
async fn a_stop_within_a_frame_lets_the_frame_end_first() {
    let mut rig = Rig::tcp(NO_LIMITS).await;
    let long = message(false, &[5; 100_000]);
    rig.worker.write_all(&long[..40_000]).await.unwrap();
    let mut start = vec![0; 40_000];
    rig.client.read_exact(&mut start).await.unwrap();
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
    assert_eq!(rig.ended().await.why, EndReason::Killed);
}

#[tokio::test]
async fn nothing_is_said_behind_a_goodbye() {
    let mut rig = Rig::tcp(NO_LIMITS).await;
    let goodbye = frame(8, true, true, &1000u16.to_be_bytes());
    rig.client.write_all(&goodbye).await.unwrap();
    assert_eq!(read_frame(&mut rig.worker).await.unwrap().close().0, 1000);
    rig.stop(Close::killed(rig.id));
    assert_eq!(read_frame(&mut rig.worker).await, None);
    assert_eq!(read_frame(&mut rig.client).await.unwrap().close().0, 1008);
    let ended = rig.ended().await;
    assert_eq!((ended.by, ended.why), (Party::Client, EndReason::Closed));
}

#[tokio::test]
async fn a_worker_that_says_goodbye_is_not_lost() {
    let mut rig = Rig::tcp(NO_LIMITS).await;
    let goodbye = frame(8, true, false, &[]);
    rig.worker.write_all(&goodbye).await.unwrap();
    rig.worker.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut rig.client).await, goodbye);
    let expected = Ended {
        by: Party::Worker,
        why: EndReason::Closed,
        code: Some(1005),
    };
    assert_eq!(rig.ended().await, expected);
}

#[tokio::test]
async fn a_worker_whose_browser_ends_is_lost_and_the_client_reads_its_words() {
    for (code, words, read) in [
        (
            1001u16,
            "Browser closed",
            "worker lost, its browser ended (Browser closed)",
        ),
        (1001, "", "worker lost, its browser ended"),
        (
            1012,
            "again soon",
            "worker lost, its browser ended (again soon)",
        ),
        (1011, "playhouse: it did not start", "it did not start"),
    ] {
        for pieces in [&[1000][..], &[1], &[9, 3]] {
            let mut rig = Rig::tcp(NO_LIMITS).await;
            let mut said = message(false, b"last words");
            let payload = [&code.to_be_bytes(), words.as_bytes()].concat();
            said.extend(frame(8, true, false, &payload));
            write_pieces(&mut rig.worker, &said, pieces).await;
            let last = read_frame(&mut rig.client).await.unwrap();
            assert_eq!(last.payload, b"last words");
            let told = read_frame(&mut rig.client).await.unwrap().close();
            assert_eq!(
                told,
                (1011, format!("playhouse: {read} (session {})", rig.id))
            );
            assert_eq!(read_frame(&mut rig.worker).await.unwrap().close(), told);
            let expected = Ended {
                by: Party::Worker,
                why: EndReason::WorkerLost,
                code: Some(1011),
            };
            assert_eq!(rig.ended().await, expected);
        }
    }
}

#[tokio::test]
async fn a_browser_that_ended_before_the_session_began_is_lost_too() {
    let goodbye = frame(8, true, false, b"\x03\xe9Browser closed");
    let mut rig = Rig::tcp_early(NO_LIMITS, Bytes::new(), goodbye.into()).await;
    assert_eq!(read_frame(&mut rig.client).await.unwrap().close().0, 1011);
    assert_eq!(rig.ended().await.why, EndReason::WorkerLost);
}

#[tokio::test]
async fn what_a_client_has_done_wrong_is_not_the_loss_of_its_worker() {
    for code in [1000u16, 1002, 1007, 1008, 1009, 4001] {
        let mut rig = Rig::tcp(NO_LIMITS).await;
        let goodbye = frame(8, true, false, &code.to_be_bytes());
        rig.worker.write_all(&goodbye).await.unwrap();
        assert_eq!(read_exactly(&mut rig.client, goodbye.len()).await, goodbye);
        let expected = Ended {
            by: Party::Worker,
            why: EndReason::Closed,
            code: Some(code),
        };
        assert_eq!(rig.ended().await, expected);
    }
}

#[tokio::test]
async fn a_worker_that_answers_a_goodbye_is_not_lost_whatever_it_says() {
    let mut rig = Rig::tcp(NO_LIMITS).await;
    let goodbye = frame(8, true, true, &1001u16.to_be_bytes());
    rig.client.write_all(&goodbye).await.unwrap();
    assert_eq!(read_frame(&mut rig.worker).await.unwrap().close().0, 1001);
    let answer = frame(8, true, false, &1001u16.to_be_bytes());
    rig.worker.write_all(&answer).await.unwrap();
    assert_eq!(read_exactly(&mut rig.client, answer.len()).await, answer);
    let ended = rig.ended().await;
    assert_eq!((ended.by, ended.why), (Party::Client, EndReason::Closed));
}

#[tokio::test]
async fn a_worker_lost_within_its_goodbye_is_told_to_the_client() {
    let mut rig = Rig::tcp(NO_LIMITS).await;
    let goodbye = frame(8, true, false, &1000u16.to_be_bytes());
    rig.worker.write_all(&goodbye[..3]).await.unwrap();
    rig.worker.shutdown().await.unwrap();
    assert_eq!(read_frame(&mut rig.client).await.unwrap().close().0, 1011);
    assert_eq!(rig.ended().await.why, EndReason::WorkerLost);
}

#[tokio::test]
async fn a_worker_that_is_reset_is_lost() {
    let mut rig = Rig::tcp(NO_LIMITS).await;
    // Unread bytes make the kernel answer the close with a reset.
    rig.client
        .write_all(&message(true, b"unread"))
        .await
        .unwrap();
    rig.worker.readable().await.unwrap();
    drop(rig.worker);
    assert_eq!(read_frame(&mut rig.client).await.unwrap().close().0, 1011);
    drop(rig.client);
    assert_eq!(rig.task.await.unwrap().why, EndReason::WorkerLost);
}

#[tokio::test]
async fn a_client_that_is_reset_ends_the_session_at_the_worker() {
    let mut rig = Rig::tcp(NO_LIMITS).await;
    let last = message(true, b"last words");
    rig.client.write_all(&last).await.unwrap();
    rig.worker
        .write_all(&message(false, b"unread"))
        .await
        .unwrap();
    rig.client.readable().await.unwrap();
    drop(rig.client);
    let read = read_to_end(&mut rig.worker).await;
    assert!(read == last || read.is_empty(), "{read:?}");
    drop(rig.worker);
    let ended = rig.task.await.unwrap();
    assert_eq!(
        (ended.by, ended.why),
        (Party::Client, EndReason::ClientGone)
    );
}

#[tokio::test]
async fn dropping_the_tunnel_closes_both_connections() {
    let mut rig = Rig::tcp(NO_LIMITS).await;
    rig.client
        .write_all(&message(true, b"hello"))
        .await
        .unwrap();
    assert!(read_frame(&mut rig.worker).await.is_some());
    rig.task.abort();
    assert_eq!(read_to_end(&mut rig.client).await, b"");
    assert_eq!(read_to_end(&mut rig.worker).await, b"");
}

#[tokio::test]
async fn a_session_that_nobody_can_stop_any_more_goes_on() {
    let mut rig = Rig::tcp(NO_LIMITS).await;
    drop(rig.stop.take());
    rig.client
        .write_all(&message(true, b"hello"))
        .await
        .unwrap();
    assert_eq!(read_frame(&mut rig.worker).await.unwrap().payload, b"hello");
    assert!(!rig.task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_never_ends_does_not_keep_a_stopped_session() {
    let mut rig = Rig::memory(NO_LIMITS, 4096);
    let half = &message(false, &[5; 1000])[..500];
    rig.worker.write_all(half).await.unwrap();
    let mut read = vec![0; half.len()];
    rig.client.read_exact(&mut read).await.unwrap();
    rig.stop(Close::killed(rig.id));
    assert_eq!(read_frame(&mut rig.worker).await.unwrap().close().0, 1008);
    assert_eq!(read_to_end(&mut rig.client).await, b"");
    assert_eq!(rig.task.await.unwrap().why, EndReason::Killed);
}

#[tokio::test(start_paused = true)]
async fn a_side_that_does_not_follow_is_left_behind() {
    let mut rig = Rig::memory(NO_LIMITS, 4096);
    rig.client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut rig.worker).await, b"");
    // The worker keeps its side open: the tunnel ends all the same.
    assert_eq!(read_to_end(&mut rig.client).await, b"");
    assert_eq!(rig.task.await.unwrap().why, EndReason::ClientGone);
}

#[tokio::test(start_paused = true)]
async fn when_both_have_said_goodbye_nobody_is_waited_for() {
    let mut rig = Rig::memory(NO_LIMITS, 4096);
    let begun = Instant::now();
    let goodbye = frame(8, true, true, &1000u16.to_be_bytes());
    rig.client.write_all(&goodbye).await.unwrap();
    assert_eq!(read_frame(&mut rig.worker).await.unwrap().close().0, 1000);
    let answer = frame(8, true, false, &1000u16.to_be_bytes());
    rig.worker.write_all(&answer).await.unwrap();
    rig.worker.shutdown().await.unwrap();
    // The client keeps its side open, and yet the tunnel ends before any time has passed.
    let ended = rig.task.await.unwrap();
    assert_eq!((ended.by, ended.why), (Party::Client, EndReason::Closed));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(read_to_end(&mut rig.client).await, answer);
    assert_eq!(read_to_end(&mut rig.worker).await, b"");
}

#[tokio::test(start_paused = true)]
async fn one_goodbye_without_an_answer_is_waited_for() {
    let mut rig = Rig::memory(NO_LIMITS, 4096);
    let begun = Instant::now();
    let goodbye = frame(8, true, true, &1000u16.to_be_bytes());
    rig.client.write_all(&goodbye).await.unwrap();
    assert_eq!(read_frame(&mut rig.worker).await.unwrap().close().0, 1000);
    // The worker still has something to say after the client has gone.
    rig.client.shutdown().await.unwrap();
    assert_eq!(read_frame(&mut rig.worker).await, None);
    let last = message(false, b"last words");
    rig.worker.write_all(&last).await.unwrap();
    assert_eq!(
        read_frame(&mut rig.client).await.unwrap().payload,
        b"last words"
    );
    assert_eq!(begun.elapsed(), Duration::ZERO);
    drop(rig.worker);
    assert_eq!(rig.task.await.unwrap().why, EndReason::Closed);
}
