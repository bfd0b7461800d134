//! Bytes pass as they are, in every size and in every cut, both ways at once.

use super::rig::*;
use crate::tunnel::{EndReason, Party, Transport};
use bytes::Bytes;
use pingora::protocols::Stream;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn random_frames(seed: u64, masked: bool, frames: usize) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut all = Vec::new();
    for _ in 0..frames {
        let size = match rng.random_range(0..10) {
            0 => 0,
            1..5 => rng.random_range(0..200),
            5..8 => rng.random_range(0..70_000),
            _ => rng.random_range(0..400_000),
        };
        let mut payload = vec![0; size];
        rng.fill_bytes(&mut payload);
        let opcode = [0, 1, 2, 9, 10][rng.random_range(0..5)];
        all.extend(frame(opcode, rng.random(), masked, &payload));
    }
    all
}

#[tokio::test]
async fn every_byte_passes_both_ways_at_once_in_whatever_pieces() {
    for (seed, sizes) in [
        (1, vec![1 << 20]),
        (2, vec![1, 7, 64, 3000]),
        (3, vec![65_536, 1, 65_535, 14]),
    ] {
        let frames = if sizes[0] == 1 { 12 } else { 60 };
        let up = random_frames(seed, true, frames);
        let down = random_frames(seed + 100, false, frames);
        let mut rig = Rig::tcp(NO_LIMITS).await;
        let (mut client_read, mut client_write) = rig.client.split();
        let (mut worker_read, mut worker_write) = rig.worker.split();
        let mut up_read = vec![0; up.len()];
        let mut down_read = vec![0; down.len()];
        tokio::join!(
            write_pieces(&mut client_write, &up, &sizes),
            write_pieces(&mut worker_write, &down, &sizes),
            async { worker_read.read_exact(&mut up_read).await.unwrap() },
            async { client_read.read_exact(&mut down_read).await.unwrap() },
        );
        assert!(up == up_read, "client to worker, seed {seed}");
        assert!(down == down_read, "worker to client, seed {seed}");
        assert_eq!(rig.traffic.bytes_in(), up.len() as u64);
        assert_eq!(rig.traffic.bytes_out(), down.len() as u64);
    }
}

#[tokio::test]
async fn bytes_that_came_with_the_heads_come_first() {
    let early_up = message(true, b"before the 101");
    let early_down = message(false, b"behind the 101");
    let mut rig = Rig::tcp_early(
        NO_LIMITS,
        Bytes::from(early_up.clone()),
        Bytes::from(early_down[..5].to_vec()),
    )
    .await;
    rig.worker.write_all(&early_down[5..]).await.unwrap();
    let up = read_frame(&mut rig.worker).await.unwrap();
    let down = read_frame(&mut rig.client).await.unwrap();
    assert_eq!(up.payload, b"before the 101");
    assert_eq!(down.payload, b"behind the 101");
    assert_eq!(rig.traffic.messages_in(), 1);
    assert_eq!(rig.traffic.messages_out(), 1);
}

#[tokio::test]
async fn messages_are_counted_and_control_frames_are_not() {
    let mut rig = Rig::tcp(NO_LIMITS).await;
    let mut wire = frame(1, false, true, b"a message ");
    wire.extend(frame(9, true, true, b"ping in between"));
    wire.extend(frame(0, true, true, b"of two frames"));
    wire.extend(frame(2, true, true, &[]));
    rig.client.write_all(&wire).await.unwrap();
    let mut read = vec![0; wire.len()];
    rig.worker.read_exact(&mut read).await.unwrap();
    assert_eq!(read, wire);
    assert_eq!(rig.traffic.messages_in(), 2);
    assert_eq!(rig.traffic.messages_out(), 0);
}

