//! Cancel keys: a process number and a secret, which BackendKeyData gives and CancelRequest shows.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::PacketError;

/// Protocol 3.0 has exactly 4 bytes; 3.2 allows up to 256.
const SECRET: std::ops::RangeInclusive<usize> = 4..=256;

/// The request code of CancelRequest, in the place of a protocol version.
pub(super) const CANCEL_REQUEST: u32 = 0x04d2_162e;

/// A cancel key. Whoever holds it can cancel the session's queries, so it is never shown.
#[derive(Clone)]
pub struct CancelKey {
    /// The server process, verbatim: clients show it and pass it to `pg_cancel_backend`.
    pub pid: i32,
    secret: Zeroizing<Vec<u8>>,
}

impl CancelKey {
    /// From its parts.
    ///
    /// # Errors
    /// Where the secret is not 4 to 256 bytes long.
    pub fn new(pid: i32, secret: &[u8]) -> Result<Self, PacketError> {
        if SECRET.contains(&secret.len()) {
            Ok(Self { pid, secret: Zeroizing::new(secret.to_vec()) })
        } else {
            Err(PacketError::CancelKey)
        }
    }

    /// From the 4 bytes of process number and the secret behind them.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, PacketError> {
        let (pid, secret) = bytes.split_first_chunk::<4>().ok_or(PacketError::CancelKey)?;
        Self::new(i32::from_be_bytes(*pid), secret)
    }

    /// How long the secret is.
    #[must_use]
    pub fn secret_len(&self) -> usize {
        self.secret.len()
    }

    /// The CancelRequest that shows this key.
    #[must_use]
    pub fn encode_request(&self) -> Bytes {
        let mut out = BytesMut::new();
        let length = u32::try_from(self.secret.len()).unwrap_or(u32::MAX).saturating_add(12);
        out.put_u32(length);
        out.put_u32(CANCEL_REQUEST);
        out.put_i32(self.pid);
        out.put_slice(&self.secret);
        out.freeze()
    }
}

impl PartialEq for CancelKey {
    fn eq(&self, other: &Self) -> bool {
        // Constant time over the secret: the answer's delay must not tell how much of a guess was right.
        bool::from(self.pid.to_be_bytes().ct_eq(&other.pid.to_be_bytes()) & self.secret.as_slice().ct_eq(&other.secret))
    }
}

impl Eq for CancelKey {}

impl fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelKey").field("pid", &self.pid).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_4_to_256_bytes() {
        assert!(CancelKey::new(1, &[0; 3]).is_err());
        assert!(CancelKey::new(1, &[0; 257]).is_err());
        for length in [4, 5, 32, 256] {
            let key = CancelKey::new(-7, &vec![9; length]).expect("a key");
            let request = key.encode_request();
            assert_eq!(request.len(), 12 + length);
            assert_eq!(CancelKey::parse(&request[8..]).expect("a key"), key);
        }
    }

    #[test]
    fn equal_only_as_a_whole_and_never_shown() {
        let key = CancelKey::new(1, b"abcd").expect("a key");
        assert_ne!(key, CancelKey::new(2, b"abcd").expect("a key"));
        assert_ne!(key, CancelKey::new(1, b"abce").expect("a key"));
        assert_ne!(key, CancelKey::new(1, b"abcde").expect("a key"));
        assert!(!format!("{key:?}").contains("97"), "the secret is not shown");
    }
}
