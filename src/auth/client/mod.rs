//! Proving who a client is, before anything is done for it: a certificate, SCRAM against a verifier of the configuration, or
//! a bearer token as a password. Nothing here knows what the client may do.

use std::io;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::{
    error::{ClientFacing, Report, SqlState},
    pg::PacketError,
    upstream::is_end,
};

pub mod certificate;
mod password;
mod prove;
mod sasl;
pub mod scram;
mod verifier;

pub use password::password;
pub use prove::{Account, Claim, Logins, Methods, Proof, ProveError};
pub use sasl::scram;
pub use verifier::{LEAST_ITERATIONS, MOST_ITERATIONS, MakeError, Mock, Verifier, VerifierError};

/// A client that has not proved who it is.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It has the wrong password, or nobody has this name: no client learns which.
    #[error("password authentication failed for user \"{0}\"")]
    Refused(String),
    /// It has sent an empty password, as drivers do that were given none.
    #[error("empty password returned by client")]
    EmptyPassword,
    /// Its password is not UTF-8, as every token is.
    #[error("the password is not valid UTF-8")]
    NotText,
    /// Its SCRAM message is not acceptable, whoever it is.
    #[error(transparent)]
    Scram(#[from] scram::Fault),
    /// It broke the protocol.
    #[error("the client broke the protocol while logging in")]
    Protocol(#[from] PacketError),
    /// It chose a mechanism that was not offered.
    #[error("client selected an invalid SASL authentication mechanism")]
    Mechanism,
    /// The system gives no random bytes for a nonce.
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
    /// It went away instead of answering, as libpq does to ask its user for a password.
    #[error("the client closed the connection instead of logging in")]
    Closed,
    /// Its socket failed.
    #[error("the client's socket failed while logging in")]
    Io(#[source] io::Error),
}

impl ClientError {
    /// Whether nobody is left to be told, and nothing is worth more than a line for debugging.
    #[must_use]
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Closed | Self::Io(_))
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        if is_end(&error) { Self::Closed } else { Self::Io(error) }
    }
}

impl ClientFacing for ClientError {
    fn report(&self) -> Report {
        let fatal = |code| Report::fatal(code, self.to_string());
        match self {
            Self::Refused(_) | Self::EmptyPassword | Self::NotText => fatal(SqlState::INVALID_PASSWORD),
            Self::Scram(scram::Fault::Downgrade) => fatal(SqlState::INVALID_AUTHORIZATION).detail(
                "The client supports SCRAM channel binding but thinks the server does not. However, this server does \
                 support channel binding.",
            ),
            Self::Scram(scram::Fault::Binding) => fatal(SqlState::INVALID_AUTHORIZATION)
                .detail("Somebody between the client and pgferry ends its TLS, and shows it another certificate."),
            Self::Scram(scram::Fault::Unsupported(_)) => fatal(SqlState::FEATURE_NOT_SUPPORTED),
            Self::Scram(scram::Fault::Malformed(_)) | Self::Mechanism => fatal(SqlState::PROTOCOL_VIOLATION),
            Self::Protocol(error) => Report::fatal(SqlState::PROTOCOL_VIOLATION, format!("{self}: {error}")),
            Self::Random(error) => Report::fatal(SqlState::INTERNAL_ERROR, format!("{self}: {error}")),
            Self::Closed | Self::Io(_) => fatal(SqlState::CONNECTION_FAILURE),
        }
    }
}

async fn send<S: AsyncWrite + Unpin>(io: &mut S, message: &[u8]) -> Result<(), ClientError> {
    io.write_all(message).await?;
    io.flush().await?;
    Ok(())
}
