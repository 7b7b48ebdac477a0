//! What is kept of a password: PostgreSQL's own form of a SCRAM verifier (`parse_scram_secret` in auth-scram.c), from which
//! a login can be checked, and the password only be guessed.

use std::{fmt, num::NonZeroU32, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::auth::{
    rounds::{Keys, hmac, keys_at_once},
    scram::prepared,
    upstream_error::MAX_PASSWORD,
};

/// What a verifier begins with.
const SCHEME: &str = "SCRAM-SHA-256$";
/// PostgreSQL's default (`SCRAM_SHA_256_DEFAULT_ITERATIONS`), and the least that RFC 7677 advises: whoever sees the
/// configuration guesses from fewer too quickly.
pub const LEAST_ITERATIONS: u32 = 4096;
/// Where drivers give up, as pgjdbc and rust-postgres do; nor do we do more for a server.
pub const MOST_ITERATIONS: u32 = 100_000;
/// As long as PostgreSQL's own (`SCRAM_DEFAULT_SALT_LEN`). No other length is taken: a name that is not known gets one like
/// this, and must look like all others.
const SALT: usize = 16;

/// A string that is no verifier. Never says what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifierError {
    /// It begins otherwise: a password, an MD5 hash.
    #[error("it does not begin with {SCHEME}; to make one type: pgferry hash-password")]
    Scheme,
    /// Not all parts are there.
    #[error("it does not have the form {SCHEME}ITERATIONS:SALT$STORED_KEY:SERVER_KEY")]
    Form,
    /// Not a number, or one out of bounds.
    #[error("its number of iterations is not from {LEAST_ITERATIONS} to {MOST_ITERATIONS}")]
    Iterations,
    /// Not base64, or of another length than PostgreSQL's.
    #[error("its salt is not {SALT} bytes in base64")]
    Salt,
    /// Not base64, or not SHA-256.
    #[error("its {0} is not 32 bytes in base64")]
    Key(&'static str),
}

/// A password that no verifier is made of.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum MakeError {
    /// Nothing.
    #[error("the password is empty")]
    Empty,
    /// No client could send it.
    #[error("the password holds a zero byte, which PostgreSQL's clients cannot send")]
    ZeroByte,
    /// Longer than is hashed.
    #[error("the password is longer than {MAX_PASSWORD} bytes, which is the most that is hashed")]
    TooLong,
    /// Out of bounds.
    #[error("the number of iterations is not from {LEAST_ITERATIONS} to {MOST_ITERATIONS}")]
    Iterations,
    /// No random bytes for a salt.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
}

/// What a password is checked against.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: u32,
    salt: [u8; SALT],
    stored_key: Zeroizing<[u8; 32]>,
    server_key: Zeroizing<[u8; 32]>,
}

impl Verifier {
    /// The verifier of a password, with a salt of its own, as it is written down.
    ///
    /// # Errors
    /// Where the password or the number of iterations cannot be, or the system gives no random bytes.
    pub fn make(password: &SecretString, iterations: u32) -> Result<String, MakeError> {
        let password = password.expose_secret();
        if password.is_empty() {
            return Err(MakeError::Empty);
        }
        if password.contains('\0') {
            return Err(MakeError::ZeroByte);
        }
        if password.len() > MAX_PASSWORD {
            return Err(MakeError::TooLong);
        }
        let mut salt = [0; SALT];
        getrandom::fill(&mut salt).map_err(MakeError::Random)?;
        Ok(Self::salted(password, salt, iterations).ok_or(MakeError::Iterations)?.written())
    }

    /// `None` where the iterations are out of bounds.
    fn salted(password: &str, salt: [u8; SALT], iterations: u32) -> Option<Self> {
        let rounds = NonZeroU32::new(iterations).filter(|rounds| is_bearable(rounds.get()))?;
        let Keys { client, server } = keys_at_once(&prepared(password), &salt, rounds);
        let stored_key = Zeroizing::new(Sha256::digest(client.as_slice()).into());
        Some(Self { iterations, salt, stored_key, server_key: server })
    }

