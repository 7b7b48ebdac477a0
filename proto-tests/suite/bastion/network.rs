//! A listener for a network: load balancers before it, and hosts that mean no good.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use proto_tests::{
    secrets,
    wire::{Fields, SSL_REQUEST, Wire, cancel_request, startup},
};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::{
    audit::{events, of, until_there},
    stage::{Bastion, TOKENS},
};
use crate::support::{PATIENCE, until, until_true};

/// Load balancers connect from here.
const BALANCERS: &str = "proxy_protocol = [\"127.0.7.0/24\"]\n";
const BALANCER: Ipv4Addr = Ipv4Addr::new(127, 0, 7, 1);
const HOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Where their clients are.
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 10), 51724);

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// A connection from one of this machine's addresses.
async fn from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((source, 0))).unwrap();
    socket.connect(to).await.unwrap()
}

/// A header of the PROXY protocol, version 2.
fn header(command: u8, source: SocketAddrV4) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, 0x11, 0, 12]);
    header.extend(source.ip().octets());
    header.extend([10, 0, 0, 7]);
    header.extend(source.port().to_be_bytes());
    header.extend(5432_u16.to_be_bytes());
    header
}

/// A connection of a load balancer, which announces a client.
async fn announced(to: SocketAddr, client: SocketAddrV4) -> TcpStream {
    let mut socket = from(BALANCER, to).await;
    socket.write_all(&header(PROXY, client)).await.unwrap();
    socket
}

/// Logs in with a token.
async fn log_in(socket: TcpStream, token: &str) -> Result<Wire, Fields> {
    let mut wire = Wire::tls_over(socket).await.unwrap();
    let parameters = [("user", "app@shop.prod"), ("database", "app")];
    wire.start_with_password(&parameters, token).await.map(|()| wire)
}

/// What comes until the close, be that orderly or not.
async fn until_closed(socket: TcpStream) -> Vec<u8> {
    timeout(PATIENCE, Wire::over(socket).rest()).await.expect("a close").unwrap_or_default()
}

/// Lines that are for whoever runs it, of connections.
fn noticed(output: &str) -> Vec<String> {
    let lines = output.lines().filter(|line| line.contains("session=") && !line.contains("DEBUG"));
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_load_balancer_says_where_the_client_is() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.log");
    let configuration = format!("{BALANCERS}{TOKENS}[audit]\nfile = \"{}\"\n", file.display());
    let mut bastion = Bastion::new(&configuration).await;
    let kim = bastion.token("kim", &[]);
    bastion.bind("kim", "app");
    let address = bastion.pgferry.address();
    let mut wire = log_in(announced(address, CLIENT).await, &kim).await.unwrap();
    assert_eq!(wire.value("select 1").await.unwrap(), "1");
    bastion.pgferry.says("peer=192.0.2.10:51724").await;
    let all = until_there(&file, "session.ready", 1).await;
    for event in &all {
        let client = &event["client"];
        assert_eq!((&client["address"], &client["port"]), (&"192.0.2.10".into(), &51724.into()), "{event}");
        assert_eq!((&client["via"], &client["tls"]), (&"127.0.7.1".into(), &"TLSv1.3".into()), "{event}");
    }
    // Somebody else needs no load balancer, and has none.
    log_in(from(HOST, address).await, &kim).await.unwrap();
    let all = until_there(&file, "session.ready", 2).await;
    let client = &of(&all, "session.ready")[1]["client"];
    assert_eq!((&client["address"], client.get("via")), (&"127.0.0.1".into(), None));
    // Guesses are the client's.
    log_in(announced(address, CLIENT).await, &secrets::make("bearer")).await.err().expect("refused");
    bastion.pgferry.signal(Signal::TERM);
    assert!(bastion.pgferry.ended().await.success());
    let all = events(&file);
    let failed = of(&all, "login.failed");
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0]["client"]["address"], "192.0.2.10");
}

#[tokio::test]
async fn a_load_balancer_that_says_nothing_is_refused() {
    let mut bastion = Bastion::new(&format!("{BALANCERS}{TOKENS}")).await;
    let v1 = b"PROXY TCP4 192.0.2.10 10.0.0.7 51724 5432\r\n".to_vec();
    let good = startup(3, 0, &[("user", "app@shop.prod"), ("database", "app")]);
    for beginning in [SSL_REQUEST.to_vec(), v1, good, b"\x16\x03\x01\x02\0\x01".to_vec()] {
        let mut socket = from(BALANCER, bastion.pgferry.address()).await;
        let port = socket.local_addr().unwrap().port();
        socket.write_all(&beginning).await.unwrap();
        assert_eq!(until_closed(socket).await, b"", "{beginning:?}");
        let refused = "connection refused: no PROXY protocol header of version 2; see listen.proxy_protocol";
        bastion.pgferry.says(refused).await;
        bastion.pgferry.says(&format!("peer=127.0.7.1:{port}")).await;
    }
}

