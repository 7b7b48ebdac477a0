//! Cancel requests.

use std::time::Duration;

use proto_tests::{
    kubernetes::certificates::Authority,
    postgres::{Hba, Setup},
    wire::{Wire, cancel_request},
};
use tokio::time::{Instant, timeout};

use crate::support::World;

/// Sends a cancel request and waits for the close that is its answer.
async fn send(mut wire: Wire, request: &[u8]) {
    wire.send(request).await.unwrap();
    assert_eq!(timeout(Duration::from_secs(10), wire.rest()).await.expect("a close").unwrap_or_default(), b"");
}

async fn sleeping(wire: &mut Wire) {
    wire.message(b'Q', b"select pg_sleep(600)\0").await.unwrap();
}

/// Waits until the server is at work on a sleep.
async fn asleep(watcher: &mut Wire, count: &str) {
    let sql = "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep%'";
    while watcher.value(sql).await.unwrap() != count {
        tokio::task::yield_now().await;
    }
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
            asleep(&mut watcher, "1").await;
            let request = wire.cancel_request();
            let other = if encrypted { Wire::tls(pgferry.address()).await } else { Wire::tcp(pgferry.address()).await };
            send(other.unwrap(), &request).await;
            assert_eq!(wire.until_ready().await.unwrap_err().code, "57014", "3.{minor}, encrypted: {encrypted}");
            assert_eq!(wire.value("select 1").await.unwrap(), "1", "the session lives on");
        }
    }
}

/// A port-forward reports the server's close a second late; whoever pressed Ctrl-C must not wait for that.
#[tokio::test]
async fn the_answer_does_not_wait_for_the_tunnels_late_close() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    let mut watcher = pgferry.connect("pgferry", "shop").await.unwrap();
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    sleeping(&mut wire).await;
    asleep(&mut watcher, "1").await;
    let request = wire.cancel_request();
    let started = Instant::now();
    let other = Wire::tcp(pgferry.address()).await.unwrap();
    let (refused, ()) = tokio::join!(wire.until_ready(), send(other, &request));
    assert_eq!(refused.unwrap_err().code, "57014");
    // The design's promise is half a second more than directly.
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
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
    asleep(&mut watcher, "1").await;
    send(Wire::tcp(pgferry.address()).await.unwrap(), &cancel_request(wrong.0, &wrong.1)).await;
    asleep(&mut watcher, "1").await;
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
    asleep(&mut watcher, "1").await;
    send(Wire::tcp(pgferry.address()).await.unwrap(), &wire.cancel_request()).await;
    assert_eq!(wire.until_ready().await.unwrap_err().code, "57014");
}

#[tokio::test]
async fn a_cancel_request_does_not_count_as_a_connection() {
    let world = World::new().await;
    let config = world.api.write("config.toml", "[sessions]\nmax_connections = 1\n");
    let pgferry = world.pgferry_with(&["--config", config.to_str().unwrap()]).await;
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

/// A client that is killed in mid-query leaves no query running in the pod.
#[tokio::test]
async fn a_client_that_vanishes_leaves_no_query_behind() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    let mut watcher = pgferry.connect("pgferry", "shop").await.unwrap();
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    sleeping(&mut wire).await;
    asleep(&mut watcher, "1").await;
    drop(wire);
    timeout(Duration::from_secs(5), asleep(&mut watcher, "0")).await.expect("the query is gone within five seconds");
}
