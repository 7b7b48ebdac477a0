use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncWriteExt, duplex};

use super::*;

/// A header of these: version and command, family and protocol, what follows.
fn header(command: u8, transport: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
    [&SIGNATURE[..], &[command, transport], &length, rest].concat()
}

/// 192.0.2.1:51724 to 10.0.0.7:5432.
const V4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 7, 0xca, 0x0c, 0x15, 0x38];

fn v4() -> Said {
    Said::Client {
        source: "192.0.2.1:51724".parse().expect("an address"),
        destination: "10.0.0.7:5432".parse().expect("an address"),
    }
}

/// What both say, which is the same: the parser, and the reader that is given this byte by byte with more behind it.
async fn said(bytes: &[u8]) -> Result<Said, String> {
    let parsed = parse(bytes).map_err(|error| error.to_string());
    let (mut sender, mut stream) = duplex(1);
    let behind = [bytes, b"behind"].concat();
    let ((), (read, left)) = tokio::join!(
        async move {
            let _ = sender.write_all(&behind).await;
        },
        async {
            let deadline = Instant::now() + Duration::from_mins(1);
            let read = read(&mut stream, deadline).await.map_err(|error| error.to_string());
            let mut left = Vec::new();
            let _ = stream.read_to_end(&mut left).await;
            (read, left)
        }
    );
    if read.is_ok() {
        assert_eq!(left, b"behind", "not a byte more was read");
        assert_eq!(parsed, Ok(Some((read.clone().expect("it is"), bytes.len()))));
    } else {
        assert_eq!(parsed.map(|_| ()), read.clone().map(|_| ()));
    }
    read
}

#[tokio::test]
async fn clients_and_health_checks() {
    assert_eq!(said(&header(0x21, TCP4, &V4)).await, Ok(v4()));
    let mut v6 = [0; 36];
    v6[..16].copy_from_slice(&"2001:db8::1".parse::<std::net::Ipv6Addr>().expect("an address").octets());
    v6[16..32].copy_from_slice(&"fd00::7".parse::<std::net::Ipv6Addr>().expect("an address").octets());
    v6[32..].copy_from_slice(&V4[8..]);
    let expected = Said::Client {
        source: "[2001:db8::1]:51724".parse().expect("an address"),
        destination: "[fd00::7]:5432".parse().expect("an address"),
    };
    assert_eq!(said(&header(0x21, TCP6, &v6)).await, Ok(expected));
    // HAProxy checks with nothing, AWS with whatever.
    for (transport, rest) in [(0x00, &[][..]), (TCP4, &V4[..]), (TCP6, &[1, 2, 3][..]), (0x31, &[0; 216][..])] {
        assert_eq!(said(&header(0x20, transport, rest)).await, Ok(Said::Local));
    }
}

#[tokio::test]
async fn an_ipv4_client_is_one_in_ipv6_too() {
    let mut mapped = [0; 36];
    mapped[10..12].fill(0xff);
    mapped[12..16].copy_from_slice(&V4[..4]);
    mapped[26..28].fill(0xff);
    mapped[28..32].copy_from_slice(&V4[4..8]);
    mapped[32..].copy_from_slice(&V4[8..]);
    assert_eq!(said(&header(0x21, TCP6, &mapped)).await, Ok(v4()));
}

#[tokio::test]
async fn what_follows_the_addresses_is_skipped() {
    // As AWS's NLB does: the endpoint's id (type 0xEA, subtype 1), and padding.
    let endpoint = [&[0xea, 0, 23, 1][..], b"vpce-0123456789abcdefgh"].concat();
    assert_eq!(said(&header(0x21, TCP4, &[&V4[..], &endpoint[..]].concat())).await, Ok(v4()));
    // Not even its form is looked at.
    assert_eq!(said(&header(0x21, TCP4, &[&V4[..], &[4, 0xff]].concat())).await, Ok(v4()));
    let full = [&V4[..], &[0; LONGEST - FIXED - 12]].concat();
    assert_eq!(said(&header(0x21, TCP4, &full)).await, Ok(v4()));
}