/// Whoever may connect may not say where from.
#[tokio::test]
async fn a_header_from_elsewhere_is_no_header() {
    let bastion = Bastion::new(&format!("{BALANCERS}{TOKENS}")).await;
    for behind in [&SSL_REQUEST[..], &[]] {
        let mut socket = from(HOST, bastion.pgferry.address()).await;
        socket.write_all(&[&header(PROXY, CLIENT), behind].concat()).await.unwrap();
        let answer = until_closed(socket).await;
        assert!(answer.is_empty() || answer[0] == b'E', "{answer:?}");
    }
    assert!(!bastion.pgferry.output().contains("192.0.2.10"), "{}", bastion.pgferry.output());
}

#[tokio::test]
async fn health_checks_are_quiet() {
    let mut bastion = Bastion::new(&format!("{BALANCERS}{TOKENS}")).await;
    let address = bastion.pgferry.address();
    let mut check = from(BALANCER, address).await;
    check.write_all(&header(LOCAL, CLIENT)).await.unwrap();
    assert_eq!(until_closed(check).await, b"");
    bastion.pgferry.says("a load balancer's health check").await;
    drop(from(BALANCER, address).await);
    bastion.pgferry.says("the connection ended in the PROXY protocol header").await;
    assert_eq!(noticed(&bastion.pgferry.output()), Vec::<String>::new());
}

/// Places for two from one address.
const FEW: &str = "[sessions]\nmax_startups = 8\nstartup_deadline = \"1h\"\n";

/// Several hundred from one address held every place, and everybody else waited in the kernel's queue.
#[tokio::test]
async fn who_says_nothing_keeps_nobody_else_out() {
    let bastion = Bastion::new(&format!("{BALANCERS}{TOKENS}{FEW}")).await;
    let kim = bastion.token("kim", &[]);
    bastion.bind("kim", "app");
    let address = bastion.pgferry.address();
    let mut silent = JoinSet::new();
    for _ in 0..300 {
        let socket = from(HOST, address).await;
        silent.spawn(until_closed(socket));
    }
    for _ in 0..298 {
        timeout(PATIENCE, silent.join_next()).await.expect("all but two are closed").unwrap().unwrap();
    }
    let mut wire = log_in(from(OTHER, address).await, &kim).await.unwrap();
    assert_eq!(wire.value("select 1").await.unwrap(), "1");
    // Who has proved who it is counts no more.
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(log_in(from(OTHER, address).await, &kim).await.unwrap());
    }
    assert_eq!(silent.len(), 2, "they are waited for");
    silent.shutdown().await;
    let again = async {
        loop {
            // As long as its silent ones are not known to be gone it is closed.
            let mut socket = from(HOST, address).await;
            if socket.write_all(&SSL_REQUEST).await.is_ok() && matches!(socket.read_u8().await, Ok(b'S')) {
                return;
            }
        }
    };
    timeout(PATIENCE, again).await.expect("its places are free again");
}

/// The load balancer's address is that of all its clients.
#[tokio::test]
async fn behind_a_load_balancer_each_client_counts_for_itself() {
    let mut bastion = Bastion::new(&format!("{BALANCERS}{TOKENS}{FEW}")).await;
    let kim = bastion.token("kim", &[]);
    bastion.bind("kim", "app");
    let address = bastion.pgferry.address();
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(announced(address, CLIENT).await);
        // Its header is read.
        let port = silent[silent.len() - 1].local_addr().unwrap().port();
        bastion.pgferry.says(&format!("via=\"127.0.7.1:{port}\"")).await;
    }
    assert_eq!(until_closed(announced(address, CLIENT).await).await, b"");
    let other = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 11), 51724);
    log_in(announced(address, other).await, &kim).await.unwrap();
    assert_eq!(noticed(&bastion.pgferry.output()).iter().filter(|line| line.contains("192.0.2.10")).count(), 0);
}

/// TLS, and a startup packet in it as this user.
async fn begun(to: SocketAddr, user: &str) -> Wire {
    let mut wire = Wire::tls_over(from(HOST, to).await).await.unwrap();
    wire.send(&startup(3, 0, &[("user", user), ("database", "shop.prod")])).await.unwrap();
    assert_eq!(wire.next().await.unwrap().unwrap().tag, 'R');
    wire
}

