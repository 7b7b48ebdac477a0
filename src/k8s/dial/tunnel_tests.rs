//! The tunnel against a WebSocket peer in memory.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::*;

const PORT: u16 = 5432;
const LIVENESS: Liveness = Liveness {
    ping_after: Duration::from_secs(25),
    dead_after: Duration::from_secs(90),
    remind_after: Duration::from_mins(30),
};

type Node = WebSocketStream<DuplexStream>;

fn message(channel: u8, payload: &[u8]) -> Message {
    Message::Binary([&[channel], payload].concat().into())
}

/// Both ends, port checks sent.
async fn connected() -> (Tunnel<DuplexStream>, Node) {
    connected_through(256 * 1024).await
}

/// The same with a way between them that holds so many bytes.
async fn connected_through(bytes: usize) -> (Tunnel<DuplexStream>, Node) {
    // Nobody tells of a break.
    broken_by(&watch::Sender::new(0), bytes).await
}

/// The same, where breaks are told.
async fn broken_by(breaks: &watch::Sender<u64>, bytes: usize) -> (Tunnel<DuplexStream>, Node) {
    let (ours, theirs) = duplex(bytes);
    let ws = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
    let mut node = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
    for channel in [0, 1] {
        node.send(message(channel, &PORT.to_le_bytes())).await.expect("sent");
    }
    let pod = PodId { namespace: "prod".to_owned(), name: "shop-1".to_owned(), uid: "u".to_owned() };
    (Tunnel::new(ws, pod, PORT, LIVENESS, breaks.subscribe()), node)
}

fn failure(error: &io::Error) -> Failure {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Failure>());
    inner.cloned().expect("a failure inside")
}

#[tokio::test]
async fn bytes_pass_both_ways_in_one_message_each() {
    let (mut tunnel, mut node) = connected().await;
    tunnel.write_all(b"question").await.expect("written");
    tunnel.flush().await.expect("flushed");
    assert_eq!(node.next().await.expect("a message").expect("valid"), message(0, b"question"));
    node.send(message(0, b"answer")).await.expect("sent");
    let mut answer = [0; 6];
    tunnel.read_exact(&mut answer).await.expect("read");
    assert_eq!(&answer, b"answer");
    let large = vec![7; 200_000];
    let (sent, received) = tokio::join!(
        async {
            tunnel.write_all(&large).await.expect("written");
            tunnel.flush().await
        },
        async {
            let mut sizes = Vec::new();
            while sizes.iter().sum::<usize>() < large.len() {
                let Some(Ok(Message::Binary(bytes))) = node.next().await else { panic!("a message") };
                sizes.push(bytes.len() - 1);
            }
            sizes
        },
    );
    sent.expect("flushed");
    assert!(received.iter().all(|size| *size <= MAX_PAYLOAD), "{received:?}");
}

#[tokio::test]
async fn a_close_is_the_servers_end_and_a_break_is_a_failure() {
    let (mut tunnel, mut node) = connected().await;
    node.send(message(0, b"last")).await.expect("sent");
    node.close(None).await.expect("closed");
    let mut all = Vec::new();
    tunnel.read_to_end(&mut all).await.expect("an orderly end");
    assert_eq!(all, b"last");

    let (mut tunnel, node) = connected().await;
    drop(node);
    let error = tunnel.read_u8().await.expect_err("lost");
    let failure = failure(&error);
    assert_eq!(failure.report.sqlstate, SqlState::CONNECTION_FAILURE);
    assert!(failure.report.message.contains("tunnel to pod shop-1 was lost"), "{failure}");
}

/// An API server that is stopped closes with 1001, a proxy that gives up with 1011: both were told as the server's own
/// close, and the person was sent to the server's log.
#[tokio::test]
async fn a_close_with_another_code_is_not_the_servers_end() {
    for (code, reason, part) in [(1001, "", "closed with 1001"), (1011, "idle", "closed with 1011: idle")] {
        let (mut tunnel, mut node) = connected().await;
        node.close(Some(CloseFrame { code: CloseCode::from(code), reason: reason.into() })).await.expect("closed");
        let failure = failure(&tunnel.read_u8().await.expect_err("lost"));
        assert_eq!(failure.report.sqlstate, SqlState::CONNECTION_FAILURE);
        assert!(failure.report.message.ends_with(part), "{failure}");
    }
}

