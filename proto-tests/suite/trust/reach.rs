//! How far an object's word reaches: into its own namespace, and no further unless its author knows the password or the
//! configuration says so.

use proto_tests::{
    cnpg::Cluster,
    hostile::{Asks, Hostile},
    kubernetes::FakeKubernetes,
    secrets,
    subject::Start,
    systems::{State, System, Zalando, bare_pod, draw},
};
use serde_json::{Value, json};

use crate::{
    support::{BINARY, NO_WAIT, serve, tunnels_to},
    trust::stage::{Stage, pod, secret, server, service, slice, smuggled, who},
};

/// A database `db-0` in namespace `other`, and the tenant's own pod.
async fn stage() -> Stage {
    let stage = Stage::new().await;
    pod(&stage.api, ("other", "db-0"), &json!({"app": "db"}), stage.server.address());
    pod(&stage.api, ("tenant", "own-0"), &json!({"app": "own"}), stage.server.address());
    stage
}

/// Whoever wrote the password into a Secret may say where it goes: to a Service of any namespace, as access Secrets do.
#[tokio::test]
async fn a_connection_secrets_host_may_be_in_any_namespace() {
    let stage = stage().await;
    stage.api.put("services", service(("other", "db"), json!({"app": "db"}), json!({})));
    for host in ["db.other.svc", "db.other", "db.other.svc.cluster.local", "db-0.db.other.svc.cluster.local"] {
        stage.lead_to(host, "5432", &[]);
        assert_eq!(stage.connects("").await.unwrap(), "app", "{host}");
    }
    // A Service without a selector, and a slice that somebody writes: an operator's, a Patroni's.
    stage.api.put("services", service(("other", "db"), Value::Null, json!({})));
    stage.api.put("endpointslices", slice(("other", "db"), ("other", "db-0", "uid-other-db-0")));
    for host in ["db.other.svc", "db-0.db.other.svc.cluster.local"] {
        stage.lead_to(host, "5432", &[]);
        assert_eq!(stage.connects("").await.unwrap(), "app", "{host}");
    }
}

/// A pod's own host is a Service's word about that pod. Without it any pod of any namespace would be a host.
#[tokio::test]
async fn a_pods_host_needs_its_service() {
    let stage = stage().await;
    let tunnels = || tunnels_to(&stage.api, "db-0");
    for host in ["db-0.db.other.svc.cluster.local", "db-0.nothing.other.svc", "db-0.db.other.svc"] {
        stage.lead_to(host, "5432", &[]);
        let told = stage.connects("").await.unwrap_err();
        assert!(["57P03", "3D000", "28000"].contains(&told.code.as_str()), "{host}: {told:?}");
    }
    // It leads elsewhere.
    stage.api.put("services", service(("other", "db"), json!({"app": "another"}), json!({})));
    stage.lead_to("db-0.db.other.svc", "5432", &[]);
    let told = stage.connects("").await.unwrap_err();
    assert!(["57P03", "28000"].contains(&told.code.as_str()), "{told:?}");
    assert_eq!(tunnels(), 0);
}

/// The story: an EndpointSlice that a tenant had written named a pod of another namespace, and was followed there.
#[tokio::test]
async fn a_slice_leads_to_pods_of_its_own_namespace() {
    let stage = stage().await;
    stage.lead_to("svc", "5432", &[]);
    stage.api.put("services", service(("tenant", "svc"), Value::Null, json!({})));
    for denied in [false, true] {
        if denied {
            // Endpoints say the same, where slices may not be listed.
            stage.api.deny(None, "list", "endpointslices", None);
            let target = json!({"kind": "Pod", "name": "db-0", "namespace": "other", "uid": "uid-other-db-0"});
            stage.api.put(
                "endpoints",
                json!({"metadata": {"namespace": "tenant", "name": "svc"},
                "subsets": [{"addresses": [{"ip": "198.51.100.7", "targetRef": target}], "ports": [{"port": 5432}]}]}),
            );
        }
        stage.api.put("endpointslices", slice(("tenant", "svc"), ("other", "db-0", "uid-other-db-0")));
        let told = stage.connects("").await.unwrap_err();
        assert!(["57P03", "28000"].contains(&told.code.as_str()), "{told:?}");
        assert!(told.message.contains("tenant/svc") && told.message.contains("namespace other"), "{told:?}");
        assert_eq!(tunnels_to(&stage.api, "db-0"), 0);
    }
    stage.api.allow_all();
    // Of two endpoints the honest one is followed, whichever comes first.
    for reversed in [false, true] {
        let mut both = slice(("tenant", "svc"), ("other", "db-0", "uid-other-db-0"));
        let own = slice(("tenant", "svc"), ("tenant", "own-0", "uid-tenant-own-0"))["endpoints"][0].clone();
        let endpoints = both["endpoints"].as_array_mut().unwrap();
        endpoints.push(own);
        if reversed {
            endpoints.reverse();
        }
        stage.api.put("endpointslices", both);
        assert_eq!(stage.connects("").await.unwrap(), "app");
    }
    assert_eq!(tunnels_to(&stage.api, "db-0"), 0);
    assert_eq!(smuggled(&stage.api, &["other"]), Vec::<String>::new());
}

