//! The frame tracker against arbitrary bytes in arbitrary pieces.
//!
//! `cargo +nightly fuzz run frames -- -max_total_time=300`

#![no_main]

use libfuzzer_sys::fuzz_target;

// The modules alone: they need nothing of the crate, whose dependencies take minutes to build.
#[allow(dead_code)]
#[path = "../../src/tunnel/frame.rs"]
mod frame;
#[allow(dead_code)]
#[path = "../../src/tunnel/protocol.rs"]
mod protocol;

use frame::{Frame, Tracker, put_close, put_ping};

/// What is to be seen in a stream: where frames end, and the first Close code.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    frames: Vec<(usize, Frame)>,
    closed: Option<u16>,
    at_boundary: bool,
}

/// Reads the whole stream at once, straight from the RFC, to compare with.
fn reference(bytes: &[u8]) -> Seen {
    let mut seen = Seen::default();
    let mut at = 0;
    while let Some(end) = frame_end(&bytes[at..], &mut seen.closed) {
        let frame = Frame {
            opcode: bytes[at] & 0x0f,
            fin: bytes[at] & 0x80 != 0,
        };
        at += end;
        seen.frames.push((at, frame));
    }
    seen.at_boundary = at == bytes.len();
    seen
}

fn frame_end(bytes: &[u8], closed: &mut Option<u16>) -> Option<usize> {
    let &[first, second, ref rest @ ..] = bytes else {
        return None;
    };
    let (length, rest) = match second & 0x7f {
        126 => {
            let (length, rest) = rest.split_first_chunk()?;
            (u64::from(u16::from_be_bytes(*length)), rest)
        }
        127 => {
            let (length, rest) = rest.split_first_chunk()?;
            (u64::from_be_bytes(*length), rest)
        }
        short => (u64::from(short), rest),
    };
    let (key, rest) = if second & 0x80 != 0 {
        let (key, rest) = rest.split_first_chunk::<4>()?;
        (*key, rest)
    } else {
        ([0; 4], rest)
    };
    let payload = rest.get(..usize::try_from(length).ok()?)?;
    if first & 0x0f == 8 {
        closed.get_or_insert(match payload {
            [high, low, ..] => u16::from_be_bytes([high ^ key[0], low ^ key[1]]),
            _ => protocol::code::NONE,
        });
    }
    Some(bytes.len() - rest.len() + payload.len())
}

/// Reads the stream in pieces, skipping parts of payloads instead of showing them when `skips`.
fn tracked(bytes: &[u8], sizes: &[u8], skips: bool) -> Seen {
    let mut tracker = Tracker::new();
    let mut seen = Seen::default();
    let mut sizes = sizes.iter().map(|&size| usize::from(size) + 1).cycle();
    let mut at = 0;
    while at < bytes.len() {
        let size = sizes.next().unwrap_or(usize::MAX).min(bytes.len() - at);
        let left = tracker.message_left();
        let (step, frame) = if skips && left > 0 {
            let count = left.min(size as u64);
            (count as usize, tracker.skip(count))
        } else {
            tracker.advance(&bytes[at..at + size])
        };
        assert!(step > 0 && step <= size);
        assert_eq!(frame.is_some(), tracker.at_boundary());
        at += step;
        seen.frames.extend(frame.map(|frame| (at, frame)));
    }
    seen.closed = tracker.closed();
    seen.at_boundary = tracker.at_boundary();
    seen
}

/// What we say between two frames changes nothing for those around it.
fn speak_between(bytes: &[u8], expected: &Seen) {
    let mut wire = Vec::new();
    let mut start = 0;
    for (index, &(end, _)) in expected.frames.iter().enumerate() {
        put_ping(&mut wire, index % 2 == 0);
        wire.extend(&bytes[start..end]);
        start = end;
    }
    if expected.at_boundary {
        put_close(&mut wire, 1001, &String::from_utf8_lossy(bytes), true);
    }
    let seen = reference(&wire);
    assert!(seen.at_boundary);
    let theirs = seen
        .frames
        .iter()
        .skip(1)
        .step_by(2)
        .map(|(_, frame)| frame);
    let theirs: Vec<_> = theirs.take(expected.frames.len()).collect();
    assert!(expected.frames.iter().map(|(_, frame)| frame).eq(theirs));
}

fuzz_target!(|input: (&[u8], &[u8])| {
    let (sizes, bytes) = input;
    // Streams of the fuzzer's length are short, so that pieces of up to 256 bytes cut them well.
    let sizes = &sizes[..sizes.len().min(16)];
    let expected = reference(bytes);
    assert_eq!(tracked(bytes, &[], false), expected);
    assert_eq!(tracked(bytes, sizes, false), expected);
    let skipped = tracked(bytes, sizes, true);
    assert_eq!(skipped, expected);
    speak_between(bytes, &expected);
});
