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

/// The user at the other end of a loopback connection, as Linux's socket tables say. Elsewhere no table says, and
/// every local user may connect.
///
/// # Errors
/// Where that user may not connect, or has closed already.
pub async fn tcp_loopback(
    local: SocketAddr,
    peer: SocketAddr,
    allowed: &AllowedUids,
) -> Result<Authenticated, AuthError> {
    if !cfg!(target_os = "linux") {
        return Ok(Authenticated { identity: Identity::Local, who: "a local user".to_owned() });
    }
    // A table of some thousand sockets takes milliseconds to print: not on a thread that other sessions need.
    let uid = tokio::task::spawn_blocking(move || table::uid_of(peer, local)).await.ok().flatten();
    allowed.admit(uid.ok_or(AuthError::Unknown)?)
}

mod table {
    //! `/proc/net/tcp` and `tcp6` (proc(5)): one line a socket, addresses in hexadecimal as the machine stores them.

    use std::{
        fmt::Write as _,
        fs::File,
        io::{BufRead, BufReader},
        net::{IpAddr, SocketAddr},
    };

    /// Who owns the socket with this local and this remote address.
    pub(super) fn uid_of(local: SocketAddr, remote: SocketAddr) -> Option<u32> {
        // A client may hold an IPv6 socket with an IPv4 address mapped into it.
        let searches = match (local.ip(), remote.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => vec![
                ("/proc/net/tcp", local, remote),
                (
                    "/proc/net/tcp6",
                    SocketAddr::new(from.to_ipv6_mapped().into(), local.port()),
                    SocketAddr::new(to.to_ipv6_mapped().into(), remote.port()),
                ),
            ],
            _ => vec![("/proc/net/tcp6", local, remote)],
        };
        searches.into_iter().find_map(|(path, local, remote)| {
            let table = BufReader::new(File::open(path).ok()?);
            search(table, &shown(local), &shown(remote))
        })
    }

    /// An address as the table shows it.
    fn shown(address: SocketAddr) -> String {
        let octets = match address.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let mut text = String::new();
        for word in octets.chunks_exact(4) {
            // Four bytes at a time, printed as the machine's own integer.
            let word = word.try_into().map(u32::from_ne_bytes).unwrap_or_default();
            // Writing into a String cannot fail.
            let _ = write!(text, "{word:08X}");
        }
        let _ = write!(text, ":{:04X}", address.port());
        text
    }

    fn search(table: impl BufRead, local: &str, remote: &str) -> Option<u32> {
        // Sockets that are being torn down show uid 0 whoever owned them; only a live one counts.
        const LIVE: [&str; 2] = ["01", "08"]; // ESTABLISHED, CLOSE_WAIT
        table.lines().map_while(Result::ok).find_map(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            if fields.next()? != local || fields.next()? != remote || !LIVE.contains(&fields.next()?) {
                return None;
            }
            fields.nth(3)?.parse().ok()
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_line_is_found_by_both_addresses() {
            let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                         0: 0100007F:2710 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 1 1\n   \
                         1: 0100007F:C350 0100007F:2710 01 00000000:00000000 00:00000000 00000000  1000        0 2 1\n   \
                         2: 0100007F:C351 0100007F:2710 06 00000000:00000000 00:00000000 00000000     0        0 0 1\n";
            let search = |local, remote| search(table.as_bytes(), local, remote);
            assert_eq!(search("0100007F:C350", "0100007F:2710"), Some(1000));
            assert_eq!(search("0100007F:C351", "0100007F:2710"), None, "TIME_WAIT has no owner");
            assert_eq!(search("0100007F:FFFF", "0100007F:2710"), None);
        }

        #[cfg(target_os = "linux")]
        #[tokio::test]
        async fn our_own_connection_is_ours() {
            for address in ["127.0.0.1:0", "[::1]:0"] {
                let Ok(listener) = tokio::net::TcpListener::bind(address).await else {
                    continue;
                };
                let to = listener.local_addr().expect("an address");
                let client = tokio::net::TcpStream::connect(to).await.expect("connected");
                let (_accepted, from) = listener.accept().await.expect("accepted");
                assert_eq!(uid_of(from, to), Some(rustix::process::geteuid().as_raw()));
                drop(client);
            }
        }
    }
}
