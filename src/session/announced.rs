//! A client behind a load balancer, which says where the client is before the client says anything.

use tokio::time::Instant;
use tracing::{debug, info};

use super::{
    Sessions,
    client::{Accepted, Peer},
    meet::Welcome,
    proxy_header::{self, HeaderError, Said},
    registry::SessionId,
};

impl Sessions {
    /// Whether a load balancer is at the other end. Whoever need not prove who it is, is whoever the system says, and nobody
    /// else's word counts.
    pub(super) fn is_announced(&self, peer: &Peer) -> bool {
        let Peer::Tcp { peer, .. } = peer else { return false };
        self.methods.is_some() && self.params.proxies.iter().any(|network| network.contains(peer.ip()))
    }

    /// A connection whose client's address is known. From a load balancer the header must come first, by the deadline;
    /// `None` where it does not, where no client is behind it, or one too many from its address.
    pub(super) async fn announced(&self, id: SessionId, welcome: Welcome, deadline: Instant) -> Option<Welcome> {
        if !self.is_announced(&welcome.accepted.peer) {
            return Some(welcome);
        }
        let Welcome { accepted: Accepted { mut socket, mut peer, bound }, who, .. } = welcome;
        match proxy_header::read(&mut socket, deadline).await {
            Ok(Said::Client { source, .. }) => {
                let via = peer.to_string();
                if let Peer::Tcp { announced, .. } = &mut peer {
                    *announced = Some(source);
                }
                debug!(session = %id, %peer, via, "a load balancer announces a client");
                let one_of = Some(self.one_of(&peer)?);
                return Some(Welcome { accepted: Accepted { socket, peer, bound }, who, one_of });
            }
            Ok(Said::Local) => debug!(session = %id, %peer, "a load balancer's health check"),
            Err(error @ (HeaderError::TooLate | HeaderError::Io(_))) => debug!(session = %id, %peer, "{error}"),
            Err(error) => info!(session = %id, %peer, "connection refused: {error}; see listen.proxy_protocol"),
        }
        None
    }
}
