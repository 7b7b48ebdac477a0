//! What no adapter knows: marks on a Service, a few lines of configuration, Secrets that lead anywhere, outside too. The
//! worked examples of `examples/unknown-operator` are run as they stand.

use std::{fs, path::Path};

use proto_tests::{
    cnpg::encoded,
    kubernetes::{Backend, FakeKubernetes},
    postgres::{Hba, PostgresServer, Setup},
    systems::bare_pod,
    wire::Wire,
};
use serde_json::{Value, json};

use crate::support::{NO_WAIT, list, serve};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/unknown-operator");

/// The example's password is no secret.
pub(crate) const PASSWORD: &str = "change-me";

pub(crate) struct Stage {
    pub(crate) api: FakeKubernetes,
    pub(crate) servers: [PostgresServer; 2],
}

/// Two servers in pods as the example's operator labels them.
pub(crate) async fn stage() -> Stage {
    let hba = "local all all trust\nhost replication all all trust\nhost all all all scram-sha-256\n";
    let setup = Setup { hba: Hba::Custom(hba.to_owned()), ..Setup::new(17).application("app", PASSWORD, "shop") };
    let mut primary = PostgresServer::start(setup).await.unwrap();
    let replica = PostgresServer::replica_of(&mut primary).unwrap();
    let api = FakeKubernetes::start().await;
    let servers = [primary, replica];
    for (number, (server, role)) in servers.iter().zip(["leader", "follower"]).enumerate() {
        let labels = json!({
            "acme.example.com/name": "shop", "acme.example.com/component": "server", "acme.example.com/role": role,
        });
        let name = format!("acme-{number}");
        api.put("pods", bare_pod("default", &name, &labels, 5999));
        api.backend("default", &name, 5999, Backend::To(server.address()));
    }
    Stage { api, servers }
}

pub(crate) async fn who(wire: &mut Wire) -> String {
    wire.value("select current_user || ' ' || current_database() || ' ' || pg_is_in_recovery()").await.unwrap()
}

pub(crate) fn secret(namespace: &str, name: &str, pairs: &[(&str, &[u8])]) -> Value {
    let data: serde_json::Map<String, Value> =
        pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(encoded(value)))).collect();
    json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {"namespace": namespace, "name": name}, "data": data})
}

#[tokio::test]
async fn the_example_with_marks_works_as_it_stands() {
    let stage = stage().await;
    let text = fs::read_to_string(Path::new(EXAMPLES).join("marked.json")).unwrap();
    let objects: Value = serde_json::from_str(&text).unwrap();
    for object in objects["items"].as_array().unwrap() {
        let mut object = object.clone();
        object["metadata"]["namespace"] = json!("default");
        // What the API server does with `stringData`.
        if let Some(Value::Object(texts)) = object.get("stringData").cloned() {
            object["data"] =
                texts.iter().map(|(key, value)| (key.clone(), json!(encoded(value.as_str().unwrap())))).collect();
        }
        object["metadata"].as_object_mut().unwrap().entry("labels").or_insert(json!({}));
        let plural = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
        stage.api.put(&plural, object);
    }
    let pgferry = serve(&stage.api, "").await;
    assert_eq!(who(&mut pgferry.connect("pgferry", "shop").await.unwrap()).await, "app shop false");
    assert_eq!(who(&mut pgferry.connect("app", "shop.default:ro").await.unwrap()).await, "app shop true");
    let listed = list(&stage.api).await;
    assert_eq!((&listed[0]["name"], &listed[0]["system"]), (&json!("shop"), &json!("service")), "{listed:#?}");
    drop(stage.servers);
}

#[tokio::test]
async fn the_example_with_configuration_works_as_it_stands() {
    let stage = stage().await;
    stage.api.serve_crd("acme.example.com", "v1", "databases");
    let object = json!({"apiVersion": "acme.example.com/v1", "kind": "Database", "metadata": {"namespace": "default", "name": "shop"}});
    stage.api.put("databases", object);
    stage.api.put("secrets", secret("default", "shop-login", &[("login", b"app"), ("secret", PASSWORD.as_bytes())]));
    let config = fs::read_to_string(Path::new(EXAMPLES).join("config.toml")).unwrap();
    let pgferry = serve(&stage.api, &config.replace("database = \"shop\"", "database = \"shop\"\nport = 5999")).await;
    assert_eq!(who(&mut pgferry.connect("pgferry", "shop").await.unwrap()).await, "app shop false");
    assert_eq!(who(&mut pgferry.connect("pgferry", "shop:ro").await.unwrap()).await, "app shop true");
    // Who may not read the resource has the labels.
    for verb in ["get", "list", "watch"] {
        stage.api.deny(None, verb, "databases", None);
    }
    assert_eq!(who(&mut pgferry.connect("app", "shop.default").await.unwrap()).await, "app shop false");
}

