//! A password in the clear, which may be a token. Only ever asked for inside TLS, which the caller sees to.

use bytes::BytesMut;
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use zeroize::{Zeroize as _, Zeroizing};

use super::{ClientError, send};
use crate::pg::{
    PacketError, encode,
    frame::HEADER,
    frontend::{ANSWER, TERMINATE, answer_length},
};

/// As long as PostgreSQL takes them (`PG_MAX_AUTH_TOKEN_LENGTH`); tokens have a few kilobytes.
const MAX_PASSWORD: usize = 65_535;

/// Asks the client for its password as it is. Nothing is read beyond the answer; `early` holds what was read behind the
/// startup message, and keeps what is not part of it. The caller sets the deadline.
///
/// # Errors
/// Where the password is empty or no text, or the client breaks the protocol, or goes away.
pub async fn password<S: AsyncRead + AsyncWrite + Unpin + Send>(
    io: &mut S,
    early: &mut BytesMut,
) -> Result<SecretString, ClientError> {
    send(io, &encode::to_bytes(encode::authentication_cleartext_password)).await?;
    let mut header = [0; HEADER];
    let (tag, length) = header.split_at_mut(1);
    // Another message is known by its first byte, and not waited for.
    fill(io, early, tag).await?;
    match tag {
        [ANSWER] => {}
        [TERMINATE] => return Err(ClientError::Closed),
        [other, ..] => return Err(PacketError::Malformed(char::from(*other)).into()),
        [] => return Err(PacketError::Length.into()),
    }
    fill(io, early, length).await?;
    let body = answer_length(header, MAX_PASSWORD.saturating_add(1))?;
    let length = body.checked_sub(1).ok_or(PacketError::Length)?;
    // In one piece, of the right size: a buffer that grows or shrinks leaves a copy behind.
    let mut text = Zeroizing::new(vec![0; length]);
    fill(io, early, &mut text).await?;
    let mut terminator = [0; 1];
    fill(io, early, &mut terminator).await?;
    if terminator != [0] || text.contains(&0) {
        return Err(PacketError::Malformed('p').into());
    }
    if text.is_empty() {
        return Err(ClientError::EmptyPassword);
    }
    String::from_utf8(std::mem::take(&mut *text)).map(SecretString::from).map_err(|error| {
        error.into_bytes().zeroize();
        ClientError::NotText
    })
}

/// Fills `place` from what was read already, which is wiped there, and then from the stream.
async fn fill<S: AsyncRead + Unpin>(io: &mut S, early: &mut BytesMut, place: &mut [u8]) -> Result<(), ClientError> {
    let mut taken = early.split_to(early.len().min(place.len()));
    let (begun, rest) = place.split_at_mut(taken.len());
    begun.copy_from_slice(&taken);
    taken.as_mut().zeroize();
    io.read_exact(rest).await?;
    Ok(())
}

#[cfg(test)]
#[path = "password_tests.rs"]
mod tests;
