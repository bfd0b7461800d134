//! The frame tracker against the frames that a WebSocket crate writes, in whatever pieces they
//! come, and against bytes that are no frames at all.

use crate::tunnel::frame::{self, Frame, Tracker};
use crate::tunnel::protocol::{MAX_REASON, code};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{
    CloseFrame, Frame as Reference, FrameHeader, FrameSocket,
};

/// A frame, and how it looks on the wire.
#[derive(Clone, Debug)]
struct Sample {
    frame: Frame,
    code: Option<u16>,
    wire: Vec<u8>,
}

fn sample(header: FrameHeader, payload: Vec<u8>) -> Sample {
    let opcode = u8::from(header.opcode);
    let frame = Frame {
        opcode,
        fin: header.is_final,
    };
    let code = (opcode == 8).then(|| match payload[..] {
        [high, low, ..] => u16::from_be_bytes([high, low]),
        _ => code::NONE,
    });
    let mut wire = Vec::new();
    Reference::from_payload(header, payload.into())
        .format(&mut wire)
        .unwrap();
    Sample { frame, code, wire }
}

fn samples() -> impl Strategy<Value = Vec<Sample>> {
    let size = prop_oneof![126..70_000usize, 65_530..65_540usize];
    let payload = prop_oneof![
        2 => vec(any::<u8>(), 0..126),
        1 => (any::<u8>(), size).prop_map(|(byte, size)| vec![byte; size]),
    ];
    let bits = (any::<[bool; 4]>(), any::<Option<[u8; 4]>>());
    let one = (0..16u8, bits, payload).prop_map(|(opcode, (bits, mask), mut payload)| {
        if opcode >= 8 {
            payload.truncate(125);
        }
        let header = FrameHeader {
            is_final: bits[0],
            rsv1: bits[1],
            rsv2: bits[2],
            rsv3: bits[3],
            opcode: OpCode::from(opcode),
            mask,
        };
        sample(header, payload)
    });
    vec(one, 0..12)
}

/// Everything the tracker says of `bytes` that come in pieces of these sizes.
fn follow(tracker: &mut Tracker, bytes: &[u8], sizes: &[usize]) -> Vec<(usize, Frame)> {
    let mut seen = Vec::new();
    let mut sizes = sizes.iter().cycle();
    let mut start = 0;
    while start < bytes.len() {
        let size = *sizes.next().unwrap();
        let end = (start + size).min(bytes.len());
        while start < end {
            let (step, frame) = tracker.advance(&bytes[start..end]);
            assert!(step > 0, "it goes on");
            start += step;
            assert_eq!(frame.is_some(), tracker.at_boundary());
            seen.extend(frame.map(|frame| (start, frame)));
        }
    }
    seen
}

proptest! {
    #[test]
    fn every_frame_is_seen_where_it_ends(
        samples in samples(),
        sizes in vec(prop_oneof![1..20usize, 1..100_000usize], 1..8),
    ) {
        let mut wire = Vec::new();
        let mut expected = Vec::new();
        for sample in &samples {
            wire.extend(&sample.wire);
            expected.push((wire.len(), sample.frame));
        }
        let mut tracker = Tracker::new();
        prop_assert_eq!(follow(&mut tracker, &wire, &sizes), expected);
        prop_assert!(tracker.at_boundary());
        let first_code = samples.iter().find_map(|sample| sample.code);
        prop_assert_eq!(tracker.closed(), first_code);
    }

    #[test]
    fn noise_is_followed_the_same_way_in_whatever_pieces(
        noise in vec(any::<u8>(), 0..2000),
        sizes in vec(1..300usize, 1..8),
    ) {
        let mut whole = Tracker::new();
        let mut pieces = Tracker::new();
        let expected = follow(&mut whole, &noise, &[usize::MAX / 2]);
        prop_assert_eq!(follow(&mut pieces, &noise, &sizes), expected);
        prop_assert_eq!(pieces.closed(), whole.closed());
        prop_assert_eq!(pieces.message_left(), whole.message_left());
    }

    #[test]
    fn a_skipped_payload_counts_like_a_seen_one(
        length in 1..200_000usize,
        cuts in vec(1..100_000u64, 1..6),
        masked in any::<bool>(),
    ) {
        let mask = masked.then_some([1, 2, 3, 4]);
        let header = FrameHeader { mask, opcode: OpCode::from(2), ..FrameHeader::default() };
        let wire = sample(header, vec![7; length]).wire;
        let mut tracker = Tracker::new();
        let (head, _) = tracker.advance(&wire[..wire.len() - length]);
        prop_assert_eq!(head + length, wire.len());
        let mut ended = None;
        for cut in cuts.into_iter().chain([u64::MAX]) {
            let count = cut.min(tracker.message_left());
            ended = ended.or(tracker.skip(count));
        }
        prop_assert_eq!(ended, Some(Frame { opcode: 2, fin: true }));
        prop_assert!(tracker.at_boundary());
    }

    #[test]
    fn what_we_say_is_what_a_websocket_crate_reads(
        code in 1000..1015u16,
        reason in "\\PC{0,80}",
        masked in any::<bool>(),
    ) {
        let mut wire = Vec::new();
        frame::put_ping(&mut wire, masked);
        frame::put_close(&mut wire, code, &reason, masked);
        let mut socket = FrameSocket::new(std::io::Cursor::new(wire));
        let ping = socket.read(None).unwrap().unwrap();
        prop_assert_eq!(ping.header().mask.is_some(), masked);
        prop_assert_eq!(u8::from(ping.header().opcode), 9);
        let close = socket.read(None).unwrap().unwrap();
        let mut payload = close.payload().to_vec();
        if let Some(key) = close.header().mask {
            payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        }
        prop_assert_eq!(u16::from_be_bytes([payload[0], payload[1]]), code);
        let said = std::str::from_utf8(&payload[2..]).unwrap();
        prop_assert!(said.len() <= MAX_REASON);
        prop_assert!(reason.starts_with(said));
        prop_assert!(said == reason || reason.len() > MAX_REASON);
    }
}

#[test]
fn a_close_frame_of_the_crate_gives_its_code_byte_by_byte() {
    let close = CloseFrame {
        code: CloseCode::Again,
        reason: "later".into(),
    };
    let mut wire = Vec::new();
    Reference::close(Some(close)).format(&mut wire).unwrap();
    let mut tracker = Tracker::new();
    follow(&mut tracker, &wire, &[1]);
    assert_eq!(tracker.closed(), Some(1013));
}

#[test]
fn lengths_up_to_the_last_bit_are_followed() {
    for length in [1 << 63, u64::MAX] {
        let mut wire = vec![0x82, 127];
        wire.extend(u64::to_be_bytes(length));
        wire.extend([0; 100]);
        let mut tracker = Tracker::new();
        assert_eq!(tracker.advance(&wire), (110, None));
        assert_eq!(tracker.message_left(), length - 100);
        assert_eq!(tracker.skip(length - 101), None);
        assert!(tracker.advance(&[0, 0x89]).1.is_some());
    }
}

#[test]
fn between_frames_there_is_nothing_to_skip() {
    let mut tracker = Tracker::new();
    assert_eq!((tracker.message_left(), tracker.skip(0)), (0, None));
    tracker.advance(&[0x82]);
    assert_eq!((tracker.message_left(), tracker.skip(0)), (0, None));
    assert!(!tracker.at_boundary());
}