#[tokio::test]
async fn everything_else_is_refused() {
    let none = "no PROXY protocol header of version 2".to_owned();
    for bytes in [
        // Version 1, SSLRequest, a startup packet, a TLS hello, HTTP; a signature that is almost one.
        &b"PROXY TCP4 192.0.2.1 10.0.0.7 51724 5432\r\n"[..],
        &[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f],
        &[0, 0, 0, 9, 0, 3, 0, 0, 0],
        &[0x16, 3, 1, 2, 0, 1],
        b"GET / HTTP/1.1\r\n\r\n",
        b"\r\n\r\n\0\r\nQUIT\r\x21\x11\0\0",
    ] {
        assert_eq!(said(bytes).await, Err(none.clone()), "{bytes:?}");
    }
    for (version_and_command, version, command) in [(0x11, 1, 1), (0x31, 3, 1), (0x22, 2, 2), (0x2f, 2, 15), (0, 0, 0)]
    {
        let error = format!("a PROXY protocol header of version {version}, command {command}");
        assert_eq!(said(&header(version_and_command, TCP4, &V4)).await, Err(error));
    }
    // Unspecified; UDP over both; Unix; nonsense.
    for transport in [0x00, 0x10, 0x12, 0x22, 0x31, 0x32, 0xff] {
        let error = format!("a PROXY protocol header of family and protocol {transport:#04x}, which is not TCP");
        assert_eq!(said(&header(0x21, transport, &[0; 216])).await, Err(error));
    }
    for (transport, length) in
        [(TCP4, 0), (TCP4, 11), (TCP6, 12), (TCP6, 35), (TCP4, LONGEST - FIXED + 1), (TCP4, 65_535)]
    {
        let error = format!("a PROXY protocol header of {} bytes", FIXED + length);
        assert_eq!(said(&header(0x21, transport, &vec![0; length])).await, Err(error));
    }
}

#[tokio::test(start_paused = true)]
async fn who_sends_nothing_more_is_not_waited_for() {
    let whole = header(0x21, TCP4, &V4);
    for sent in [0, 1, 12, 15, 16, whole.len() - 1] {
        let (mut sender, mut stream) = duplex(64);
        sender.write_all(&whole[..sent]).await.expect("sent");
        let deadline = Instant::now() + Duration::from_secs(5);
        assert!(matches!(read(&mut stream, deadline).await, Err(HeaderError::TooLate)));
        assert_eq!(Instant::now(), deadline);
        drop(sender);
        let late = read(&mut stream, Instant::now() + Duration::from_secs(5)).await;
        assert!(matches!(late, Err(HeaderError::Io(_))), "an end is none");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = parse(&bytes);
        // Most of those are no header; these are.
        let _ = parse(&[&SIGNATURE[..], &bytes].concat());
    }

    #[test]
    fn more_bytes_change_nothing(
        command in prop_oneof![Just(0x20_u8), Just(0x21)],
        transport in prop_oneof![Just(TCP4), Just(TCP6), any::<u8>()],
        rest in proptest::collection::vec(any::<u8>(), 0..100),
        behind in proptest::collection::vec(any::<u8>(), 0..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let header = header(command, transport, &rest);
        let whole = parse(&header).map_err(|error| error.to_string());
        let longer = parse(&[&header[..], &behind].concat()).map_err(|error| error.to_string());
        prop_assert_eq!(&longer, &whole);
        // Less of it is incomplete, or refused early for the same reason.
        let short = parse(&header[..cut.index(header.len())]).map_err(|error| error.to_string());
        prop_assert!(short == Ok(None) || short == whole.clone().map(|_| None));
        if let Ok(read) = whole {
            prop_assert_eq!(read.map(|(_, length)| length), Some(header.len()));
        }
    }
}