/// Cases after those of the Autobahn test suite, one frame each; some are not even allowed.
fn odd_frames(masked: bool) -> Vec<Vec<u8>> {
    let mut cases = Vec::new();
    for size in [0, 1, 125, 126, 127, 128, 65_535, 65_536, 65_537, 1 << 20] {
        cases.push(frame(1, true, masked, &vec![b'x'; size]));
    }
    // A message in fragments, with control frames in between, and an empty last fragment.
    cases.push(frame(1, false, masked, b"begin"));
    cases.push(frame(9, true, masked, b"ping"));
    cases.push(frame(0, false, masked, b""));
    cases.push(frame(10, true, masked, &[0; 125]));
    cases.push(frame(0, true, masked, b""));
    // Reserved bits (a compressed message has one), reserved opcodes, control frames that are too
    // long or in fragments, a continuation of nothing.
    for opcode in [0x42, 0x21, 0x71, 3, 7, 11, 15] {
        cases.push(frame(opcode, true, masked, b"reserved"));
    }
    cases.push(frame(9, true, masked, &[1; 126]));
    cases.push(frame(9, false, masked, b"half a ping"));
    cases.push(frame(0, true, masked, b"continues nothing"));
    // Masked the wrong way round, and lengths that are longer than they need to be.
    cases.push(frame(2, true, !masked, b"wrong mask"));
    cases.push(vec![0x82, 126, 0, 3, 1, 2, 3]);
    cases.push(vec![0x82, 127, 0, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3]);
    cases
}

#[tokio::test]
async fn odd_frames_pass_unchanged_and_so_does_every_kind_of_goodbye() {
    let reason = [&1000u16.to_be_bytes(), &[b'r'; 123][..]].concat();
    let goodbyes: [&[u8]; 5] = [b"", &[3], &1000u16.to_be_bytes(), &reason, &[0xff; 126]];
    for goodbye in goodbyes {
        let mut up = odd_frames(true).concat();
        let mut down = odd_frames(false).concat();
        up.extend(frame(8, true, true, goodbye));
        down.extend(frame(8, true, false, goodbye));
        let mut rig = Rig::tcp(NO_LIMITS).await;
        let (mut client_read, mut client_write) = rig.client.split();
        let (mut worker_read, mut worker_write) = rig.worker.split();
        let (_, _, up_read, down_read) = tokio::join!(
            write_pieces(&mut client_write, &up, &[1000, 70_000, 3]),
            write_pieces(&mut worker_write, &down, &[1000, 70_000, 3]),
            read_exactly(&mut worker_read, up.len()),
            read_exactly(&mut client_read, down.len()),
        );
        assert!(up_read == up && down_read == down, "{goodbye:?}");
        assert_eq!(rig.ended().await.why, EndReason::Closed);
    }
}

/// Rows of large frames, and what may come in the place of the next.
#[tokio::test]
async fn large_frames_in_a_row_pass_with_all_kinds_of_others_among_them() {
    let rows = |masked| {
        let mut all = Vec::new();
        for (n, odd) in odd_frames(masked).into_iter().enumerate() {
            for large in 0..2 {
                let payload: Vec<u8> = (0..200_000 + n)
                    .map(|at| (at % 253 + large) as u8)
                    .collect();
                all.extend(frame(2, large == 1, masked, &payload));
            }
            all.extend(odd);
        }
        all
    };
    let (up, down) = (rows(true), rows(false));
    for sizes in [[1 << 24, 1 << 24], [200_014, 5], [70_000, 13]] {
        let mut rig = Rig::tcp(NO_LIMITS).await;
        let (mut client_read, mut client_write) = rig.client.split();
        let (mut worker_read, mut worker_write) = rig.worker.split();
        let (_, _, up_read, down_read) = tokio::join!(
            write_pieces(&mut client_write, &up, &sizes),
            write_pieces(&mut worker_write, &down, &sizes),
            read_exactly(&mut worker_read, up.len()),
            read_exactly(&mut client_read, down.len()),
        );
        assert!(up_read == up && down_read == down, "pieces of {sizes:?}");
        assert_eq!(rig.traffic.bytes_in(), up.len() as u64);
        assert_eq!(rig.traffic.messages_in(), rig.traffic.messages_out());
    }
}

