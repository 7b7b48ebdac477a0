//! Which user of this machine a client is. Loopback is not a password: any user can connect to it.

use std::net::SocketAddr;

use tokio::net::unix::UCred;

use super::{AuthError, Authenticated};
use crate::upstream::Identity;

/// The users who may connect.
#[derive(Clone, Debug)]
pub struct AllowedUids {
    own: u32,
    others: Vec<u32>,
}

impl AllowedUids {
    /// The user who runs this process, and others.
    #[must_use]
    pub fn new(others: Vec<u32>) -> Self {
        Self { own: rustix::process::geteuid().as_raw(), others }
    }

    fn admit(&self, uid: u32) -> Result<Authenticated, AuthError> {
        if uid == self.own || self.others.contains(&uid) {
            Ok(Authenticated { identity: Identity::Local, who: format!("uid {uid}") })
        } else {
            Err(AuthError::OtherUser { uid, own: self.own })
        }
    }
}

/// The user at the other end of a Unix socket, as the kernel knows.
///
/// # Errors
/// Where that user may not connect.
pub fn unix(credentials: UCred, allowed: &AllowedUids) -> Result<Authenticated, AuthError> {
    allowed.admit(credentials.uid())
}

/// The user at the other end of a loopback connection, as Linux knows. Elsewhere nobody says, and every local user may
/// connect.
///
/// # Errors
/// Where that user may not connect, or has closed already; where an end is not of this machine.
pub async fn tcp_loopback(
    local: SocketAddr,
    peer: SocketAddr,
    allowed: &AllowedUids,
) -> Result<Authenticated, AuthError> {
    let (local, peer) = (loopback(local)?, loopback(peer)?);
    #[cfg(target_os = "linux")]
    return allowed.admit(super::owner::of_peer(peer, local).await.ok_or(AuthError::Unknown)?);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (local, peer, allowed);
        Ok(Authenticated { identity: Identity::Local, who: "a local user".to_owned() })
    }
}

/// The settings say where to listen; this is what has come of it. A loopback address crosses no network.
fn loopback(address: SocketAddr) -> Result<SocketAddr, AuthError> {
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    if address.ip().is_loopback() { Ok(address) } else { Err(AuthError::NotLoopback { address: address.ip() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where nothing but the listener's address was looked at, a network that routes to it was let in.
    #[tokio::test]
    async fn both_ends_are_of_this_machine() {
        let allowed = AllowedUids::new(Vec::new());
        let local = "127.0.0.1:10000";
        for (local, peer, stranger) in [
            (local, "10.0.0.7:40000", "10.0.0.7"),
            (local, "[::ffff:10.0.0.7]:40000", "10.0.0.7"),
            (local, "[2001:db8::1]:40000", "2001:db8::1"),
            ("10.0.0.1:10000", "127.0.0.1:40000", "10.0.0.1"),
            ("0.0.0.0:10000", "127.0.0.1:40000", "0.0.0.0"),
            ("[fe80::1]:10000", "[::1]:40000", "fe80::1"),
        ] {
            let (local, peer) = (local.parse().expect("an address"), peer.parse().expect("an address"));
            let error = tcp_loopback(local, peer, &allowed).await.expect_err("refused");
            assert_eq!(error, AuthError::NotLoopback { address: stranger.parse().expect("an address") });
        }
        for address in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            let address = address.parse().expect("an address");
            assert!(loopback(address).is_ok_and(|address| address.ip().is_loopback()));
        }
    }

    #[tokio::test]
    async fn our_own_connection_is_let_in() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let to = listener.local_addr().expect("an address");
        let _client = tokio::net::TcpStream::connect(to).await.expect("connected");
        let (_accepted, from) = listener.accept().await.expect("accepted");
        assert!(tcp_loopback(to, from, &AllowedUids::new(Vec::new())).await.is_ok());
    }
}
