use std::{pin::pin, task::Poll};

use futures_util::{FutureExt as _, poll};

use super::*;

impl Hasher {
    /// Whoever has more than one round to do waits for ever.
    pub(crate) fn without_cores() -> Self {
        Self { cores: Arc::new(Semaphore::new(0)) }
    }
}

fn some(iterations: u32) -> NonZeroU32 {
    NonZeroU32::new(iterations).expect("some")
}

fn hashed(password: &[u8], salt: &[u8], iterations: u32, slice: u32) -> [u8; 32] {
    let mut rounds = Rounds::new(password, salt, some(iterations));
    while rounds.left > 0 {
        rounds.run(slice);
    }
    *bytes(&rounds.sum)
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("a byte");
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// RFC 7914, 11 (its first 32 bytes), however it is sliced; a password longer than a block against a plain HMAC.
#[test]
fn the_rounds_are_pbkdf2() {
    for slice in [1, 3, 4096] {
        let result = hashed(b"passwd", b"salt", 1, slice);
        assert_eq!(result.as_slice(), bytes_of("55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"));
    }
    for slice in [999, 4096, 80_000] {
        let result = hashed(b"Password", b"NaCl", 80_000, slice);
        assert_eq!(result.as_slice(), bytes_of("4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56"));
    }
    let long = [b'x'; 200];
    let mut plain = Zeroizing::new(*hmac(&long, &[b"salt\0\0\0\x01"]));
    let mut sum = *plain;
    for _ in 1..10 {
        plain = hmac(&long, &[plain.as_slice()]);
        sum.iter_mut().zip(*plain).for_each(|(sum, byte)| *sum ^= byte);
    }
    assert_eq!(hashed(&long, b"salt", 10, 4), sum);
}

/// The cores are given out in turn, so whoever stands behind the first slice of many holds the only one when just that
/// slice is done. After the drop nobody else is left who could have it.
#[tokio::test]
async fn a_dropped_future_stops_hashing() {
    let hasher = Hasher { cores: Arc::new(Semaphore::new(1)) };
    let holders = || Arc::strong_count(&hasher.cores);
    let only = Arc::clone(&hasher.cores).acquire_owned().await.expect("a core");
    let mut hashing = Box::pin(hasher.keys(b"secret", b"salt", some(100_000)));
    assert!(poll!(&mut hashing).is_pending(), "hashed without a core");
    let mut next = pin!(Arc::clone(&hasher.cores).acquire_owned());
    assert!(poll!(&mut next).is_pending());
    drop(only);
    let ours = loop {
        // Polls the hashing first: it takes the core, and asks again before it is our turn a second time.
        assert!(poll!(&mut hashing).is_pending(), "a hundred thousand rounds in one slice");
        if let Poll::Ready(core) = poll!(&mut next) {
            break core.expect("a core");
        }
        tokio::task::yield_now().await;
    };
    // It waits for its second slice: it, we and the hasher hold the cores.
    while holders() < 3 {
        assert!(poll!(&mut hashing).is_pending(), "hashed without a core");
        tokio::task::yield_now().await;
    }
    drop(hashing);
    assert_eq!(holders(), 2, "somebody still waits to hash");
    drop(ours);
    assert_eq!((holders(), hasher.cores.available_permits()), (1, 1), "somebody still hashes");
}

#[tokio::test]
async fn one_round_needs_no_core() {
    let hasher = Hasher::without_cores();
    assert!(hasher.keys(b"secret", b"salt", some(1)).now_or_never().is_some());
}
