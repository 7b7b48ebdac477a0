use proptest::prelude::*;
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncWriteExt as _, duplex};

use super::*;
use crate::error::ClientFacing as _;

fn message(password: &[u8]) -> Vec<u8> {
    encode::to_bytes(|out| encode::password_message(password, out)).to_vec()
}

/// What becomes of these bytes, of which the first have come with the startup message; what is left of them, and what
/// was sent.
async fn given(bytes: &[u8], early: usize) -> (Result<String, ClientError>, Vec<u8>) {
    let (mut ours, mut theirs) = duplex(256 * 1024);
    let (first, second) = bytes.split_at(early.min(bytes.len()));
    let mut early = BytesMut::from(first);
    theirs.write_all(second).await.expect("sent");
    theirs.shutdown().await.expect("ended");
    let result = password(&mut ours, &mut early).await.map(|password| password.expose_secret().to_owned());
    let mut rest = early.to_vec();
    ours.read_to_end(&mut rest).await.expect("read");
    drop(ours);
    let mut asked = Vec::new();
    theirs.read_to_end(&mut asked).await.expect("read");
    assert_eq!(asked, b"R\0\0\0\x08\0\0\0\x03");
    (result, rest)
}

#[tokio::test]
async fn a_password_is_taken_whole_and_nothing_else() {
    let longest = "x".repeat(MAX_PASSWORD);
    for text in ["a", "Gr\u{fc}\u{df}e", longest.as_str()] {
        let bytes = [message(text.as_bytes()), b"Q\0\0\0\x05\0".to_vec()].concat();
        for early in [0, 1, 5, 6, 7, bytes.len()] {
            let (result, rest) = given(&bytes, early).await;
            assert_eq!(result.expect("a password"), text);
            assert_eq!(rest, b"Q\0\0\0\x05\0");
        }
    }
}

#[tokio::test]
async fn passwords_that_are_none() {
    let (result, _) = given(&message(b""), 0).await;
    let error = result.expect_err("refused");
    assert!(matches!(error, ClientError::EmptyPassword));
    assert_eq!(error.report().to_string(), "FATAL: empty password returned by client (28P01)");
    let (result, _) = given(&message(b"\xff\xfe"), 0).await;
    assert!(matches!(result, Err(ClientError::NotText)), "{result:?}");
}

#[tokio::test]
async fn whoever_breaks_the_protocol_hears_so() {
    for bytes in [
        message(&vec![b'x'; MAX_PASSWORD + 1]),
        b"p\x7f\xff\xff\xff".to_vec(),
        b"p\0\0\0\x03".to_vec(),
        // No terminator; another one; one in the middle.
        b"p\0\0\0\x04".to_vec(),
        b"p\0\0\0\x06ab".to_vec(),
        b"p\0\0\0\x07a\0\0".to_vec(),
        b"p\0\0\0\x08a\0b\0".to_vec(),
        b"Q\0\0\0\x05\0".to_vec(),
        b"Q".to_vec(),
    ] {
        let (result, _) = given(&bytes, 3).await;
        let error = result.expect_err("refused");
        assert_eq!(error.report().sqlstate.as_str(), "08P01", "{bytes:?}: {error:?}");
    }
    for bytes in [&b""[..], b"X\0\0\0\x04", b"p", b"p\0\0\0\x09abc"] {
        let (result, _) = given(bytes, 2).await;
        assert!(matches!(&result, Err(error @ ClientError::Closed) if error.is_end()), "{bytes:?}: {result:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..50), early in 0_usize..50) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let _ = given(&bytes, early).await;
            let _ = given(&message(&bytes), early).await;
        });
    }
}
