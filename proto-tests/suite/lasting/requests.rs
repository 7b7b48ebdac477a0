//! What a connection costs Kubernetes, and sessions side by side.

use std::{sync::Arc, time::Duration};

use proto_tests::{
    kubernetes::Fault,
    systems::{Crunchy, Elastisys, KubeDb, StackGres, StatefulSet, System, Zalando, ZalandoConfigMaps},
};
use tokio::time::{Instant, timeout};

use crate::{
    support::{PATIENCE, World, serve, until, until_true},
    systems::every::Stage,
};

/// An API server that is busy for a moment, a node that fails one upgrade, a connection that is cut: none of them is
/// the client's business.
#[tokio::test]
async fn passing_faults_are_not_passed_on() {
    let world = World::new().await;
    let unavailable =
        || Fault::Status(500, "{\"kind\": \"Status\", \"status\": \"Failure\", \"code\": 500}".to_owned());
    for (verb, resource, fault) in [
        ("get", "clusters", Fault::RetryAfter(429, 1)),
        ("get", "clusters", Fault::Throttled(1)),
        ("get", "pods/portforward", Fault::Throttled(1)),
        ("get", "secrets", Fault::RetryAfter(503, 1)),
        ("get", "pods/portforward", Fault::RetryAfter(429, 1)),
        ("get", "pods/portforward", unavailable()),
    ] {
        let pgferry = world.pgferry().await;
        let asked = if let Fault::RetryAfter(_, seconds) | Fault::Throttled(seconds) = &fault { *seconds } else { 0 };
        world.api.fault(verb, resource, 1, fault);
        let started = Instant::now();
        pgferry.connect("pgferry", "shop.prod").await.unwrap_or_else(|error| panic!("{verb} {resource}: {error:?}"));
        assert!(started.elapsed() >= Duration::from_secs(asked.into()), "{verb} {resource}: asked too early");
    }
}

#[tokio::test]
async fn the_second_connection_costs_one_upgrade_and_one_secret() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    pgferry.connect("pgferry", "shop").await.unwrap();
    // The watch that the first one began has listed.
    until("a watch", || world.api.count("watch", "pods") > 0 && world.api.count("watch", "clusters") > 0).await;
    world.api.forget_requests();
    pgferry.connect("pgferry", "shop").await.unwrap();
    let requests = world.api.requests();
    let count =
        |verb: &str, resource: &str| requests.iter().filter(|r| r.verb == verb && r.resource == resource).count();
    assert_eq!(count("get", "pods/portforward"), 1, "{requests:#?}");
    assert!(count("get", "secrets") <= 1, "{requests:#?}");
    assert_eq!(requests.len(), 1 + count("get", "secrets"), "{requests:#?}");
}

/// Whoever keeps the leader, what is watched is not read again.
#[tokio::test]
async fn the_second_connection_to_any_operators_cluster_costs_the_same() {
    let systems: [(Box<dyn System>, &[&str]); 5] = [
        (Box::new(Zalando), &["pods", "postgresqls", "endpoints"]),
        (Box::new(ZalandoConfigMaps), &["pods", "postgresqls", "configmaps"]),
        (Box::new(Crunchy), &["pods", "postgresclusters", "endpoints"]),
        (Box::new(StackGres), &["pods", "sgclusters", "endpoints"]),
        (Box::new(KubeDb), &["pods", "postgreses"]),
    ];
    for (system, watched) in systems {
        let stage = Stage::new(&*system).await;
        let pgferry = stage.pgferry("").await;
        pgferry.connect("pgferry", "shop.prod").await.unwrap();
        until("a watch", || watched.iter().all(|resource| stage.api.count("watch", resource) > 0)).await;
        stage.api.forget_requests();
        pgferry.connect("pgferry", "shop.prod").await.unwrap();
        let requests = stage.api.requests();
        let spent: Vec<&str> = requests.iter().map(|request| request.resource.as_str()).collect();
        let upgrades = spent.iter().filter(|resource| **resource == "pods/portforward").count();
        assert_eq!(upgrades, 1, "{}: {spent:?}", system.title());
        assert!(
            spent.len() <= 2 && spent.iter().all(|spent| ["pods/portforward", "secrets"].contains(spent)),
            "{spent:?}"
        );
    }
}

