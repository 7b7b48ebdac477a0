//! It lasts: sleep, other networks, API servers that go and come back, kubeconfigs that are replaced.

use std::{fs, pin::pin, sync::Arc, time::Duration};

use futures_util::future::join_all;
use proto_tests::{
    cnpg::Cluster,
    kubernetes::{Fault, proxies::Harm},
    postgres::PostgresServer,
    secrets,
    subject::Subject,
    wire::{Fields, Wire, message, startup},
};
use rustix::process::Signal;
use serde_json::json;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use crate::support::{PATIENCE, World, farewell, plugin, runs, until, until_true};

/// The design promises that a connection that leads nowhere is given up after a second, for a list after three (`PROMPT`
/// and `GATHERED`). It used to cost the whole request timeout, which subjects here have a minute of (`Start::new`): the
/// half of that tells the two apart on any machine.
const AT_ONCE: Duration = Duration::from_secs(30);

/// A first query over a new connection, and how long that took.
async fn first_query(pgferry: &Subject) -> Duration {
    let started = Instant::now();
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    assert_eq!(wire.value("select 1").await.unwrap(), "1");
    started.elapsed()
}

/// Waits until the kernel has stopped it.
async fn stopped(pgferry: &Subject) {
    pgferry.signal(Signal::STOP);
    let state = || fs::read_to_string(format!("/proc/{}/stat", pgferry.pid())).unwrap();
    until("it is stopped", || state().contains(") T ")).await;
}

/// hyper reuses idle connections. One that was blackholed while the lid was closed, or the VPN away, cost the first
/// connect the whole request timeout, ten seconds.
#[tokio::test]
async fn the_first_connect_after_a_stop_or_a_network_change_works_at_once() {
    let world = World::new().await;
    for (what, stop, harm) in [
        ("connections cut while it was stopped", true, Harm::Cut),
        ("connections blackholed while it was stopped", true, Harm::Blackhole),
        ("connections cut", false, Harm::Cut),
        ("connections blackholed", false, Harm::Blackhole),
    ] {
        let (relay, pgferry) = world.relayed("").await;
        let warm = first_query(&pgferry).await.min(first_query(&pgferry).await);
        if stop {
            stopped(&pgferry).await;
        }
        relay.harm(harm);
        if stop {
            pgferry.signal(Signal::CONT);
        }
        let first = first_query(&pgferry).await;
        let second = first_query(&pgferry).await;
        println!("{what}: before {warm:.2?}, the first after it {first:.2?}, the second {second:.2?}");
        assert!(first < AT_ONCE && second < AT_ONCE, "{what}: {first:?}, {second:?}");
    }
}

/// A session that was logged in ahead is not given away when its time has passed while nothing ran: its tunnel may be
/// as dead as everything else.
#[tokio::test]
async fn a_spare_session_is_not_given_away_after_a_stop() {
    let world = World::new().await;
    let (relay, pgferry) = world.relayed(&format!("{LIVELY}[sessions]\nspare = \"5s\"\n")).await;
    let mut watcher = world.directly().await;
    first_query(&pgferry).await;
    let spare = "select count(*) = 1 from pg_stat_activity where state = 'idle' and query = ''";
    until_true(&mut watcher, spare).await;
    stopped(&pgferry).await;
    relay.harm(Harm::Blackhole);
    watcher.query("select pg_sleep(6)").await.unwrap();
    pgferry.signal(Signal::CONT);
    let first = first_query(&pgferry).await;
    println!("with a spare session from before the stop: {first:.2?}");
    assert!(first < AT_ONCE, "{first:?}");
}

