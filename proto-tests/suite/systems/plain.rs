//! PostgreSQL that no operator looks after, as charts, manifests and people make it.

use proto_tests::{
    kubernetes::{Backend, FakeKubernetes},
    postgres::PostgresServer,
    systems::{Bitnami, State, System, aliased, drawn},
};
use serde_json::json;

use crate::{
    support::{list, serve},
    systems::every::servers,
};

/// The chart `postgresql` under the alias `orders`, and its servers.
async fn umbrella() -> (FakeKubernetes, Vec<PostgresServer>) {
    let state = State::new(&Bitnami, "prod", 2);
    let servers = servers(&Bitnami, &state).await;
    let api = FakeKubernetes::start().await;
    for (plural, object) in drawn(&Bitnami, &state) {
        api.put(plural, aliased(&object));
    }
    for (number, server) in servers.iter().enumerate() {
        let pod = Bitnami.pod_name(&state, number).replace("-postgresql", "-orders");
        api.backend("prod", &pod, Bitnami.port(), Backend::To(server.address()));
    }
    (api, servers)
}

/// Bitnami's chart under an alias of an umbrella chart was two StatefulSets. The replicas' was a cluster of its own, whose
/// database did not exist, and the application was called a superuser.
#[tokio::test]
async fn bitnamis_chart_under_an_alias_is_one_cluster() {
    let (api, servers) = umbrella().await;
    let listed = list(&api).await;
    assert_eq!(listed.len(), 1, "{listed:#?}");
    let row = &listed[0];
    assert_eq!((&row["name"], &row["system"]), (&json!("shop-orders"), &json!("bitnami")), "{row:#}");
    assert_eq!((&row["primary"], &row["databases"]), (&json!("shop-orders-primary-0"), &json!(["shop"])), "{row:#}");
    assert_eq!((&row["roles"], &row["replicas"]), (&json!(["app", "postgres"]), &json!({"ready": 1, "total": 1})));
    let pgferry = serve(&api, "").await;
    for (target, replica) in [("shop-orders.prod", "f"), ("shop-orders", "f"), ("shop", "f"), ("shop-orders:ro", "t")] {
        let mut wire = pgferry.connect("pgferry", target).await.unwrap();
        let who = wire.value("select current_user || ' ' || current_database()").await.unwrap();
        assert_eq!(who, "app shop", "{target}");
        assert_eq!(wire.value("select pg_is_in_recovery()").await.unwrap(), replica, "{target}");
        assert!(wire.notices.iter().all(|notice| !notice.message.contains("superuser")), "{:?}", wire.notices);
    }
    drop(servers);
}
