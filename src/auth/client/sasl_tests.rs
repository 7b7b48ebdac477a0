use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use proptest::prelude::*;
use secrecy::SecretString;
use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::{
    auth::client::scram::Fault,
    error::ClientFacing as _,
    pg::backend::{Authentication, authentication},
};

const HASH: &[u8] = b"the hash of a certificate";

fn verifier(password: &str) -> Verifier {
    Verifier::make(&SecretString::from(password), 4096).expect("made").parse().expect("a verifier")
}

fn mock() -> Mock {
    Mock::new(4096).expect("random bytes")
}

/// What a server with this account says to a driver that logs in as `mechanism`; the error is the driver's.
async fn meet(
    account: Option<&Verifier>,
    end_point: Option<&[u8]>,
    (mechanism, binding): (&str, ChannelBinding),
) -> (Result<(), ClientError>, Transcript) {
    let (mut ours, theirs) = duplex(64 * 1024);
    let (mut early, mock) = (BytesMut::new(), mock());
    let serving = async {
        let result = scram(&mut ours, &mut early, account, &mock, "somebody", end_point).await;
        drop(ours);
        result
    };
    tokio::join!(serving, drive(theirs, mechanism, ScramSha256::new(b"secret", binding)))
}

/// What a driver was shown.
#[derive(Debug, Default)]
struct Transcript {
    offered: Vec<String>,
    /// The lengths of all that came.
    lengths: Vec<usize>,
    /// Whether the server proved itself.
    proven: bool,
}

async fn drive(mut stream: DuplexStream, mechanism: &str, mut scram: ScramSha256) -> Transcript {
    let (mut buf, mut seen) = (BytesMut::new(), Transcript::default());
    loop {
        let Some(frame) = next_frame(&mut buf, 10_000).expect("a message") else {
            match stream.read_buf(&mut buf).await {
                Ok(1..) => continue,
                _ => return seen,
            }
        };
        seen.lengths.push(frame.raw.len());
        let answer = match authentication(&frame).expect("well-formed") {
            Authentication::Sasl(offered) => {
                seen.offered = offered;
                encode::to_bytes(|out| encode::sasl_initial_response(mechanism, scram.message(), out))
            }
            Authentication::SaslContinue(data) => {
                scram.update(&data).expect("acceptable");
                encode::to_bytes(|out| encode::sasl_response(scram.message(), out))
            }
            Authentication::SaslFinal(data) => {
                seen.proven = scram.finish(&data).is_ok();
                return seen;
            }
            other => panic!("{other:?}"),
        };
        stream.write_all(&answer).await.expect("sent");
    }
}

/// What becomes of these bytes; the rest is what is left of them.
async fn given(bytes: &[u8], end_point: Option<&[u8]>) -> (ClientError, Vec<u8>) {
    let (mut ours, mut theirs) = duplex(64 * 1024);
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let mut early = BytesMut::from(first);
    theirs.write_all(second).await.expect("sent");
    theirs.shutdown().await.expect("ended");
    let verifier = verifier("secret");
    let result = scram(&mut ours, &mut early, Some(&verifier), &mock(), "somebody", end_point).await;
    (result.expect_err("refused"), early.to_vec())
}

fn initial(mechanism: &str, data: &[u8]) -> Vec<u8> {
    encode::to_bytes(|out| encode::sasl_initial_response(mechanism, data, out)).to_vec()
}

fn response(data: &[u8]) -> Vec<u8> {
    encode::to_bytes(|out| encode::sasl_response(data, out)).to_vec()
}

#[tokio::test]
async fn drivers_log_in() {
    let verifier = verifier("secret");
    let bound = || ChannelBinding::tls_server_end_point(HASH.to_vec());
    for (end_point, driver, offered) in [
        (None, (SCRAM_SHA_256, ChannelBinding::unsupported()), &[SCRAM_SHA_256][..]),
        (None, (SCRAM_SHA_256, ChannelBinding::unrequested()), &[SCRAM_SHA_256]),
        (Some(HASH), (SCRAM_SHA_256, ChannelBinding::unsupported()), &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256]),
        (Some(HASH), (SCRAM_SHA_256_PLUS, bound()), &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256]),
    ] {
        let (result, seen) = meet(Some(&verifier), end_point, driver).await;
        assert!(result.is_ok(), "{result:?}");
        assert!(seen.proven && seen.offered == offered, "{seen:?}");
    }
}

