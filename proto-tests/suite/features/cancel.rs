//! Cancel requests.

use std::time::Duration;

use proto_tests::{
    kubernetes::certificates::Authority,
    postgres::{Hba, Setup},
    wire::{Wire, cancel_request},
};
use rustix::process::Signal;
use tokio::time::{Instant, timeout};

use crate::support::{PATIENCE, World, serve, until_true};

/// Sends a cancel request and waits for the close that is its answer.
async fn send(mut wire: Wire, request: &[u8]) {
    wire.send(request).await.unwrap();
    assert_eq!(timeout(PATIENCE, wire.rest()).await.expect("a close").unwrap_or_default(), b"");
}

async fn sleeping(wire: &mut Wire) {
    wire.message(b'Q', b"select pg_sleep(600)\0").await.unwrap();
}

/// Waits until the server is at work on a sleep.
async fn asleep(watcher: &mut Wire, count: usize) {
    let sql = format!(
        "select count(*) = {count} from pg_stat_activity where state = 'active' and query like 'select pg_sleep%'"
    );
    until_true(watcher, &sql).await;
}

#[tokio::test]
async fn plaintext_and_encrypted_requests_with_short_and_long_keys() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    let mut watcher = pgferry.connect("pgferry", "shop").await.unwrap();
    for minor in [0, 2] {
        for encrypted in [false, true] {
            let mut wire = Wire::tls(pgferry.address()).await.unwrap();
            let parameters = [("user", "app"), ("database", "shop")];
            wire.send(&proto_tests::wire::startup(3, minor, &parameters)).await.unwrap();
            wire.until_ready().await.unwrap();
            sleeping(&mut wire).await;
            asleep(&mut watcher, 1).await;
            let request = wire.cancel_request();
            let other = if encrypted { Wire::tls(pgferry.address()).await } else { Wire::tcp(pgferry.address()).await };
            send(other.unwrap(), &request).await;
            assert_eq!(wire.until_ready().await.unwrap_err().code, "57014", "3.{minor}, encrypted: {encrypted}");
            assert_eq!(wire.value("select 1").await.unwrap(), "1", "the session lives on");
        }
    }
}

/// A port-forward reports the server's close a second late; whoever pressed Ctrl-C must not wait for that. Here it does
/// not report it at all.
#[tokio::test]
async fn the_answer_does_not_wait_for_the_tunnels_late_close() {
    let world = World::new().await;
    world.api.linger(Duration::MAX);
    let pgferry = world.pgferry().await;
    let mut watcher = pgferry.connect("pgferry", "shop").await.unwrap();
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    sleeping(&mut wire).await;
    asleep(&mut watcher, 1).await;
    let request = wire.cancel_request();
    let started = Instant::now();
    let other = Wire::tcp(pgferry.address()).await.unwrap();
    let (refused, ()) = tokio::join!(wire.until_ready(), send(other, &request));
    assert_eq!(refused.unwrap_err().code, "57014");
    // A request that waits for the close is given up after five seconds.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

/// tokio-postgres and sqlx close as soon as they have sent a cancel request, as the protocol allows. pgferry looked whose
/// the connection was when it came to accept it, found nobody any more, and dropped the request: now and then a query
/// could not be cancelled, the more often the busier the machine. Here pgferry stands still until the client is gone.
#[tokio::test]
async fn a_request_whose_sender_has_gone_counts() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    let mut watcher = pgferry.connect("pgferry", "shop").await.unwrap();
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    sleeping(&mut wire).await;
    asleep(&mut watcher, 1).await;
    pgferry.signal(Signal::STOP);
    let mut gone = Wire::tcp(pgferry.address()).await.unwrap();
    gone.send(&wire.cancel_request()).await.unwrap();
    drop(gone);
    pgferry.signal(Signal::CONT);
    let refused = timeout(PATIENCE, wire.until_ready()).await.expect("the query is cancelled");
    assert_eq!(refused.unwrap_err().code, "57014");
}

#[tokio::test]
async fn unknown_keys_and_idle_sessions_are_answered_by_a_close() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    send(Wire::tcp(pgferry.address()).await.unwrap(), &cancel_request(1, b"none")).await;
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    let mut wrong = wire.key.clone().unwrap();
    wrong.1[0] ^= 1;
    let mut watcher = pgferry.connect("pgferry", "shop").await.unwrap();
    sleeping(&mut wire).await;
    asleep(&mut watcher, 1).await;
    send(Wire::tcp(pgferry.address()).await.unwrap(), &cancel_request(wrong.0, &wrong.1)).await;
    asleep(&mut watcher, 1).await;
    send(Wire::tcp(pgferry.address()).await.unwrap(), &wire.cancel_request()).await;
    assert_eq!(wire.until_ready().await.unwrap_err().code, "57014");
}

