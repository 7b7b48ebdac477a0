//! The rounds of SCRAM: `Hi` of RFC 5802, which is PBKDF2 with HMAC-SHA-256 and one block. How many there are is the
//! server's to say, so they are done off the async threads, in slices, and end with whoever waits for them.

use std::{
    io,
    num::{NonZeroU32, NonZeroUsize},
    slice,
    sync::Arc,
    thread::available_parallelism,
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256, block_api::compress256};
use tokio::{sync::Semaphore, task::spawn_blocking};
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

/// What PostgreSQL asks for unless it is told otherwise, in one slice: half a millisecond.
const SLICE: u32 = 4096;
/// What SHA-256 begins with (FIPS 180-4, 5.3.3).
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// What is left of a password when the rounds are done: enough to log in with, and to know the server by.
pub(super) struct Keys {
    /// `ClientKey` of RFC 5802.
    pub(super) client: Zeroizing<[u8; 32]>,
    /// `ServerKey`.
    pub(super) server: Zeroizing<[u8; 32]>,
}

/// Does rounds, on half of the cores at the most: the others carry everybody's data.
pub(super) struct Hasher {
    cores: Arc<Semaphore>,
}

impl Default for Hasher {
    fn default() -> Self {
        let cores = available_parallelism().map_or(1, NonZeroUsize::get);
        Self { cores: Arc::new(Semaphore::new((cores / 2).max(1))) }
    }
}

impl Hasher {
    /// The keys of a password that SASLprep has seen. Dropping the future ends the work within a slice.
    ///
    /// # Errors
    /// Where the process is about to end.
    pub(super) async fn keys(&self, password: &[u8], salt: &[u8], iterations: NonZeroU32) -> io::Result<Keys> {
        // Boxed: whatever is moved from thread to thread leaves copies behind that nobody wipes.
        let mut rounds = Box::new(Rounds::new(password, salt, iterations));
        while rounds.left > 0 {
            // A core for each slice anew: whoever has few rounds to do waits for one slice, not for another's all.
            let core = Arc::clone(&self.cores).acquire_owned().await.map_err(io::Error::other)?;
            let slice = spawn_blocking(move || {
                rounds.run(SLICE);
                drop(core);
                rounds
            });
            // One that still stands in the queue when nobody waits for it is not done at all.
            rounds = AbortOnDropHandle::new(slice).await.map_err(io::Error::other)?;
        }
        Ok(rounds.keys())
    }
}

/// The keys of a password, hashed while the caller waits: for a command, not for the server.
pub(super) fn keys_at_once(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Keys {
    let mut rounds = Rounds::new(password, salt, iterations);
    rounds.run(u32::MAX);
    rounds.keys()
}

/// Rounds under way. HMAC begins each of its two hashes with a block that depends on the key alone: that is done once,
/// and half of the work with it.
struct Rounds {
    inner: Zeroizing<[u32; 8]>,
    outer: Zeroizing<[u32; 8]>,
    last: Zeroizing<[u32; 8]>,
    sum: Zeroizing<[u32; 8]>,
    left: u32,
}

impl Rounds {
    /// With the first one done.
    fn new(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        let key = padded(password);
        let begun = |mask: u8| {
            let mut block = key.clone();
            block.iter_mut().for_each(|byte| *byte ^= mask);
            let mut state = Zeroizing::new(INITIAL);
            compress256(&mut state, slice::from_ref(&*block));
            state
        };
        let first = words(&hmac(password, &[salt, &1_u32.to_be_bytes()]));
        Self {
            inner: begun(0x36),
            outer: begun(0x5c),
            last: first.clone(),
            sum: first,
            left: iterations.get().saturating_sub(1),
        }
    }

    /// Does some more.
    fn run(&mut self, most: u32) {
        let now = self.left.min(most);
        let mut block = closing_block();
        for _ in 0..now {
            hash_on(&self.inner, &mut self.last, &mut block);
            hash_on(&self.outer, &mut self.last, &mut block);
            for (sum, word) in self.sum.iter_mut().zip(self.last.iter()) {
                *sum ^= word;
            }
        }
        self.left = self.left.saturating_sub(now);
    }

    fn keys(&self) -> Keys {
        let salted = bytes(&self.sum);
        Keys { client: hmac(salted.as_slice(), &[b"Client Key"]), server: hmac(salted.as_slice(), &[b"Server Key"]) }
    }
}

/// The block behind HMAC's first one, for a message of 32 bytes: room for it, then SHA-256's padding for 96 bytes.
fn closing_block() -> Zeroizing<[u8; 64]> {
    let mut block = Zeroizing::new([0; 64]);
    for (place, byte) in block.iter_mut().skip(32).zip([0x80]) {
        *place = byte;
    }
    for (place, byte) in block.iter_mut().skip(56).zip((96_u64 * 8).to_be_bytes()) {
        *place = byte;
    }
    block
}

/// SHA-256 of `begun` and the 32 bytes in `text`, which it replaces.
fn hash_on(begun: &[u32; 8], text: &mut [u32; 8], block: &mut [u8; 64]) {
    let (places, _) = block.as_chunks_mut::<4>();
    for (place, word) in places.iter_mut().zip(text.iter()) {
        *place = word.to_be_bytes();
    }
    *text = *begun;
    compress256(text, slice::from_ref(block));
}

fn words(bytes: &[u8; 32]) -> Zeroizing<[u32; 8]> {
    let mut words = Zeroizing::new([0; 8]);
    let (chunks, _) = bytes.as_chunks::<4>();
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u32::from_be_bytes(*chunk);
    }
    words
}

fn bytes(words: &[u32; 8]) -> Zeroizing<[u8; 32]> {
    let mut bytes = Zeroizing::new([0; 32]);
    let (chunks, _) = bytes.as_chunks_mut::<4>();
    for (chunk, word) in chunks.iter_mut().zip(words) {
        *chunk = word.to_be_bytes();
    }
    bytes
}

/// A key as HMAC takes it: one block, hashed first where it is longer (RFC 2104).
fn padded(key: &[u8]) -> Zeroizing<[u8; 64]> {
    let mut block = Zeroizing::new([0; 64]);
    if key.len() > block.len() {
        let hash: Zeroizing<[u8; 32]> = Zeroizing::new(Sha256::digest(key).into());
        block.iter_mut().zip(hash.iter()).for_each(|(place, byte)| *place = *byte);
    } else {
        block.iter_mut().zip(key).for_each(|(place, byte)| *place = *byte);
    }
    block
}

/// HMAC-SHA-256 of all parts, one behind the other.
pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new((&*padded(key)).into());
    for part in parts {
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

#[cfg(test)]
#[path = "rounds_tests.rs"]
mod tests;
