//! PostgreSQL that no operator looks after, as charts, manifests and people make it.

use proto_tests::{
    cnpg::secret,
    kubernetes::{Backend, FakeKubernetes},
    postgres::{PostgresServer, Setup},
    systems::{Bitnami, State, StatefulSet, System, aliased, draw, drawn},
};
use serde_json::json;

use crate::{
    support::{PATIENCE, list, serve},
    systems::every::servers,
    trust::stage::tunnels_to,
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

/// A StatefulSet that somebody has scaled to two: both servers take writes, and whoever connected was in the empty one.
#[tokio::test]
async fn of_two_writable_servers_neither_is_believed() {
    let state = State::new(&StatefulSet, "prod", 2);
    let api = FakeKubernetes::start().await;
    let mut servers = Vec::new();
    for number in 0..2 {
        let setup = Setup::new(17).application("app", &state.password, "shop");
        let server = PostgresServer::start(setup).await.unwrap();
        api.backend("prod", &StatefulSet.pod_name(&state, number), 5432, Backend::To(server.address()));
        servers.push(server);
    }
    draw(&api, &StatefulSet, &state);
    let pgferry = serve(&api, "[sessions]\nprimary_wait = \"1s\"\n").await;
    for _ in 0..3 {
        let refusal = pgferry.refusal("pgferry", "shop.prod").await;
        assert_eq!(refusal.code, "57P03", "{refusal:?}");
        assert!(refusal.message.contains("pod shop-0 and pod shop-1 of shop.prod"), "{refusal:?}");
        assert!(refusal.hint.contains("kubectl expose pod shop-0 -n prod"), "{refusal:?}");
    }
    // Whoever does not care is let in, and so is who does what the hint says.
    pgferry.connect("pgferry", "shop.prod:any").await.unwrap();
    let pod = json!({"app": "shop", "statefulset.kubernetes.io/pod-name": "shop-1"});
    api.change("pods", "prod", "shop-1", |object| object["metadata"]["labels"] = pod.clone());
    api.put(
        "services",
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "prod", "name": "shop-1"},
        "spec": {"selector": pod, "ports": [{"port": 5432}]}}),
    );
    let login = [("host", "shop-1"), ("port", "5432"), ("username", "app"), ("password", state.password.as_str())];
    api.put("secrets", secret("prod", "shop-1-login", &login));
    let mut wire = pgferry.connect("pgferry", "shop-1-login.prod/shop").await.unwrap();
    let port = wire.value("select inet_server_port()").await.unwrap();
    assert_eq!(port, servers[1].address().port().to_string());
    // With one of them gone the other is the primary, and a rival that answers nothing is none.
    api.backend("prod", "shop-0", 5432, Backend::Refuse);
    let mut wire = pgferry.connect("pgferry", "shop.prod").await.unwrap();
    assert_eq!(wire.value("select inet_server_port()").await.unwrap(), port);
}

/// Rivals are asked once in a while, not for each connection.
#[tokio::test]
async fn a_standby_is_asked_once_whether_it_takes_writes() {
    let state = State::new(&StatefulSet, "prod", 2);
    let servers = servers(&StatefulSet, &state).await;
    let api = FakeKubernetes::start().await;
    for (number, server) in servers.iter().enumerate() {
        api.backend("prod", &StatefulSet.pod_name(&state, number), 5432, Backend::To(server.address()));
    }
    draw(&api, &StatefulSet, &state);
    let pgferry = serve(&api, "").await;
    for _ in 0..4 {
        let mut wire = pgferry.connect("pgferry", "shop.prod").await.unwrap();
        assert_eq!(wire.value("select pg_is_in_recovery()").await.unwrap(), "f");
    }
    assert_eq!(tunnels_to(&api, "shop-1"), 1);
    // A server that was made anew under its name is another.
    api.change("pods", "prod", "shop-1", |pod| pod["metadata"]["uid"] = json!("another"));
    let again = async {
        while tunnels_to(&api, "shop-1") < 2 {
            pgferry.connect("pgferry", "shop.prod").await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("it is asked again");
}
