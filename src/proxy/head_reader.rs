//! Reads a request's head from a connection, of one size at most.

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

/// First read of a head: a Playwright client's handshake is some 500 bytes.
pub(super) const HEAD_READ: usize = 2048;

/// What came of reading a head.
pub(super) enum HeadRead {
    Whole,
    TooLarge,
    Gone,
}

/// Reads until the empty line that ends a head; some of it may be there already.
pub(super) async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    head: &mut BytesMut,
    max: usize,
) -> HeadRead {
    let mut from = 0;
    loop {
        let new = &head[from..];
        let end = find(new, b"\r\n\r\n").or_else(|| find(new, b"\n\n"));
        match end {
            Some(end) if from + end <= max => return HeadRead::Whole,
            None if head.len() <= max => {}
            _ => return HeadRead::TooLarge,
        }
        from = head.len().saturating_sub(3);
        head.reserve(HEAD_READ);
        match stream.read_buf(head).await {
            Ok(0) | Err(_) => return HeadRead::Gone,
            Ok(_) => {}
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
