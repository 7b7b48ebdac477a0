//! Whose a connection is: asked before a byte is read from it and before anything is done for it. Who may not connect
//! costs Kubernetes nothing, and takes no place from those who may.

use tokio::time::Instant;
use tracing::{debug, info};

use super::{
    Sessions,
    client::{Accepted, Peer, Socket},
    handshake::Greeting,
    registry::SessionId,
    reply::tell,
    tally::Place,
};
use crate::{
    auth::{AuthError, Authenticated, peer},
    error::ClientFacing as _,
};

/// A connection whose other end is known.
#[derive(Debug)]
pub enum Met {
    /// It may be served.
    Welcome(Welcome),
    /// It may not.
    Unwelcome(Unwelcome),
    /// There are too many from its address, and it is closed already.
    OneTooMany,
}

/// A connection of somebody who may connect, or prove it. Only [`Sessions::meet`] makes one.
#[derive(Debug)]
pub struct Welcome {
    pub(super) accepted: Accepted,
    /// Whose it is, where the system has said; `None` where the client is to prove it.
    pub(super) who: Option<Authenticated>,
    /// What it counts as until the client has proved who it is, where its address is known.
    pub(super) one_of: Option<Place<String>>,
}

/// A connection of somebody who may not, and what is to be said.
#[derive(Debug)]
pub struct Unwelcome {
    accepted: Accepted,
    why: AuthError,
}

impl Sessions {
    /// Looks whose a connection is, while the client's end of the socket surely still exists.
    pub async fn meet(&self, accepted: Accepted) -> Met {
        if self.methods.is_some() {
            // Whose a socket is says nothing where everybody must prove it.
            return match &accepted.socket {
                Socket::Tcp(_) => self.unproved(accepted),
                Socket::Unix(_) => Met::Unwelcome(Unwelcome { accepted, why: AuthError::Unknown }),
            };
        }
        let who = match (&accepted.socket, &accepted.peer) {
            (Socket::Unix(unix), _) => unix
                .peer_cred()
                .map_err(|_| AuthError::Unknown)
                .and_then(|credentials| peer::unix(credentials, &self.allowed)),
            (Socket::Tcp(_), Peer::Tcp { peer, local, .. }) => peer::tcp_loopback(*local, *peer, &self.allowed).await,
            (Socket::Tcp(_), Peer::Unix { .. }) => Err(AuthError::Unknown),
        };
        match who {
            Ok(who) => Met::Welcome(Welcome { accepted, who: Some(who), one_of: None }),
            Err(error) => Met::Unwelcome(Unwelcome { accepted, why: error }),
        }
    }

    /// A connection of somebody who is to prove who it is.
    fn unproved(&self, accepted: Accepted) -> Met {
        // Whose it is, is known when the header is read.
        if self.is_announced(&accepted.peer) {
            return Met::Welcome(Welcome { accepted, who: None, one_of: None });
        }
        match self.one_of(&accepted.peer) {
            None => Met::OneTooMany,
            one_of => Met::Welcome(Welcome { accepted, who: None, one_of }),
        }
    }

    /// What a connection counts as that has proved nothing; `None` where its address has too many of those.
    pub(super) fn one_of(&self, peer: &Peer) -> Option<Place<String>> {
        let one_of = self.unproved.enter(peer.counted(), Some(self.params.max_unproved));
        if one_of.is_none() {
            debug!(%peer, "one more connection from an address that has too many who prove nothing is closed");
        }
        one_of
    }

    /// Says why, to who sends a startup packet: no client reads before. `place` is held until the connection is closed.
    pub async fn refuse<P: Send>(&self, id: SessionId, unwelcome: Unwelcome, place: P) {
        let Unwelcome { accepted: Accepted { socket, peer, .. }, why } = unwelcome;
        let deadline = Instant::now() + self.params.startup_deadline;
        match self.greeted(id, socket, &peer, deadline).await {
            Some(Greeting::Startup(mut greeted)) => {
                let report = why.report();
                self.metrics.refused(report.sqlstate.as_str());
                info!(session = %id, %peer, %report, "connection refused");
                tell(&mut greeted.client, &report).await;
            }
            // Many close when the request is sent, and are gone before anybody can look. The key is a secret of its own;
            // PostgreSQL asks for no more.
            Some(Greeting::Cancel(client, key)) if matches!(why, AuthError::Unknown) => {
                self.cancel((id, &peer), client, &key, "nobody that could be seen").await;
            }
            Some(Greeting::Cancel(..)) => debug!(session = %id, %peer, "a cancel request of somebody else"),
            None => {}
        }
        drop(place);
    }
}
