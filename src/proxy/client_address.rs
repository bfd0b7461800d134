//! Whom a balancer or proxy in front speaks for: the PROXY protocol, versions 1 and 2, at the
//! beginning of a connection, and `X-Forwarded-For` in a request's head. Who may be believed is
//! decided elsewhere.
//!
//! The PROXY protocol is <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>.

use super::connections::is_in;
use bytes::BytesMut;
use ipnet::IpNet;
use ppp::{v1, v2};
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

/// How version 1 begins: no HTTP method does, and no TLS record.
const V1: &[u8; 6] = b"PROXY ";
/// How version 2 begins.
const V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, with its end.
const MAX_V1: usize = 107;
/// The longest header of version 2 that is taken: some hundred bytes of what clouds add, and room.
const MAX_V2: usize = 2048;
/// Version 2: what stands before its addresses, its length at the end.
const V2_FIXED: usize = 16;

/// What a connection began with.
#[derive(Debug, PartialEq, Eq)]
pub enum Preamble {
    /// A header, and the client that it names. `None` when the proxy speaks for itself, as its
    /// health checks do.
    Proxied(Option<IpAddr>),
    /// No header, and what was read to find that out.
    Direct(BytesMut),
}

/// A stream that can be looked at before it is read: a header must be taken off without a byte of
/// what follows, which may be TLS.
pub trait Peek: AsyncRead + Unpin {
    fn peek(&mut self, bytes: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send;
}

impl Peek for TcpStream {
    fn peek(&mut self, bytes: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send {
        TcpStream::peek(self, bytes)
    }
}

/// Takes a header of the PROXY protocol off a connection, if it begins with one.
///
/// # Errors
/// When the connection ends or breaks, and when what begins like a header is none.
pub async fn read_preamble(stream: &mut impl Peek) -> io::Result<Preamble> {
    let mut first = [0];
    stream.peek(&mut first).await?;
    let start = match first[0] {
        b if b == V1[0] => V1.len(),
        b if b == V2[0] => V2.len(),
        _ => return Ok(Preamble::Direct(BytesMut::new())),
    };
    let mut header = BytesMut::zeroed(start);
    stream.read_exact(&mut header).await?;
    let client = if header[..] == V1[..] {
        read_v1(stream, header).await?
    } else if header[..] == V2[..] {
        read_v2(stream, header).await?
    } else {
        return Ok(Preamble::Direct(header));
    };
    Ok(Preamble::Proxied(client))
}

async fn read_v1(stream: &mut impl Peek, mut header: BytesMut) -> io::Result<Option<IpAddr>> {
    loop {
        let mut seen = [0; MAX_V1];
        let room = MAX_V1 - header.len();
        if room == 0 {
            return Err(malformed());
        }
        let length = stream.peek(&mut seen[..room]).await?;
        let end = seen[..length].iter().position(|byte| *byte == b'\n');
        let from = header.len();
        header.resize(from + end.map_or(length, |end| end + 1), 0);
        stream.read_exact(&mut header[from..]).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if end.is_some() {
            break;
        }
    }
    let parsed = v1::Header::try_from(&header[..]).map_err(|_| malformed())?;
    Ok(match parsed.addresses {
        v1::Addresses::Tcp4(tcp) => Some(tcp.source_address.into()),
        v1::Addresses::Tcp6(tcp) => Some(tcp.source_address.into()),
        v1::Addresses::Unknown => None,
    })
}

async fn read_v2(stream: &mut impl Peek, mut header: BytesMut) -> io::Result<Option<IpAddr>> {
    let from = header.len();
    header.resize(V2_FIXED, 0);
    stream.read_exact(&mut header[from..]).await?;
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if V2_FIXED + length > MAX_V2 {
        return Err(malformed());
    }
    header.resize(V2_FIXED + length, 0);
    stream.read_exact(&mut header[V2_FIXED..]).await?;
    let parsed = v2::Header::try_from(&header[..]).map_err(|_| malformed())?;
    Ok(match (parsed.command, parsed.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => Some(ip.source_address.into()),
        (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => Some(ip.source_address.into()),
        _ => None,
    })
}

fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a malformed PROXY protocol header",
    )
}

/// The client that `X-Forwarded-For` names: each proxy adds whom it heard from at the end, so it is
/// the last one that is no trusted proxy itself. What a client wrote there stands further in front.
pub fn forwarded_for<'a>(
    values: impl DoubleEndedIterator<Item = &'a [u8]>,
    trusted: &[IpNet],
) -> Option<IpAddr> {
    let mut nearest = None;
    for value in values.rev() {
        for address in std::str::from_utf8(value).ok()?.rsplit(',') {
            // What is no address ends what can be believed.
            let Some(address) = parse(address.trim()) else {
                return nearest;
            };
            nearest = Some(address);
            if !is_in(trusted, address) {
                return nearest;
            }
        }
    }
    nearest
}

