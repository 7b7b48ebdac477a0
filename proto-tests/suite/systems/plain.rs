//! PostgreSQL that no operator looks after, as charts, manifests and people make it.

use proto_tests::{
    cnpg::secret,
    kubernetes::{Backend, FakeKubernetes},
    postgres::{PostgresServer, Setup},
    subject::Start,
    systems::{Bitnami, Deployment, State, StatefulSet, System, aliased, draw, drawn},
};
use serde_json::json;

use crate::{
    support::{BINARY, PATIENCE, list, serve, tunnels_to},
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

/// Secrets that lead to a listed workload were left out of the list, and with them the names to type; a Deployment had no
/// primary, and a Service that is only a name no endpoints, though it led somewhere.
#[tokio::test]
async fn a_list_shows_what_can_be_typed() {
    let state = State::new(&Deployment, "prod", 1);
    let setup = Setup::new(17).application("app", &state.password, "app").application("web", "web-password", "web");
    let server = PostgresServer::start(setup).await.unwrap();
    let api = FakeKubernetes::start().await;
    draw(&api, &Deployment, &state);
    let pod = Deployment.pod_name(&state, 0);
    api.backend("prod", &pod, 5432, Backend::To(server.address()));
    let service = |name: &str, spec: serde_json::Value| {
        let metadata = json!({"namespace": "prod", "name": name});
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    };
    api.put("services", service("shop", json!({"selector": {"app": "shop"}, "ports": [{"port": 5432}]})));
    for (name, host) in [("far", "shop.prod.svc.cluster.local"), ("cloud", "db.example.com")] {
        api.put("services", service(name, json!({"type": "ExternalName", "externalName": host})));
    }
    let login = |place: (&str, &str), host: &str| {
        let pairs = [("PGHOST", host), ("PGUSER", "web"), ("PGPASSWORD", "web-password"), ("PGDATABASE", "web")];
        api.put("secrets", secret(place.0, place.1, &pairs));
    };
    for place in [("prod", "web-db"), ("team", "web-db")] {
        login(place, "shop.prod.svc");
    }
    login(("prod", "by-name"), "far");
    login(("prod", "in-the-cloud"), "cloud");
    let shown = |row: &serde_json::Value| {
        let text = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        format!("{} {} {}", text("name"), text("primary"), text("status"))
    };
    let listed = list(&api).await;
    assert_eq!(
        listed.iter().map(shown).collect::<Vec<_>>(),
        [
            "by-name - ExternalName, not followed".to_owned(),
            "in-the-cloud - ExternalName, not followed".to_owned(),
            format!("shop {pod} ready"),
        ]
    );
    let logins = json!([{"name": "web-db", "role": "web"}, {"name": "web-db.team", "role": "web"}]);
    assert_eq!(listed[2]["logins"], logins, "{listed:#?}");
    let pgferry = serve(&api, "").await;
    for name in ["web-db.prod", "web-db.team"] {
        let mut wire = pgferry.connect("pgferry", name).await.unwrap();
        assert_eq!(wire.value("select current_user").await.unwrap(), "web", "{name}");
    }
    // Followed, one leads to the workload as well, and the other outside.
    let file = api.write("list.toml", "[kubernetes]\nexternal_names = [\"far.prod\", \"cloud.prod\"]\n");
    let start = Start::new(BINARY).args(["list", "--output", "json", "--kubeconfig"]).arg(api.kubeconfig());
    let (code, out, err) = start.arg("--config").arg(file).run().await;
    assert_eq!(code, 0, "{err}");
    let all: serde_json::Value = serde_json::from_str(&out).unwrap();
    let rows: Vec<String> = all["clusters"].as_array().unwrap().iter().map(shown).collect();
    // Whether an EndpointSlice exists says where the first leads; there is none here.
    assert_eq!(
        rows,
        [
            "by-name - no endpoints".to_owned(),
            "in-the-cloud db.example.com external".to_owned(),
            format!("shop {pod} ready"),
        ]
    );
    let slice = json!({"metadata": {"namespace": "prod", "name": "shop-x", "labels": {"kubernetes.io/service-name": "shop"}},
        "endpoints": [{"conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": pod, "namespace": "prod"}}]});
    api.put("endpointslices", slice);
    let file = api.write("list.toml", "[kubernetes]\nexternal_names = [\"far.prod\"]\n");
    let start = Start::new(BINARY).args(["list", "--output", "json", "--kubeconfig"]).arg(api.kubeconfig());
    let (_, out, _) = start.arg("--config").arg(file).run().await;
    let all: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(all["clusters"][1]["logins"][0], json!({"name": "by-name", "role": "web"}), "{all:#}");
}
