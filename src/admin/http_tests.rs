//! Over real sockets, but for what is about time: a stopped clock runs on while a socket's bytes are under way.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::TcpStream,
    sync::watch,
    time::Instant,
};

use super::*;

struct Served {
    address: std::net::SocketAddr,
    phase: watch::Sender<Phase>,
    audit: Arc<AtomicBool>,
    _task: JoinSet<()>,
}

fn endpoints() -> (watch::Sender<Phase>, Arc<AtomicBool>, Arc<Endpoints>) {
    let (phase, watched) = watch::channel(Phase::Serving);
    let audit = Arc::new(AtomicBool::new(true));
    let healthy = Arc::clone(&audit);
    let check: Check =
        Box::new(move || (!healthy.load(Ordering::Relaxed)).then(|| "the audit log cannot be written".to_owned()));
    let endpoints = Endpoints {
        phase: Box::new(move || *watched.borrow()),
        checks: vec![check],
        metrics: Box::new(|| "pgferry_sessions 1\n".to_owned()),
    };
    (phase, audit, Arc::new(endpoints))
}

async fn served() -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (phase, audit, endpoints) = endpoints();
    let mut task = JoinSet::new();
    task.spawn(serve(listener, endpoints));
    Served { address, phase, audit, _task: task }
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("a connection")
    }

    /// The whole answer to these bytes, up to the connection's end.
    async fn answer(&self, request: &str) -> String {
        let mut socket = self.connect().await;
        // It may be refused before it is read to its end.
        let _ = socket.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        String::from_utf8(answer).expect("text")
    }

    /// Status line, headers, body.
    async fn ask(&self, method: &str, path: &str) -> (String, String, String) {
        let answer = self.answer(&format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let (status, headers) = head.split_once("\r\n").expect("a status line");
        (status.to_owned(), headers.to_owned(), body.to_owned())
    }
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let served = served().await;
    let ask = async || {
        let (status, _, body) = served.ask("GET", "/readyz?verbose").await;
        (status, body)
    };
    let not_ready = |lines: &str| ("HTTP/1.1 503 Service Unavailable".to_owned(), lines.to_owned());
    assert_eq!(ask().await, ("HTTP/1.1 200 OK".to_owned(), "ready\n".to_owned()));
    served.phase.send_replace(Phase::Starting);
    assert_eq!(ask().await, not_ready("starting\n"));
    served.phase.send_replace(Phase::Serving);
    served.audit.store(false, Ordering::Relaxed);
    assert_eq!(ask().await, not_ready("the audit log cannot be written\n"));
    served.phase.send_replace(Phase::Draining);
    assert_eq!(ask().await, not_ready("draining\nthe audit log cannot be written\n"));
    let (status, _, body) = served.ask("GET", "/livez").await;
    assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 200 OK", "alive\n"), "a restart would mend nothing");
}

#[tokio::test]
async fn metrics_have_their_type() {
    let served = served().await;
    let (status, headers, body) = served.ask("GET", "/metrics").await;
    assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 200 OK", "pgferry_sessions 1\n"));
    assert!(headers.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{headers}");
    let (status, headers, body) = served.ask("HEAD", "/metrics").await;
    assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 200 OK", ""));
    assert!(headers.contains("content-length: 19"), "{headers}");
}

#[tokio::test]
async fn nothing_else_is_there() {
    let served = served().await;
    for path in ["/", "/metrics/", "/livez/x", "/debug/pprof", "*", "http://x/debug"] {
        assert_eq!(served.ask("GET", path).await.0, "HTTP/1.1 404 Not Found", "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let (status, headers, _) = served.ask(method, "/readyz").await;
        assert_eq!(status, "HTTP/1.1 405 Method Not Allowed");
        assert!(headers.contains("allow: GET, HEAD"), "{headers}");
    }
}

#[tokio::test]
async fn long_and_broken_requests_are_refused() {
    let served = served().await;
    let long = "x".repeat(HEAD_BYTES);
    let many = "a: b\r\n".repeat(HEADERS + 1);
    for request in [
        format!("GET /{long} HTTP/1.1\r\n\r\n"),
        format!("GET /livez HTTP/1.1\r\nx: {long}\r\n\r\n"),
        format!("GET /livez HTTP/1.1\r\n{many}\r\n"),
        "GET /livez\u{0}HTTP/1.1\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}".repeat(8) + "\r\n\r\n",
    ] {
        let answer = served.answer(&request).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(served.ask("GET", "/livez").await.0, "HTTP/1.1 200 OK");
}

/// A connection's two ends.
fn piped() -> (DuplexStream, JoinSet<()>) {
    let (client, server) = duplex(64 * 1024);
    let mut task = JoinSet::new();
    task.spawn(connection(server, endpoints().2));
    (client, task)
}

#[tokio::test(start_paused = true)]
async fn who_is_slow_or_silent_is_closed() {
    for begin in ["", "GET /livez HTTP/1.1\r\nx: "] {
        let started = Instant::now();
        let (mut socket, _task) = piped();
        socket.write_all(begin.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.expect("closed");
        let took = started.elapsed();
        assert!((HEAD..HEAD + Duration::from_secs(1)).contains(&took), "{begin:?}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_connection_lives_for_long() {
    let started = Instant::now();
    let (mut socket, _task) = piped();
    let mut answers = 0;
    while socket.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.is_ok() {
        match socket.read(&mut [0; 512]).await {
            Ok(read) if read > 0 => answers += 1,
            _ => break,
        }
        sleep(Duration::from_secs(2)).await;
    }
    let took = started.elapsed();
    assert!((LIFE..=LIFE + LAST_ANSWER).contains(&took), "{took:?}");
    assert!(answers > 10, "{answers}");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_cut() {
    let (mut socket, mut task) = piped();
    let started = Instant::now();
    // Answers that nobody takes, until there is no more room for them.
    let ask = async { while socket.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.is_ok() {} };
    tokio::join!(ask, task.join_next());
    assert_eq!(started.elapsed(), LIFE + LAST_ANSWER);
}

#[tokio::test]
async fn the_oldest_connection_makes_way_for_a_probe() {
    let served = served().await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut socket = served.connect().await;
        // One that is answered has been accepted.
        socket.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        assert!(socket.read(&mut [0; 512]).await.expect("an answer") > 0);
        held.push(socket);
    }
    assert_eq!(served.ask("GET", "/livez").await.0, "HTTP/1.1 200 OK");
    let first = held.first_mut().expect("one");
    assert!(matches!(first.read(&mut [0; 512]).await, Ok(0) | Err(_)), "it was closed");
    let last = held.last_mut().expect("one");
    last.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    assert!(last.read(&mut [0; 512]).await.expect("an answer") > 0);
}
