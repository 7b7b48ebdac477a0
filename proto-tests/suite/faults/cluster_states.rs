//! Clusters that do not serve, on purpose or for a moment, and what their clients read.

use proto_tests::{
    cnpg::{Cluster, pod_object},
    kubernetes::Backend,
    wire::Wire,
};
use serde_json::json;

use crate::support::{NO_WAIT, PATIENCE, World, refused, serve, until};

/// Not waiting for a primary, so that errors come at once.
async fn impatient(world: &World) -> proto_tests::subject::Subject {
    serve(&world.api, NO_WAIT).await
}

/// Waiting for a primary as long as it takes.
async fn patient(world: &World) -> proto_tests::subject::Subject {
    let config = "[sessions]\nprimary_wait = \"5m\"\nconnect_timeout = \"5m\"\n";
    serve(&world.api, config).await
}

/// The refusal that a change brings, once the watch has heard of it.
async fn refused_soon(pgferry: &proto_tests::subject::Subject, database: &str) -> proto_tests::wire::Fields {
    refused(pgferry, "pgferry", database).await
}

#[tokio::test]
async fn hibernated_and_fenced_clusters_say_so() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    world.cluster().annotate("cnpg.io/hibernation", "on");
    let refusal = pgferry.refusal("pgferry", "shop").await;
    assert_eq!((refusal.code.as_str(), refusal.message.as_str()), ("57P03", "cluster shop.prod is hibernated"));
    assert!(
        refusal.hint.contains("kubectl annotate") && refusal.hint.contains("cnpg.io/hibernation=off"),
        "{refusal:?}"
    );
    world.cluster().annotate("cnpg.io/hibernation", "off");
    for fence in ["[\"*\"]", "[\"shop-1\"]"] {
        world.cluster().annotate("cnpg.io/fencedInstances", fence);
        let refusal = pgferry.refusal("pgferry", "shop").await;
        assert_eq!(refusal.code, "57P03");
        assert!(refusal.message.contains("fenced") && refusal.hint.contains("fencedInstances-"), "{refusal:?}");
    }
}

#[tokio::test]
async fn a_missing_primary_is_waited_for() {
    let world = World::reading().await;
    let pgferry = patient(&world).await;
    world.cluster().set_ready(1, false);
    let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
    wire.send(&proto_tests::wire::startup(3, 0, &[("user", "app"), ("database", "shop")])).await.unwrap();
    // AuthenticationOk is held for two seconds; then it comes with the reason.
    assert_eq!(wire.next().await.unwrap().unwrap().tag, 'R');
    let notice = wire.next().await.unwrap().unwrap();
    assert_eq!(notice.tag, 'N');
    assert!(notice.fields().message.contains("waiting for a ready primary of shop.prod"), "{:?}", notice.fields());
    world.cluster().set_ready(1, true);
    wire.until_ready().await.unwrap();
    assert!(wire.notices.is_empty(), "it is said once: {:?}", wire.notices);
    assert_eq!(wire.value("select 1").await.unwrap(), "1");
}

#[tokio::test]
async fn no_ready_primary_comes_before_authentication_ok() {
    let world = World::reading().await;
    let pgferry = impatient(&world).await;
    world.cluster().set_ready(1, false);
    world.cluster().change(|cluster| cluster["status"]["phase"] = json!("Failing over"));
    let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
    wire.send(&proto_tests::wire::startup(3, 0, &[("user", "app"), ("database", "shop")])).await.unwrap();
    // libpq goes to its next host only if this is the first message.
    let first = wire.next().await.unwrap().unwrap();
    assert_eq!((first.tag, first.fields().code.as_str()), ('E', "57P03"));
    assert!(first.fields().detail.contains("Failing over"), "{:?}", first.fields());
    // All else comes behind it.
    let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
    wire.send(&proto_tests::wire::startup(3, 0, &[("user", "app"), ("database", "none")])).await.unwrap();
    assert_eq!(wire.next().await.unwrap().unwrap().tag, 'R');
    assert_eq!(wire.next().await.unwrap().unwrap().fields().code, "3D000");
}

#[tokio::test]
async fn while_the_role_is_handed_over_nobody_is_the_primary() {
    let world = World::reading().await;
    let pgferry = impatient(&world).await;
    world.cluster().change(|cluster| cluster["status"]["targetPrimary"] = json!("pending"));
    assert_eq!(pgferry.refusal("pgferry", "shop").await.code, "57P03");
    world.cluster().change(|cluster| cluster["status"]["targetPrimary"] = json!("shop-1"));
    pgferry.connect("pgferry", "shop").await.unwrap();
    world.cluster().begin_deleting(1);
    assert_eq!(refused_soon(&pgferry, "shop").await.code, "57P03");
}

