//! What is answered at once, though no server of the kind that is asked for is ready.

use proto_tests::cnpg::Cluster;
use tokio::time::timeout;

use crate::support::{NO_WAIT, PATIENCE, World, serve};

/// Longer than a test runs: whoever waits for a server is caught by [`PATIENCE`].
const WAITS: &str = "[sessions]\nprimary_wait = \"1h\"\nconnect_timeout = \"1h\"\n";

/// `:ro` on a cluster of one instance was waited for for ten seconds, and most clients went before they heard why.
#[tokio::test]
async fn a_cluster_of_one_instance_says_at_once_that_it_has_no_replica() {
    let world = World::reading().await;
    let pgferry = serve(&world.api, WAITS).await;
    let port = pgferry.address().port();
    for (user, database, typed) in [
        ("pgferry", "shop:ro", format!("psql -h localhost -p {port} shop:any")),
        ("app@shop.prod:ro", "app", format!("psql -h localhost -p {port} -U app@shop.prod:any app")),
    ] {
        let refusal = timeout(PATIENCE, pgferry.refusal(user, database)).await.expect("at once");
        assert_eq!(
            (refusal.code.as_str(), refusal.message.as_str()),
            ("57P03", "cluster shop.prod has one instance, and no replica")
        );
        assert!(refusal.hint.contains(&typed), "{refusal:?}");
    }
}

#[tokio::test]
async fn replicas_that_are_declared_are_waited_for() {
    let world = World::reading().await;
    world.cluster().change(|cluster| cluster["spec"]["instances"] = 2.into());
    let mut pgferry = serve(&world.api, WAITS).await;
    let address = pgferry.address();
    let waiting = tokio::spawn(async move {
        let mut wire = proto_tests::wire::Wire::tcp(address).await.unwrap();
        wire.start(&[("user", "pgferry"), ("database", "shop:ro")]).await.map(|_| wire)
    });
    pgferry.says("waiting for a ready replica of shop.prod").await;
    assert!(!waiting.is_finished());
    waiting.abort();
}

/// A role that no Secret knows was waited for as long as a server, and then refused.
#[tokio::test]
async fn an_unknown_role_is_refused_though_no_server_is_ready() {
    let world = World::reading().await;
    world.cluster().set_ready(1, false);
    let pgferry = serve(&world.api, WAITS).await;
    for user in ["nobody-here@shop", "nobody-here@shop:any"] {
        let refusal = timeout(PATIENCE, pgferry.refusal(user, "app")).await.expect("at once");
        assert_eq!(refusal.code, "28000", "{refusal:?}");
        assert!(refusal.message.contains("no login for role \"nobody-here\""), "{refusal:?}");
    }
    // A role that has one waits, and gets its server.
    let mut pgferry = pgferry;
    let address = pgferry.address();
    let waiting = tokio::spawn(async move {
        let mut wire = proto_tests::wire::Wire::tcp(address).await.unwrap();
        wire.start(&[("user", "app@shop"), ("database", "app")]).await.map(drop)
    });
    pgferry.says("waiting for a ready primary of shop.prod").await;
    world.cluster().set_ready(1, true);
    assert_eq!(timeout(PATIENCE, waiting).await.unwrap().unwrap(), Ok(()));
}

#[tokio::test]
async fn one_instance_is_what_the_clusters_own_object_says() {
    let world = World::reading().await;
    let pair = Cluster::new(&world.api, ("prod", "pair"), &world.password, &[world.server.address(); 2]);
    let pgferry = serve(&world.api, NO_WAIT).await;
    pair.set_ready(2, false);
    let refusal = pgferry.refusal("pgferry", "pair:ro").await;
    assert_eq!(refusal.message, "cluster pair.prod has no ready replica");
}
