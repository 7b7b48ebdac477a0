//! A client that says goodbye before it has its answers: `psql -c` over a slow link, and scripts that send all they have
//! and then read.

use std::time::Duration;

use proto_tests::wire::{Wire, message, startup};
use rustix::process::Signal;
use tokio::time::timeout;

use crate::support::World;

/// All that comes before the end, by type.
async fn answers(mut wire: Wire) -> String {
    let all = async {
        let mut tags = String::new();
        while let Some(message) = wire.next().await.unwrap() {
            tags.push(message.tag);
        }
        tags
    };
    timeout(Duration::from_secs(30), all).await.expect("an end")
}

/// Queries, and Terminate behind them.
fn and_goodbye(queries: &[&str]) -> Vec<u8> {
    let query = |sql: &&str| message(b'Q', &[sql.as_bytes(), b"\0"].concat());
    let queries: Vec<u8> = queries.iter().flat_map(query).collect();
    [queries, message(b'X', b"")].concat()
}

/// The client heard nothing but the end: its socket was closed as soon as Terminate had passed, and two seconds later
/// the server's was, whatever it was at.
#[tokio::test]
async fn what_was_asked_before_terminate_is_answered() {
    let world = World::new().await;
    let mut pgferry = world.pgferry().await;
    for (what, queries, expected) in [
        ("a query", &["select 1"][..], "TDCZ".to_owned()),
        ("two queries", &["select 1", "select 2"], "TDCZ".repeat(2)),
        ("one that takes longer than a goodbye", &["select pg_sleep(3)"], "TDCZ".to_owned()),
        (
            "one that is larger than all buffers",
            &["select repeat('x', 100000) from generate_series(1, 200)"],
            format!("T{}CZ", "D".repeat(200)),
        ),
    ] {
        let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
        wire.send(&and_goodbye(queries)).await.unwrap();
        assert_eq!(answers(wire).await, expected, "{what}");
    }
    // All in one piece, the startup packet before it.
    let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
    let packet = startup(3, 0, &[("user", "pgferry"), ("database", "shop")]);
    wire.send(&[packet, and_goodbye(&["select 1"])].concat()).await.unwrap();
    let answers = answers(wire).await;
    assert!(answers.starts_with('R') && answers.ends_with("KZTDCZ"), "{answers}");
    pgferry.says("client terminated").await;
    assert!(!pgferry.output().contains("client gone"), "{}", pgferry.output());
    world.api.tunnels(0).await;
}

/// As with PostgreSQL itself, what was sent is done, though nobody waits for the answer.
#[tokio::test]
async fn what_was_asked_before_terminate_is_done() {
    let world = World::new().await;
    let mut pgferry = world.pgferry().await;
    let mut watcher = world.directly().await;
    watcher.query("create table heap (line text)").await.unwrap();
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    wire.send(&and_goodbye(&["insert into heap select 'x' from pg_sleep(3)"])).await.unwrap();
    drop(wire);
    pgferry.says("session ended").await;
    assert_eq!(watcher.value("select count(*) from heap").await.unwrap(), "1");
}

/// It is held up by no more than any other session.
#[tokio::test]
async fn a_drain_ends_who_has_said_goodbye() {
    let world = World::new().await;
    let mut pgferry = world.pgferry_with(&["--drain", "1s"]).await;
    let mut watcher = world.directly().await;
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    wire.send(&and_goodbye(&["select pg_sleep(600)"])).await.unwrap();
    let asleep = "select count(*) = 1 from pg_stat_activity where wait_event = 'PgSleep'";
    crate::support::until_true(&mut watcher, asleep).await;
    pgferry.signal(Signal::TERM);
    assert!(timeout(Duration::from_secs(20), pgferry.ended()).await.expect("it ends").success());
    let gone = "select count(*) = 0 from pg_stat_activity where wait_event = 'PgSleep'";
    crate::support::until_true(&mut watcher, gone).await;
}
