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
/// Where that user may not connect, or has closed already.
pub async fn tcp_loopback(
    local: SocketAddr,
    peer: SocketAddr,
    allowed: &AllowedUids,
) -> Result<Authenticated, AuthError> {
    #[cfg(target_os = "linux")]
    return allowed.admit(super::owner::of_peer(peer, local).await.ok_or(AuthError::Unknown)?);
    #[cfg(not(target_os = "linux"))]
    Ok(Authenticated { identity: Identity::Local, who: "a local user".to_owned() })
}