/// An API server that is slow, not gone, is not asked everything twice, and its connections are kept.
#[tokio::test]
async fn a_slow_api_server_is_not_asked_everything_twice() {
    const CLIENTS: usize = 10;
    /// As many at a time are asked again (`AGAIN` in src/k8s/pool.rs).
    const AGAIN: usize = 4;
    /// Long enough for another round, each being a second behind the last; well below the minute that a call has.
    const HELD: Duration = Duration::from_secs(4);
    let world = World::new().await;
    // Clients of one cluster share one request.
    let name = |client: usize| format!("shop{client}");
    for client in 0..CLIENTS {
        Cluster::new(&world.api, ("prod", &name(client)), &world.password, &[world.server.address()]);
    }
    let pgferry = &world.pgferry().await;
    let connect = |client| async move { pgferry.connect("pgferry", &name(client)).await };
    // Leaves idle connections for the next ones, until every name is known: looking one up reads other Secrets as well.
    let known = async {
        while world.api.asked("get", "secrets") != CLIENTS {
            world.api.forget_requests();
            for connected in join_all((0..CLIENTS).map(connect)).await {
                connected.unwrap();
            }
        }
    };
    timeout(PATIENCE, known).await.expect("names are known");
    let hold = Arc::new(Notify::new());
    world.api.fault("get", "secrets", 99, Fault::Hold(Arc::clone(&hold)));
    world.api.forget_requests();
    let mut connecting = pin!(join_all((0..CLIENTS).map(connect)));
    tokio::select! {
        _ = &mut connecting => panic!("nobody has a Secret yet"),
        () = until("some are asked again", || world.api.asked("get", "secrets") > CLIENTS) => {}
    }
    assert!(timeout(HELD, &mut connecting).await.is_err(), "nobody has a Secret yet");
    let asked = world.api.asked("get", "secrets");
    println!("{CLIENTS} Secrets were asked for {asked} times");
    // What came over a new connection is not asked again.
    assert!((CLIENTS + 1..=CLIENTS + AGAIN).contains(&asked), "{asked}");
    world.api.heal();
    hold.notify_waiters();
    for connected in timeout(PATIENCE, connecting).await.expect("they are answered") {
        connected.unwrap();
    }
}

/// A refusal, and that it came at once.
async fn refused_at_once(pgferry: &Subject) -> Fields {
    let started = Instant::now();
    let refusal = pgferry.refusal("pgferry", "shop").await;
    assert!(started.elapsed() < AT_ONCE, "{refusal:?} after {:?}", started.elapsed());
    refusal
}

/// Which server a session is on.
async fn port(wire: &mut Wire) -> String {
    wire.value("select inet_server_port()").await.unwrap()
}

fn port_of(server: &PostgresServer) -> String {
    server.address().port().to_string()
}

/// A session whose tunnel leads through another API server goes on; new ones are told what is wrong, and work again
/// when it is back, with a new token.
#[tokio::test]
async fn an_api_server_that_is_away_while_the_token_ends() {
    let world = World::new().await;
    let token = world.api.user("dave");
    let user = plugin(&world.api, &token, "2099-01-01T00:00:00Z");
    let (relay, pgferry) = world.relayed_as(user, "").await;
    let mut running = pgferry.connect("pgferry", "shop").await.unwrap();
    first_query(&pgferry).await;
    world.api.stop_answering().await;
    world.api.revoke(&token);
    let before = relay.count();
    assert_eq!(running.value("select 1").await.unwrap(), "1");
    let refusal = refused_at_once(&pgferry).await;
    assert!(refusal.code == "08001" && refusal.message.contains("cannot be reached"), "{refusal:?}");
    // The watches look for it again meanwhile, and not at full speed.
    let many = until("as many connections as that", || relay.count() > before + 40);
    let away = Duration::from_secs(6);
    assert!(timeout(away, many).await.is_err(), "40 connections while it was away");
    println!("{} connections to an API server that was away for {away:?}", relay.count() - before);
    let _ = plugin(&world.api, &world.api.user("dave"), "2099-01-01T00:00:00Z");
    world.api.come_back().await;
    let first = first_query(&pgferry).await;
    println!("the first query after it came back: {first:.2?}");
    assert!(first < AT_ONCE, "{first:?}");
    assert_eq!(running.value("select 1").await.unwrap(), "1");
    // The watch is back too: it sees what happens to the server.
    world.cluster().begin_deleting(1);
    assert_eq!(farewell(&mut running).await, "57P01");
}

/// A plugin may open a browser: one that fails is not run again and again by watches, while nobody connects.
#[tokio::test]
async fn nobody_is_asked_to_log_in_by_a_watch_again_and_again() {
    let world = World::new().await;
    let token = world.api.user("dave");
    let user = plugin(&world.api, &token, "2099-01-01T00:00:00Z");
    let (_relay, pgferry) = world.relayed_as(user, "").await;
    let mut running = pgferry.connect("pgferry", "shop").await.unwrap();
    until("a watch", || world.api.count("watch", "pods") > 0).await;
    let _ = world.api.write("fail", "");
    world.api.revoke(&token);
    world.api.stop_answering().await;
    world.api.come_back().await;
    until("it is asked for a login", || runs(&world.api) > 1).await;
    // Once for the client, once for the watch; greetings that keep connections ready ask nobody. A watch that tried every
    // two seconds would make it six.
    let often = until("it is asked again", || runs(&world.api) > 2);
    assert!(timeout(Duration::from_secs(10), often).await.is_err(), "the plugin ran {} times", runs(&world.api));
    assert_eq!(running.value("select 1").await.unwrap(), "1");
    let refusal = refused_at_once(&pgferry).await;
    assert_eq!(refusal.code, "28000", "{refusal:?}");
    fs::remove_file(world.api.directory().join("fail")).unwrap();
    let _ = plugin(&world.api, &world.api.user("dave"), "2099-01-01T00:00:00Z");
    assert!(first_query(&pgferry).await < AT_ONCE);
}

