//! Logging in to a server with what a Secret gave: SCRAM-SHA-256 (with channel binding where there is a channel), a
//! certificate, or nothing; MD5 and cleartext only where the server may have that. Whoever answers at the other end may
//! not be the server that the password is for, and gets nothing that would help against it.

use std::io;

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::{Zeroize, Zeroizing};

pub use super::upstream_error::LoginError;
use super::{
    memory::{Account, Hashed, Memory},
    scram::{Binding, Expected, First},
    upstream_error::MAX_PASSWORD,
};
use crate::{
    pg::{
        PacketError,
        backend::{Authentication, authentication, error_fields},
        encode,
        frame::{Frame, next_frame},
        startup::{ProtocolVersion, Startup},
    },
    upstream::{AuthMethod, CaBy, Login, Server, Upstream},
};

const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

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
        /// Who says that the CA is the right one that the certificate was verified with; `None` where it was not.
        verified_by: Option<CaBy>,
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
    /// The server, and what it may ask for.
    pub upstream: &'a Upstream,
    /// What earlier logins have left.
    pub memory: &'a Memory,
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

/// How far a login is. A server asks once, and for one thing: whoever asks again wants to learn more than a login needs.
enum Stage {
    /// It has asked for nothing yet.
    Quiet,
    /// It has the password, or a hash.
    Given(Method),
    /// It has our first SCRAM message.
    Begun(Method, First),
    /// It has our proof.
    Proof(Method, Expected, Hashed),
    /// It has given its own.
    Proven(Method, Hashed),
}

/// Sends the startup message, answers what the server asks for, and returns at its AuthenticationOk. `buf` keeps what
/// was read beyond it.
///
/// # Errors
/// Where the server refuses, asks for what cannot be given or what it may not have, or the stream ends.
pub async fn log_in<S>(io: &mut S, buf: &mut BytesMut, attempt: Attempt<'_>) -> Result<Method, LoginError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut out = BytesMut::new();
    attempt.startup.encode(attempt.version, &mut out);
    let mut stage = Stage::Quiet;
    if attempt.early == Early::Sasl {
        stage = begin_scram(&attempt, &[SCRAM_SHA_256.to_owned()], &mut out)?;
    }
    send(io, &mut out).await?;
    let mut early = attempt.early == Early::Sasl;
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
        if matches!(request, Authentication::Ok) {
            return finished(stage, &attempt);
        }
        stage = answered(stage, request, &attempt, &mut out).await?;
        send(io, &mut out).await?;
    }
}

/// A server that skips its own proof may be anybody.
fn finished(stage: Stage, attempt: &Attempt<'_>) -> Result<Method, LoginError> {
    match stage {
        Stage::Quiet => may_have_asked_nothing(attempt).map(|()| Method::Trust),
        Stage::Given(method) => Ok(method),
        Stage::Begun(..) | Stage::Proof(..) => Err(LoginError::ServerSignature),
        Stage::Proven(method, hashed) => {
            attempt.memory.proven(Account::of(attempt.upstream, attempt.login), hashed);
            Ok(method)
        }
    }
}

/// Many servers trust whoever comes over loopback, as a port-forward does. Then the login's author has not shown that it
/// knows a password: into another namespace nobody becomes a superuser by such a word.
fn may_have_asked_nothing(attempt: &Attempt<'_>) -> Result<(), LoginError> {
    let Attempt { upstream, login, .. } = attempt;
    let elsewhere =
        matches!(upstream.server, Server::Pod(_)) && upstream.server.namespace() != upstream.cluster.namespace;
    let by_certificate = upstream.tls.client_identity.is_some();
    let trusted = by_certificate || upstream.auth.weakest >= AuthMethod::Trust;
    if elsewhere && login.superuser && !trusted {
        return Err(LoginError::NothingAsked { secret: login.source.clone(), user: login.user.clone() });
    }
    Ok(())
}