/// Zalando's operator can write a role's Secret into the namespace that the role's name begins with. Whoever may write
/// its resource then names Secrets of others, so that it is read only where the configuration says that this is so.
#[tokio::test]
async fn a_roles_secret_is_read_in_its_clusters_namespace() {
    let state = State::new(&Zalando, "tenant", 1);
    let theirs = secrets::make("theirs");
    let (api, server) = (FakeKubernetes::start().await, server(&[("prod.x", &theirs)]).await);
    draw(&api, &Zalando, &state);
    api.change("postgresqls", "tenant", "shop", |object| object["spec"]["databases"] = json!({"prod.x": "prod.x"}));
    let name = "prod.x.shop.credentials.postgresql.acid.zalan.do";
    api.put("secrets", secret(("prod", name), &[("username", "prod.x"), ("password", &theirs)]));
    let hostile = Hostile::start(Asks::Md5).await;
    pod(&api, ("tenant", "shop-0"), &systems_labels(&state), hostile.address());
    for user in ["pgferry", "prod.x"] {
        let told = serve(&api, NO_WAIT).await.refusal(user, "shop.tenant").await;
        assert_eq!((told.code.as_str(), hostile.answers()), ("28000", 0), "{user}: {told:?}");
    }
    assert_eq!(smuggled(&api, &["prod"]), Vec::<String>::new());
    // Its own namespace is where it is looked for.
    pod(&api, ("tenant", "shop-0"), &systems_labels(&state), server.address());
    api.put("secrets", secret(("tenant", name), &[("username", "prod.x"), ("password", &theirs)]));
    assert_eq!(who(serve(&api, NO_WAIT).await.connect("pgferry", "shop.tenant").await.unwrap()).await, "prod.x");
    api.delete("secrets", "tenant", name);
    let across = format!("[zalando]\ncross_namespace_secrets = true\n{NO_WAIT}");
    assert_eq!(who(serve(&api, &across).await.connect("pgferry", "shop.tenant").await.unwrap()).await, "prod.x");
}

fn systems_labels(state: &State) -> Value {
    Zalando.pod_labels(state, 0)
}

