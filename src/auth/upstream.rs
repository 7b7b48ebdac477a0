//! Logging in to a server with what a Secret gave: whatever it asks for among SCRAM-SHA-256 (with channel binding
//! where there is a channel), MD5, cleartext inside TLS, a certificate, or nothing.

use std::io;

use bytes::BytesMut;
use postgres_protocol::authentication::{
    md5_hash,
    sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256},
};
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroize;

use crate::{
    error::{ClientFacing, Report, SqlState},
    pg::{
        PacketError,
        backend::{Authentication, ErrorFields, authentication, error_fields},
        encode,
        frame::{Frame, next_frame},
        startup::{ProtocolVersion, Startup},
    },
    upstream::{Login, is_end},
};

/// libpq's own bound on an ErrorResponse before AuthenticationOk (fe-connect.c); all else is far shorter.
const MAX_MESSAGE: usize = 30_000;
/// The most of a bare text that is read: `postmaster.c` writes one of at most 1,000 bytes.
const MAX_TEXT: usize = 1000;

/// What the stream to the server is.
#[derive(Clone, Debug)]
pub enum Channel {
    /// Not encrypted by us.
    Plaintext,
    /// TLS.
    Tls {
        /// Channel binding data, where the certificate's algorithm defines it.
        end_point: Option<Vec<u8>>,
    },
}

/// Whether SCRAM begins before it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Early {
    /// It does not.
    Wait,
    /// The SASLInitialResponse rides with the startup message: the last login here was SCRAM in plaintext, and this
    /// saves a round trip.
    Sasl,
}

/// One try to log in.
#[derive(Debug)]
pub struct Attempt<'a> {
    /// The startup message, with the login's user and database.
    pub startup: &'a Startup,
    /// The protocol to ask for.
    pub version: ProtocolVersion,
    /// The login.
    pub login: &'a Login,
    /// What the stream is.
    pub channel: &'a Channel,
    /// Whether SCRAM begins at once.
    pub early: Early,
}

/// How the server let us in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// It asked for nothing (trust, or a certificate).
    Trust,
    /// The password as it is.
    Cleartext,
    /// MD5.
    Md5,
    /// SCRAM.
    ScramSha256,
    /// SCRAM with channel binding.
    ScramSha256Plus,
}

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
    /// The early SCRAM message did not fit; the stream is spent.
    #[error("the server asks for another login than last time")]
    EarlyMissed,
    /// A password is wanted and the login has none.
    #[error("the server asks for a password, and {0} holds none")]
    NoPassword(String),
    /// The password cannot be sent.
    #[error("the password in {0} holds a zero byte, which PostgreSQL cannot take")]
    ZeroByte(String),
    /// A way to log in that pgferry does not have.
    #[error("the server asks for a login by {0}, which pgferry does not support")]
    Unsupported(String),
    /// The server could not prove that it knows the password's verifier.
    #[error("the server did not prove that it knows the password")]
    ServerSignature,
    /// The server's SCRAM message is not acceptable (a nonce that is not ours, too many iterations).
    #[error("the server's SCRAM message is not acceptable")]
    Scram(#[source] io::Error),
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
    fn report(&self) -> Report {
        match self {
            Self::Refused { fields, .. } => {
                Report::fatal(SqlState::INVALID_AUTHORIZATION, format!("{self}: {}", fields.message))
            }
            Self::NoPassword(_) | Self::ZeroByte(_) | Self::Unsupported(_) | Self::CleartextNeedsTls => {
                Report::fatal(SqlState::INVALID_AUTHORIZATION, self.to_string())
            }
            Self::Scram(source) => Report::fatal(SqlState::INVALID_AUTHORIZATION, format!("{self}: {source}")),
            Self::ServerSignature => Report::fatal(SqlState::INVALID_AUTHORIZATION, self.to_string())
                .detail("Either it is not the server that it claims to be, or it has a bug."),
            Self::Overloaded(_) => Report::fatal(SqlState::CANNOT_CONNECT_NOW, self.to_string()).hint("Try again"),
            Self::Protocol(error) => Report::fatal(SqlState::PROTOCOL_VIOLATION, format!("{self}: {error}")),
            Self::EarlyMissed | Self::Io(_) | Self::Closed => {
                Report::fatal(SqlState::CONNECTION_FAILURE, self.to_string()).hint("Connect again")
            }
        }
    }
}

/// SCRAM under way.
struct Scram {
    state: ScramSha256,
    method: Method,
    proven: bool,
}