/// An address, as some proxies write it with a port or in brackets.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = || text.parse::<IpAddr>();
    let with_port = || text.parse::<SocketAddr>().map(|socket| socket.ip());
    let in_brackets = || text.trim_matches(['[', ']']).parse();
    let parsed = bare().or_else(|_| with_port()).or_else(|_| in_brackets());
    parsed.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    /// What a connection that says this begins with, and what is left of it.
    async fn begins(said: &[u8]) -> (io::Result<Preamble>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        client.write_all(said).await.unwrap();
        client.shutdown().await.unwrap();
        let beginning = read_preamble(&mut stream).await;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        (beginning, rest)
    }

    fn v2_header(command: v2::Command, addresses: impl Into<v2::Addresses>) -> Vec<u8> {
        let version = v2::Version::Two | command;
        let builder = v2::Builder::with_addresses(version, v2::Protocol::Stream, addresses);
        builder.build().unwrap()
    }

    #[tokio::test]
    async fn a_header_is_taken_off_and_nothing_else() {
        let four: (SocketAddr, SocketAddr) = (
            "192.0.2.7:5".parse().unwrap(),
            "198.51.100.1:6".parse().unwrap(),
        );
        let six: (SocketAddr, SocketAddr) = (
            "[2001:db8::7]:5".parse().unwrap(),
            "[2001:db8::1]:6".parse().unwrap(),
        );
        for (header, client) in [
            (
                b"PROXY TCP4 192.0.2.7 198.51.100.1 5 6\r\n".to_vec(),
                Some("192.0.2.7"),
            ),
            (
                b"PROXY TCP6 2001:db8::7 2001:db8::1 5 6\r\n".to_vec(),
                Some("2001:db8::7"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (v2_header(v2::Command::Proxy, four), Some("192.0.2.7")),
            (v2_header(v2::Command::Proxy, six), Some("2001:db8::7")),
            (v2_header(v2::Command::Local, four), None),
        ] {
            let follows = b"GET / HTTP/1.1\r\n\r\n";
            let (beginning, rest) = begins(&[&header[..], follows].concat()).await;
            let client = client.map(|client| client.parse().unwrap());
            assert_eq!(beginning.unwrap(), Preamble::Proxied(client));
            assert_eq!(rest, follows);
        }
    }

    #[tokio::test]
    async fn what_is_no_header_stays() {
        for said in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"POST / HTTP/1.1\r\n\r\n",
            b"PROXYGEN / HTTP/1.1\r\n\r\n",
            b"\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"",
        ] {
            let (beginning, rest) = begins(said).await;
            let Ok(Preamble::Direct(early)) = beginning else {
                panic!("{beginning:?} of {said:?}");
            };
            assert_eq!([&early[..], &rest].concat(), said);
        }
    }

    #[tokio::test]
    async fn a_garbled_header_is_an_error() {
        let long = [&b"PROXY TCP4 "[..], &b"1".repeat(200), b"\r\n"].concat();
        let mut endless = v2_header(v2::Command::Proxy, v2::Addresses::Unspecified);
        endless[14..16].copy_from_slice(&[0xff, 0xff]);
        for said in [
            &long[..],
            b"PROXY TCP4 not an address 5 6\r\n",
            b"PROXY TCP4 192.0.2.7",
            &endless,
            &V2[..],
        ] {
            assert!(begins(said).await.0.is_err(), "{said:?}");
        }
    }

    #[test]
    fn the_last_address_that_nobody_trusted_added_is_the_client() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let client = |values: &[&str]| {
            let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
            let client = forwarded_for(values.into_iter(), &trusted);
            client.map(|client| client.to_string())
        };
        for (values, expected) in [
            (&["192.0.2.1"][..], Some("192.0.2.1")),
            (&["6.6.6.6, 192.0.2.1, 10.0.0.2"], Some("192.0.2.1")),
            (&["6.6.6.6", "192.0.2.1,10.0.0.2"], Some("192.0.2.1")),
            (&["10.0.0.3, 10.0.0.2"], Some("10.0.0.3")),
            (&["unknown, 10.0.0.2"], Some("10.0.0.2")),
            (&["192.0.2.1:443"], Some("192.0.2.1")),
            (&["[2001:db8::1]:443"], Some("2001:db8::1")),
            (&["[2001:db8::1]"], Some("2001:db8::1")),
            (&["::ffff:192.0.2.1"], Some("192.0.2.1")),
            (&["nobody"], None),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(client(values).as_deref(), expected, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_forwarded_panics(values in prop::collection::vec(any::<Vec<u8>>(), 0..4)) {
            forwarded_for(values.iter().map(Vec::as_slice), &[]);
        }
    }
}
