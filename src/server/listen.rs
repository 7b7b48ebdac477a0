//! Where pgferry listens: loopback TCP and Unix sockets.

use std::{
    fmt, fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, TcpKeepalive, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::{
    session::client::{Accepted, Peer, Socket},
    upstream::Target,
};

/// Pending connections that the kernel keeps: a GUI opens a dozen at once, a pool a hundred.
const BACKLOG: i32 = 1024;
/// GUIs idle for hours behind a laptop's lid: two minutes of silence, then a probe each half minute.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_mins(2)).with_interval(Duration::from_secs(30));

/// A listener that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody has the port.
    #[error("port {port} is taken{}; choose another with --port, or stop it", by(.holder.as_deref()))]
    Taken {
        /// The port.
        port: u16,
        /// Which program, where the system tells.
        holder: Option<String>,
    },
    /// Neither loopback address exists.
    #[error("no address to listen on")]
    NoAddress,
    /// A pgferry, or another server, listens on the socket.
    #[error("a server listens on the socket {} already", .0.display())]
    SocketTaken(PathBuf),
    /// The socket's path is something else.
    #[error("{} exists and is no socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("cannot listen on {on}")]
    Io {
        /// The address or the path.
        on: String,
        /// The system's error.
        source: io::Error,
    },
}

fn by(holder: Option<&str>) -> String {
    holder.map(|holder| format!(" by {holder}")).unwrap_or_default()
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Removes the socket's file at the end.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody who removed it before wanted it gone too.
        let _ = fs::remove_file(&self.0);
    }
}

/// A listener, bound to its address and perhaps to a target.
#[derive(Debug)]
pub struct Bound {
    kind: Kind,
    name: String,
    target: Option<Target>,
    /// Goes with the listener.
    _file: Option<SocketFile>,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Bound {
    /// The target of every connection, where the listener has one.
    #[must_use]
    pub fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// The TCP port.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match &self.kind {
            Kind::Tcp(listener) => listener.local_addr().ok().map(|address| address.port()),
            Kind::Unix(_) => None,
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// The system's, mostly for want of descriptors.
    pub async fn accept(&self) -> io::Result<Accepted> {
        let bound = self.target.clone();
        match &self.kind {
            Kind::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                socket.set_nodelay(true)?;
                SockRef::from(&socket).set_tcp_keepalive(&KEEPALIVE)?;
                let peer = Peer::Tcp { peer, local: socket.local_addr()?, announced: None };
                Ok(Accepted { socket: Socket::Tcp(socket), peer, bound })
            }
            Kind::Unix(listener) => {
                let (socket, _) = listener.accept().await?;
                Ok(Accepted {
                    socket: Socket::Unix(socket),
                    peer: Peer::Unix { local: PathBuf::from(&self.name) },
                    bound,
                })
            }
        }
    }
}

/// Listens on a port of every given address that the machine has; at least one must be there. Port 0 takes any free
/// one, the same on all of them.
///
/// # Errors
/// Where the port is taken on one of them, or none exists.
pub fn tcp(addresses: &[IpAddr], port: u16, target: Option<&Target>) -> Result<Vec<Bound>, ListenError> {
    let mut port = port;
    let mut all = Vec::new();
    for address in addresses {
        let address = SocketAddr::new(*address, port);
        match tcp_socket(address) {
            Ok(listener) => {
                let name = listener.local_addr().map_err(|source| failed(address, source))?;
                port = name.port();
                all.push(Bound {
                    kind: Kind::Tcp(listener),
                    name: name.to_string(),
                    target: target.cloned(),
                    _file: None,
                });
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(ListenError::Taken { port, holder: holder(port) });
            }
            // A machine without IPv6 has no ::1.
            Err(error) if is_missing_address(&error) => {}
            Err(source) => return Err(failed(address, source)),
        }
    }
    if all.is_empty() { Err(ListenError::NoAddress) } else { Ok(all) }
}

