//! The first packets: encryption is negotiated, then a startup message or a cancel request arrives.

use std::io;

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout_at},
};
use tracing::{debug, info};

use super::{
    Sessions,
    client::{ClientStream, Peer, Socket},
    registry::SessionId,
    reply::tell,
};
use crate::{
    error::{ClientFacing, Report, SqlState},
    pg::{
        PacketError,
        cancel::CancelKey,
        startup::{First, Startup, first},
    },
    tls::{
        TlsError,
        accept::{Acceptor, Encrypted, names_postgres},
        prefixed::Prefixed,
    },
};

/// A client that has said what it wants.
pub(super) enum Greeting {
    /// A session.
    Startup(Greeted),
    /// That a query of another session is cancelled.
    Cancel(ClientStream, CancelKey),
}

/// A client that wants a session, not yet authenticated.
pub(super) struct Greeted {
    pub(super) client: ClientStream,
    pub(super) startup: Startup,
    /// Bytes behind the startup message.
    pub(super) early: BytesMut,
}

/// A greeting that went wrong.
#[derive(Debug, thiserror::Error)]
enum GreetError {
    /// The client went away, as port scanners and health checks do.
    #[error("the client closed before it sent a startup packet")]
    Gone,
    /// It opened TLS where there is none, and hears nothing else.
    #[error("the client opened TLS, which there is none of here; see listen.tls")]
    NoTls,
    /// Its socket failed.
    #[error("the client's socket failed")]
    Io(#[from] io::Error),
    /// The handshake failed: there is nobody to tell.
    #[error("the TLS handshake with the client failed")]
    Tls(#[from] TlsError),
    /// It can still be told why.
    #[error("the client broke the protocol")]
    Refused(Box<ClientStream>, Report),
}

impl Sessions {
    /// What the client wants, where it says so in time and properly.
    pub(super) async fn greeted(
        &self,
        id: SessionId,
        socket: Socket,
        peer: &Peer,
        deadline: Instant,
    ) -> Option<Greeting> {
        let greeted = timeout_at(deadline, greet(socket, peer, self.acceptor.as_ref())).await;
        match greeted {
            Err(_) => debug!(session = %id, %peer, "no startup packet within the deadline"),
            Ok(Err(GreetError::Refused(mut client, report))) => {
                info!(session = %id, %peer, sqlstate = %report.sqlstate, "connection refused: {}", report.message);
                self.metrics.refused(report.sqlstate.as_str());
                tell(&mut client, &report).await;
            }
            Ok(Err(GreetError::NoTls)) => info!(session = %id, %peer, "connection refused: {}", GreetError::NoTls),
            Ok(Err(GreetError::Gone)) => debug!(session = %id, %peer, "{}", GreetError::Gone),
            Ok(Err(error)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                debug!(session = %id, %peer, %cause, "{error}");
            }
            Ok(Ok(greeting)) => return Some(greeting),
        }
        None
    }
}

/// Reads until the client has said what it wants. The caller sets the deadline.
async fn greet(socket: Socket, peer: &Peer, acceptor: Option<&Acceptor>) -> Result<Greeting, GreetError> {
    // On a Unix socket nothing crosses a network; PostgreSQL never encrypts there either.
    let acceptor = acceptor.filter(|_| matches!(peer, Peer::Tcp { .. }));
    let mut client = ClientStream::Plain(socket);
    let mut buf = BytesMut::new();
    let (mut asked_tls, mut asked_gss) = (false, false);
    loop {
        let next = match first(&mut buf) {
            Ok(next) => next,
            Err(error) => return Err(refused(client, &error)),
        };
        match next {
            None => {
                if client.read_buf(&mut buf).await? == 0 {
                    return Err(GreetError::Gone);
                }
            }
            Some(First::GssEncRequest) if !asked_gss && !client.is_encrypted() => {
                asked_gss = true;
                if !buf.is_empty() {
                    return Err(injected(client));
                }
                client.write_all(b"N").await?;
            }
            Some(First::SslRequest) if !asked_tls && !client.is_encrypted() => {
                asked_tls = true;
                // Bytes that came before the answer were sent by somebody who could not know it: they would be
                // taken for the client's own inside TLS (CVE-2021-23214).
                if !buf.is_empty() {
                    return Err(injected(client));
                }
                client = encrypt_if_possible(acceptor, client).await?;
            }
            Some(First::TlsHello) => {
                let (Some(acceptor), ClientStream::Plain(socket), false) = (acceptor, client, asked_tls) else {
                    return Err(GreetError::NoTls);
                };
                client = encrypt_directly(acceptor, socket, std::mem::take(&mut buf)).await?;
            }
            Some(First::Startup(startup)) => {
                return Ok(Greeting::Startup(Greeted { client, startup, early: buf }));
            }
            Some(First::Cancel(key)) => return Ok(Greeting::Cancel(client, key)),
            Some(First::SslRequest | First::GssEncRequest) => {
                let report = Report::fatal(SqlState::PROTOCOL_VIOLATION, "encryption was asked for twice");
                return Err(GreetError::Refused(Box::new(client), report));
            }
        }
    }
}

/// The one byte that answers SSLRequest, and TLS behind it where there is any.
async fn encrypt_if_possible(acceptor: Option<&Acceptor>, client: ClientStream) -> Result<ClientStream, GreetError> {
    match (acceptor, client) {
        (Some(acceptor), ClientStream::Plain(mut socket)) => {
            socket.write_all(b"S").await?;
            Ok(ClientStream::Tls(Box::new(encrypt(acceptor, socket, BytesMut::new()).await?)))
        }
        (_, mut client) => {
            client.write_all(b"N").await?;
            Ok(client)
        }
    }
}

/// TLS from the first byte. Who does not name PostgreSQL's protocol hears so inside it.
async fn encrypt_directly(acceptor: &Acceptor, socket: Socket, hello: BytesMut) -> Result<ClientStream, GreetError> {
    let encrypted = encrypt(acceptor, socket, hello).await?;
    let named = names_postgres(&encrypted.stream);
    let client = ClientStream::Tls(Box::new(encrypted));
    match named {
        Ok(()) => Ok(client),
        Err(error) => Err(GreetError::Refused(Box::new(client), error.report())),
    }
}

async fn encrypt(
    acceptor: &Acceptor,
    socket: Socket,
    hello: BytesMut,
) -> Result<Encrypted<Prefixed<Socket>>, GreetError> {
    Ok(acceptor.accept(Prefixed::new(hello.freeze(), socket)).await?)
}

fn refused(client: ClientStream, error: &PacketError) -> GreetError {
    GreetError::Refused(Box::new(client), error.report())
}

fn injected(client: ClientStream) -> GreetError {
    let report =
        Report::fatal(SqlState::PROTOCOL_VIOLATION, "received unencrypted data after the request for encryption")
            .detail("Either the client has a bug, or somebody between it and pgferry is injecting bytes.");
    GreetError::Refused(Box::new(client), report)
}
