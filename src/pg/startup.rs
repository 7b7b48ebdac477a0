//! The untyped packets that open a connection: SSLRequest, GSSENCRequest, CancelRequest, StartupMessage.

use std::collections::HashSet;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    PacketError,
    cancel::{CANCEL_REQUEST, CancelKey},
    options::{self, Own},
    split_string, u32_at,
};

/// PostgreSQL's `MAX_STARTUP_PACKET_LENGTH` (libpq/pqcomm.h).
pub const MAX_STARTUP: usize = 10_000;
/// Length and code.
const MIN_STARTUP: usize = 8;

const SSL_REQUEST: u32 = 0x04d2_162f;
const GSSENC_REQUEST: u32 = 0x04d2_1630;
/// The first byte of a TLS record that carries a handshake (RFC 8446, 5.1). As a length it would be 369 million.
const TLS_HANDSHAKE: u8 = 0x16;
/// Names that begin so are protocol extensions, negotiated and never forwarded.
const EXTENSION: &[u8] = b"_pq_.";

/// A protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProtocolVersion {
    /// 3 since PostgreSQL 7.4.
    pub major: u16,
    /// 0, or 2 since PostgreSQL 18; there is no 1.
    pub minor: u16,
}

impl ProtocolVersion {
    /// What every client speaks.
    pub const V3_0: Self = Self { major: 3, minor: 0 };
    /// Long cancel keys.
    pub const V3_2: Self = Self { major: 3, minor: 2 };

    fn code(self) -> u32 {
        (u32::from(self.major) << 16) | u32::from(self.minor)
    }
}

/// The first packet of a connection, or the first after encryption was negotiated.
#[derive(Debug)]
pub enum First {
    /// The client asks for TLS.
    SslRequest,
    /// The client asks for GSSAPI encryption.
    GssEncRequest,
    /// A TLS handshake begins without asking; its bytes are still in the buffer.
    TlsHello,
    /// The client wants a session.
    Startup(Startup),
    /// The client wants a query of another session cancelled.
    Cancel(CancelKey),
}

/// Takes the first packet off `buf`; `None` where it has not arrived whole.
///
/// # Errors
/// As soon as four bytes say that it is none: a wrong length is refused before its body is waited for.
pub fn first(buf: &mut BytesMut) -> Result<Option<First>, PacketError> {
    if buf.first() == Some(&TLS_HANDSHAKE) {
        return Ok(Some(First::TlsHello));
    }
    let Some(length) = u32_at(buf, 0) else { return Ok(None) };
    let length = usize::try_from(length).map_err(|_| PacketError::Length)?;
    if !(MIN_STARTUP..=MAX_STARTUP).contains(&length) {
        return Err(PacketError::Length);
    }
    if buf.len() < length {
        return Ok(None);
    }
    let mut packet = buf.split_to(length).freeze();
    packet.advance(4);
    let code = packet.get_u32();
    match code {
        SSL_REQUEST | GSSENC_REQUEST if !packet.is_empty() => Err(PacketError::Length),
        SSL_REQUEST => Ok(Some(First::SslRequest)),
        GSSENC_REQUEST => Ok(Some(First::GssEncRequest)),
        CANCEL_REQUEST => CancelKey::parse(&packet).map(|key| Some(First::Cancel(key))),
        code => Startup::parse(code, &packet).map(|startup| Some(First::Startup(startup))),
    }
}

/// A StartupMessage: parameters byte for byte and in the client's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    /// What the client asked for.
    pub version: ProtocolVersion,
    parameters: Vec<(Bytes, Bytes)>,
}

impl Startup {
    /// Without parameters.
    #[must_use]
    pub fn new(version: ProtocolVersion) -> Self {
        Self { version, parameters: Vec::new() }
    }

