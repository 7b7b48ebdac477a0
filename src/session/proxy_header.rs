//! The PROXY protocol, version 2: where a client behind a load balancer is, in binary, before the client's own first byte.
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>, section 2.2.
//!
//! Whoever may send this may claim any address: it is read from addresses that the configuration names alone, and must be
//! there. Version 1 (text) is refused, since its end is found only by reading beyond it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::{Instant, timeout_at},
};

/// Begins no packet of PostgreSQL's, and no TLS.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length.
const FIXED: usize = 16;
/// All of it. The specification asks receivers to take 536 bytes, what one TCP segment always holds; load balancers' own
/// additions have less than a hundred.
pub const LONGEST: usize = 536;

const VERSION_2: u8 = 2;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;
/// Family and protocol in one byte.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// The load balancer itself connects, to see whether somebody is here.
    Local,
    /// A client does.
    Client {
        /// The client's address.
        source: SocketAddr,
        /// The address that the client connected to.
        destination: SocketAddr,
    },
}

/// Why a connection begins with no header that can be used.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// It begins with something else.
    #[error("no PROXY protocol header of version 2")]
    Missing,
    /// A version, or a command, that there is none of yet.
    #[error("a PROXY protocol header of version {version}, command {command}")]
    Unknown {
        /// The version.
        version: u8,
        /// The command.
        command: u8,
    },
    /// It speaks of no TCP connection.
    #[error("a PROXY protocol header of family and protocol {0:#04x}, which is not TCP")]
    NotTcp(u8),
    /// Its length is that of no header.
    #[error("a PROXY protocol header of {0} bytes")]
    Length(usize),
    /// It did not come in time.
    #[error("the PROXY protocol header did not come in time")]
    TooLate,
    /// The connection broke.
    #[error("the connection ended in the PROXY protocol header")]
    Io(#[from] io::Error),
}

/// Of whom it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Local,
    Tcp4,
    Tcp6,
}

/// What the first 16 bytes say: all that can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fixed {
    kind: Kind,
    /// Of what follows.
    length: usize,
}

impl Fixed {
    fn parse(bytes: &[u8; FIXED]) -> Result<Self, HeaderError> {
        let [signature @ .., version_and_command, transport, high, low] = bytes;
        if *signature != SIGNATURE {
            return Err(HeaderError::Missing);
        }
        let (version, command) = (version_and_command >> 4, version_and_command & 0x0f);
        let (kind, least) = match (version, command, *transport) {
            // A health check's family and addresses mean nothing, says the specification.
            (VERSION_2, LOCAL, _) => (Kind::Local, 0),
            (VERSION_2, PROXY, TCP4) => (Kind::Tcp4, 12),
            (VERSION_2, PROXY, TCP6) => (Kind::Tcp6, 36),
            (VERSION_2, PROXY, other) => return Err(HeaderError::NotTcp(other)),
            _ => return Err(HeaderError::Unknown { version, command }),
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if (least..=LONGEST - FIXED).contains(&length) {
            Ok(Self { kind, length })
        } else {
            Err(HeaderError::Length(FIXED + length))
        }
    }

    /// What follows says where the client is; the rest of it (checksum, name of the endpoint, ...) is nothing to us.
    fn said(self, rest: &[u8]) -> Result<Said, HeaderError> {
        let addresses = match self.kind {
            Kind::Local => return Ok(Said::Local),
            Kind::Tcp4 => pair::<4>(rest),
            Kind::Tcp6 => pair::<16>(rest),
        };
        let (source, destination) = addresses.ok_or(HeaderError::Length(FIXED + self.length))?;
        Ok(Said::Client { source, destination })
    }
}

/// Two addresses and two ports.
fn pair<const N: usize>(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = bytes.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk::<2>()?;
    let (destination_port, _) = rest.split_first_chunk::<2>()?;
    // An IPv4 client of a listener for both is the same client.
    let address =
        |ip: [u8; N], port: [u8; 2]| SocketAddr::new(IpAddr::from(ip).to_canonical(), u16::from_be_bytes(port));
    Some((address(*source, *source_port), address(*destination, *destination_port)))
}

/// Whether a header may begin so.
fn is_so_far(bytes: &[u8]) -> bool {
    bytes.iter().zip(SIGNATURE).all(|(byte, expected)| *byte == expected)
}

/// What the bytes begin with, and how long that is; `None` where they are not all there. What is refused is refused as soon
/// as that can be told.
///
/// # Errors
/// Where they begin with no header that can be used.
pub fn parse(bytes: &[u8]) -> Result<Option<(Said, usize)>, HeaderError> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else {
        return if is_so_far(bytes) { Ok(None) } else { Err(HeaderError::Missing) };
    };
    let fixed = Fixed::parse(fixed)?;
    let Some(rest) = rest.get(..fixed.length) else { return Ok(None) };
    Ok(Some((fixed.said(rest)?, FIXED + fixed.length)))
}

/// Reads the header and nothing behind it.
///
/// # Errors
/// Where there is none that can be used by the deadline.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S, deadline: Instant) -> Result<Said, HeaderError> {
    timeout_at(deadline, read_whole(stream)).await.unwrap_or(Err(HeaderError::TooLate))
}

async fn read_whole<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Said, HeaderError> {
    let (mut fixed, mut filled) = ([0; FIXED], 0);
    while let Some(room) = fixed.get_mut(filled..).filter(|room| !room.is_empty()) {
        filled += match stream.read(room).await? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            read => read,
        };
        // Whoever sends no header may send less than one, and wait for an answer.
        if !is_so_far(fixed.get(..filled).unwrap_or_default()) {
            return Err(HeaderError::Missing);
        }
    }
    let fixed = Fixed::parse(&fixed)?;
    let mut rest = [0; LONGEST - FIXED];
    let rest = rest.get_mut(..fixed.length).ok_or(HeaderError::Length(FIXED + fixed.length))?;
    stream.read_exact(rest).await?;
    fixed.said(rest)
}

#[cfg(test)]
#[path = "proxy_header_tests.rs"]
mod tests;
