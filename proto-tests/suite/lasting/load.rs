//! It lasts under load: memory, descriptors and tasks are bounded, and go back when sessions end.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use proto_tests::{
    subject::Subject,
    wire::{Wire, message},
};
use rustix::process::Signal;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::support::{PATIENCE, World, until, until_true};

/// What a connection before its startup packet may cost: the packet's 10,000 bytes at the most, the buffers of a TLS
/// handshake, and the task.
const STARTUP_KIB: u64 = 32;
/// What one session may cost while one side sends and the other does not take: no more than its buffers.
const SESSION_KIB: u64 = 2048;

/// Connections that stop somewhere in their startup packet: their number is bounded, and what each costs.
#[tokio::test]
async fn five_hundred_connections_that_stop_in_the_startup_packet() {
    const CONNECTIONS: usize = 500;
    let world = World::new().await;
    let mut packet = [&10_000_u32.to_be_bytes()[..], &[0, 3, 0, 0], b"user\0app\0database\0shop\0options\0"].concat();
    packet.resize(10_000, b'x');
    for places in [100, 1000] {
        let file = world.api.write("config.toml", &format!("[sessions]\nmax_startups = {places}\n"));
        let pgferry = world.pgferry_with(&["--config", file.to_str().unwrap()]).await;
        pgferry.connect("pgferry", "shop").await.unwrap();
        world.api.tunnels(0).await;
        let (descriptors, resident) = (pgferry.descriptors(), pgferry.resident());
        let mut open = Vec::new();
        for number in 0..CONNECTIONS {
            let mut socket = TcpStream::connect(pgferry.address()).await.unwrap();
            socket.write_all(&packet[..number * packet.len() / CONNECTIONS]).await.unwrap();
            open.push(socket);
        }
        let taken = CONNECTIONS.min(places);
        until("they are accepted", || pgferry.descriptors() >= descriptors + taken - 10).await;
        let (now, held) = (pgferry.resident(), pgferry.descriptors() - descriptors);
        let each = now.saturating_sub(resident) * 1024 / held as u64;
        println!("{places} places: {held} of {CONNECTIONS} are held, {resident} then {now} KiB: {each} bytes each");
        // Connections to the API server come and go meanwhile.
        assert!(held <= places + 4, "{held}");
        assert!(each < STARTUP_KIB * 1024, "{each} bytes each");
        drop(open);
        until("they are gone", || pgferry.descriptors() <= descriptors + 4).await;
        pgferry.connect("pgferry", "shop").await.unwrap();
    }
}

/// The most memory that pgferry takes until the server of a session has been in this wait for a while.
async fn most_until_stuck(pgferry: &Subject, watcher: &mut Wire, pid: i32, wait: &str) -> u64 {
    let sql = format!("select wait_event = '{wait}' from pg_stat_activity where pid = {pid}");
    let (mut most, mut since) = (0, None);
    let started = Instant::now();
    // A server that is being read from waits for a moment now and then.
    while since.is_none_or(|since: Instant| since.elapsed() < Duration::from_secs(1)) {
        assert!(started.elapsed() < PATIENCE, "it never stays in {wait}");
        let waits = watcher.value(&sql).await.unwrap() == "t";
        since = since.filter(|_| waits).or_else(|| waits.then(Instant::now));
        most = most.max(pgferry.resident());
    }
    most
}

#[tokio::test]
async fn a_gibibyte_that_one_side_does_not_take_stays_where_it_is() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    let mut watcher = pgferry.connect("pgferry", "shop").await.unwrap();
    watcher.query("create unlogged table heap (line text)").await.unwrap();
    let mut others = Vec::new();
    for _ in 0..10 {
        others.push(pgferry.connect("pgferry", "shop").await.unwrap());
    }

    // Out: the client does not read.
    let mut out = pgferry.connect("pgferry", "shop").await.unwrap();
    let pid = out.key.as_ref().unwrap().0;
    let before = pgferry.resident();
    out.message(b'Q', b"select repeat('x', 1048576) from generate_series(1, 1024)\0").await.unwrap();
    let most = most_until_stuck(&pgferry, &mut watcher, pid, "ClientWrite").await;
    println!("1 GiB of a result that is not read: {before} KiB, {most} KiB at the most");
    assert!(most < before + SESSION_KIB, "{before} KiB, then {most} KiB");
    others_are_served(&mut others).await;
    drop(out);
    until_true(&mut watcher, &format!("select count(*) = 0 from pg_stat_activity where pid = {pid}")).await;

    // In: the server does not read.
    watcher.query("begin; lock table heap").await.unwrap();
    let mut copy = pgferry.connect("pgferry", "shop").await.unwrap();
    let pid = copy.key.as_ref().unwrap().0;
    let before = pgferry.resident();
    let sending = async {
        copy.message(b'Q', b"copy heap from stdin\0").await.unwrap();
        let line = message(b'd', &[&vec![b'x'; 65_535][..], b"\n"].concat());
        for _ in 0..16 * 1024 {
            copy.send(&line).await.unwrap();
        }
    };
    let most = tokio::select! {
        () = sending => panic!("somebody took 1 GiB"),
        most = most_until_stuck(&pgferry, &mut watcher, pid, "relation") => most,
    };
    println!("1 GiB of COPY into a locked table: {before} KiB, {most} KiB at the most");
    assert!(most < before + SESSION_KIB, "{before} KiB, then {most} KiB");
    others_are_served(&mut others).await;
    // The end of a client stands behind its bytes, here as on a direct connection: it is seen when the server reads on.
    drop(copy);
    watcher.query("rollback").await.unwrap();
    until_true(&mut watcher, &format!("select count(*) = 0 from pg_stat_activity where pid = {pid}")).await;
}