#[tokio::test]
async fn a_large_message_passes_whole_to_a_client_that_keeps_it_waiting() {
    let mut rig = Rig::tcp_small(NO_LIMITS).await;
    let payload: Vec<u8> = (0..24 << 20).map(|at| (at % 241) as u8).collect();
    let data = [message(false, &payload), message(false, b"and another")].concat();
    let writing = async { rig.worker.write_all(&data).await.unwrap() };
    let reading = async {
        let mut read = Vec::with_capacity(data.len());
        while read.len() < data.len() {
            // The sender's buffers fill while nobody reads.
            tokio::task::yield_now().await;
            let part = (data.len() - read.len()).min(100_003);
            read.extend(read_exactly(&mut rig.client, part).await);
        }
        read
    };
    let ((), read) = tokio::join!(writing, reading);
    assert!(read == data);
    assert_eq!(rig.traffic.messages_out(), 2);
}

#[tokio::test]
async fn the_end_of_the_clients_stream_is_passed_on_and_answers_still_come() {
    let mut rig = Rig::tcp(NO_LIMITS).await;
    let question = message(true, &[7; 300_000]);
    rig.client.write_all(&question).await.unwrap();
    rig.client.shutdown().await.unwrap();
    assert!(read_to_end(&mut rig.worker).await == question);
    let answer = message(false, &[8; 300_000]);
    rig.worker.write_all(&answer).await.unwrap();
    rig.worker.shutdown().await.unwrap();
    assert!(read_to_end(&mut rig.client).await == answer);
    let ended = rig.ended().await;
    assert_eq!(
        (ended.by, ended.why),
        (Party::Client, EndReason::ClientGone)
    );
}

#[tokio::test]
async fn the_largest_messages_of_playwright_pass() {
    const SIZE: usize = 100 << 20;
    let mut rig = Rig::tcp(NO_LIMITS).await;
    let payload: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
    let up = message(true, &payload);
    let down = message(false, &payload);
    drop(payload);
    let (mut client_read, mut client_write) = rig.client.split();
    let (mut worker_read, mut worker_write) = rig.worker.split();
    tokio::join!(
        async { client_write.write_all(&up).await.unwrap() },
        async { worker_write.write_all(&down).await.unwrap() },
        async { assert!(read_exactly(&mut worker_read, up.len()).await == up) },
        async { assert!(read_exactly(&mut client_read, down.len()).await == down) },
    );
    assert_eq!(rig.traffic.messages_in(), 1);
    assert_eq!(rig.traffic.messages_out(), 1);
    assert_eq!(rig.traffic.bytes_in(), up.len() as u64);
}

#[tokio::test]
async fn a_stream_that_buffers_what_it_is_given_is_flushed() {
    let mut rig = Rig::buffering(NO_LIMITS);
    for size in [0, 1, 100, 5000, 100_000] {
        let data = message(true, &vec![3; size]);
        let (mut client, mut worker) = (&mut rig.client, &mut rig.worker);
        let (_, up) = tokio::join!(
            client.write_all(&data),
            read_exactly(&mut worker, data.len())
        );
        assert!(up == data);
        let (_, down) = tokio::join!(
            worker.write_all(&data),
            read_exactly(&mut client, data.len())
        );
        assert!(down == data);
    }
}

#[tokio::test]
async fn an_open_session_is_small() {
    let rig = Rig::tcp(NO_LIMITS).await;
    // Everything of a session but the two boxed streams; every byte of it times 10,000 sessions.
    assert!(rig.size <= 712, "{} bytes", rig.size);
    println!("the future of a tunnel has {} bytes", rig.size);
}

#[tokio::test]
async fn a_link_comes_out_of_pingora_as_it_went_in() {
    let (mut far, near) = tcp_pair(None).await;
    let went_in: Stream = Box::new(Transport::from(near));
    let mut transport = Transport::from(went_in);
    assert!(matches!(transport, Transport::Plain(_)));
    far.write_all(b"over").await.unwrap();
    assert_eq!(read_exactly(&mut transport, 4).await, b"over");
    transport.write_all(b"and back").await.unwrap();
    assert_eq!(read_exactly(&mut far, 8).await, b"and back");
    drop(transport);
    assert_eq!(read_to_end(&mut far).await, b"");
}