/// A Secret may add a login to a cluster that an operator runs.
#[tokio::test]
async fn a_marked_secret_adds_a_login_to_any_cluster() {
    let world = crate::support::World::with(|setup| setup.application("extra", PASSWORD, "extra")).await;
    let pgferry = world.pgferry().await;
    assert_eq!(pgferry.refusal("extra", "shop.prod").await.code, "28000");
    let pairs: [(&str, &[u8]); 3] = [("username", b"extra"), ("password", PASSWORD.as_bytes()), ("database", b"app")];
    let mut extra = secret("prod", "extra", &pairs);
    extra["metadata"]["labels"] = json!({"pgferry.dev/cluster": "shop"});
    world.api.put("secrets", extra);
    assert_eq!(who(&mut pgferry.connect("extra", "shop.prod").await.unwrap()).await, "extra app false");
    assert_eq!(who(&mut pgferry.connect("pgferry", "shop.prod").await.unwrap()).await, "app app false");
}

/// A StatefulSet, a marked Service that leads to it, and Secrets with its Service's host.
#[tokio::test]
async fn one_cluster_seen_three_ways_is_listed_once() {
    let stage = stage().await;
    let labels = json!({"acme.example.com/name": "shop"});
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"namespace": "default", "name": "acme"},
        "spec": {"replicas": 2, "serviceName": "acme", "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [{"image": "postgres:17",
                "env": [{"name": "POSTGRES_PASSWORD", "value": PASSWORD}]}]}}},
        "status": {"readyReplicas": 2}});
    stage.api.put("statefulsets", set);
    let service = |name: &str, marks: Value| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": name, "annotations": marks},
            "spec": {"selector": labels, "ports": [{"port": 5432, "targetPort": 5999}]}})
    };
    let slice = |service: &str| {
        json!({"metadata": {"namespace": "default", "name": format!("{service}-x"), "labels": {"kubernetes.io/service-name": service}},
            "endpoints": [{"conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": "acme-0", "namespace": "default"}}]})
    };
    for name in ["acme", "other"] {
        stage.api.put("services", service(name, json!({})));
        stage.api.put("endpointslices", slice(name));
        let pairs = [("PGHOST", name.as_bytes()), ("PGUSER", b"app"), ("PGPASSWORD", PASSWORD.as_bytes())];
        stage.api.put("secrets", secret("default", &format!("{name}-login"), &pairs));
    }
    let listed = list(&stage.api).await;
    assert_eq!(listed.len(), 1, "{listed:#?}");
    assert_eq!((&listed[0]["name"], &listed[0]["system"]), (&json!("acme"), &json!("statefulset")));
    // By name each of them works.
    let pgferry = serve(&stage.api, "").await;
    assert_eq!(who(&mut pgferry.connect("pgferry", "other-login/shop").await.unwrap()).await, "app shop false");
    // A mark gives it one more name. The workload keeps its own: whoever writes a Service takes none.
    stage
        .api
        .put("services", service("acme", json!({"pgferry.dev/cluster": "mine", "pgferry.dev/secret": "acme-login"})));
    stage.api.change("secrets", "default", "acme-login", |secret| {
        secret["metadata"]["annotations"] = json!({"pgferry.dev/cluster": "mine"});
    });
    let listed = list(&stage.api).await;
    assert_eq!(listed.len(), 1, "{listed:#?}");
    assert_eq!((&listed[0]["name"], &listed[0]["system"]), (&json!("acme"), &json!("statefulset")));
    // An annotation is enough, and a name is found by it.
    assert_eq!(who(&mut pgferry.connect("pgferry", "mine.default/shop").await.unwrap()).await, "app shop false");
}