fn failed(on: impl fmt::Display, source: io::Error) -> ListenError {
    ListenError::Io { on: on.to_string(), source }
}

fn is_missing_address(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

fn tcp_socket(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // 127.0.0.1 has a listener of its own.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Listens on `DIR/.s.PGSQL.PORT`, the name under which libpq looks for a socket. The file is this user's alone.
///
/// # Errors
/// Where somebody listens there, or the directory cannot be written.
pub fn unix(directory: &Path, port: u16, target: Option<&Target>) -> Result<Bound, ListenError> {
    let path = directory.join(format!(".s.PGSQL.{port}"));
    remove_stale(&path)?;
    let failed = |source| failed(path.display(), source);
    // Bound inside a directory that nobody else may enter, and moved when its mode is right: there is no moment in
    // which another user could connect.
    let private = directory.join(format!(".pgferry-{}", std::process::id()));
    fs::create_dir_all(directory).map_err(failed)?;
    fs::DirBuilder::new().create(&private).map_err(failed)?;
    let bound = (|| {
        fs::set_permissions(&private, fs::Permissions::from_mode(0o700))?;
        let inside = private.join("s");
        let listener = UnixListener::bind(&inside)?;
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o600))?;
        fs::rename(&inside, &path)?;
        Ok(listener)
    })();
    // Empty by now, or worthless.
    let _ = fs::remove_dir_all(&private);
    let listener = bound.map_err(failed)?;
    let name = path.display().to_string();
    Ok(Bound { kind: Kind::Unix(listener), name, target: target.cloned(), _file: Some(SocketFile(path)) })
}

/// Removes the socket of a process that is gone.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|source| failed(path.display(), source))
        }
        _ => Err(ListenError::SocketTaken(path.to_owned())),
    }
}

/// The program that listens on a port, where Linux tells.
fn holder(port: u16) -> Option<String> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    let sockets: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let processes = fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let mut descriptors = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        let holds = descriptors.any(|descriptor| {
            let link = fs::read_link(descriptor.path()).unwrap_or_default();
            sockets.iter().any(|socket| link.as_os_str() == socket.as_str())
        });
        let name = fs::read_to_string(process.path().join("comm")).ok()?;
        holds.then(|| format!("{} (pid {pid})", name.trim()))
    })
}

/// Inodes of the sockets that listen on the port, from a table of proc(5)'s /proc/net/tcp.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let wanted = format!(":{port:04X}");
    table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
            (local.ends_with(&wanted) && *state == LISTEN).then(|| (*inode).to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_says_by_whom() {
        let first = tcp(&[IpAddr::from([127, 0, 0, 1])], 0, None).expect("a port");
        let port: u16 = first[0].to_string().rsplit(':').next().expect("port").parse().expect("a number");
        let error = tcp(&[IpAddr::from([127, 0, 0, 1])], port, None).expect_err("taken");
        let text = error.to_string();
        assert!(text.contains(&format!("port {port} is taken")), "{text}");
        if cfg!(target_os = "linux") {
            assert!(text.contains(&format!("pid {}", std::process::id())), "{text}");
        }
    }

    #[tokio::test]
    async fn a_unix_socket_is_private_and_replaces_a_stale_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let bound = unix(directory.path(), 10000, None).expect("a socket");
        let path = directory.path().join(".s.PGSQL.10000");
        assert_eq!(fs::metadata(&path).expect("the socket").permissions().mode() & 0o777, 0o600);
        assert!(matches!(unix(directory.path(), 10000, None), Err(ListenError::SocketTaken(_))));
        drop(bound);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a stale socket"));
        assert!(unix(directory.path(), 10000, None).is_ok());
        fs::write(directory.path().join(".s.PGSQL.1"), "").expect("a file");
        assert!(matches!(unix(directory.path(), 1, None), Err(ListenError::NotASocket(_))));
    }
}