#[tokio::test]
async fn who_stops_halfway_is_closed_at_the_deadline() {
    let verifier = postgres_protocol::password::scram_sha_256(secrets::make("login").as_bytes());
    let auth = format!(
        "[auth]\nmethods = [\"login\", \"kubernetes\"]\n[auth.logins]\nkim = {{ verifier = \"{verifier}\" }}\n\
         [sessions]\nstartup_deadline = \"3s\"\n"
    );
    let bastion = Bastion::new(&format!("{BALANCERS}{auth}")).await;
    let address = bastion.pgferry.address();
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1];
    let mut left = JoinSet::new();
    for (source, sent) in [
        (BALANCER, header(PROXY, CLIENT)[..20].to_vec()),
        (HOST, Vec::new()),
        (HOST, vec![0]),
        (HOST, hello.to_vec()),
        (HOST, startup(3, 0, &[("user", "app")])[..12].to_vec()),
    ] {
        let mut socket = from(source, address).await;
        socket.write_all(&sent).await.unwrap();
        left.spawn(async move { drop(until_closed(socket).await) });
    }
    let mut asked = from(HOST, address).await;
    asked.write_all(&SSL_REQUEST).await.unwrap();
    assert_eq!(asked.read_u8().await.unwrap(), b'S');
    asked.write_all(&hello).await.unwrap();
    left.spawn(async move { drop(until_closed(asked).await) });
    for (user, sent) in
        [("app", &b""[..]), ("app", b"p\0\0\0\x20half"), ("login-kim", b""), ("login-kim", b"p\0\0\0\x36SCRAM")]
    {
        let mut wire = begun(address, user).await;
        wire.send(sent).await.unwrap();
        // Cut, or ended in order: it is over.
        left.spawn(async move { drop(timeout(PATIENCE, wire.rest()).await.expect("a close")) });
    }
    while let Some(ended) = left.join_next().await {
        ended.unwrap();
    }
    for (why, times) in [("header did not come in time", 1), ("no startup packet within", 5), ("no proof within", 4)] {
        until(why, || bastion.pgferry.output().matches(why).count() == times).await;
    }
}

#[tokio::test]
async fn huge_tokens_by_the_hundred_are_not_kept() {
    let bastion = Bastion::new(&format!("{TOKENS}[sessions]\nmax_startups = 400\n")).await;
    let kim = bastion.token("kim", &[]);
    bastion.bind("kim", "app");
    let address = bastion.pgferry.address();
    drop(log_in(from(HOST, address).await, &kim).await.unwrap());
    let before = bastion.pgferry.resident();
    let mut guesses = JoinSet::new();
    for number in 0..100 {
        let token = format!("{number:05}{}", "x".repeat(65_000));
        guesses.spawn(async move { log_in(from(HOST, address).await, &token).await.err().expect("refused").code });
    }
    while let Some(code) = guesses.join_next().await {
        assert_eq!(code.unwrap(), "28P01");
        let now = bastion.pgferry.resident();
        assert!(now < before + 64 * 1024, "from {before} to {now} KiB");
    }
}

#[tokio::test]
async fn a_flood_of_cancel_requests_keeps_nobody_else_from_cancelling() {
    let bastion = Bastion::new(&format!("{TOKENS}{FEW}")).await;
    let kim = bastion.token("kim", &[]);
    bastion.bind("kim", "app");
    let address = bastion.pgferry.address();
    let mut wire = log_in(from(OTHER, address).await, &kim).await.unwrap();
    let mut flood = JoinSet::new();
    for number in 0..300 {
        let mut socket = from(HOST, address).await;
        // One too many may be closed already.
        let _ = socket.write_all(&cancel_request(number, b"nope")).await;
        flood.spawn(until_closed(socket));
    }
    let pid = wire.value("select pg_backend_pid()").await.unwrap();
    wire.message(b'Q', b"select pg_sleep(600)\0").await.unwrap();
    let sleeps = format!("select wait_event = 'PgSleep' from pg_stat_activity where pid = {pid}");
    until_true(&mut bastion.world.directly().await, &sleeps).await;
    let request = wire.cancel_request();
    let mut cancel = from(OTHER, address).await;
    cancel.write_all(&request).await.unwrap();
    until_closed(cancel).await;
    let fields = timeout(PATIENCE, wire.until_ready()).await.expect("cancelled").unwrap_err();
    assert_eq!(fields.code, "57014");
    while let Some(answer) = flood.join_next().await {
        assert_eq!(answer.unwrap(), b"");
    }
}
