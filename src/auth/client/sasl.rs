//! SCRAM with a client, over its stream.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use super::{
    ClientError, Mock, Verifier,
    scram::{First, Mechanism},
    send,
};
use crate::pg::{
    PacketError, encode,
    frame::{Frame, next_frame},
    frontend::{ANSWER, TERMINATE, sasl_initial_response},
};

const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// PostgreSQL's own bound on a message of SASL (`PG_MAX_SASL_MESSAGE_LENGTH`, up to 17); real ones have 200 bytes.
const MAX_MESSAGE: usize = 1024;
/// As many random bytes as PostgreSQL's nonce has (`SCRAM_RAW_NONCE_LEN`).
const NONCE: usize = 18;

/// Asks the client for SCRAM, and returns when it has proved that it knows the password behind `account`; it has seen our
/// own proof then, and no AuthenticationOk. A name that has no `account` gets the same exchange, and fails at its end.
///
/// `early` holds what was read behind the startup message, and keeps what was read beyond the exchange. With `end_point`,
/// the hash of our certificate in the client's TLS, channel binding is offered. The caller sets the deadline.
///
/// # Errors
/// Where the client does not prove it, breaks the protocol, or goes away.
pub async fn scram<S: AsyncRead + AsyncWrite + Unpin + Send>(
    io: &mut S,
    early: &mut BytesMut,
    account: Option<&Verifier>,
    mock: &Mock,
    name: &str,
    end_point: Option<&[u8]>,
) -> Result<(), ClientError> {
    let stand_in = mock.verifier(name);
    let verifier = account.unwrap_or(&stand_in);
    let offer: &[_] = if end_point.is_some() { &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256] } else { &[SCRAM_SHA_256] };
    send(io, &encode::to_bytes(|out| encode::authentication_sasl(offer, out))).await?;
    let frame = receive(io, early).await?;
    let chosen = sasl_initial_response(&frame)?;
    let mechanism = match (chosen.mechanism, end_point) {
        (name, Some(hash)) if name == SCRAM_SHA_256_PLUS.as_bytes() => Mechanism::Plus(hash),
        (name, Some(_)) if name == SCRAM_SHA_256.as_bytes() => Mechanism::WithoutBinding,
        (name, None) if name == SCRAM_SHA_256.as_bytes() => Mechanism::Only,
        _ => return Err(ClientError::Mechanism),
    };
    let first = if let Some(data) = chosen.data {
        First::read(data, mechanism)?
    } else {
        // It names the mechanism alone, and waits to be asked (RFC 4422, 3.3).
        send(io, &encode::to_bytes(|out| encode::authentication_sasl_continue(b"", out))).await?;
        First::read(receive(io, early).await?.body(), mechanism)?
    };
    let mut ours = [0; NONCE];
    getrandom::fill(&mut ours).map_err(ClientError::Random)?;
    let challenge = first.challenge(&STANDARD.encode(ours), verifier);
    send(io, &encode::to_bytes(|out| encode::authentication_sasl_continue(challenge.message().as_bytes(), out)))
        .await?;
    let proven = challenge.verify(receive(io, early).await?.body(), verifier)?;
    // Whatever the stand-in's keys are: nobody logs in by it.
    let (Some(signature), Some(_)) = (proven, account) else {
        return Err(ClientError::Refused(name.to_owned()));
    };
    send(io, &encode::to_bytes(|out| encode::authentication_sasl_final(signature.as_bytes(), out))).await
}

/// The client's next answer. Another message is known by its first byte, and not waited for.
async fn receive<S: AsyncRead + Unpin>(io: &mut S, early: &mut BytesMut) -> Result<Frame, ClientError> {
    loop {
        match early.first() {
            None | Some(&ANSWER) => {}
            Some(&TERMINATE) => return Err(ClientError::Closed),
            Some(other) => return Err(PacketError::Malformed(char::from(*other)).into()),
        }
        if let Some(frame) = next_frame(early, MAX_MESSAGE)? {
            return Ok(frame);
        }
        if io.read_buf(early).await? == 0 {
            return Err(ClientError::Closed);
        }
    }
}

#[cfg(test)]
#[path = "sasl_tests.rs"]
mod tests;
