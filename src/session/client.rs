//! The client's side of a session: a socket, with or without TLS.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{ProtocolVersion, pki_types::CertificateDer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

use crate::{
    tls::{
        accept::{self, Encrypted},
        prefixed::Prefixed,
    },
    upstream::{Conninfo, Form, Target},
};

/// Where a client connected from.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Over TCP.
    Tcp {
        /// The other end of the socket.
        peer: SocketAddr,
        /// Our address.
        local: SocketAddr,
        /// Where the client is, as the load balancer at the other end says.
        announced: Option<SocketAddr>,
    },
    /// Over a Unix socket; the kernel says who it is.
    Unix {
        /// The listener's socket.
        local: PathBuf,
    },
}

impl Peer {
    /// Where it connected to, as libpq writes it.
    #[must_use]
    pub(super) fn conninfo(&self, form: Form) -> Conninfo {
        match self {
            Self::Tcp { local, .. } => {
                let ip = local.ip().to_canonical();
                let host = if ip.is_loopback() { "localhost".to_owned() } else { ip.to_string() };
                Conninfo { host, port: local.port(), form }
            }
            Self::Unix { local } => {
                let directory = local.parent().unwrap_or(local).display().to_string();
                // `.s.PGSQL.PORT`
                let port = local.extension().and_then(|port| port.to_str()?.parse().ok()).unwrap_or_default();
                Conninfo { host: directory, port, form }
            }
        }
    }
}

impl Peer {
    /// Where the client is, over TCP. Proves nothing.
    pub(super) fn client(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp { peer, announced, .. } => Some(announced.unwrap_or(*peer)),
            Self::Unix { .. } => None,
        }
    }

    /// The load balancer that said so, where one did.
    pub(super) fn via(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp { peer, announced: Some(_), .. } => Some(peer.ip().to_canonical()),
            _ => None,
        }
    }

    /// Whose guesses are counted together: an address, or the network that one subscriber has.
    #[must_use]
    pub(super) fn counted(&self) -> String {
        match self.client().map(|client| client.ip().to_canonical()) {
            Some(IpAddr::V4(ip)) => ip.to_string(),
            Some(IpAddr::V6(ip)) => {
                let [a, b, c, d, ..] = ip.segments();
                format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
            }
            None => self.to_string(),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.client() {
            Some(client) => client.fmt(f),
            None => f.write_str("unix socket"),
        }
    }
}

/// A socket as accepted.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

/// A connection as a listener accepted it.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub socket: Socket,
    /// Where it comes from.
    pub peer: Peer,
    /// The target that the listener is bound to, where it is.
    pub bound: Option<Target>,
}

/// The client's byte stream.
#[derive(Debug)]
pub enum ClientStream {
    /// No TLS.
    Plain(Socket),
    /// TLS; the prefix holds a `ClientHello` that was read while sniffing.
    Tls(Box<Encrypted<Prefixed<Socket>>>),
}

impl ClientStream {
    /// Whether the client encrypts.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// The client's certificate, which the handshake has verified.
    pub(super) fn certificate(&self) -> Option<CertificateDer<'static>> {
        let Self::Tls(tls) = self else { return None };
        accept::client_certificate(&tls.stream)
    }

    /// What channel binding binds to: the hash of our certificate, as the client saw it.
    pub(super) fn end_point(&self) -> Option<Arc<[u8]>> {
        let Self::Tls(tls) = self else { return None };
        tls.end_point.clone()
    }

    /// As RFCs write it: `TLSv1.3`.
    pub(super) fn tls_version(&self) -> Option<&'static str> {
        let Self::Tls(tls) = self else { return None };
        match tls.stream.get_ref().1.protocol_version()? {
            ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
            ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
            _ => None,
        }
    }

    fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.stream.get_ref().0.get_ref(),
        }
    }

    /// Makes the coming drop a reset, so that the client cannot take a cut message for an orderly end.
    pub fn reset_on_drop(&self) {
        if let Socket::Tcp(tcp) = self.socket() {
            // Where the system refuses the option the drop is an ordinary close; nothing better is left to do.
            let _ = tcp.set_zero_linger();
        }
    }
}

macro_rules! delegate {
    ($self:ident, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Tcp($io) => $call,
            Self::Unix($io) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(&mut io.stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(&mut io.stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(&mut io.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(&mut io.stream).poll_shutdown(cx),
        }
    }
}
