//! What it costs to know where frames begin: the tracker, against the header parser of a WebSocket
//! crate that is run over the same bytes.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use playhouse::tunnel::frame::Tracker;
use std::hint::black_box;
use std::io::Cursor;
use tokio_tungstenite::tungstenite::protocol::frame::coding::OpCode;
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};

/// What one read of the tunnel takes.
const CHUNK: usize = 64 * 1024;

/// Masked binary messages of one size, a few chunks of them.
fn messages(size: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    while wire.len() < 8 * CHUNK {
        let header = FrameHeader {
            opcode: OpCode::from(2),
            mask: Some([1, 2, 3, 4]),
            ..FrameHeader::default()
        };
        Frame::from_payload(header, vec![7; size].into())
            .format(&mut wire)
            .expect("a vector takes everything");
    }
    wire
}

fn track(wire: &[u8]) -> u64 {
    let mut tracker = Tracker::new();
    let mut messages = 0;
    for chunk in wire.chunks(CHUNK) {
        let mut at = 0;
        while at < chunk.len() {
            let (step, frame) = tracker.advance(&chunk[at..]);
            messages += u64::from(frame.is_some_and(|frame| frame.ends_message()));
            at += step;
        }
    }
    messages
}

/// Needs the whole stream in one piece, which the tunnel never has.
fn parse(wire: &[u8]) -> u64 {
    let mut cursor = Cursor::new(wire);
    let mut messages = 0;
    while let Ok(Some((header, length))) = FrameHeader::parse(&mut cursor) {
        let end = cursor.position() + length;
        messages += u64::from(header.is_final && end <= wire.len() as u64);
        cursor.set_position(end);
    }
    messages
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frames");
    for size in [64, 256, 4096, 1 << 20] {
        let wire = messages(size);
        assert_eq!(track(&wire), parse(&wire));
        group.throughput(Throughput::Elements(track(&wire)));
        group.bench_with_input(BenchmarkId::new("tracker", size), &wire, |bencher, wire| {
            bencher.iter(|| track(black_box(wire)));
        });
        group.bench_with_input(BenchmarkId::new("parser", size), &wire, |bencher, wire| {
            bencher.iter(|| parse(black_box(wire)));
        });
    }
    group.finish();
}

criterion_group!(benches, frames);
criterion_main!(benches);