/// Watches that end with 410, inside the stream and when they are opened anew, and an API server that restarts: sessions
/// go on, and are still looked after.
#[tokio::test]
async fn neither_a_relist_nor_a_restarted_api_server_ends_a_session() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    let mut session = pgferry.connect("pgferry", "shop").await.unwrap();
    let lists = || world.api.count("list", "pods");
    let watches = || world.api.count("watch", "pods");
    until("a watch", || watches() > 0).await;
    for disturbance in ["410 inside the stream", "410 when it is opened", "a restart"] {
        let seen = watches();
        let before = lists();
        match disturbance {
            "410 inside the stream" => world.api.expire_watches(),
            "410 when it is opened" => {
                let gone = json!({"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410});
                world.api.fault("watch", "pods", 1, Fault::Status(410, gone.to_string()));
                world.api.expire_watches();
            }
            _ => {
                world.api.stop_answering().await;
                world.api.come_back().await;
            }
        }
        until(disturbance, || watches() > seen).await;
        println!("{disturbance}: {} lists", lists() - before);
        assert!(lists() - before <= 3, "{disturbance}");
        assert_eq!(session.value("select 1").await.unwrap(), "1", "{disturbance}");
    }
    world.cluster().begin_deleting(1);
    assert_eq!(farewell(&mut session).await, "57P01");
}

/// `kind delete cluster && kind create cluster`: another address, another CA, other pods, under the same names.
#[tokio::test]
async fn a_kubeconfig_that_is_replaced_leaves_running_sessions_alone() {
    let (world, other) = (World::new().await, World::new().await);
    Cluster::new(&world.api, ("prod", "old"), &world.password, &[world.server.address()]);
    let mut pgferry = world.pgferry().await;
    let mut running = pgferry.connect("pgferry", "shop").await.unwrap();
    pgferry.connect("pgferry", "old").await.unwrap();
    let file = world.api.directory().join("kubeconfig");
    let (first, second) = (fs::read(&file).unwrap(), fs::read(other.api.kubeconfig()).unwrap());
    // By rename, as careful programs do, there and back.
    for (text, server) in [(&second, &other.server), (&first, &world.server)] {
        let beside = world.api.directory().join("kubeconfig.new");
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, &file).unwrap();
        let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
        assert_eq!(port(&mut wire).await, port_of(server));
    }
    // Truncated and written, as kubectl does. Whoever connects in between is served when it is whole.
    fs::write(&file, &second[..second.len() / 2]).unwrap();
    let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
    wire.send(&startup(3, 0, &[("user", "app"), ("database", "shop")])).await.unwrap();
    pgferry.says("it may still be being written").await;
    fs::write(&file, &second).unwrap();
    wire.until_ready().await.unwrap();
    assert_eq!(port(&mut wire).await, port_of(&other.server));
    assert_eq!(pgferry.refusal("pgferry", "old").await.code, "3D000", "what the old one's watch says is forgotten");
    // What is never finished is told, and where; not with the words that stand there, which may be a token.
    let cut = String::from_utf8_lossy(&first).find(world.api.token()).unwrap() + world.api.token().len();
    fs::write(&file, &first[..cut]).unwrap();
    let refusal = refused_at_once(&pgferry).await;
    assert!(refusal.code == "08001" && refusal.hint.contains("kubectl config view"), "{refusal:?}");
    assert!(refusal.message.contains("no valid kubeconfig (line 1, column "), "{refusal:?}");
    assert_eq!(secrets::leaked(&format!("{refusal:?}")), None);
    fs::write(&file, &first).unwrap();
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    assert_eq!(port(&mut wire).await, port_of(&world.server));
    assert_eq!(port(&mut running).await, port_of(&world.server), "it has lived through all of it");
    assert!(!pgferry.output().contains("failover"), "{}", pgferry.output());
}

/// The design's 25 and 90 seconds in small: as much shorter as a machine can be late and still not be taken for a dead link.
const LIVELY: &str = "[kubernetes]\nping_after = \"500ms\"\ndead_after = \"6s\"\n";