#[tokio::test]
async fn a_server_outside_is_listed_and_dialled_only_where_that_is_allowed() {
    let stage = stage().await;
    let port = stage.servers[0].address().port().to_string();
    let url = format!("postgresql://app:{PASSWORD}@127.0.0.1:{port}/shop?sslmode=disable");
    stage.api.put("secrets", secret("default", "rds", &[("DATABASE_URL", url.as_bytes())]));
    let listed = list(&stage.api).await;
    assert_eq!((&listed[0]["status"], &listed[0]["primary"]), (&json!("external"), &json!("127.0.0.1")), "{listed:#?}");
    let closed = serve(&stage.api, "").await;
    let refusal = closed.refusal("pgferry", "rds").await;
    assert!(refusal.code == "42501" && refusal.hint.contains("kubernetes.external"), "{refusal:?}");
    let open = serve(&stage.api, "[kubernetes]\nexternal = true\n").await;
    let mut wire = open.connect("pgferry", "rds").await.unwrap();
    assert_eq!(who(&mut wire).await, "app shop false");
    assert_eq!(stage.api.count("get", "pods/portforward"), 0);
    // Without a word about TLS it is wanted: the way leads through the open.
    let url = format!("postgresql://app:{PASSWORD}@127.0.0.1:{port}/shop");
    stage.api.put("secrets", secret("default", "rds", &[("DATABASE_URL", url.as_bytes())]));
    let refusal = open.refusal("pgferry", "rds").await;
    assert!(refusal.code == "08001" && refusal.message.contains("does not support TLS"), "{refusal:?}");
}

/// Values that cannot be used: the error names the Secret and the key, and nothing is guessed.
#[tokio::test]
async fn unusable_secrets_name_their_keys() {
    let stage = stage().await;
    let pgferry = serve(&stage.api, NO_WAIT).await;
    let megabyte = vec![b'x'; 1 << 20];
    let good: [(&str, &[u8]); 3] =
        [("PGHOST", b"acme-primary"), ("PGUSER", b"app"), ("PGPASSWORD", PASSWORD.as_bytes())];
    let rows: [(&str, &[u8], &str); 8] = [
        ("PGPORT", b"many", "\"PGPORT\""),
        ("PGPORT", b"0", "\"PGPORT\""),
        ("PGUSER", b"\xff\xfe\x00", "\"PGUSER\""),
        ("PGHOST", b" \r\n", "\"PGHOST\""),
        ("PGHOST", &megabyte, "\"PGHOST\""),
        ("PGSSLMODE", b"maybe", "\"PGSSLMODE\""),
        ("PGUSER", b"two\nlines", "\"PGUSER\""),
        ("PGHOST", b"nowhere", "Service nowhere in namespace default does not exist"),
    ];
    for (key, value, part) in rows {
        let mut pairs: Vec<(&str, &[u8])> = good.iter().copied().filter(|(known, _)| *known != key).collect();
        pairs.push((key, value));
        stage.api.put("secrets", secret("default", "broken", &pairs));
        let refusal = pgferry.refusal("pgferry", "broken").await;
        assert!(refusal.message.contains(part), "{key}: {refusal:?}");
        assert!(!refusal.message.contains("many") && refusal.message.len() < 300, "{refusal:?}");
    }
    // A Service that leads nowhere yet.
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": "acme-primary"},
        "spec": {"ports": [{"port": 5432, "targetPort": 5999}]}});
    stage.api.put("services", service);
    stage.api.put("secrets", secret("default", "broken", &good));
    let refusal = pgferry.refusal("pgferry", "broken").await;
    assert!(refusal.code == "57P03" && refusal.message.contains("broken.default has no ready"), "{refusal:?}");
    // A line break behind the name is what `echo` leaves.
    stage.api.change("services", "default", "acme-primary", |service| {
        service["spec"]["selector"] = json!({"acme.example.com/name": "shop"});
    });
    let mut pairs = good.to_vec();
    pairs[1] = ("PGUSER", b"app\r\n");
    pairs.push(("PGDATABASE", b"shop"));
    stage.api.put("secrets", secret("default", "broken", &pairs));
    assert_eq!(who(&mut pgferry.connect("pgferry", "broken").await.unwrap()).await, "app shop false");
    assert_eq!(who(&mut pgferry.connect("pgferry", "broken:ro").await.unwrap()).await, "app shop true");
}