/// Puts the answer into `out`, if the server may have it.
async fn answered(
    stage: Stage,
    request: Authentication,
    attempt: &Attempt<'_>,
    out: &mut BytesMut,
) -> Result<Stage, LoginError> {
    match (stage, request) {
        (_, Authentication::Unsupported(name)) => Err(LoginError::Unsupported(name.to_owned())),
        (Stage::Quiet, Authentication::CleartextPassword) => {
            may_have_the_password(attempt)?;
            put_password(password(attempt)?.as_bytes(), out);
            Ok(Stage::Given(Method::Cleartext))
        }
        (Stage::Quiet, Authentication::Md5Password(salt)) => {
            may_have_an_md5_hash(attempt)?;
            let user = attempt.login.user.as_bytes();
            put_password(Zeroizing::new(md5_hash(user, password(attempt)?.as_bytes(), salt)).as_bytes(), out);
            Ok(Stage::Given(Method::Md5))
        }
        (Stage::Quiet, Authentication::Sasl(offered)) => begin_scram(attempt, &offered, out),
        (Stage::Begun(method, first), Authentication::SaslContinue(data)) => {
            let challenge = first.challenge(&data, attempt.upstream.auth.iterations())?;
            let account = Account::of(attempt.upstream, attempt.login);
            let hashed = attempt.memory.hashed(&account, (attempt.login, password(attempt)?), &challenge).await?;
            let (message, expected) = first.prove(&challenge, &hashed.keys);
            encode::sasl_response(message.as_bytes(), out);
            Ok(Stage::Proof(method, expected, hashed))
        }
        (Stage::Proof(method, expected, hashed), Authentication::SaslFinal(data)) => {
            if expected.is_in(&data) {
                Ok(Stage::Proven(method, hashed))
            } else {
                Err(LoginError::ServerSignature)
            }
        }
        _ => Err(PacketError::Malformed('R').into()),
    }
}

/// A certificate says only what whoever vouches for its CA says: the cluster's own author may want passwords that other
/// roles have chosen.
fn may_have_the_password(attempt: &Attempt<'_>) -> Result<(), LoginError> {
    let (verified_by, untrusted) = match attempt.channel {
        Channel::Tls { verified_by, .. } => (verified_by.as_ref(), None),
        // Inside TLS it may be given to whom a CA that is known here would vouch for; to others it is not given at all.
        Channel::Plaintext => (Some(&attempt.upstream.tls.ca_by), Some(LoginError::CleartextNeedsTls)),
    };
    let vouched = match verified_by {
        Some(CaBy::Configuration) => true,
        Some(CaBy::Secret(source)) => *source == attempt.login.source,
        Some(CaBy::Cluster) | None => false,
    };
    if !vouched && attempt.upstream.auth.weakest < AuthMethod::Password {
        return Err(LoginError::CleartextUntrusted);
    }
    untrusted.map_or(Ok(()), Err)
}

/// The hash is as good as the password wherever the same password is stored as MD5, and is guessed quickly. A server that
/// has the verifier of SCRAM needs none.
fn may_have_an_md5_hash(attempt: &Attempt<'_>) -> Result<(), LoginError> {
    if attempt.memory.has_done_scram(&Account::of(attempt.upstream, attempt.login)) {
        return Err(LoginError::Md5AfterScram(attempt.login.user.clone()));
    }
    let usual = attempt.upstream.auth.weakest >= AuthMethod::Md5;
    if usual { Ok(()) } else { Err(LoginError::Md5Untrusted) }
}

fn password<'a>(attempt: &Attempt<'a>) -> Result<&'a str, LoginError> {
    let login = attempt.login;
    let password = login.password.as_ref().ok_or_else(|| LoginError::NoPassword(login.source.clone()))?;
    let password = password.expose_secret();
    if password.contains('\0') {
        return Err(LoginError::ZeroByte(login.source.clone()));
    }
    Ok(password)
}

/// In one piece: a buffer that grows leaves a copy of the password behind.
fn put_password(password: &[u8], out: &mut BytesMut) {
    out.reserve(password.len().saturating_add(8));
    encode::password_message(password, out);
}

fn begin_scram(attempt: &Attempt<'_>, offered: &[String], out: &mut BytesMut) -> Result<Stage, LoginError> {
    let has = |name: &str| offered.iter().any(|mechanism| mechanism == name);
    let (name, binding, method) = match attempt.channel {
        Channel::Tls { end_point: Some(end_point), .. } if has(SCRAM_SHA_256_PLUS) => {
            (SCRAM_SHA_256_PLUS, Binding::EndPoint(end_point.clone()), Method::ScramSha256Plus)
        }
        Channel::Tls { end_point: Some(_), .. } if has(SCRAM_SHA_256) => {
            (SCRAM_SHA_256, Binding::NotOffered, Method::ScramSha256)
        }
        Channel::Tls { .. } | Channel::Plaintext if has(SCRAM_SHA_256) => {
            (SCRAM_SHA_256, Binding::None, Method::ScramSha256)
        }
        _ => return Err(LoginError::Unsupported(offered.join(", "))),
    };
    if password(attempt)?.len() > MAX_PASSWORD {
        return Err(LoginError::PasswordTooLong(attempt.login.source.clone()));
    }
    let first = First::new(binding).map_err(LoginError::Random)?;
    encode::sasl_initial_response(name, first.message().as_bytes(), out);
    Ok(Stage::Begun(method, first))
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