/// Container runtimes end streams that are silent for four hours, whatever pings pass.
#[tokio::test]
async fn a_quiet_session_outlives_the_container_runtimes_limit() {
    let world = World::new().await;
    world.api.end_silent_streams(Duration::from_secs(5));
    let (_relay, forgetful) = world.relayed(LIVELY).await;
    let mut pinged = forgetful.connect("pgferry", "shop").await.unwrap();
    let (_relay, mindful) = world.relayed(&format!("{LIVELY}remind_after = \"500ms\"\n")).await;
    let mut reminded = mindful.connect("pgferry", "shop").await.unwrap();
    assert_eq!(pinged.next().await.unwrap().unwrap().fields().code, "08006", "the limit is what it seems");
    let outlived = async {
        // Three times the limit.
        world.api.reminders(30).await;
        assert_eq!(reminded.value("select 1").await.unwrap(), "1");
    };
    timeout(PATIENCE, outlived).await.expect("reminders");
}

/// A link that swallows everything is found while the session is idle and while its query runs; the default is 90 s.
#[tokio::test]
async fn a_blackholed_link_is_found() {
    let world = World::new().await;
    let (relay, pgferry) = world.relayed(LIVELY).await;
    let mut idle = pgferry.connect("pgferry", "shop").await.unwrap();
    let mut busy = pgferry.connect("pgferry", "shop").await.unwrap();
    busy.message(b'Q', b"select pg_sleep(600)\0").await.unwrap();
    relay.harm(Harm::Blackhole);
    let started = Instant::now();
    for (what, wire) in [("idle", &mut idle), ("busy", &mut busy)] {
        let told = timeout(PATIENCE, wire.until_ready()).await.expect("it is found").unwrap_err();
        println!("{what}: {} after {:.1?}", told.message, started.elapsed());
        assert!(told.code == "08006" && told.message.contains("nothing was heard for"), "{told:?}");
    }
    // Six seconds here; the half of the default.
    assert!(started.elapsed() < Duration::from_secs(45), "{:?}", started.elapsed());
}

/// More than all buffers hold, and a server that takes none of it for longer than a silent link is given: nothing can
/// answer a ping meanwhile, since nobody reads as far as that.
#[tokio::test]
async fn a_copy_that_waits_for_a_lock_survives() {
    const LINES: usize = 1024;
    let world = World::new().await;
    let (_relay, pgferry) = world.relayed(LIVELY).await;
    let mut owner = pgferry.connect("pgferry", "shop").await.unwrap();
    owner.query("create unlogged table heap (line text)").await.unwrap();
    owner.query("begin; lock table heap").await.unwrap();
    let mut copy = pgferry.connect("pgferry", "shop").await.unwrap();
    let copied = async {
        copy.message(b'Q', b"copy heap from stdin\0").await.unwrap();
        let line = message(b'd', &[&vec![b'x'; 65_535][..], b"\n"].concat());
        for _ in 0..LINES {
            copy.send(&line).await.unwrap();
        }
        copy.message(b'c', b"").await.unwrap();
        copy.until_ready().await
    };
    let release = async {
        owner.query("select pg_sleep(13)").await.unwrap();
        owner.query("commit").await.unwrap();
    };
    let (copied, ()) = tokio::join!(copied, release);
    copied.unwrap();
    assert_eq!(owner.value("select count(*) from heap").await.unwrap(), LINES.to_string());
}

/// psql in a pager: the client takes nothing for hours. The container runtime ended the stream, which it takes for
/// silent, since nobody reminded it any more.
#[tokio::test]
async fn a_session_whose_client_reads_nothing_outlives_the_container_runtimes_limit() {
    /// More than the client's socket takes, less than all the sockets on the way do: the node stays free to listen.
    const MIB: usize = 6;
    let world = World::new().await;
    world.api.end_silent_streams(Duration::from_secs(4));
    let (_relay, pgferry) = world.relayed(&format!("{LIVELY}remind_after = \"500ms\"\n")).await;
    let mut pager = pgferry.connect("pgferry", "shop").await.unwrap();
    let pid = pager.key.as_ref().unwrap().0;
    let query = format!("select repeat('x', 1048576) from generate_series(1, {MIB})\0");
    pager.message(b'Q', query.as_bytes()).await.unwrap();
    let mut watcher = world.directly().await;
    until_true(&mut watcher, &format!("select state = 'idle' and query <> '' from pg_stat_activity where pid = {pid}"))
        .await;
    timeout(Duration::from_secs(30), world.api.reminders(16)).await.expect("reminders");
    let rows = pager.until_ready().await.unwrap().iter().filter(|message| message.tag == 'D').count();
    assert_eq!(rows, MIB, "nothing is lost");
}