/// An alias in the cluster's DNS points wherever its author likes, and follows no author's password.
#[tokio::test]
async fn an_external_name_leads_nowhere_by_itself() {
    let stage = stage().await;
    stage.api.put("services", service(("other", "db"), json!({"app": "db"}), json!({})));
    let alias = |name: &str| {
        let mut object = service(("tenant", "alias"), Value::Null, json!({}));
        object["spec"]["type"] = json!("ExternalName");
        object["spec"]["externalName"] = json!(name);
        stage.api.put("services", object);
    };
    stage.lead_to("alias", "5432", &[]);
    let outside = "[kubernetes]\nexternal = true\n";
    for name in ["db.other.svc.cluster.local", "127.0.0.1", "db.example.com", "x/../y.other.svc"] {
        alias(name);
        for configuration in ["", outside, "[kubernetes]\nexternal_names = [\"alias.other\", \"db.tenant\"]\n"] {
            let told = stage.connects(configuration).await.unwrap_err();
            assert!(["28000", "42501", "57P03"].contains(&told.code.as_str()), "{name}: {told:?}");
            assert!(told.message.contains("alias") && told.message.contains("ExternalName"), "{name}: {told:?}");
            assert!(told.hint.contains("kubernetes.external_names"), "{name}: {told:?}");
        }
    }
    assert_eq!(tunnels_to(&stage.api, "db-0"), 0);
    let named = "[kubernetes]\nexternal_names = [\"alias.tenant\"]\n";
    alias("db.other.svc.cluster.local");
    assert_eq!(stage.connects(named).await.unwrap(), "app");
    // To follow it is one thing; whether a server outside is dialled is another.
    alias("127.0.0.1");
    stage.lead_to("alias", &stage.server.address().port().to_string(), &[("sslmode", "disable")]);
    let told = stage.connects(named).await.unwrap_err();
    assert!(told.code == "42501" && told.hint.contains("kubernetes.external"), "{told:?}");
    let both = format!("{named}external = [\"{}\"]\n", stage.server.address());
    assert_eq!(stage.connects(&both).await.unwrap(), "app");
    // An alias of an alias is not followed.
    let mut other = service(("other", "db"), Value::Null, json!({}));
    other["spec"]["type"] = json!("ExternalName");
    other["spec"]["externalName"] = json!("127.0.0.1");
    stage.api.put("services", other);
    alias("db.other.svc.cluster.local");
    assert!(stage.connects(&both).await.is_err());
}

#[tokio::test]
async fn servers_outside_are_dialled_as_the_configuration_lists_them() {
    let stage = stage().await;
    let port = stage.server.address().port();
    stage.lead_to("127.0.0.1", &port.to_string(), &[("sslmode", "disable")]);
    for (external, allowed) in [
        ("false".to_owned(), false),
        ("[]".to_owned(), false),
        (format!("[\"127.0.0.1:{}\"]", port - 1), false),
        (format!("[\"127.0.0.2:{port}\"]"), false),
        (format!("[\"db.example.com:{port}\", \"127.0.0.1:{port}\"]"), true),
        ("true".to_owned(), true),
    ] {
        match stage.connects(&format!("[kubernetes]\nexternal = {external}\n")).await {
            Ok(role) => assert!(allowed && role == "app", "{external}"),
            Err(told) => {
                assert!(!allowed && told.code == "42501", "{external}: {told:?}");
                assert!(told.hint.contains("kubernetes.external"), "{external}: {told:?}");
            }
        }
    }
}

/// A role's own resource holds the name of a Secret as well.
#[tokio::test]
async fn a_database_roles_secret_is_no_path() {
    let (stage, hostile) = (stage().await, Hostile::start(Asks::Nothing).await);
    Cluster::new(&stage.api, ("tenant", "shop"), &stage.password, &[hostile.address()]);
    stage.api.serve_crd(proto_tests::cnpg::GROUP, "v1", "databaseroles");
    stage.api.put("databaseroles", json!({"metadata": {"namespace": "tenant", "name": "late"}, "spec": {
        "cluster": {"name": "shop"}, "name": "late", "login": true, "passwordSecret": {"name": "../../other/secrets/x"}}}));
    let refusal = serve(&stage.api, "").await.refusal("late", "shop.tenant").await;
    assert_eq!(refusal.code, "28000", "{refusal:?}");
    assert!(refusal.message.contains("tenant/late") && refusal.message.contains("passwordSecret"), "{refusal:?}");
    assert_eq!(smuggled(&stage.api, &["other"]), Vec::<String>::new());
}

/// What a client types is a name or nothing, too: programs pass on what their own users type.
#[tokio::test]
async fn a_target_that_a_client_types_is_no_path() {
    let stage = stage().await;
    stage.api.serve_crd(proto_tests::cnpg::GROUP, "v1", "clusters");
    let pgferry = serve(&stage.api, NO_WAIT).await;
    for target in [
        "x.other%2fpods",
        "a,b",
        "a) , (b",
        "x=y",
        "!x",
        "..",
        "a..b",
        ".other",
        "x.",
        "-x.other",
        "%2e%2e.other",
        "x y",
        "X.other",
        "x.other?watch=true",
        "x.other#y",
        "x.other;y",
        "a\\b.other",
        "ü.other",
        "x.tenant.svc.cluster.local.",
    ] {
        for (user, database) in [("pgferry", target.to_owned()), (&format!("app@{target}") as &str, "app".to_owned())] {
            let refusal = pgferry.refusal(user, &database).await;
            assert!(["3D000", "28000"].contains(&refusal.code.as_str()), "{user} {database}: {refusal:?}");
        }
    }
    assert_eq!(smuggled(&stage.api, &[]), Vec::<String>::new());
    let plain = |text: &String| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._/=!,() ".contains(&byte));
    let odd: Vec<String> =
        stage.api.selectors().into_iter().filter(|text| !plain(text) || text.contains(") ,")).collect();
    assert_eq!(odd, Vec::<String>::new());
}

