//! It lasts: sleep, other networks, API servers that go and come back, kubeconfigs that are replaced.

use std::{fs, time::Duration};

use proto_tests::{
    cnpg::Cluster,
    kubernetes::proxies::Harm,
    postgres::PostgresServer,
    secrets,
    subject::Subject,
    wire::{Fields, Wire, startup},
};
use rustix::process::Signal;
use tokio::time::{Instant, timeout};

use crate::support::{World, plugin};

/// What a person takes for "at once".
const AT_ONCE: Duration = Duration::from_secs(2);

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
    while !state().contains(") T ") {
        tokio::task::yield_now().await;
    }
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
        println!("{what}: before {warm:.0?}, the first after it {first:.0?}, the second {second:.0?}");
        assert!(first < AT_ONCE && second < AT_ONCE, "{what}: {first:?}, {second:?}");
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
    let many = async {
        while relay.count() < before + 40 {
            tokio::task::yield_now().await;
        }
    };
    let away = Duration::from_secs(6);
    assert!(timeout(away, many).await.is_err(), "40 connections while it was away");
    println!("{} connections to an API server that was away for {away:?}", relay.count() - before);
    let _ = plugin(&world.api, &world.api.user("dave"), "2099-01-01T00:00:00Z");
    world.api.come_back().await;
    let first = first_query(&pgferry).await;
    println!("the first query after it came back: {first:.0?}");
    assert!(first < AT_ONCE, "{first:?}");
    assert_eq!(running.value("select 1").await.unwrap(), "1");
    // The watch is back too: it sees what happens to the server.
    world.cluster().begin_deleting(1);
    let goodbye = timeout(Duration::from_secs(20), running.next()).await.expect("in time").unwrap().unwrap();
    assert_eq!(goodbye.fields().code, "57P01");
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
