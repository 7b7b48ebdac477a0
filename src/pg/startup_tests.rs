use proptest::prelude::*;

use super::*;

fn packet(code: u32, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u32(u32::try_from(body.len() + 8).expect("short"));
    out.put_u32(code);
    out.put_slice(body);
    out
}

fn startup(body: &[u8]) -> Result<Startup, PacketError> {
    match first(&mut packet(ProtocolVersion::V3_0.code(), body))? {
        Some(First::Startup(startup)) => Ok(startup),
        other => panic!("no startup message: {other:?}"),
    }
}

#[test]
fn parameters_keep_their_bytes_and_order() {
    let body = b"user\0alice\0database\0\xff\xfe\0options\0-c a=b\0client_encoding\0'utf-8'\0\0";
    let mut message = startup(body).expect("a startup message");
    assert_eq!(message.get("database"), Some(&b"\xff\xfe"[..]));
    let mut out = BytesMut::new();
    message.encode(ProtocolVersion::V3_0, &mut out);
    assert_eq!(out[8..], body[..]);
    message.set("user", "bob");
    message.remove("options");
    let names: Vec<_> = message.parameters().map(|(name, _)| name.to_vec()).collect();
    assert_eq!(names, [&b"user"[..], b"database", b"client_encoding"]);
}

#[test]
fn broken_startup_messages() {
    assert_eq!(startup(b"user\0a\0"), Err(PacketError::Unterminated));
    assert_eq!(startup(b"user\0a\0\0x"), Err(PacketError::Unterminated));
    assert_eq!(startup(b"user\0a"), Err(PacketError::Unterminated));
    assert_eq!(startup(b""), Err(PacketError::Unterminated));
    // PostgreSQL refuses both; here an absent user is the default login.
    assert!(startup(b"\0").is_ok());
    assert!(startup(b"user\0\0\0").is_ok());
    assert_eq!(startup(b"user\0a\0user\0b\0\0"), Err(PacketError::Duplicate("user".into())));
}

#[test]
fn lengths_are_refused_before_the_body_arrives() {
    for length in [0_u32, 1, 7, 10_001, 0x4745_5420, u32::MAX] {
        let mut buf = BytesMut::from(&length.to_be_bytes()[..]);
        assert_eq!(first(&mut buf).expect_err("refused"), PacketError::Length, "{length}");
    }
    assert!(matches!(first(&mut BytesMut::from(&[0, 0, 0][..])), Ok(None)));
    assert!(matches!(first(&mut packet(SSL_REQUEST, b"x")), Err(PacketError::Length)));
}

#[test]
fn requests_are_told_apart() {
    assert!(matches!(first(&mut packet(SSL_REQUEST, b"")), Ok(Some(First::SslRequest))));
    assert!(matches!(first(&mut packet(GSSENC_REQUEST, b"")), Ok(Some(First::GssEncRequest))));
    assert!(matches!(first(&mut BytesMut::from(&[0x16, 3][..])), Ok(Some(First::TlsHello))));
    assert!(
        matches!(first(&mut packet(CANCEL_REQUEST, &[0; 8])), Ok(Some(First::Cancel(key))) if key.secret_len() == 4)
    );
    assert!(matches!(first(&mut packet(CANCEL_REQUEST, &[0; 7])), Err(PacketError::CancelKey)));
    assert!(matches!(first(&mut packet(CANCEL_REQUEST, &[0; 261])), Err(PacketError::CancelKey)));
    assert!(matches!(first(&mut packet(2 << 16, b"user\0a\0\0")), Err(PacketError::Version { major: 2, .. })));
}

#[test]
fn negotiation_only_when_asked_for() {
    let with = |minor: u32, body: &[u8]| match first(&mut packet((3 << 16) | minor, body)) {
        Ok(Some(First::Startup(startup))) => startup,
        other => panic!("no startup message: {other:?}"),
    };
    let plain = b"user\0a\0\0";
    for (minor, spoken) in [(0, ProtocolVersion::V3_0), (1, ProtocolVersion::V3_0), (2, ProtocolVersion::V3_2)] {
        assert_eq!((with(minor, plain).negotiation(), with(minor, plain).spoken()), (None, spoken));
    }
    let beyond = with(9999, plain);
    assert_eq!(beyond.negotiation().as_deref(), Some(&b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0"[..]));
    let greased = with(0, b"user\0a\0_pq_.grease\0\0\0");
    assert_eq!(greased.negotiation().as_deref(), Some(&b"v\0\0\0\x18\0\x03\0\0\0\0\0\x01_pq_.grease\0"[..]));
    let mut out = BytesMut::new();
    greased.encode(ProtocolVersion::V3_0, &mut out);
    assert_eq!(out[8..], plain[..], "an extension is not forwarded");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = first(&mut BytesMut::from(&bytes[..]));
        let _ = first(&mut packet(ProtocolVersion::V3_0.code(), &bytes));
        let _ = first(&mut packet(CANCEL_REQUEST, &bytes));
    }

    #[test]
    fn what_is_encoded_is_parsed(pairs in proptest::collection::btree_map("[a-z_]{1,9}", "[ -~]{0,20}", 0..9)) {
        let mut message = Startup::new(ProtocolVersion::V3_0);
        message.set("user", "someone");
        for (name, value) in pairs {
            message.set(&name, value);
        }
        prop_assume!(message.get("user").is_some_and(|user| !user.is_empty()));
        let mut out = BytesMut::new();
        message.encode(ProtocolVersion::V3_0, &mut out);
        match first(&mut out) {
            Ok(Some(First::Startup(parsed))) => prop_assert_eq!(parsed, message),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
