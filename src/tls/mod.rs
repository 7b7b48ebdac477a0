//! TLS on both legs: accepting it from clients, and asking servers for it by sslmode.

use std::{io, path::PathBuf};

use crate::{
    error::{ClientFacing, Report, SqlState},
    upstream::is_end,
};

pub mod accept;
pub mod connect;
mod end_point;
pub mod prefixed;
mod verify;

/// The ALPN protocol of PostgreSQL (its documentation, "SSL Session Encryption").
pub const ALPN: &[u8] = b"postgresql";

/// Makes ring the process's provider. May be called more than once.
pub fn install_crypto_provider() {
    // An error says that one is installed already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// TLS that did not come about.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of the configuration cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A certificate or key is not what it should be.
    #[error("{what} is not usable: {why}")]
    Material {
        /// Which one.
        what: String,
        /// Why not.
        why: String,
    },
    /// A client opened TLS directly and did not name PostgreSQL's protocol.
    #[error("a direct TLS connection must offer the ALPN protocol \"postgresql\"")]
    NoAlpn,
    /// The server does not do TLS.
    #[error("the server does not support TLS, which sslmode demands")]
    Refused,
    /// The server answered the request for TLS with an ErrorResponse. Its words are nobody's to show, who has proven
    /// nothing (CVE-2024-10977).
    #[error("the server answered the request for TLS with an error")]
    Unwilling,
    /// The server answered the request for TLS with something else.
    #[error("the server broke the protocol when asked for TLS")]
    Protocol,
    /// The server's certificate does not chain to the CA.
    #[error("the server's certificate is not signed by the CA that is configured for it")]
    Untrusted,
    /// The server's certificate does not carry the name.
    #[error("the server's certificate is not for the name \"{0}\"")]
    WrongName(String),
    /// The server's certificate is expired or not valid yet.
    #[error("the server's certificate is not valid at this time")]
    Expired,
    /// Verification was asked for, and there is nothing to verify with.
    #[error("the server's certificate is to be verified, and no CA is known for it")]
    NoCa,
    /// The handshake failed otherwise.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// The stream failed.
    #[error("the connection failed while TLS was set up")]
    Io(#[from] io::Error),
}

impl TlsError {
    /// The server closed the connection, or reset it.
    #[must_use]
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Io(error) | Self::Handshake(error) if is_end(error))
    }
}

impl ClientFacing for TlsError {
    fn report(&self) -> Report {
        let fatal = |code| {
            let cause = match self {
                // rustls's own words name certificates and alerts, never keys.
                Self::Handshake(source) => format!("{self}: {source}"),
                _ => self.to_string(),
            };
            Report::fatal(code, cause)
        };
        match self {
            Self::Untrusted | Self::WrongName(_) | Self::Expired | Self::NoCa | Self::Refused => {
                fatal(SqlState::UNABLE_TO_CONNECT).hint(
                    "Correct clusters.\"NAME\".sslrootcert or sslmode in the configuration; to see what is in force \
                     type: pgferry config",
                )
            }
            Self::Protocol => fatal(SqlState::PROTOCOL_VIOLATION),
            // What drivers that open TLS directly without it call the other way.
            Self::NoAlpn => fatal(SqlState::PROTOCOL_VIOLATION).hint(
                "Let the driver ask for TLS first (libpq: sslnegotiation=postgres; asyncpg: no direct_tls), or update it \
                 to one that sends ALPN",
            ),
            Self::Material { .. } | Self::Read { .. } => fatal(SqlState::CONFIG_FILE_ERROR),
            _ => fatal(SqlState::CONNECTION_FAILURE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_an_end() {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, InvalidData, TimedOut, UnexpectedEof};
        for kind in [BrokenPipe, ConnectionReset, UnexpectedEof] {
            assert!(TlsError::Io(kind.into()).is_end() && TlsError::Handshake(kind.into()).is_end(), "{kind}");
        }
        for kind in [InvalidData, TimedOut] {
            assert!(!TlsError::Io(kind.into()).is_end() && !TlsError::Handshake(kind.into()).is_end(), "{kind}");
        }
    }
}