#[tokio::test]
async fn the_nodes_words_are_told_apart() {
    for (text, code, part) in [
        ("dial tcp4 127.0.0.1:5432: connect: connection refused", SqlState::UNABLE_TO_CONNECT, "nothing listens"),
        ("read: connection reset by peer", SqlState::CONNECTION_FAILURE, "broke the connection off"),
        ("network namespace for sandbox \"x\" is closed", SqlState::CONNECTION_FAILURE, "pod shop-1 is gone"),
        ("something else", SqlState::CONNECTION_FAILURE, "the port-forward to pod shop-1 failed"),
    ] {
        let (mut tunnel, mut node) = connected().await;
        node.send(message(1, text.as_bytes())).await.expect("sent");
        let failure = failure(&tunnel.read_u8().await.expect_err("a failure"));
        assert_eq!(failure.report.sqlstate, code, "{text}");
        assert!(failure.report.message.contains(part), "{failure}");
        assert_eq!(failure.retry, Retry::Resolve);
    }
}

#[tokio::test]
async fn what_breaks_the_framing_ends_the_tunnel() {
    for hostile in [message(2, b"x"), Message::Binary(Bytes::new()), Message::text("x")] {
        let (mut tunnel, mut node) = connected().await;
        node.send(hostile).await.expect("sent");
        assert!(tunnel.read_u8().await.is_err());
        assert_eq!(tunnel.read(&mut [0; 1]).await.expect("ended"), 0);
    }
}

/// Silence brings a ping after 25 s; an answer keeps the tunnel, none ends it after 90.
#[tokio::test(start_paused = true)]
async fn a_silent_link_is_pinged_and_a_dead_one_found() {
    let (mut tunnel, mut node) = connected().await;
    let started = Instant::now();
    let answering = async {
        // A peer that reads answers pings by itself; three of them, then it stops reading.
        for _ in 0..3 {
            let pinged = node.next().await.expect("a message").expect("valid");
            assert!(matches!(pinged, Message::Ping(_)), "{pinged:?}");
            node.flush().await.expect("the pong leaves");
        }
        std::future::pending::<()>().await;
    };
    let error = tokio::select! {
        read = tunnel.read_u8() => read.expect_err("dead"),
        () = answering => unreachable!(),
    };
    let elapsed = started.elapsed();
    assert!(failure(&error).report.message.contains("nothing was heard for 90 s"), "{error}");
    assert!(elapsed >= Duration::from_secs(3 * 25 + 90) && elapsed < Duration::from_secs(3 * 25 + 120), "{elapsed:?}");
}

/// A COPY that waits for a lock cannot answer a ping: the node does not read on. As long as many bytes of ours are on
/// the way that is no sign of death.
#[tokio::test(start_paused = true)]
async fn a_blocked_writer_is_not_a_dead_link() {
    let (tunnel, mut node) = connected().await;
    let (mut reading, mut writing) = tokio::io::split(tunnel);
    let blocked = vec![0; 1024 * 1024];
    let write = async {
        writing.write_all(&blocked).await.expect("written");
        writing.flush().await.expect("flushed");
    };
    let unblock = async {
        tokio::time::sleep(Duration::from_mins(10)).await;
        let mut received = 0;
        while received < blocked.len() {
            if let Message::Binary(bytes) = node.next().await.expect("a message").expect("valid") {
                received += bytes.len() - 1;
            }
        }
    };
    tokio::select! {
        read = reading.read_u8() => panic!("ended: {read:?}"),
        _ = async { tokio::join!(write, unblock) } => {}
    }
}