/// Pooler pods and upgrade jobs carry the cluster's labels, the latter even the primary's.
#[tokio::test]
async fn poolers_and_jobs_are_never_chosen() {
    let world = World::reading().await;
    let pgferry = impatient(&world).await;
    let decoy = |name: &str, labels: serde_json::Value| {
        world.api.put("pods", pod_object("prod", name, &labels));
        world.api.backend("prod", name, 5432, Backend::Refuse);
    };
    decoy("shop-pooler-x", json!({"cnpg.io/cluster": "shop", "cnpg.io/podRole": "pooler", "cnpg.io/poolerName": "p"}));
    decoy("shop-1-major-upgrade", json!({"cnpg.io/cluster": "shop", "cnpg.io/instanceRole": "primary"}));
    for _ in 0..5 {
        pgferry.connect("pgferry", "shop").await.unwrap();
        pgferry.connect("pgferry", "shop:any").await.unwrap();
    }
    // Without the right to read the resource, labels are all there is.
    world.api.deny(None, "get", "clusters", None);
    world.api.deny(None, "list", "clusters", None);
    let pgferry = impatient(&world).await;
    pgferry.connect("pgferry", "shop.prod").await.unwrap();
}

#[tokio::test]
async fn replicas_are_for_reading_and_replica_clusters_say_so() {
    let mut world = World::new().await;
    let replica = proto_tests::postgres::PostgresServer::replica_of(world.own()).unwrap();
    let cluster =
        Cluster::new(&world.api, ("prod", "pair"), &world.password, &[world.server.address(), replica.address()]);
    let pgferry = impatient(&world).await;
    let mut wire = pgferry.connect("pgferry", "pair:ro").await.unwrap();
    assert_eq!(wire.value("select pg_is_in_recovery()").await.unwrap(), "t");
    let mut wire = pgferry.connect("pgferry", "pair").await.unwrap();
    assert_eq!(wire.value("select pg_is_in_recovery()").await.unwrap(), "f");
    let refusal = pgferry.refusal("pgferry", "shop:ro").await;
    assert!(refusal.code == "57P03" && refusal.message.contains("has one instance, and no replica"), "{refusal:?}");
    // A lie of the status: the standby is said to be the primary. A write must not reach it.
    cluster.change(|cluster| {
        cluster["status"]["currentPrimary"] = json!("pair-2");
        cluster["status"]["targetPrimary"] = json!("pair-2");
    });
    let refusal = refused_soon(&pgferry, "pair").await;
    assert!(refusal.code == "57P03" && refusal.message.contains("is a standby, not the primary"), "{refusal:?}");
    cluster.change(|cluster| cluster["spec"]["replica"] = json!({"enabled": true, "source": "x"}));
    let wire = pgferry.connect("pgferry", "pair").await.unwrap();
    assert!(wire.notices.iter().any(|notice| notice.message.contains("replica cluster")), "{:?}", wire.notices);
}

#[tokio::test]
async fn a_refused_port_is_named_and_tried_again() {
    let world = World::reading().await;
    world.api.backend("prod", "shop-1", 5432, Backend::Refuse);
    let pgferry = impatient(&world).await;
    let refusal = pgferry.refusal("pgferry", "shop").await;
    assert_eq!(refusal.code, "08001");
    assert!(refusal.message.contains("pod shop-1") && refusal.message.contains("refused"), "{refusal:?}");
    drop(pgferry);
    let pgferry = patient(&world).await;
    let connecting = pgferry.connect("pgferry", "shop");
    tokio::pin!(connecting);
    let before = world.api.count("get", "pods/portforward");
    let retried = until("it is tried again", || world.api.count("get", "pods/portforward") >= before + 2);
    tokio::select! {
        _ = &mut connecting => panic!("nothing listens"),
        () = retried => {}
    }
    world.api.backend("prod", "shop-1", 5432, Backend::To(world.server.address()));
    tokio::time::timeout(PATIENCE, connecting).await.expect("in time").unwrap();
}

#[tokio::test]
async fn a_pod_that_vanishes_between_lookup_and_dial_is_looked_up_again() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    let gone = json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "pods \"shop-1\" not found"});
    world.api.fault("get", "pods/portforward", 1, proto_tests::kubernetes::Fault::Status(404, gone.to_string()));
    pgferry.connect("pgferry", "shop").await.unwrap();
}
