//! How a login to a server fails, and what a client is told.

use std::io;

use super::scram::ScramError;
use crate::{
    error::{ClientFacing, Report, SqlState},
    pg::{PacketError, backend::ErrorFields, frame::Frame},
    upstream::is_end,
};

/// The longest password that SCRAM hashes, in bytes; SASLprep looks at each character several times.
pub(super) const MAX_PASSWORD: usize = 1024;

/// What to do about MD5.
const SCRAM_INSTEAD: &str = "Set the role's password again in PostgreSQL, under password_encryption = 'scram-sha-256'";

/// How a login failed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The server's own words.
    #[error("the server refused the login")]
    Refused {
        /// As it came.
        frame: Frame,
        /// Its content.
        fields: ErrorFields,
    },
    /// The server's words without a message's form: a postmaster that cannot fork has nobody to write a proper one.
    #[error("the server cannot take the connection: {0}")]
    Overloaded(String),
    /// A cleartext password is wanted on a plaintext stream.
    #[error("the server asks for a cleartext password, which is sent only inside TLS")]
    CleartextNeedsTls,
    /// A cleartext password is wanted by a server that nobody vouches for.
    #[error(
        "the server asks for a cleartext password, which is given only to a server whose certificate is verified by a CA \
         of the configuration, or of the Secret that holds the password"
    )]
    CleartextUntrusted,
    /// A server of another namespace lets a superuser in without any proof.
    #[error(
        "the server lets {user} in without asking for a password, so that {secret} proves nothing, and it is in another \
         namespace"
    )]
    NothingAsked {
        /// The login's Secret.
        secret: String,
        /// The login's user.
        user: String,
    },
    /// MD5 is wanted where the system is not known to use it.
    #[error("the server asks for the password as an MD5 hash, which is not given to it")]
    Md5Untrusted,
    /// MD5 is wanted for an account that has done SCRAM.
    #[error(
        "the server asks for the password of role \"{0}\" as an MD5 hash, which is not given: the role has logged in \
         with SCRAM before"
    )]
    Md5AfterScram(String),
    /// The early SCRAM message did not fit; the stream is spent.
    #[error("the server asks for another login than last time")]
    EarlyMissed,
    /// A password is wanted and the login has none.
    #[error("the server asks for a password, and {0} holds none")]
    NoPassword(String),
    /// The password cannot be sent.
    #[error("the password in {0} holds a zero byte, which PostgreSQL cannot take")]
    ZeroByte(String),
    /// The password is longer than is hashed.
    #[error("the password in {0} is longer than {MAX_PASSWORD} bytes, which is the most that is hashed")]
    PasswordTooLong(String),
    /// A way to log in that pgferry does not have.
    #[error("the server asks for a login by {0}, which pgferry does not support")]
    Unsupported(String),
    /// The server could not prove that it knows the password's verifier.
    #[error("the server did not prove that it knows the password")]
    ServerSignature,
    /// The server's SCRAM message is not acceptable.
    #[error("the server's SCRAM message is not acceptable")]
    Scram(#[from] ScramError),
    /// No random bytes for a nonce.
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
    /// The server broke the protocol.
    #[error("the server broke the protocol while logging in")]
    Protocol(#[from] PacketError),
    /// The stream failed.
    #[error("the connection failed while logging in")]
    Io(#[from] io::Error),
    /// The server closed without a word.
    #[error("the server closed the connection while logging in")]
    Closed,
}

impl LoginError {
    /// The server closed the connection, or reset it.
    #[must_use]
    pub fn is_end(&self) -> bool {
        match self {
            Self::Closed => true,
            Self::Io(error) => is_end(error),
            _ => false,
        }
    }

    /// Whether the same login may work inside TLS.
    #[must_use]
    pub fn needs_tls(&self) -> bool {
        match self {
            Self::CleartextNeedsTls => true,
            Self::Refused { fields, .. } => match fields.sqlstate.as_str() {
                // "no pg_hba.conf entry for host ..., no encryption" (auth.c); translated, the file's name stays.
                "28000" => {
                    fields.message.contains("no encryption")
                        || fields.message.contains("SSL off")
                        || fields.message.contains("pg_hba.conf")
                }
                // PgBouncer's with client_tls_sslmode=require.
                "08P01" => fields.message.contains("SSL required"),
                _ => false,
            },
            _ => false,
        }
    }
}

impl ClientFacing for LoginError {
    /// In the hints `clusters."NAME"` stands for the cluster, which whoever makes the report knows.
    fn report(&self) -> Report {
        let refused = |message: String| Report::fatal(SqlState::INVALID_AUTHORIZATION, message);
        match self {
            Self::Refused { fields, .. } => refused(format!("{self}: {}", fields.message)),
            Self::NoPassword(_) | Self::ZeroByte(_) | Self::PasswordTooLong(_) | Self::Unsupported(_) => {
                refused(self.to_string())
            }
            Self::CleartextNeedsTls | Self::CleartextUntrusted => refused(self.to_string()).hint(
                "Write in the configuration: clusters.\"NAME\" = { sslmode = \"verify-full\", sslrootcert = \"FILE\" }, \
                 or clusters.\"NAME\".auth = \"password\" if the server is trusted",
            ),
            Self::NothingAsked { .. } => refused(self.to_string()).hint(
                "Log in by a Secret in the server's own namespace; or write in the configuration: \
                 clusters.\"NAME\".auth = \"trust\"",
            ),
            Self::Md5Untrusted => refused(self.to_string()).hint(format!(
                "{SCRAM_INSTEAD}; or write in the configuration: clusters.\"NAME\".auth = \"md5\""
            )),
            Self::Md5AfterScram(_) => refused(self.to_string()).hint(SCRAM_INSTEAD),
            Self::Scram(error @ ScramError::Rounds { asked: 1.., .. }) => refused(format!("{self}: {error}")).hint(
                "Set the role's password again with another scram_iterations in PostgreSQL, or write how many it asks for in \
                 the configuration: clusters.\"NAME\".scram_iterations",
            ),
            Self::Scram(error) => refused(format!("{self}: {error}")),
            Self::ServerSignature => refused(self.to_string())
                .detail("Either it is not the server that it claims to be, or it has a bug."),
            Self::Overloaded(_) => Report::fatal(SqlState::CANNOT_CONNECT_NOW, self.to_string()).hint("Try again"),
            Self::Protocol(error) => Report::fatal(SqlState::PROTOCOL_VIOLATION, format!("{self}: {error}")),
            Self::Random(error) => Report::fatal(SqlState::INTERNAL_ERROR, format!("{self}: {error}")),
            Self::EarlyMissed | Self::Io(_) | Self::Closed => {
                Report::fatal(SqlState::CONNECTION_FAILURE, self.to_string()).hint("Connect again")
            }
        }
    }
}
