//! What the client hears until the server takes over, and at the end.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use zeroize::Zeroize as _;

use super::{
    client::{ClientStream, Peer},
    goodbye::last_words,
    log,
    refusal::Refusal,
    registry::SessionId,
};
use crate::{error::Report, pg::encode};

/// The client's side until the server takes over: knows whether AuthenticationOk is out.
pub(super) struct Reply {
    pub(super) client: ClientStream,
    /// NegotiateProtocolVersion, where the client asked for something that needs it; it stands before AuthenticationOk.
    pub(super) negotiation: Option<Bytes>,
    pub(super) opened: bool,
}

impl Reply {
    fn prelude(&mut self) -> BytesMut {
        let mut out = BytesMut::new();
        if !self.opened {
            self.opened = true;
            out.extend_from_slice(&self.negotiation.take().unwrap_or_default());
            encode::authentication_ok(&mut out);
        }
        out
    }

    /// AuthenticationOk where it is not out yet, and notices.
    pub(super) async fn open(&mut self, notices: &[Report]) -> io::Result<()> {
        let mut out = self.prelude();
        for notice in notices {
            encode::report(notice, &mut out);
        }
        self.send(&out).await
    }

    /// AuthenticationOk where it is not out yet, notices, and the server's own greeting, in one piece.
    pub(super) async fn hand_over(&mut self, notices: &[Report], greeting: &[u8]) -> io::Result<()> {
        let mut out = self.prelude();
        for notice in notices {
            encode::report(notice, &mut out);
        }
        out.extend_from_slice(greeting);
        let sent = self.send(&out).await;
        // The server's BackendKeyData is among it.
        out.as_mut().zeroize();
        sent
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.client.write_all(bytes).await?;
        self.client.flush().await
    }

    /// Ends a connection that never got its server. 57P03 stands before AuthenticationOk, so that libpq goes to its
    /// next host and `pg_isready` understands; all else behind it, as PostgreSQL does with 3D000, or else libpq with
    /// sslmode=prefer would try the same again in plaintext.
    pub(super) async fn refuse(mut self, id: SessionId, peer: &Peer, refusal: &Refusal) {
        let mut out = if refusal.is_cannot_connect_now() {
            BytesMut::from(self.negotiation.take().unwrap_or_default().as_ref())
        } else {
            self.prelude()
        };
        log::refused(id, peer, refusal);
        match refusal {
            Refusal::Server { frame, .. } => out.extend_from_slice(frame),
            Refusal::Report(report) | Refusal::Denied { report, .. } => encode::report(report, &mut out),
        }
        last_words(&mut self.client, &out).await;
    }
}

/// Writes a report and closes.
pub(super) async fn tell(client: &mut ClientStream, report: &Report) {
    let mut out = BytesMut::new();
    encode::report(report, &mut out);
    last_words(client, &out).await;
}
