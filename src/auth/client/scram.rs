//! A server's part in SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, as messages alone: what PostgreSQL's `auth-scram.c` takes is
//! taken, and what it refuses is refused. The user name in them is ignored, as PostgreSQL does: the startup message has
//! said it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Verifier;
use crate::auth::rounds::hmac;

/// A client's SCRAM message that is not acceptable. Nothing in it depends on the login that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It does not have the form of RFC 5802.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// It asks for what neither PostgreSQL nor pgferry does.
    #[error("the client asks SCRAM for {0}, which is not supported")]
    Unsupported(&'static str),
    /// The client believes that channel binding was not offered.
    #[error("SCRAM channel binding negotiation error")]
    Downgrade,
    /// The client bound another channel than this.
    #[error("SCRAM channel binding check failed")]
    Binding,
}

/// What the client has chosen from the offer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mechanism<'a> {
    /// SCRAM-SHA-256, the only one there was.
    Only,
    /// SCRAM-SHA-256, although SCRAM-SHA-256-PLUS was offered.
    WithoutBinding,
    /// SCRAM-SHA-256-PLUS, and the hash of our certificate.
    Plus(&'a [u8]),
}

const UNBOUND: Fault = Fault::Malformed("the client selected SCRAM-SHA-256-PLUS without channel binding data");
const BOUND: Fault = Fault::Malformed("the client selected SCRAM-SHA-256 with channel binding data");

impl Mechanism<'_> {
    /// What the client's last message must bind, `gs2-header` and data, if it may begin with this `gs2-cbind-flag`.
    fn bound(self, flag: &str) -> Result<String, Fault> {
        let bound = match (self, flag) {
            (Self::Only | Self::WithoutBinding, "n") => b"n,,".to_vec(),
            (Self::Only, "y") => b"y,,".to_vec(),
            // It could bind, and has not seen the offer: somebody between us has cut it.
            (Self::WithoutBinding, "y") => return Err(Fault::Downgrade),
            (Self::Plus(hash), "p=tls-server-end-point") => [b"p=tls-server-end-point,,", hash].concat(),
            (Self::Plus(_), "n" | "y") => return Err(UNBOUND),
            (Self::Plus(_), flag) if flag.starts_with("p=") => {
                return Err(Fault::Unsupported("its channel binding type"));
            }
            (_, flag) if flag.starts_with("p=") => return Err(BOUND),
            _ => return Err(Fault::Malformed("unexpected channel binding flag")),
        };
        Ok(STANDARD.encode(bound))
    }
}

/// The client's first message.
#[derive(Debug)]
pub(super) struct First<'a> {
    bare: String,
    nonce: String,
    bound: String,
    mechanism: Mechanism<'a>,
}

impl<'a> First<'a> {
    pub(super) fn read(message: &[u8], mechanism: Mechanism<'a>) -> Result<Self, Fault> {
        let text = text(message)?;
        let (flag, rest) = text.split_once(',').ok_or(Fault::Malformed("no channel binding flag"))?;
        let bound = mechanism.bound(flag)?;
        let (authorization, bare) = rest.split_once(',').ok_or(Fault::Malformed("no user name"))?;
        match authorization {
            "" => {}
            other if other.starts_with("a=") => return Err(Fault::Unsupported("an authorization identity")),
            _ => return Err(Fault::Malformed("unexpected attribute before the user name")),
        }
        if bare.starts_with("m=") {
            return Err(Fault::Unsupported("an extension"));
        }
        let mut parts = bare.split(',');
        let mut part = |name| parts.next().and_then(|part| part.strip_prefix(name));
        part("n=").ok_or(Fault::Malformed("no user name"))?;
        let nonce = part("r=").ok_or(Fault::Malformed("no nonce"))?;
        if nonce.is_empty() || !nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Fault::Malformed("non-printable characters in the nonce"));
        }
        if !parts.all(is_attribute) {
            return Err(Fault::Malformed("an extension without a name"));
        }
        Ok(Self { bare: bare.to_owned(), nonce: nonce.to_owned(), bound, mechanism })
    }

    /// Our answer, with our own part of the nonce.
    pub(super) fn challenge(self, ours: &str, verifier: &Verifier) -> Challenge<'a> {
        let nonce = format!("{}{ours}", self.nonce);
        let message = format!("r={nonce},s={},i={}", STANDARD.encode(verifier.salt()), verifier.iterations());
        Challenge { message, nonce, first: self }
    }
}