/// A host in two labels may be a Service in another namespace, whose author the Secret's own knows the password of.
#[tokio::test]
async fn a_secrets_host_may_be_a_service_of_another_namespace() {
    let stage = stage().await;
    let there = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "prod", "name": "there"},
        "spec": {"selector": {"acme.example.com/role": "leader"}, "ports": [{"port": 5432, "targetPort": 5999}]}});
    stage.api.put("services", there);
    stage.api.put("pods", bare_pod("prod", "acme-far", &json!({"acme.example.com/role": "leader"}), 5999));
    stage.api.backend("prod", "acme-far", 5999, Backend::To(stage.servers[0].address()));
    let pgferry = serve(&stage.api, "").await;
    for host in ["there.prod", "there.prod.svc", "there.prod.svc.cluster.local"] {
        let login = [
            ("host", host.as_bytes()),
            ("username", b"app"),
            ("password", PASSWORD.as_bytes()),
            ("database", b"shop" as &[u8]),
        ];
        stage.api.put("secrets", secret("default", "two", &login));
        assert_eq!(who(&mut pgferry.connect("pgferry", "two").await.unwrap()).await, "app shop false", "{host}");
    }
}

/// Resources whose fields have the wrong types are read as if the fields were not there.
#[tokio::test]
async fn resources_with_wrong_types_break_nothing() {
    let stage = stage().await;
    let wrong = [
        (
            "acid.zalan.do",
            "v1",
            "postgresqls",
            json!({"numberOfInstances": "two", "databases": 7, "users": [1], "tls": "x", "preparedDatabases": []}),
        ),
        (
            "postgres-operator.crunchydata.com",
            "v1beta1",
            "postgresclusters",
            json!({"users": "all", "port": -1, "instances": {"a": 1}}),
        ),
        ("stackgres.io", "v1", "sgclusters", json!({"instances": null, "postgres": []})),
        ("kubedb.com", "v1", "postgreses", json!({"authSecret": "x", "sslMode": 5, "replicas": 1.5})),
        (
            "postgresql.cnpg.io",
            "v1",
            "clusters",
            json!({"instances": "3", "managed": {"roles": {"a": 1}}, "bootstrap": []}),
        ),
        ("kubegres.reactive-tech.io", "v1", "kubegres", json!({"env": "x", "replicas": []})),
    ];
    for (group, version, plural, spec) in &wrong {
        stage.api.serve_crd(group, version, plural);
        let object = json!({"apiVersion": format!("{group}/{version}"), "kind": "X",
            "metadata": {"namespace": "default", "name": format!("odd-{plural}")}, "spec": spec, "status": "wrong"});
        stage.api.put(plural, object);
    }
    let listed = list(&stage.api).await;
    assert_eq!(listed.len(), wrong.len(), "{listed:#?}");
    let pgferry = serve(&stage.api, NO_WAIT).await;
    for (_, _, plural, _) in &wrong {
        let refusal = pgferry.refusal("pgferry", &format!("odd-{plural}")).await;
        assert!(refusal.code == "57P03" && refusal.message.contains("no ready primary"), "{plural}: {refusal:?}");
    }
}

/// Every printable character and some that SASLprep changes.
#[tokio::test]
async fn passwords_of_all_characters_and_names_of_63() {
    let printable: String = (b' '..=b'~').map(char::from).collect();
    let name = "n".repeat(63);
    for password in [printable.as_str(), "ⅷ pass\u{a0}word ü 密码 ♥", "%41 not an encoding %zz"] {
        let server = PostgresServer::start(Setup::new(17).application(&name, password, &name)).await.unwrap();
        let api = FakeKubernetes::start().await;
        let labels = json!({"acme.example.com/role": "leader"});
        api.put("pods", bare_pod("default", "pod", &labels, 5432));
        api.backend("default", "pod", 5432, Backend::To(server.address()));
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": name},
            "spec": {"selector": labels, "ports": [{"port": 5432}]}});
        api.put("services", service);
        let pairs = [
            ("host", name.as_bytes()),
            ("username", name.as_bytes()),
            ("password", password.as_bytes()),
            ("database", name.as_bytes()),
        ];
        api.put("secrets", secret("default", &name, &pairs));
        let pgferry = serve(&api, "").await;
        let mut wire =
            pgferry.connect("pgferry", &name).await.unwrap_or_else(|fields| panic!("{password}: {fields:?}"));
        assert_eq!(wire.value("select current_user").await.unwrap(), name);
        assert!(!pgferry.output().contains(password));
    }
}
