//! A login, and what is known of how a server takes one.

use std::{ops::RangeInclusive, sync::Arc};

use secrecy::SecretString;

/// What is known about TLS on a server, before it is asked.
#[derive(Clone, Debug, Default)]
pub struct TlsFacts {
    /// How TLS is to be used.
    pub mode: TlsMode,
    /// The name that the server's certificate really carries, for `verify-full`.
    pub server_name: Option<String>,
    /// PEM certificates that the server's certificate must chain to, for `verify-ca` and `verify-full`.
    pub ca_pem: Option<Arc<[u8]>>,
    /// Who says that this CA is the right one.
    pub ca_by: CaBy,
    /// A PEM certificate chain and its private key, where the server wants a client certificate.
    pub client_identity: Option<ClientIdentity>,
}

/// Who says which CA a server's certificate chains to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CaBy {
    /// An object of the cluster: whoever runs the server may have written it, so that it proves nothing to a password.
    #[default]
    Cluster,
    /// The Secret that holds this CA, by [`Login::source`]: it speaks for its own login, and for no other.
    Secret(String),
    /// The configuration.
    Configuration,
}

/// The weakest way in which a server may ask for a password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuthMethod {
    /// SCRAM-SHA-256, with channel binding or without: the server learns nothing that logs anybody in.
    #[default]
    ScramSha256,
    /// MD5: what the server learns is enough to log in where the same password is stored as MD5.
    Md5,
    /// The password itself, inside TLS.
    Password,
    /// Nothing at all, even for a superuser whose login is written in another namespace.
    Trust,
}

/// What a server may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthFacts {
    /// The weakest way that is answered. Cleartext is also given to a server that is verified by a CA that
    /// [`CaBy`] speaks for.
    pub weakest: AuthMethod,
    /// The most rounds of SCRAM that a server may ask for.
    pub scram_iterations: u32,
}

impl AuthFacts {
    /// What is bearable: a server that means well asks for 4,096 (`scram_iterations`), and OWASP's advice of 600,000 is
    /// for hashes that nobody waits for.
    pub const MOST_ITERATIONS: u32 = 100_000;
    /// What PostgreSQL asks for, and RFC 7677 at the least: who asks for less learns what is as easily guessed as MD5.
    const LEAST_ITERATIONS: u32 = 4096;

    /// How many rounds of SCRAM a server may ask for. Where the configuration says fewer than is usual, so many.
    #[must_use]
    pub fn iterations(&self) -> RangeInclusive<u32> {
        Self::LEAST_ITERATIONS.min(self.scram_iterations)..=self.scram_iterations
    }
}

impl Default for AuthFacts {
    fn default() -> Self {
        Self { weakest: AuthMethod::default(), scram_iterations: Self::MOST_ITERATIONS }
    }
}

/// A client certificate for the server in the pod.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// PEM certificates, leaf first.
    pub certificate_pem: Arc<[u8]>,
    /// The PEM private key.
    pub key_pem: SecretString,
}

/// How TLS is used towards the server in the pod; libpq's `sslmode`, where the stream is already encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Never TLS.
    Disable,
    /// Plaintext first, TLS where the server demands it (28000 "no encryption", or a cleartext password).
    #[default]
    Allow,
    /// TLS where the server has it, plaintext otherwise: for streams that nothing else encrypts.
    Prefer,
    /// TLS only, unverified.
    Require,
    /// TLS only; the certificate chains to the CA.
    VerifyCa,
    /// TLS only; the certificate chains to the CA and carries the server's name.
    VerifyFull,
}

/// A login for a server.
#[derive(Clone, Debug)]
pub struct Login {
    /// The role's name, as the Secret's key gives it.
    pub user: String,
    /// The password, where there is one.
    pub password: Option<SecretString>,
    /// The database to use where the client named none.
    pub database: String,
    /// The role is a superuser.
    pub superuser: bool,
    /// Where it comes from: `Secret prod/shop-app`. Never a value.
    pub source: String,
    /// Changes whenever the credential may have changed (a Secret's resourceVersion).
    pub version: String,
}