/// What the client has to answer.
#[derive(Debug)]
pub(super) struct Challenge<'a> {
    message: String,
    nonce: String,
    first: First<'a>,
}

impl Challenge<'_> {
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// Our last message, if the client's own proves that it knows the password; `None` if it does not.
    pub(super) fn verify(&self, message: &[u8], verifier: &Verifier) -> Result<Option<String>, Fault> {
        let text = text(message)?;
        let (without_proof, proof) = text.split_once(",p=").ok_or(Fault::Malformed("no proof"))?;
        let mut parts = without_proof.split(',');
        let mut part = |name| parts.next().and_then(|part| part.strip_prefix(name));
        let bound = part("c=").ok_or(Fault::Malformed("no channel binding"))?;
        if bound != self.first.bound {
            return Err(match self.first.mechanism {
                Mechanism::Plus(_) => Fault::Binding,
                _ => Fault::Malformed("unexpected channel binding in the last message"),
            });
        }
        if part("r=").ok_or(Fault::Malformed("no nonce"))? != self.nonce {
            return Err(Fault::Malformed("the nonce does not match"));
        }
        if !parts.all(is_attribute) {
            return Err(Fault::Malformed("an extension without a name"));
        }
        let proof = STANDARD.decode(proof).ok().and_then(|proof| <[u8; 32]>::try_from(proof).ok());
        let mut client_key = proof.ok_or(Fault::Malformed("the proof is not 32 bytes in base64"))?;
        let said = format!("{},{},{without_proof}", self.first.bare, self.message);
        let signature = hmac(verifier.stored_key(), &[said.as_bytes()]);
        client_key.iter_mut().zip(signature.iter()).for_each(|(byte, key)| *byte ^= key);
        let proven: bool = Sha256::digest(client_key).as_slice().ct_eq(verifier.stored_key().as_slice()).into();
        let signature = hmac(verifier.server_key(), &[said.as_bytes()]);
        Ok(proven.then(|| format!("v={}", STANDARD.encode(signature.as_slice()))))
    }
}

fn text(message: &[u8]) -> Result<&str, Fault> {
    match str::from_utf8(message) {
        Ok("") => Err(Fault::Malformed("it is empty")),
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(Fault::Malformed("it is no text")),
    }
}

/// RFC 5802: `attr-val`, which clients may add and servers ignore.
fn is_attribute(part: &str) -> bool {
    let mut characters = part.chars();
    characters.next().is_some_and(|name| name.is_ascii_alphabetic()) && characters.next() == Some('=')
}

/// Fuzzing's way in: a client's two messages, with every mechanism.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let verifier = super::Mock::new(super::LEAST_ITERATIONS).map(|mock| mock.verifier("somebody"));
    let (Ok(verifier), Some((first, last))) = (verifier, bytes.split_at_checked(bytes.len() / 2)) else { return };
    for mechanism in [Mechanism::Only, Mechanism::WithoutBinding, Mechanism::Plus(b"hash")] {
        let _ = First::read(bytes, mechanism);
        for first in [first, b"n,,n=,r=theirs", b"p=tls-server-end-point,,n=,r=theirs"] {
            if let Ok(first) = First::read(first, mechanism) {
                let challenge = first.challenge("ours", &verifier);
                for last in [last, bytes] {
                    assert_eq!(challenge.verify(last, &verifier).ok().flatten(), None, "nobody knows this password");
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "scram_tests.rs"]
mod tests;
