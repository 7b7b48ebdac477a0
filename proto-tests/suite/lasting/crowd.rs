//! Many clients that wait for the same server: what they ask of the API server does not grow with their number, and what
//! it answers meanwhile does not end their wait.

use std::{sync::Arc, time::Duration};

use proto_tests::{
    kubernetes::{Backend, Fault},
    subject::Subject,
    systems::{CloudNativePg, Elastisys, StatefulSet, System},
    wire::{Fields, Wire},
};
use serde_json::json;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{
    support::{PATIENCE, until},
    systems::every::Stage,
};

/// Of a connection pool.
const CLIENTS: usize = 50;
/// Between two looks at a cluster, and between two tries of a server, however many wait for it.
const PACE: Duration = Duration::from_millis(250);

type Waiting = Vec<JoinHandle<Result<Wire, Fields>>>;

async fn pgferry(stage: &Stage<'_>) -> Arc<Subject> {
    // Where nothing may be watched, each look is a request. Nobody is to give up on a machine that is busy.
    for resource in ["pods", "clusters", "endpointslices"] {
        stage.api.deny(None, "watch", resource, None);
    }
    let settings = "[sessions]\nprimary_wait = \"10m\"\nconnect_timeout = \"11m\"\nmax_startups = 1000\n";
    Arc::new(crate::support::serve(&stage.api, settings).await)
}

/// Clients that wait for a server, and have been told so.
async fn clients(pgferry: &Arc<Subject>, count: usize) -> Waiting {
    let told = |pgferry: &Subject| pgferry.output().matches("waiting for a ready").count();
    let before = told(pgferry);
    let connect = |_| {
        let pgferry = Arc::clone(pgferry);
        tokio::spawn(async move { pgferry.connect("pgferry", "shop.prod").await })
    };
    let waiting: Waiting = (0..count).map(connect).collect();
    until("they all wait", || told(pgferry) >= before + count).await;
    waiting
}

async fn are_served(waiting: Waiting) {
    for client in waiting {
        let client = timeout(PATIENCE, client).await.expect("in time").expect("no panic");
        assert_eq!(client.unwrap().value("select 1").await.unwrap(), "1");
    }
}

fn set_ready(stage: &Stage<'_>, is_ready: bool) {
    let namespace = stage.system.server_namespace(&stage.state);
    for number in 0..stage.state.servers {
        let pod = stage.system.pod_name(&stage.state, number);
        stage.api.change("pods", &namespace, &pod, |pod| {
            pod["status"]["conditions"][0]["status"] = json!(if is_ready { "True" } else { "False" });
        });
    }
}

fn set_reachable(stage: &Stage<'_>, is_reachable: bool) {
    let namespace = stage.system.server_namespace(&stage.state);
    for (number, server) in stage.servers.iter().enumerate() {
        let backend = if is_reachable { Backend::To(server.address()) } else { Backend::Refuse };
        let pod = stage.system.pod_name(&stage.state, number);
        stage.api.backend(&namespace, &pod, stage.system.port(), backend);
    }
}

/// What is asked in the time of ten looks, and how many looks that time has room for.
async fn ten_looks(stage: &Stage<'_>, looks: (&str, &str)) -> (usize, u128) {
    stage.api.forget_requests();
    let started = Instant::now();
    until("ten looks", || stage.api.asked(looks.0, looks.1) >= 10).await;
    let asked = stage.api.paths().len();
    (asked, started.elapsed().as_millis() / PACE.as_millis() + 1)
}

/// Fifty clients that waited for one primary read its cluster each for itself: 800 requests a second.
#[tokio::test]
async fn a_crowd_that_waits_for_a_primary_asks_what_one_client_asks() {
    let systems: [&dyn System; 3] = [&CloudNativePg, &StatefulSet, &Elastisys];
    for system in systems {
        let look = ("list", "pods");
        let stage = Stage::new(system).await;
        let pgferry = pgferry(&stage).await;
        drop(pgferry.connect("pgferry", "shop.prod").await.unwrap());
        set_ready(&stage, false);
        let mut waiting = clients(&pgferry, 1).await;
        let (alone, room) = ten_looks(&stage, look).await;
        println!("{}: {alone} requests by one client, room for {room} looks", system.title());
        let each = alone.div_ceil(10);
        waiting.extend(clients(&pgferry, CLIENTS - 1).await);
        let (asked, room) = ten_looks(&stage, look).await;
        println!("{}: {asked} requests by {CLIENTS} clients, room for {room} looks", system.title());
        assert!(asked as u128 <= room * (each as u128 + 1), "{}: {asked} requests, {each} a look", system.title());
        set_ready(&stage, true);
        are_served(waiting).await;
    }
}

/// Where the API server knew of nothing, each client looked again and opened a stream to the dead server four times a
/// second.
#[tokio::test]
async fn a_crowd_before_a_server_that_does_not_serve_tries_it_as_one_client_does() {
    let stage = Stage::new(&CloudNativePg).await;
    let pgferry = pgferry(&stage).await;
    set_reachable(&stage, false);
    let waiting = clients(&pgferry, CLIENTS).await;
    let (asked, room) = ten_looks(&stage, ("get", "clusters")).await;
    println!("{asked} requests by {CLIENTS} clients, room for {room} looks");
    // A look is three requests, a try the Secret, the stream, and what makes up for the connection that this took.
    assert!(asked as u128 <= room * 8, "{asked} requests");
    set_reachable(&stage, true);
    are_served(waiting).await;
}

/// An API server that failed one look, as it does in the moment of a failover, sent away who had time to wait.
#[tokio::test]
async fn a_look_that_fails_ends_no_wait() {
    for (what, set) in [("no primary", set_ready as fn(&Stage<'_>, bool)), ("no server", set_reachable)] {
        let stage = Stage::new(&CloudNativePg).await;
        let pgferry = pgferry(&stage).await;
        drop(pgferry.connect("pgferry", "shop.prod").await.unwrap());
        set(&stage, false);
        let waiting = clients(&pgferry, 3).await;
        let internal = json!({"kind": "Status", "status": "Failure", "message": "etcd", "code": 500}).to_string();
        for fault in [Fault::Status(500, internal), Fault::Throttled(1), Fault::Cut] {
            stage.api.forget_requests();
            stage.api.fault("list", "pods", 3, fault.clone());
            until("it is met", || stage.api.asked("list", "pods") >= 4).await;
            assert!(waiting.iter().all(|client| !client.is_finished()), "{what}: {fault:?}");
        }
        set(&stage, true);
        are_served(waiting).await;
    }
}

/// An API server that asked for eight seconds was asked again within one or two.
#[tokio::test]
async fn nobody_asks_before_the_time_that_the_api_server_told() {
    let stage = Stage::new(&StatefulSet).await;
    let pgferry = pgferry(&stage).await;
    drop(pgferry.connect("pgferry", "shop.prod").await.unwrap());
    set_ready(&stage, false);
    let waiting = clients(&pgferry, 10).await;
    stage.api.forget_requests();
    // Not from when it is seen: that may be late.
    let started = Instant::now();
    stage.api.fault("list", "pods", usize::MAX, Fault::Throttled(8));
    until("it is met", || stage.api.asked("list", "pods") > 0).await;
    stage.api.heal();
    until("it is asked again", || stage.api.asked("list", "pods") > 1).await;
    assert!(started.elapsed() >= Duration::from_secs(8), "after {:?}", started.elapsed());
    set_ready(&stage, true);
    are_served(waiting).await;
}