/// What an object says is repeated, but it neither draws in a terminal nor forges a line.
#[tokio::test]
async fn an_objects_words_have_no_control_characters() {
    let state = State::new(&Zalando, "tenant", 1);
    let api = FakeKubernetes::start().await;
    draw(&api, &Zalando, &state);
    api.delete("pods", "tenant", "shop-0");
    let words = "Updating\u{1b}]0;owned\u{7}\nFATAL:  \u{9b}31mforged\u{202e}";
    api.change("postgresqls", "tenant", "shop", |object| object["status"]["PostgresClusterStatus"] = json!(words));
    let refusal = serve(&api, NO_WAIT).await.refusal("pgferry", "shop.tenant").await;
    let said = format!("{}{}{}", refusal.message, refusal.detail, refusal.hint);
    assert!(said.contains("Updating") && !said.contains(char::is_control), "{said:?}");
    let start = Start::new(BINARY).args(["list", "--kubeconfig"]).arg(api.kubeconfig());
    let (_, out, err) = start.run().await;
    let drawing = |text: &str| text.chars().any(|character| character.is_control() && character != '\n');
    assert!(!drawing(&out) && !drawing(&err) && !out.contains("\nFATAL"), "{out:?} {err:?}");
}

/// Dialled is the address that the pod has, as the pod says by its uid; not one that a slice names.
#[tokio::test]
async fn direct_dials_pods_and_not_addresses() {
    let stage = stage().await;
    let hostile = Hostile::start(Asks::Nothing).await;
    // The pod's port is the server's, since all addresses are this machine's.
    let port = stage.server.address().port();
    let direct = "[kubernetes]\ntransport = \"direct\"\n[clusters.conn]\nsslmode = \"disable\"\n";
    let own = |uid: &str, addresses: &[&str], port: u16| {
        let mut object = slice(("tenant", "svc"), ("tenant", "own-0", uid));
        object["endpoints"][0]["addresses"] = json!(addresses);
        object["ports"] = json!([{"port": port, "protocol": "TCP"}]);
        stage.api.put("endpointslices", object);
    };
    stage.lead_to("svc", "5432", &[]);
    stage.api.put("services", service(("tenant", "svc"), Value::Null, json!({})));
    stage.api.put("pods", bare_pod("tenant", "own-0", &json!({}), port));
    own("uid-tenant-own-0", &["127.0.0.1"], port);
    assert_eq!(stage.connects(direct).await.unwrap(), "app");
    // The pod's address is dialled, whatever the slice says of it.
    own("uid-tenant-own-0", &["198.51.100.7"], port);
    assert_eq!(stage.connects(direct).await.unwrap(), "app");
    // Another pod by its uid: one that is gone, and whose name and address somebody else has now.
    own("uid-of-another", &["127.0.0.1"], hostile.address().port());
    let told = stage.connects(direct).await.unwrap_err();
    assert!(["57P03", "28000", "08001", "08006"].contains(&told.code.as_str()), "{told:?}");
    // No pod at all: an address of the tenant's choice, such as a metadata service's or the API server's.
    let mut bare = slice(("tenant", "svc"), ("tenant", "own-0", ""));
    bare["endpoints"] = json!([{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]);
    bare["ports"] = json!([{"port": hostile.address().port(), "protocol": "TCP"}]);
    stage.api.put("endpointslices", bare);
    let told = stage.connects(direct).await.unwrap_err();
    assert_eq!(told.code, "57P03", "{told:?}");
    assert_eq!(hostile.connections(), 0);
}
