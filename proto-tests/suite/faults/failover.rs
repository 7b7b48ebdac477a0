//! Sessions whose server is lost.

use std::fs;

use proto_tests::{
    cnpg::{Cluster, encoded},
    kubernetes::certificates::Authority,
    postgres::PostgresServer,
};
use serde_json::json;

use crate::support::{World, farewell, serve};

fn pair(world: &mut World) -> (PostgresServer, Cluster<'_>) {
    let replica = PostgresServer::replica_of(world.own()).unwrap();
    let servers = [world.server.address(), replica.address()];
    let cluster = Cluster::new(&world.api, ("prod", "pair"), &world.password, &servers);
    (replica, cluster)
}

/// What an idle session hears at its end.
#[tokio::test]
async fn idle_sessions_end_when_the_primary_is_deleted_or_moves() {
    let mut world = World::new().await;
    let (replica, cluster) = pair(&mut world);
    let pgferry = cluster_pgferry(&cluster).await;
    let mut idle = pgferry.connect("pgferry", "pair").await.unwrap();
    let mut reader = pgferry.connect("pgferry", "pair:ro").await.unwrap();
    replica.promote();
    cluster.promote(2);
    assert_eq!(farewell(&mut idle).await, "57P01");
    let mut wire = pgferry.connect("pgferry", "pair").await.unwrap();
    assert_eq!(wire.value("select pg_is_in_recovery()").await.unwrap(), "f");
    assert_eq!(reader.value("select 1").await.unwrap(), "1", "a reader keeps a server that answers");
    cluster.begin_deleting(2);
    assert_eq!(farewell(&mut wire).await, "57P01");
    assert_eq!(farewell(&mut reader).await, "57P01");
}

async fn cluster_pgferry(cluster: &Cluster<'_>) -> proto_tests::subject::Subject {
    proto_tests::subject::Start::new(crate::support::BINARY).serve(&cluster.api.kubeconfig()).await
}

#[tokio::test]
async fn a_transaction_is_kept_until_it_ends() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    let mut idle = pgferry.connect("pgferry", "shop").await.unwrap();
    wire.query("begin").await.unwrap();
    world.cluster().begin_deleting(1);
    assert_eq!(farewell(&mut idle).await, "57P01");
    assert_eq!(wire.value("select 1").await.unwrap(), "1");
    wire.query("commit").await.unwrap();
    assert_eq!(farewell(&mut wire).await, "57P01");
}

#[tokio::test]
async fn a_busy_session_has_until_the_grace_is_over() {
    let world = World::new().await;
    let pgferry = serve(&world.api, "[sessions]\nfailover_grace = \"1s\"\n").await;
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    wire.query("begin").await.unwrap();
    world.cluster().begin_deleting(1);
    assert_eq!(farewell(&mut wire).await, "57P01");
}

/// A label that flaps, a lookup that fails, an API server that restarts: none of them ends a session.
#[tokio::test]
async fn what_ends_no_session() {
    let mut world = World::new().await;
    let (_replica, cluster) = pair(&mut world);
    let mut pgferry = cluster_pgferry(&cluster).await;
    let mut wire = pgferry.connect("pgferry", "pair").await.unwrap();
    let label = |role: &str| {
        cluster
            .api
            .change("pods", "prod", "pair-1", |pod| pod["metadata"]["labels"]["cnpg.io/instanceRole"] = json!(role));
    };
    label("replica");
    label("primary");
    for _ in 0..50 {
        cluster.change(|cluster| cluster["status"]["targetPrimary"] = json!("pending"));
        cluster.change(|cluster| cluster["status"]["targetPrimary"] = json!("pair-1"));
    }
    cluster.set_ready(1, false);
    cluster.set_ready(1, true);
    assert_eq!(wire.value("select 1").await.unwrap(), "1");
    cluster.api.go_down().await;
    cluster.api.come_back().await;
    // The tunnel itself went through the API server, so this session is lost, and says so.
    assert_eq!(wire.value("select 1").await.unwrap_err().code, "08006");
    let mut wire = pgferry.connect("pgferry", "pair").await.unwrap();
    assert_eq!(wire.value("select 1").await.unwrap(), "1");
    pgferry.says("session ended").await;
}

#[tokio::test]
async fn a_lost_tunnel_is_an_error_at_a_boundary_and_a_reset_inside_a_message() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    world.api.cut_tunnels("prod", "shop-1");
    let message = wire.next().await.unwrap().unwrap();
    assert_eq!((message.tag, message.fields().code.as_str()), ('E', "08006"));
    assert!(message.fields().message.contains("tunnel to pod shop-1 was lost"), "{:?}", message.fields());
    assert_eq!(wire.next().await.unwrap(), None);

    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    // One message of 40 MB that the client does not read to its end before the tunnel breaks.
    wire.message(b'Q', b"select repeat('x', 40000000)\0").await.unwrap();
    assert_eq!(wire.next().await.unwrap().unwrap().tag, 'T');
    world.api.cut_tunnels("prod", "shop-1");
    let error = wire.rest().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_server_that_is_killed_is_reported() {
    let mut world = World::new().await;
    let pgferry = world.pgferry().await;
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    world.own().stop();
    assert_eq!(farewell(&mut wire).await, "57P01", "the server's own FATAL");
    world.own().run().unwrap();
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    assert_eq!(wire.value("select 1").await.unwrap(), "1");
}

/// Where `watch` is not allowed, every connection reads for itself, and a failover is seen all the same.
#[tokio::test]
async fn without_the_verb_watch() {
    let world = World::new().await;
    world.api.deny(None, "watch", "pods", None);
    world.api.deny(None, "watch", "clusters", None);
    let pgferry = world.pgferry().await;
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    pgferry.connect("pgferry", "shop").await.unwrap();
    world.cluster().begin_deleting(1);
    assert_eq!(farewell(&mut wire).await, "57P01");
}

/// A session that began after the kubeconfig was replaced joined the watch on the old cluster, which nobody could reach
/// and which therefore did not know yet that it was over: no failover ended that session.
#[tokio::test]
async fn a_session_after_a_replaced_kubeconfig_hears_of_its_own_cluster() {
    let world = World::new().await;
    let mut pgferry = world.pgferry().await;
    pgferry.connect("pgferry", "shop").await.unwrap();
    let other = World::new().await;
    world.api.go_down().await;
    pgferry.says("the watch is interrupted").await;
    fs::copy(other.api.kubeconfig(), world.api.directory().join("kubeconfig")).unwrap();
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    other.cluster().begin_deleting(1);
    assert_eq!(farewell(&mut wire).await, "57P01");
}

/// A CA that was added to the kubeconfig's, or `insecure-skip-tls-verify`, made it another cluster: sessions that were
/// open heard of no failover any more.
#[tokio::test]
async fn another_way_to_trust_the_same_cluster_ends_no_guard() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    let mut first = pgferry.connect("pgferry", "shop").await.unwrap();
    let both = format!("{}{}", world.api.authority().pem(), Authority::new("stranger").pem());
    for cluster in [
        json!({"certificate-authority-data": encoded(&both)}),
        json!({"certificate-authority-data": null, "insecure-skip-tls-verify": true}),
        json!({}),
    ] {
        let _ = world.api.kubeconfig_with("fake", None, json!({"token": world.api.token()}), cluster);
        pgferry.connect("pgferry", "shop").await.unwrap();
    }
    world.cluster().begin_deleting(1);
    assert_eq!(farewell(&mut first).await, "57P01");
}