/// A COPY whose last bytes all fitted into buffers on the way, and whose server waited for a lock, was given up after
/// 90 s: everything was sent, and the ping stood behind it.
#[tokio::test(start_paused = true)]
async fn what_waits_in_buffers_on_the_way_is_not_a_dead_link() {
    for (bytes, lives) in [(1024 * 1024, true), (1024, false)] {
        let (tunnel, node) = connected_through(4 * 1024 * 1024).await;
        let (mut reading, mut writing) = tokio::io::split(tunnel);
        writing.write_all(&vec![0; bytes]).await.expect("written");
        writing.flush().await.expect("flushed");
        let read = tokio::time::timeout(Duration::from_mins(10), reading.read_u8()).await;
        assert_eq!(read.is_err(), lives, "{bytes} bytes: {read:?}");
        drop(node);
    }
}

/// The node ends streams without data after four hours; pings do not count for it.
#[tokio::test(start_paused = true)]
async fn a_quiet_session_reminds_the_node() {
    let (mut tunnel, mut node) = connected().await;
    let reminded = async {
        loop {
            if node.next().await.expect("a message").expect("valid") == Message::Binary(keepalive()) {
                return;
            }
        }
    };
    let started = Instant::now();
    tokio::select! {
        read = tunnel.read_u8() => panic!("ended: {read:?}"),
        () = reminded => {}
    }
    assert!(started.elapsed() >= Duration::from_mins(30), "{:?}", started.elapsed());
}

/// Only flushes, as the pipe does while its client takes nothing, until a time is over.
async fn unread(tunnel: &mut Tunnel<DuplexStream>, time: Duration) {
    let flushes = std::future::poll_fn(|cx| {
        let _ = Pin::new(&mut *tunnel).poll_flush(cx);
        Poll::<()>::Pending
    });
    assert!(tokio::time::timeout(time, flushes).await.is_err());
}

/// psql in a pager: four hours later the node had ended the stream, which it takes for silent, and whatever forgets
/// silent connections had forgotten this one.
#[tokio::test(start_paused = true)]
async fn a_link_whose_client_reads_nothing_is_looked_after() {
    static MESSAGE: [u8; 32 * 1024] = [7; 32 * 1024];
    const MESSAGES: usize = 40;
    let (mut tunnel, node) = connected().await;
    let (mut to_tunnel, mut from_tunnel) = node.split();
    let sending = tokio::spawn(async move {
        for _ in 0..MESSAGES {
            to_tunnel.send(message(0, &MESSAGE)).await.expect("sent");
        }
        to_tunnel
    });
    let counting = tokio::spawn(async move {
        let (mut pings, mut reminders) = (0, 0);
        while let Some(Ok(message)) = from_tunnel.next().await {
            pings += u32::from(matches!(message, Message::Ping(_)));
            reminders += u32::from(message == Message::Binary(keepalive()));
        }
        (pings, reminders)
    });
    unread(&mut tunnel, Duration::from_hours(5)).await;
    assert!(!sending.is_finished(), "more than all buffers hold");
    let mut all = vec![0; MESSAGES * MESSAGE.len()];
    tunnel.read_exact(&mut all).await.expect("nothing is lost");
    assert!(all.iter().all(|byte| *byte == 7));
    drop(sending.await.expect("sent"));
    drop(tunnel);
    let (pings, reminders) = counting.await.expect("counted");
    assert!((600..=720).contains(&pings) && (8..=10).contains(&reminders), "{pings} pings, {reminders} reminders");
}

/// What is left of a result in a pager is little: pings are answered, pongs heard, and an end is seen.
#[tokio::test(start_paused = true)]
async fn a_dead_link_is_found_while_the_client_reads_nothing() {
    for answers in [true, false] {
        let (mut tunnel, mut node) = connected().await;
        node.send(message(0, b"last")).await.expect("sent");
        let node = tokio::spawn(async move {
            while answers && node.next().await.is_some() {}
            std::future::pending::<()>().await;
        });
        unread(&mut tunnel, Duration::from_hours(1)).await;
        let mut last = [0; 4];
        tunnel.read_exact(&mut last).await.expect("what has come is not lost");
        assert_eq!(&last, b"last");
        let read = tokio::time::timeout(Duration::from_secs(1), tunnel.read_u8()).await;
        assert_eq!(read.is_err(), answers, "{read:?}");
        node.abort();
    }
}

