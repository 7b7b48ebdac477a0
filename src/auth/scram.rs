//! A client's part in SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677, and RFC 5929 for `tls-server-end-point`),
//! as messages alone. PostgreSQL ignores the user name in them: the startup message has said it.

use std::{num::NonZeroU32, ops::RangeInclusive};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::rounds::{Keys, hmac};

/// As many random bytes as libpq's nonce has (`SCRAM_RAW_NONCE_LEN`).
const NONCE: usize = 18;

/// A server's SCRAM message that is not acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// It does not have the form of RFC 5802.
    #[error("it is malformed")]
    Malformed,
    /// It begins with `m=`, which is reserved for extensions that a client must know.
    #[error("it demands an extension that is not known")]
    Extension,
    /// Its nonce is not ours with the server's behind it.
    #[error("its nonce does not begin with ours")]
    Nonce,
    /// Nothing to salt with.
    #[error("its salt is empty")]
    Salt,
    /// More rounds than are done for this server, or so few that the password is guessed from them.
    #[error("it asks for {asked} rounds of hashing, and from {least} to {most} are done for this server")]
    Rounds {
        /// What it asks for.
        asked: u64,
        /// The least that are done.
        least: u32,
        /// The most that are done.
        most: u32,
    },
}

/// What the channel gives to bind to.
#[derive(Clone, Debug)]
pub(super) enum Binding {
    /// Nothing.
    None,
    /// We could bind, and the server says that it cannot. One that can notices that somebody cut its offer.
    NotOffered,
    /// The hash of the server's certificate.
    EndPoint(Vec<u8>),
}

impl Binding {
    /// `gs2-header` of RFC 5802.
    const fn header(&self) -> &'static str {
        match self {
            Self::None => "n,,",
            Self::NotOffered => "y,,",
            Self::EndPoint(_) => "p=tls-server-end-point,,",
        }
    }

    fn data(&self) -> &[u8] {
        match self {
            Self::None | Self::NotOffered => &[],
            Self::EndPoint(hash) => hash,
        }
    }
}

/// Our first message.
pub(super) struct First {
    binding: Binding,
    nonce: String,
}

impl First {
    /// With a nonce of its own.
    ///
    /// # Errors
    /// Where the system gives no random bytes.
    pub(super) fn new(binding: Binding) -> Result<Self, getrandom::Error> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce)?;
        Ok(Self { binding, nonce: STANDARD.encode(nonce) })
    }

    pub(super) fn message(&self) -> String {
        format!("{}{}", self.binding.header(), self.bare())
    }

    /// `client-first-message-bare`.
    fn bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// Reads the server's answer. Nothing is hashed yet.
    pub(super) fn challenge(&self, message: &[u8], bearable: RangeInclusive<u32>) -> Result<Challenge, ScramError> {
        let text = str::from_utf8(message).map_err(|_| ScramError::Malformed)?;
        if text.starts_with("m=") {
            return Err(ScramError::Extension);
        }
        let mut parts = text.split(',');
        let mut part = |name| parts.next().and_then(|part| part.strip_prefix(name)).ok_or(ScramError::Malformed);
        let (nonce, salt, iterations) = (part("r=")?, part("s=")?, part("i=")?);
        let graphic = nonce.bytes().all(|byte| byte.is_ascii_graphic());
        if parts.next().is_some() || !graphic || !iterations.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ScramError::Malformed);
        }
        if !nonce.starts_with(&self.nonce) {
            return Err(ScramError::Nonce);
        }
        let salt = STANDARD.decode(salt).map_err(|_| ScramError::Malformed)?;
        if salt.is_empty() {
            return Err(ScramError::Salt);
        }
        let asked: u64 = iterations.parse().map_err(|_| ScramError::Malformed)?;
        let (least, most) = bearable.into_inner();
        let rounds = u32::try_from(asked).ok().filter(|asked| (least..=most).contains(asked));
        let iterations = rounds.and_then(NonZeroU32::new).ok_or(ScramError::Rounds { asked, least, most })?;
        Ok(Challenge { text: text.to_owned(), nonce: nonce.to_owned(), salt, iterations })
    }

    /// Our second message, and what the server has to answer.
    pub(super) fn prove(&self, challenge: &Challenge, keys: &Keys) -> (String, Expected) {
        let bound = STANDARD.encode([self.binding.header().as_bytes(), self.binding.data()].concat());
        let without_proof = format!("c={bound},r={}", challenge.nonce);
        signed(&self.bare(), &challenge.text, &without_proof, keys)
    }
}

/// All that was said, signed with both keys.
fn signed(bare: &str, challenge: &str, without_proof: &str, keys: &Keys) -> (String, Expected) {
    let said = format!("{bare},{challenge},{without_proof}");
    let stored = Zeroizing::<[u8; 32]>::new(Sha256::digest(keys.client.as_slice()).into());
    let mut proof = hmac(stored.as_slice(), &[said.as_bytes()]);
    proof.iter_mut().zip(keys.client.iter()).for_each(|(byte, key)| *byte ^= key);
    let message = format!("{without_proof},p={}", STANDARD.encode(proof.as_slice()));
    (message, Expected { signature: hmac(keys.server.as_slice(), &[said.as_bytes()]) })
}

/// What the server wants hashed.
pub(super) struct Challenge {
    text: String,
    nonce: String,
    /// Never empty.
    pub(super) salt: Vec<u8>,
    /// No more than are done for this server.
    pub(super) iterations: NonZeroU32,
}

/// The signature that only a server that knows the password's verifier can give.
pub(super) struct Expected {
    signature: Zeroizing<[u8; 32]>,
}

impl Expected {
    /// Whether the server's last message holds it. A server that fails says so in an ErrorResponse, not in `e=`.
    pub(super) fn is_in(&self, message: &[u8]) -> bool {
        let signature = message.strip_prefix(b"v=").and_then(|encoded| STANDARD.decode(encoded).ok());
        signature.is_some_and(|signature| signature.ct_eq(self.signature.as_slice()).into())
    }
}

/// A password as it is hashed: SASLprep (RFC 4013) has seen it; where that cannot be, as it is, for so does PostgreSQL
/// (`pg_saslprep`), and also where nothing would be left of it.
pub(super) fn prepared(password: &str) -> Zeroizing<Vec<u8>> {
    let prepared = stringprep::saslprep(password).ok().filter(|prepared| !prepared.is_empty());
    Zeroizing::new(prepared.map_or_else(|| password.to_owned(), std::borrow::Cow::into_owned).into_bytes())
}

#[cfg(test)]
#[path = "scram_tests.rs"]
mod tests;
