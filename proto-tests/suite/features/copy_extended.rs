//! COPY FROM STDIN by the extended protocol, as JDBC's and Npgsql's loaders and libpq's `PQsendQueryParams` do it: Sync is
//! sent together with Execute, before the client knows that it was a COPY, and the server never answers that one.

use std::time::Duration;

use proto_tests::{
    subject::Subject,
    wire::{Wire, message},
};
use rustix::process::Signal;
use tokio::time::timeout;

use crate::support::{World, until_true};

const COPY: &str = "copy heap from stdin";

/// Parse, Bind, Execute and Sync.
fn executed(sql: &str) -> Vec<u8> {
    let parse = [b"\0", sql.as_bytes(), b"\0\0\0"].concat();
    [message(b'P', &parse), message(b'B', &[0; 8]), message(b'E', &[0; 5]), message(b'S', b"")].concat()
}

/// A session whose server waits for the data of its COPY.
async fn copying(pgferry: &Subject) -> Wire {
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    wire.send(&executed(COPY)).await.unwrap();
    for tag in ['1', '2', 'G'] {
        assert_eq!(wire.next().await.unwrap().unwrap().tag, tag);
    }
    wire
}

/// What it hears next, in time.
async fn hears(wire: &mut Wire) -> String {
    let next = timeout(Duration::from_secs(20), wire.next()).await.expect("in time").unwrap();
    next.expect("a message").fields().code
}

/// Sends the data and hears that they are in; then it is idle, and ends.
async fn finishes(mut wire: Wire) {
    for line in 0..100 {
        wire.message(b'd', format!("line {line}\n").as_bytes()).await.unwrap();
    }
    wire.send(&[message(b'c', b""), message(b'S', b"")].concat()).await.unwrap();
    let answers = wire.until_ready().await.unwrap();
    assert_eq!(answers[0].body, b"COPY 100\0");
    assert_eq!(hears(&mut wire).await, "57P01");
}

/// It passed for idle as soon as the server asked for the data: whoever deleted a pod, or restarted pgferry, ended loads
/// that had minutes left to finish.
#[tokio::test]
async fn a_load_survives_the_grace_of_a_failover_and_a_drain() {
    let world = World::new().await;
    let mut watcher = world.directly().await;
    watcher.query("create unlogged table heap (line text)").await.unwrap();
    for what in ["a drain", "a failover"] {
        let mut pgferry = world.pgferry_with(&["--drain", "1h"]).await;
        let load = copying(&pgferry).await;
        let mut idle = pgferry.connect("pgferry", "shop").await.unwrap();
        if what == "a drain" {
            pgferry.signal(Signal::TERM);
        } else {
            world.cluster().begin_deleting(1);
        }
        assert_eq!(hears(&mut idle).await, "57P01", "{what}");
        finishes(load).await;
        if what == "a drain" {
            assert!(pgferry.ended().await.success());
        }
    }
    assert_eq!(watcher.value("select count(*) from heap").await.unwrap(), "200");
}

/// A COPY that waits for another transaction reads nothing, and so does not see that its client is gone.
#[tokio::test]
async fn a_load_whose_client_vanishes_is_cancelled() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    let mut watcher = world.directly().await;
    watcher.query("create table heap (line text primary key)").await.unwrap();
    watcher.query("begin; insert into heap values ('taken')").await.unwrap();
    let mut load = copying(&pgferry).await;
    let found = format!("from pg_stat_activity where pid = {}", load.key.as_ref().unwrap().0);
    load.message(b'd', b"taken\n").await.unwrap();
    let mut other = world.directly().await;
    // Its buffers are larger than that line: it is inserted when they are full, or at the end of the data.
    load.message(b'd', &b"more\n".repeat(100_000)).await.unwrap();
    until_true(&mut other, &format!("select wait_event = 'transactionid' {found}")).await;
    drop(load);
    let gone = format!("select count(*) = 0 {found}");
    timeout(Duration::from_secs(20), until_true(&mut other, &gone)).await.expect("its backend is gone");
    watcher.query("rollback").await.unwrap();
    assert_eq!(watcher.value("select count(*) from heap").await.unwrap(), "0");
}