/// A server that refuses closes behind its words. Where both had been read ahead, what was written next failed, and the
/// client heard of a lost tunnel.
#[tokio::test]
async fn an_end_that_was_read_ahead_is_told_in_reading() {
    let (mut tunnel, mut node) = connected().await;
    node.send(message(0, b"words")).await.expect("sent");
    node.close(None).await.expect("closed");
    for _ in 0..3 {
        tunnel.flush().await.expect("flushed");
        tunnel.write_all(b"more").await.expect("written");
    }
    let mut all = Vec::new();
    tunnel.read_to_end(&mut all).await.expect("an orderly end");
    assert_eq!(all, b"words");
}

/// A lid that was closed over a session: its first query went into a link that was dead, and hung for 90 s.
#[tokio::test(start_paused = true)]
async fn after_a_break_a_dead_link_is_found_at_once_and_a_healthy_one_goes_on() {
    // When the last ping before the break was sent makes no difference.
    for before in [3, 40, 80] {
        let breaks = watch::Sender::new(0);
        let (mut tunnel, _node) = broken_by(&breaks, 1024 * 1024).await;
        let quiet = tokio::time::timeout(Duration::from_secs(before), tunnel.read_u8()).await;
        assert!(quiet.is_err(), "{quiet:?}");
        let broken = Instant::now();
        let (read, ()) = tokio::join!(tunnel.read_u8(), async { breaks.send_modify(|breaks| *breaks += 1) });
        assert_eq!(broken.elapsed(), AFTER_BREAK, "{before} s");
        let failure = failure(&read.expect_err("dead"));
        assert!(failure.report.message.contains("nothing was heard for 10 s after"), "{failure}");
    }

    let breaks = watch::Sender::new(0);
    let (mut tunnel, mut node) = broken_by(&breaks, 1024 * 1024).await;
    let answering = async {
        let mut pings = 0;
        for _ in 0..3 {
            breaks.send_modify(|breaks| *breaks += 1);
            let broken = Instant::now();
            let pinged = node.next().await.expect("a message").expect("valid");
            assert!(matches!(pinged, Message::Ping(_)), "{pinged:?}");
            assert_eq!(broken.elapsed(), Duration::ZERO, "asked at once");
            node.flush().await.expect("the pong leaves");
            pings += 1;
            // Then all is as before: the next ping is due after the usual silence.
            let usual = node.next().await.expect("a message").expect("valid");
            assert!(matches!(usual, Message::Ping(_)) && broken.elapsed() >= LIVENESS.ping_after, "{usual:?}");
            node.flush().await.expect("the pong leaves");
        }
        pings
    };
    tokio::select! {
        read = tunnel.read_u8() => panic!("ended: {read:?}"),
        pings = answering => assert_eq!(pings, 3),
    }
}

/// Neither a COPY that waits for a lock can answer then, nor is it known of a link that nobody listens to whether it did.
#[tokio::test(start_paused = true)]
async fn after_a_break_only_a_link_that_could_answer_is_given_up() {
    let breaks = watch::Sender::new(0);
    let (mut tunnel, node) = broken_by(&breaks, 4 * 1024 * 1024).await;
    tunnel.write_all(&vec![0; 1024 * 1024]).await.expect("written");
    tunnel.flush().await.expect("flushed");
    breaks.send_modify(|breaks| *breaks += 1);
    let read = tokio::time::timeout(Duration::from_mins(10), tunnel.read_u8()).await;
    assert!(read.is_err(), "{read:?}");
    drop(node);

    let breaks = watch::Sender::new(0);
    let (mut tunnel, mut node) = broken_by(&breaks, 1024 * 1024).await;
    let unseen = vec![7; AHEAD];
    for part in unseen.chunks(16 * 1024) {
        node.send(message(0, part)).await.expect("sent");
    }
    unread(&mut tunnel, Duration::from_secs(1)).await;
    breaks.send_modify(|breaks| *breaks += 1);
    unread(&mut tunnel, Duration::from_mins(10)).await;
    let mut all = vec![0; unseen.len()];
    tunnel.read_exact(&mut all).await.expect("what has come is not lost");
    let listened = Instant::now();
    tunnel.read_u8().await.expect_err("dead");
    assert_eq!(listened.elapsed(), AFTER_BREAK);
}