/// A key of protocol 3.0 is 32 bits, and guesses cost nothing.
#[tokio::test]
async fn guessed_keys_open_nothing_and_cost_time() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    let wire = pgferry.connect("pgferry", "shop").await.unwrap();
    let (pid, _) = wire.key.clone().unwrap();
    let before = world.api.count("get", "pods/portforward");
    let mut last = Duration::ZERO;
    for guess in 0_u32..11 {
        let started = Instant::now();
        send(Wire::tcp(pgferry.address()).await.unwrap(), &cancel_request(pid, &guess.to_be_bytes())).await;
        last = started.elapsed();
    }
    assert!(last >= Duration::from_secs(1), "{last:?}");
    assert_eq!(world.api.count("get", "pods/portforward"), before, "nothing is opened for them");
    // Who holds the key waits for nothing but the server.
    let mut watcher = pgferry.connect("pgferry", "shop").await.unwrap();
    let mut wire = wire;
    sleeping(&mut wire).await;
    asleep(&mut watcher, 1).await;
    send(Wire::tcp(pgferry.address()).await.unwrap(), &wire.cancel_request()).await;
    assert_eq!(wire.until_ready().await.unwrap_err().code, "57014");
}

#[tokio::test]
async fn a_session_inside_tls_is_cancelled_inside_tls() {
    let pair = Authority::new("x").server(&["shop-rw"]);
    let world = World::with(|setup| Setup { hba: Hba::TlsOnly, tls: Some(pair), ..setup }).await;
    let pgferry = world.pgferry().await;
    let mut watcher = pgferry.connect("pgferry", "shop").await.unwrap();
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    sleeping(&mut wire).await;
    asleep(&mut watcher, 1).await;
    send(Wire::tcp(pgferry.address()).await.unwrap(), &wire.cancel_request()).await;
    assert_eq!(wire.until_ready().await.unwrap_err().code, "57014");
}

#[tokio::test]
async fn a_cancel_request_does_not_count_as_a_connection() {
    let world = World::new().await;
    let pgferry = serve(&world.api, "[sessions]\nmax_connections = 1\n").await;
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    sleeping(&mut wire).await;
    assert_eq!(pgferry.refusal("pgferry", "shop").await.code, "53300");
    let request = wire.cancel_request();
    // The query may not have begun; the request is sent until it is answered.
    let cancelled = async {
        let refused = wire.until_ready().await;
        assert_eq!(refused.unwrap_err().code, "57014");
    };
    let again = async {
        loop {
            send(Wire::tcp(pgferry.address()).await.unwrap(), &request).await;
        }
    };
    tokio::select! {
        () = cancelled => {}
        () = again => {}
    }
}

/// What a client can be at when it vanishes: what it sends, and how its backend looks then.
const AT_WORK: [(&str, &str, &str); 4] = [
    ("a query", "select pg_sleep(600)", "wait_event = 'PgSleep'"),
    (
        "a result that it does not read",
        "copy (select repeat('x', 1000) from generate_series(1, 10000000)) to stdout",
        "wait_event = 'ClientWrite'",
    ),
    ("a transaction", "begin; insert into heap values ('x')", "state = 'idle in transaction'"),
    ("COPY IN", "copy heap from stdin", "state = 'active' and wait_event = 'ClientRead'"),
];

/// A client that is killed leaves nothing behind in the pod, whatever it was at, be its end a close or a reset.
#[tokio::test]
async fn a_client_that_vanishes_leaves_nothing_behind() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    let mut watcher = world.directly().await;
    watcher.query("create unlogged table heap (line text)").await.unwrap();
    for (what, sql, looks) in AT_WORK {
        for end in ["closed", "reset"] {
            let wire =
                if end == "reset" { Wire::abrupt(pgferry.address()).await } else { Wire::tcp(pgferry.address()).await };
            let mut wire = wire.unwrap();
            wire.start(&[("user", "app"), ("database", "shop")]).await.unwrap();
            let pid = wire.key.as_ref().unwrap().0;
            wire.message(b'Q', &[sql.as_bytes(), &[0]].concat()).await.unwrap();
            if what == "COPY IN" {
                wire.message(b'd', b"one line\n").await.unwrap();
            }
            let found = |count: usize| format!("select count(*) = {count} from pg_stat_activity where pid = {pid}");
            until_true(&mut watcher, &format!("{} and {looks}", found(1))).await;
            let started = Instant::now();
            drop(wire);
            until_true(&mut watcher, &found(0)).await;
            println!("{what}, {end}: its backend is gone after {:.0?}", started.elapsed());
        }
    }
    assert_eq!(watcher.value("select count(*) from heap").await.unwrap(), "0");
}