/// Without an operator there is nothing to watch but the pod: the second connection reads the cluster's own objects,
/// and asks no other system.
#[tokio::test]
async fn the_second_connection_without_an_operator_asks_nobody_else() {
    for (system, most) in [(Box::new(Elastisys) as Box<dyn System>, 8), (Box::new(StatefulSet), 10)] {
        let stage = Stage::new(&*system).await;
        let pgferry = stage.pgferry("").await;
        drop(pgferry.connect("pgferry", "shop.prod").await.unwrap());
        stage.api.forget_requests();
        pgferry.connect("pgferry", "shop.prod").await.unwrap();
        let requests = stage.api.requests();
        let spent: Vec<&str> = requests.iter().map(|request| request.resource.as_str()).collect();
        assert!(spent.len() <= most, "{}: {spent:?}", system.title());
        assert!(!spent.contains(&"deployments"), "{spent:?}");
    }
}

/// With a spare session the next client that is like the last has one at once; nobody gets one that was used.
#[tokio::test]
async fn a_spare_session_is_given_away_once() {
    let world = World::new().await;
    let mut pgferry = serve(&world.api, "[sessions]\nspare = \"15s\"\n").await;
    let two = "select count(*) = 2 from pg_stat_activity where usename = 'app' and backend_type = 'client backend'";
    let mut first = pgferry.connect("app", "shop.prod").await.unwrap();
    first.query("set application_name = 'used'").await.unwrap();
    until_true(&mut first, two).await;
    let mut pids = vec![first.value("select pg_backend_pid()").await.unwrap()];
    let taken = async {
        while !pgferry.output().contains("logged in ahead is taken") {
            let mut wire = pgferry.connect("app", "shop.prod").await.unwrap();
            assert_eq!(wire.value("show application_name").await.unwrap(), "");
            let pid = wire.value("select pg_backend_pid()").await.unwrap();
            assert!(!pids.contains(&pid), "nobody gets a session that was used");
            pids.push(pid);
            wire.query("set application_name = 'used'").await.unwrap();
        }
    };
    timeout(PATIENCE, taken).await.expect("one that was ready");
    // Another database is another client's business.
    let mut other = pgferry.connect("app", "shop.prod/postgres").await.unwrap();
    assert_eq!(other.value("select current_database()").await.unwrap(), "postgres");
    drop((first, other));
    pgferry.signal(rustix::process::Signal::TERM);
    assert!(pgferry.ended().await.success(), "spare sessions hold up no drain");
    world.api.tunnels(0).await;
}

/// A spare session on the cluster that the context's name had meant was given to a client that came after the kubeconfig
/// was replaced: the names were the same.
#[tokio::test]
async fn a_spare_session_does_not_outlive_its_kubeconfig() {
    let (world, other) = (World::new().await, World::new().await);
    let pgferry = serve(&world.api, "[sessions]\nspare = \"15s\"\n").await;
    let mut first = pgferry.connect("app", "shop.prod").await.unwrap();
    let idle = "select count(*) = 1 from pg_stat_activity where usename = 'app' and state = 'idle' and query = ''";
    until_true(&mut first, idle).await;
    std::fs::copy(other.api.kubeconfig(), world.api.directory().join("kubeconfig")).unwrap();
    for _ in 0..3 {
        let mut wire = pgferry.connect("app", "shop.prod").await.unwrap();
        assert_eq!(wire.value("show port").await.unwrap(), other.server.address().port().to_string());
    }
}

#[tokio::test]
async fn two_hundred_sessions_at_once() {
    let world = World::with(|setup| setup.setting("max_connections", "400")).await;
    // What is asked is whether all are served, not how fast: each does two handshakes here, both ends of both.
    let pgferry = Arc::new(serve(&world.api, "[sessions]\nconnect_timeout = \"3m\"\n").await);
    let sessions = (0..200).map(|number: u32| {
        let pgferry = Arc::clone(&pgferry);
        tokio::spawn(async move {
            let mut wire = pgferry.connect("pgferry", "shop").await.expect("a session");
            assert_eq!(wire.value(&format!("select {number}")).await.unwrap(), number.to_string());
            wire
        })
    });
    let mut open = Vec::new();
    for session in sessions.collect::<Vec<_>>() {
        open.push(session.await.expect("no panic"));
    }
    assert_eq!(open.len(), 200);
    world.api.tunnels(200).await;
    drop(open);
    world.api.tunnels(0).await;
}

#[tokio::test]
async fn a_stalled_reader_holds_up_nobody() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    let mut stalled = pgferry.connect("pgferry", "shop").await.unwrap();
    stalled.message(b'Q', b"select repeat('x', 1000) from generate_series(1, 200000)\0").await.unwrap();
    for _ in 0..10 {
        let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
        assert_eq!(wire.value("select 1").await.unwrap(), "1");
    }
    let messages = stalled.until_ready().await.unwrap();
    assert_eq!(messages.iter().filter(|message| message.tag == 'D').count(), 200_000);
}