    fn parse(code: u32, body: &Bytes) -> Result<Self, PacketError> {
        let [a, b, c, d] = code.to_be_bytes();
        let version = ProtocolVersion { major: u16::from_be_bytes([a, b]), minor: u16::from_be_bytes([c, d]) };
        if version.major != 3 {
            return Err(PacketError::Version { major: version.major, minor: version.minor });
        }
        let mut startup = Self::new(version);
        let mut seen = HashSet::new();
        let mut rest: &[u8] = body;
        loop {
            let (name, after) = split_string(rest).ok_or(PacketError::Unterminated)?;
            if name.is_empty() {
                if !after.is_empty() {
                    return Err(PacketError::Unterminated);
                }
                break;
            }
            let (value, after) = split_string(after).ok_or(PacketError::Unterminated)?;
            if !seen.insert(name) {
                return Err(PacketError::Duplicate(String::from_utf8_lossy(name).into_owned()));
            }
            startup.parameters.push((body.slice_ref(name), body.slice_ref(value)));
            rest = after;
        }
        Ok(startup)
    }

    /// A parameter's value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.parameters().find(|(found, _)| *found == name.as_bytes()).map(|(_, value)| value)
    }

    /// Replaces a parameter's value in its place, or adds it behind the others.
    pub fn set(&mut self, name: &str, value: impl Into<Bytes>) {
        let value = value.into();
        match self.parameters.iter_mut().find(|(found, _)| found == name.as_bytes()) {
            Some(parameter) => parameter.1 = value,
            None => self.parameters.push((Bytes::copy_from_slice(name.as_bytes()), value)),
        }
    }

    /// Takes a parameter out.
    pub fn remove(&mut self, name: &str) {
        self.parameters.retain(|(found, _)| found != name.as_bytes());
    }

    /// Takes the options out that are ours; all else stays byte for byte.
    pub fn take_own(&mut self) -> Own {
        let (mut own, rest) = options::take_own(self.get("options").unwrap_or_default());
        if own != Own::default() {
            if rest.iter().all(u8::is_ascii_whitespace) {
                self.remove("options");
            } else {
                self.set("options", Bytes::from(rest));
            }
        }
        self.parameters.retain(|(name, value)| !own.note(name, value));
        own
    }

    /// All parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.parameters.iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    fn extensions(&self) -> impl Iterator<Item = &[u8]> {
        self.parameters().map(|(name, _)| name).filter(|name| name.starts_with(EXTENSION))
    }

    /// What is spoken with this client: 3.2 where it asked for that or more, else 3.0.
    #[must_use]
    pub fn spoken(&self) -> ProtocolVersion {
        if self.version >= ProtocolVersion::V3_2 { ProtocolVersion::V3_2 } else { ProtocolVersion::V3_0 }
    }

    /// NegotiateProtocolVersion, where the client asked for what we do not speak. Sent unasked it makes older
    /// clients give up.
    #[must_use]
    pub fn negotiation(&self) -> Option<Bytes> {
        let count = self.extensions().count();
        if self.version <= ProtocolVersion::V3_2 && count == 0 {
            return None;
        }
        let mut body = BytesMut::new();
        body.put_u32(self.spoken().code());
        body.put_u32(u32::try_from(count).ok()?);
        for name in self.extensions() {
            body.put_slice(name);
            body.put_u8(0);
        }
        let mut out = BytesMut::new();
        super::encode::message(b'v', &body, &mut out);
        Some(out.freeze())
    }

    /// The StartupMessage for a server: all parameters but protocol extensions.
    pub fn encode(&self, version: ProtocolVersion, out: &mut BytesMut) {
        let mut body = BytesMut::new();
        body.put_u32(version.code());
        for (name, value) in self.parameters().filter(|(name, _)| !name.starts_with(EXTENSION)) {
            for string in [name, value] {
                body.put_slice(string);
                body.put_u8(0);
            }
        }
        body.put_u8(0);
        // Bounded by what a client may send and the names of a login.
        out.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX).saturating_add(4));
        out.put_slice(&body);
    }
}

/// The SSLRequest for a server.
pub fn encode_ssl_request(out: &mut BytesMut) {
    out.put_u32(8);
    out.put_u32(SSL_REQUEST);
}

#[cfg(test)]
#[path = "startup_tests.rs"]
mod tests;
