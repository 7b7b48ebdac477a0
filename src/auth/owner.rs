//! Who owns a TCP socket of this machine, on Linux.
//!
//! The kernel is asked for the one socket (`sock_diag(7)`), which takes microseconds. Where it has no such interface, as
//! in some sandboxes, its tables are read: `/proc/net/tcp` and `tcp6` (proc(5)), one line a socket, addresses in
//! hexadecimal as the machine stores them. Printing those takes milliseconds on a machine with much memory, however
//! few its sockets are.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    net::{IpAddr, SocketAddr},
};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_CLOSE_WAIT, TCP_ESTABLISHED},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};

/// Sockets that are being torn down show uid 0 whoever owned them; only a live one counts.
const LIVE: [u8; 2] = [TCP_ESTABLISHED, TCP_CLOSE_WAIT];

/// Who owns the socket with this local and this remote address.
pub(super) async fn of_peer(local: SocketAddr, remote: SocketAddr) -> Option<u32> {
    let uid = match ask(local, remote) {
        // A socket that the kernel does not know is closed already: whoever opens and closes many is not to cost more.
        Ok(uid) => uid,
        // Not on a thread that other sessions need.
        Err(_) => tokio::task::spawn_blocking(move || from_tables(local, remote)).await.ok().flatten(),
    };
    uid.filter(|uid| !is_anybody(*uid))
}

/// Whether this number stands for all users whom our user namespace does not know (`user_namespaces(7)`).
fn is_anybody(uid: u32) -> bool {
    /// What a kernel that does not say has.
    const OVERFLOW: u32 = 65_534;
    let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid").ok().and_then(|text| text.trim().parse().ok());
    if uid != overflow.unwrap_or(OVERFLOW) {
        return false;
    }
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    // The first namespace knows them all; there it is an ordinary user, mostly called nobody.
    map.split_ascii_whitespace().ne(["0", "0", "4294967295"])
}

/// Asks the kernel; `None` where it knows of no such socket. An IPv4 address mapped into an IPv6 socket is found under
/// its IPv4 address. The kernel answers while it takes the question.
fn ask(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let socket_id = SocketId {
        source_port: local.port(),
        destination_port: remote.port(),
        source_address: local.ip(),
        destination_address: remote.ip(),
        interface_id: 0,
        cookie: [0xff; 8], // any
    };
    let request = InetRequest {
        family: if local.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id,
    };
    let mut question = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    question.finalize();
    let mut bytes = vec![0; question.buffer_len()];
    question.serialize(&mut bytes);
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    socket.send_to(&bytes, &netlink_sys::SocketAddr::new(0, 0), 0)?;
    let (answer, sender) = socket.recv_from_full()?;
    if sender.port_number() != 0 {
        return Err(io::Error::other("an answer that is not the kernel's"));
    }
    let answer = NetlinkMessage::<SockDiagMessage>::deserialize(&answer).map_err(io::Error::other)?;
    let NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) = answer.payload else {
        return Ok(None);
    };
    let (id, state) = (found.header.socket_id, found.header.state);
    let from = SocketAddr::new(id.source_address.to_canonical(), id.source_port);
    let to = SocketAddr::new(id.destination_address.to_canonical(), id.destination_port);
    // Where no connection matches, the kernel answers with a listener.
    Ok(((from, to) == (local, remote) && LIVE.contains(&state)).then_some(found.header.uid))
}

/// Reads the tables.
fn from_tables(local: SocketAddr, remote: SocketAddr) -> Option<u32> {
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
    let live = LIVE.map(|state| format!("{state:02X}"));
    table.lines().map_while(Result::ok).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        if fields.next()? != local
            || fields.next()? != remote
            || !fields.next().is_some_and(|state| live.iter().any(|live| live == state))
        {
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

    #[tokio::test]
    async fn our_own_connection_is_ours() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = tokio::net::TcpListener::bind(address).await else {
                continue;
            };
            let to = listener.local_addr().expect("an address");
            let client = tokio::net::TcpStream::connect(to).await.expect("connected");
            let (_accepted, from) = listener.accept().await.expect("accepted");
            let own = Some(rustix::process::geteuid().as_raw());
            assert_eq!(from_tables(from, to), own);
            // A sandbox may have no such interface; where there is one, it says the same.
            if let Ok(asked) = ask(from, to) {
                assert_eq!(asked, own);
                drop(client);
                assert_ne!(ask(from, to).expect("asked"), own, "a closed one is nobody's");
            }
        }
    }
}