/// Sends the startup message, answers what the server asks for, and returns at its AuthenticationOk. `buf` keeps what
/// was read beyond it.
///
/// # Errors
/// Where the server refuses, asks for what cannot be given, or the stream ends.
pub async fn log_in<S>(io: &mut S, buf: &mut BytesMut, attempt: Attempt<'_>) -> Result<Method, LoginError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut out = BytesMut::new();
    attempt.startup.encode(attempt.version, &mut out);
    let mut scram = None;
    if attempt.early == Early::Sasl {
        scram = Some(begin_scram(&attempt, &[SCRAM_SHA_256.to_owned()], &mut out)?);
    }
    send(io, &mut out).await?;
    let mut early = attempt.early == Early::Sasl;
    let mut method = Method::Trust;
    loop {
        let frame = receive(io, buf).await?;
        let request = match frame.tag {
            b'R' => authentication(&frame)?,
            b'E' => {
                let fields = error_fields(&frame)?;
                return Err(LoginError::Refused { frame, fields });
            }
            // The server speaks an older minor version, or a notice: neither is the client's business yet.
            b'v' | b'N' => continue,
            tag => return Err(PacketError::Malformed(char::from(tag)).into()),
        };
        if std::mem::take(&mut early) {
            match request {
                Authentication::Sasl(offered) if offered.iter().any(|name| name == SCRAM_SHA_256) => continue,
                _ => return Err(LoginError::EarlyMissed),
            }
        }
        match request {
            Authentication::Ok => return finished(scram, method),
            Authentication::CleartextPassword => {
                if matches!(attempt.channel, Channel::Plaintext) {
                    return Err(LoginError::CleartextNeedsTls);
                }
                encode::password_message(password(&attempt)?, &mut out);
                method = Method::Cleartext;
            }
            Authentication::Md5Password(salt) => {
                let mut hash = md5_hash(attempt.login.user.as_bytes(), password(&attempt)?, salt);
                encode::password_message(hash.as_bytes(), &mut out);
                hash.zeroize();
                method = Method::Md5;
            }
            Authentication::Sasl(offered) => scram = Some(begin_scram(&attempt, &offered, &mut out)?),
            Authentication::SaslContinue(data) => {
                let scram = scram.as_mut().ok_or(PacketError::Malformed('R'))?;
                scram.state.update(&data).map_err(LoginError::Scram)?;
                encode::sasl_response(scram.state.message(), &mut out);
            }
            Authentication::SaslFinal(data) => {
                let scram = scram.as_mut().ok_or(PacketError::Malformed('R'))?;
                scram.state.finish(&data).map_err(|_| LoginError::ServerSignature)?;
                scram.proven = true;
            }
            Authentication::Unsupported(name) => return Err(LoginError::Unsupported(name.to_owned())),
        }
        send(io, &mut out).await?;
    }
}

/// A server that skips its own proof may be anybody.
fn finished(scram: Option<Scram>, method: Method) -> Result<Method, LoginError> {
    match scram {
        Some(Scram { proven: false, .. }) => Err(LoginError::ServerSignature),
        Some(scram) => Ok(scram.method),
        None => Ok(method),
    }
}

fn password<'a>(attempt: &Attempt<'a>) -> Result<&'a [u8], LoginError> {
    let login = attempt.login;
    let password = login.password.as_ref().ok_or_else(|| LoginError::NoPassword(login.source.clone()))?;
    let password = password.expose_secret().as_bytes();
    if password.contains(&0) {
        return Err(LoginError::ZeroByte(login.source.clone()));
    }
    Ok(password)
}

fn begin_scram(attempt: &Attempt<'_>, offered: &[String], out: &mut BytesMut) -> Result<Scram, LoginError> {
    let has = |name: &str| offered.iter().any(|mechanism| mechanism == name);
    let (name, binding, method) = match attempt.channel {
        Channel::Tls { end_point: Some(end_point) } if has(SCRAM_SHA_256_PLUS) => {
            (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(end_point.clone()), Method::ScramSha256Plus)
        }
        // "y": we could, the server says it cannot. A server that can will notice that somebody cut its offer.
        Channel::Tls { end_point: Some(_) } if has(SCRAM_SHA_256) => {
            (SCRAM_SHA_256, ChannelBinding::unrequested(), Method::ScramSha256)
        }
        Channel::Tls { .. } | Channel::Plaintext if has(SCRAM_SHA_256) => {
            (SCRAM_SHA_256, ChannelBinding::unsupported(), Method::ScramSha256)
        }
        _ => return Err(LoginError::Unsupported(offered.join(", "))),
    };
    let state = ScramSha256::new(password(attempt)?, binding);
    encode::sasl_initial_response(name, state.message(), out);
    Ok(Scram { state, method, proven: false })
}

async fn send<S: AsyncWrite + Unpin>(io: &mut S, out: &mut BytesMut) -> io::Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let sent = async {
        io.write_all(out).await?;
        io.flush().await
    }
    .await;
    // It may hold a password.
    out.as_mut().zeroize();
    out.clear();
    sent
}

async fn receive<S: AsyncRead + Unpin>(io: &mut S, buf: &mut BytesMut) -> Result<Frame, LoginError> {
    loop {
        match next_frame(buf, MAX_MESSAGE) {
            Ok(Some(frame)) => return Ok(frame),
            Ok(None) => {}
            Err(error) => return Err(bare_text(io, buf).await.map_or(error.into(), LoginError::Overloaded)),
        }
        if io.read_buf(buf).await? == 0 {
            return Err(LoginError::Closed);
        }
    }
}

/// The rest of an `E` that is no message but a text up to a zero byte, as before protocol 3.0 (`postmaster.c`,
/// `report_fork_failure_to_client`); libpq tells them apart by the length, too.
async fn bare_text<S: AsyncRead + Unpin>(io: &mut S, buf: &mut BytesMut) -> Option<String> {
    buf.starts_with(b"E").then_some(())?;
    while !buf.contains(&0) && buf.len() < MAX_TEXT && matches!(io.read_buf(buf).await, Ok(1..)) {}
    let text = buf.get(1..)?.split(|byte| *byte == 0).next()?;
    let text = std::str::from_utf8(text).ok()?.trim_end();
    // The first byte of a length that a message can have is zero: that is a message which lies about it, and no text.
    (!text.is_empty() && !text.contains(char::is_control)).then(|| text.to_owned())
}

#[cfg(test)]
#[path = "upstream_tests.rs"]
mod tests;