/// A stalled session holds up no other.
async fn others_are_served(others: &mut [Wire]) {
    for other in others {
        // Whoever waits for the stalled one waits for ever.
        let served = timeout(PATIENCE, other.value("select 1")).await.expect("it is held up");
        assert_eq!(served.unwrap(), "1");
    }
}

/// How many connect at the same time.
const AT_A_TIME: usize = 4;

/// Sessions, opened some at a time.
async fn sessions(pgferry: &Subject, count: usize) -> Vec<Wire> {
    let connect = |_| async { pgferry.connect("pgferry", "shop").await.unwrap() };
    stream::iter(0..count).map(connect).buffer_unordered(AT_A_TIME).collect().await
}

/// Tasks that are left at the end, from the last line of the log.
fn tasks(pgferry: &Subject) -> usize {
    let output = pgferry.output();
    let (_, rest) = output.split_once("stopped tasks=").expect("the last line");
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

/// 200 sessions, 20 of them at work when it is told to stop: those finish, the others end at once. A second signal
/// ends all. Nothing is left behind, neither of these nor of 200 that came and went before.
#[tokio::test]
async fn a_drain_of_two_hundred_sessions() {
    const SESSIONS: usize = 200;
    const BUSY: usize = 20;
    let world = World::with(|setup| setup.setting("max_connections", "400")).await;
    let mut watcher = world.directly().await;
    let mut alone = world.pgferry().await;
    drop(sessions(&alone, 1).await);
    alone.signal(Signal::TERM);
    assert!(alone.ended().await.success());
    let few = tasks(&alone);
    for signals in [1, 2] {
        let mut pgferry = world.pgferry_with(&["--drain", "1h"]).await;
        let first = sessions(&pgferry, 1).await;
        let descriptors = pgferry.descriptors();
        drop(sessions(&pgferry, SESSIONS).await);
        // Each of those that connected at the same time has left two idle connections to the API server, for a minute.
        until("descriptors are given back", || pgferry.descriptors() <= descriptors + 2 * AT_A_TIME).await;
        println!("{descriptors} descriptors, after {SESSIONS} sessions {}", pgferry.descriptors());
        drop(first);

        let mut idle = sessions(&pgferry, SESSIONS).await;
        watcher.query("select pg_advisory_lock(1)").await.unwrap();
        let mut busy = idle.split_off(SESSIONS - BUSY);
        for wire in &mut busy {
            wire.message(b'Q', b"select pg_advisory_lock_shared(1)\0").await.unwrap();
        }
        let waiting = "select count(*) = 20 from pg_stat_activity where wait_event = 'advisory'";
        until_true(&mut watcher, waiting).await;
        pgferry.signal(Signal::TERM);
        let started = Instant::now();
        for wire in &mut idle {
            assert_eq!(wire.next().await.unwrap().unwrap().fields().code, "57P01");
        }
        println!("{} idle sessions have ended within {:.0?}", idle.len(), started.elapsed());
        until_true(&mut watcher, waiting).await;
        let started = Instant::now();
        if signals == 1 {
            watcher.query("select pg_advisory_unlock(1)").await.unwrap();
            for wire in &mut busy {
                assert_eq!(wire.until_ready().await.unwrap().iter().filter(|message| message.tag == 'D').count(), 1);
                assert_eq!(wire.next().await.unwrap().unwrap().fields().code, "57P01");
            }
        } else {
            pgferry.signal(Signal::TERM);
            for wire in &mut busy {
                assert_eq!(wire.until_ready().await.unwrap_err().code, "57P01");
            }
            watcher.query("select pg_advisory_unlock(1)").await.unwrap();
        }
        assert!(pgferry.ended().await.success());
        let ended = started.elapsed();
        world.api.tunnels(0).await;
        until_true(&mut watcher, "select count(*) = 0 from pg_stat_activity where wait_event = 'advisory'").await;
        println!(
            "{signals} signals: {BUSY} busy ones within {ended:.0?}; {} tasks left, after one session {few}",
            tasks(&pgferry)
        );
        // An end that is told at once takes none of the time that the drain has, an hour here.
        assert!(ended < PATIENCE, "{ended:?}");
        assert!(!pgferry.output().contains("do not end"), "they were cut");
        // Idle connections to the API server, also of cancel requests, which go out at the same time.
        let idle = if signals == 1 { 2 * AT_A_TIME } else { 2 * BUSY };
        assert!(tasks(&pgferry) <= few + idle, "{} tasks", tasks(&pgferry));
    }
}