    fn written(&self) -> String {
        let [salt, stored, server] = [self.salt.as_slice(), self.stored_key.as_slice(), self.server_key.as_slice()]
            .map(|it| STANDARD.encode(it));
        format!("{SCHEME}{}:{salt}${stored}:{server}", self.iterations)
    }

    /// How often the password was hashed.
    #[must_use]
    pub const fn iterations(&self) -> u32 {
        self.iterations
    }

    pub(super) fn salt(&self) -> &[u8] {
        &self.salt
    }

    pub(super) fn stored_key(&self) -> &[u8; 32] {
        &self.stored_key
    }

    pub(super) fn server_key(&self) -> &[u8; 32] {
        &self.server_key
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl FromStr for Verifier {
    type Err = VerifierError;

    fn from_str(text: &str) -> Result<Self, VerifierError> {
        let rest = text.strip_prefix(SCHEME).ok_or(VerifierError::Scheme)?;
        let (hashing, keys) = rest.split_once('$').ok_or(VerifierError::Form)?;
        let (iterations, salt) = hashing.split_once(':').ok_or(VerifierError::Form)?;
        let (stored, server) = keys.split_once(':').ok_or(VerifierError::Form)?;
        let digits = iterations.bytes().all(|byte| byte.is_ascii_digit());
        let iterations = Some(iterations).filter(|_| digits).and_then(|text| text.parse().ok());
        Ok(Self {
            iterations: iterations.filter(|asked| is_bearable(*asked)).ok_or(VerifierError::Iterations)?,
            salt: decoded(salt).map(|salt| *salt).ok_or(VerifierError::Salt)?,
            stored_key: decoded(stored).ok_or(VerifierError::Key("StoredKey"))?,
            server_key: decoded(server).ok_or(VerifierError::Key("ServerKey"))?,
        })
    }
}

fn is_bearable(iterations: u32) -> bool {
    (LEAST_ITERATIONS..=MOST_ITERATIONS).contains(&iterations)
}

fn decoded<const LENGTH: usize>(text: &str) -> Option<Zeroizing<[u8; LENGTH]>>
where
    [u8; LENGTH]: zeroize::Zeroize,
{
    let bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
    bytes.as_slice().try_into().ok().map(Zeroizing::new)
}

/// Stands in for the verifiers of names that are not known: each gets a salt that stays the same as long as the process
/// lives, as a real one does, so that nobody learns which names there are (`mock_scram_secret` in auth-scram.c).
#[derive(Clone)]
pub struct Mock {
    key: Zeroizing<[u8; 32]>,
    iterations: u32,
}

impl Mock {
    /// The same salts, with another number of rounds.
    #[must_use]
    pub fn with_iterations(&self, iterations: u32) -> Self {
        Self { key: self.key.clone(), iterations }
    }

    /// How many rounds a stranger has to do.
    #[must_use]
    pub const fn iterations(&self) -> u32 {
        self.iterations
    }

    /// With a key of its own. `iterations` is what the verifiers of the names that are known have: where they differ,
    /// whoever asks can tell some of them from the unknown ones.
    ///
    /// # Errors
    /// Where the system gives no random bytes.
    pub fn new(iterations: u32) -> Result<Self, getrandom::Error> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut_slice())?;
        Ok(Self { key, iterations })
    }

    /// One that fits no password, which the caller sees to.
    pub(super) fn verifier(&self, name: &str) -> Verifier {
        let hash = hmac(self.key.as_slice(), &[name.as_bytes()]);
        let mut salt = [0; SALT];
        salt.iter_mut().zip(hash.iter()).for_each(|(place, byte)| *place = *byte);
        let nothing = || Zeroizing::new([0; 32]);
        Verifier { iterations: self.iterations, salt, stored_key: nothing(), server_key: nothing() }
    }
}

impl fmt::Debug for Mock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mock").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "verifier_tests.rs"]
mod tests;