#[tokio::test]
async fn a_cut_offer_and_another_channel_are_noticed() {
    let verifier = verifier("secret");
    let (result, _) = meet(Some(&verifier), Some(HASH), (SCRAM_SHA_256, ChannelBinding::unrequested())).await;
    assert!(matches!(result, Err(ClientError::Scram(Fault::Downgrade))), "{result:?}");
    let other = ChannelBinding::tls_server_end_point(b"another certificate's".to_vec());
    let (result, seen) = meet(Some(&verifier), Some(HASH), (SCRAM_SHA_256_PLUS, other)).await;
    assert!(matches!(result, Err(ClientError::Scram(Fault::Binding))), "{result:?}");
    assert!(!seen.proven);
    let bound = ChannelBinding::tls_server_end_point(HASH.to_vec());
    let (result, _) = meet(Some(&verifier), None, (SCRAM_SHA_256_PLUS, bound)).await;
    assert!(matches!(result, Err(ClientError::Mechanism)), "{result:?}");
}

#[tokio::test]
async fn nobody_learns_which_names_there_are() {
    let other = verifier("another");
    for end_point in [None, Some(HASH)] {
        let mut seen = Vec::new();
        for account in [None, Some(&other)] {
            let (result, shown) = meet(account, end_point, (SCRAM_SHA_256, ChannelBinding::unsupported())).await;
            let error = result.expect_err("refused");
            assert!(matches!(&error, ClientError::Refused(name) if name == "somebody"), "{error:?}");
            seen.push((error.report(), shown.offered, shown.lengths));
        }
        assert_eq!(seen[0], seen[1]);
        assert_eq!(seen[0].0.to_string(), "FATAL: password authentication failed for user \"somebody\" (28P01)");
    }
}

/// A client may send all it has at once, and what it sends beyond is somebody else's.
#[tokio::test]
async fn what_is_behind_the_exchange_stays() {
    let nonce_is_not_known = response(b"c=biws,r=abc,p=AAAA");
    let bytes = [initial(SCRAM_SHA_256, b"n,,n=,r=abc"), nonce_is_not_known, b"Q\0\0\0\x05\0".to_vec()].concat();
    let (mut ours, theirs) = duplex(64 * 1024);
    let mut early = BytesMut::from(&bytes[..]);
    let result = scram(&mut ours, &mut early, None, &mock(), "x", None).await;
    assert!(matches!(result, Err(ClientError::Scram(Fault::Malformed("the nonce does not match")))), "{result:?}");
    assert_eq!(&early[..], b"Q\0\0\0\x05\0");
    drop(theirs);
}

#[tokio::test]
async fn a_client_may_wait_to_be_asked() {
    let waits = [b"p\0\0\0\x16SCRAM-SHA-256\0\xff\xff\xff\xff".to_vec(), response(b"y,,n=,r=abc")].concat();
    let (error, _) = given(&waits, Some(HASH)).await;
    assert!(matches!(error, ClientError::Scram(Fault::Downgrade)), "{error:?}");
}

#[tokio::test]
async fn whoever_breaks_the_protocol_hears_so() {
    let first = initial(SCRAM_SHA_256, b"n,,n=,r=abc");
    for bytes in [
        b"Q\0\0\0\x05\0".to_vec(),
        b"Q".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"p\0\0\0\x03".to_vec(),
        b"p\0\0\0\x04".to_vec(),
        // Known from the header, before it has arrived.
        b"p\0\0\x04\x05".to_vec(),
        b"p\x7f\xff\xff\xff".to_vec(),
        response(b"password\0"),
        initial("OAUTHBEARER", b"n,,\x01auth=\x01\x01"),
        initial(SCRAM_SHA_256_PLUS, b"p=tls-server-end-point,,n=,r=abc"),
        initial(SCRAM_SHA_256, b"x"),
        [first.clone(), first.clone()].concat(),
        [first.clone(), b"Q\0\0\0\x05\0".to_vec()].concat(),
        [first.clone(), response(b"")].concat(),
        [first.clone(), response(&[b'x'; 1025])].concat(),
    ] {
        let (error, _) = given(&bytes, None).await;
        assert_eq!(error.report().sqlstate.as_str(), "08P01", "{bytes:?}: {error:?}");
        assert!(!error.is_end());
    }
    for bytes in [Vec::new(), b"X\0\0\0\x04".to_vec(), b"p\0\0\0".to_vec(), first] {
        let (error, _) = given(&bytes, None).await;
        assert!(matches!(error, ClientError::Closed) && error.is_end(), "{bytes:?}: {error:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_log_in(bytes in proptest::collection::vec(any::<u8>(), 0..100), data: Vec<u8>, bind: bool) {
        let end_point = bind.then_some(HASH);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let _ = given(&bytes, end_point).await;
            let _ = given(&[initial(SCRAM_SHA_256, &data), bytes].concat(), end_point).await;
        });
    }
}
