//! What a tenant writes in its own namespace, and a person types as a name, or logs in with, that is another's.

use proto_tests::{
    hostile::{Asks, Hostile},
    kubernetes::Backend,
    postgres::{Hba, PostgresServer, Setup},
    secrets,
    systems::{Bitnami, State, System, draw},
};
use serde_json::json;

use crate::{
    support::{list, serve},
    trust::names::{Stage, means},
    trust::stage::{pod, secret, service, who},
};

/// The refusal of a name that two have, each with a spelling.
async fn is_ambiguous(stage: &Stage, name: &str, spellings: [&str; 2]) {
    let refusal = stage.pgferry().await.refusal("pgferry", name).await;
    assert_eq!(refusal.code, "3D000", "{refusal:?}");
    assert!(spellings.iter().all(|spelling| refusal.message.contains(spelling)), "{refusal:?}");
}

/// The story: a Secret whose replicas were another's pods counted as the same cluster, came first, and had the name.
#[tokio::test]
async fn a_reading_with_servers_of_its_own_stands_for_no_other() {
    let base = Stage::new().await;
    let mut first = true;
    for access in [&[] as &[(&str, &str)], &[("USER_ACCESS", "svc/evil")]] {
        let stage = base.anew().await;
        stage.connection(("prod", "set"), "secret");
        let more = [("PGHOST", "evil"), ("PGHOST_REPLICA", "set-secret-db.prod.svc")];
        stage.api.put("secrets", stage.login(("aaa", "set"), "access", &[&more, access].concat()));
        stage.api.put("services", service(("aaa", "evil"), json!({"app": "evil"}), json!({})));
        stage.pod("aaa", "evil-0", &json!({"app": "evil"}));
        is_ambiguous(&stage, "set", ["set.prod", "set.aaa"]).await;
        means(&stage.pgferry().await, "set.prod", "secret").await;
        if std::mem::take(&mut first) {
            // Who leads to another's servers alone is no other cluster, but says nothing about how to log in there.
            let more = [("PGHOST", "set-secret-db.prod.svc")];
            stage.api.put("secrets", stage.login(("aaa", "set"), "access", &more));
            means(&stage.pgferry().await, "set", "secret").await;
        }
        // A list hides nothing that has servers of its own.
        let listed = list(&stage.api).await;
        assert!(listed.iter().any(|one| one["namespace"] == "prod"), "{listed:#?}");
    }
}

/// The story: a cluster whose Service was gone for a moment lost its name to a tenant's.
#[tokio::test]
async fn what_cannot_be_looked_at_keeps_its_name() {
    let stage = Stage::new().await;
    stage.connection(("prod", "set"), "secret");
    stage.connection(("tenant", "set"), "access");
    stage.api.delete("services", "prod", "set-secret-db");
    is_ambiguous(&stage, "set", ["set.prod", "set.tenant"]).await;
}

/// The story: a release's cluster is found by the release's name; a tenant's Secret of exactly that name had it instead.
#[tokio::test]
async fn an_exact_name_elsewhere_does_not_take_a_releases() {
    let stage = Stage::new().await;
    let chart = State { name: "set".to_owned(), ..State::new(&Bitnami, "prod", 2) };
    draw(&stage.api, &Bitnami, &chart);
    let named = stage.pgferry().await.refusal("nobody", "set").await;
    assert!(named.code == "28000" && named.message.contains("prod"), "the release is found: {named:?}");
    stage.connection(("tenant", "set"), "access");
    let refusal = stage.pgferry().await.refusal("pgferry", "set").await;
    assert!(refusal.code == "3D000" && refusal.message.contains("set.tenant"), "{refusal:?}");
}

/// The story: `shop.prod` in a namespace where the caller may not look was answered by a Secret of that name anywhere.
#[tokio::test]
async fn a_namespace_that_is_hidden_is_not_anybody_elses() {
    let stage = Stage::new().await;
    stage.operated(("prod", "shop"));
    stage.connection(("tenant", "shop.prod"), "secret");
    for (verb, resource) in [("get", "clusters"), ("list", "pods"), ("get", "pods")] {
        stage.api.deny(None, verb, resource, Some("prod"));
    }
    let refusal = stage.pgferry().await.refusal("pgferry", "shop.prod").await;
    assert_eq!(refusal.code, "42501", "{refusal:?}");
}

/// The story: a server that trusts loopback made a superuser of whoever wrote that name into a Secret of another namespace.
#[tokio::test]
async fn a_superuser_of_another_namespace_has_to_show_a_password() {
    let setup = Setup { hba: Hba::Trust, ..Setup::new(17).application("app", "any", "app") };
    let database = PostgresServer::start(setup).await.unwrap();
    let stage = Stage::new().await;
    pod(&stage.api, ("prod", "db-0"), &json!({"app": "db"}), database.address());
    stage.api.put("services", service(("prod", "db"), json!({"app": "db"}), json!({})));
    let login =
        |user: &'static str| [("PGHOST", "db.prod.svc"), ("PGUSER", user), ("PGPASSWORD", "x"), ("PGDATABASE", "app")];
    stage.api.put("secrets", secret(("tenant", "boss"), &login("postgres")));
    stage.api.put("secrets", secret(("tenant", "worker"), &login("app")));
    stage.api.put("secrets", secret(("prod", "own"), &login("postgres")));
    let pgferry = stage.pgferry().await;
    let refusal = pgferry.refusal("pgferry", "boss.tenant").await;
    assert!(refusal.code == "28000" && refusal.message.contains("Secret tenant/boss proves nothing"), "{refusal:?}");
    assert!(refusal.hint.contains("clusters.\"boss.tenant\".auth = \"trust\""), "{refusal:?}");
    assert_eq!(who(pgferry.connect("pgferry", "worker.tenant").await.unwrap()).await, "app");
    assert_eq!(who(pgferry.connect("postgres", "own.prod").await.unwrap()).await, "postgres");
    let allowed = serve(&stage.api, "[clusters.\"boss.tenant\"]\nauth = \"trust\"\n").await;
    assert_eq!(who(allowed.connect("postgres", "boss.tenant").await.unwrap()).await, "postgres");
}

/// The story: two roles have their passwords in one Secret; after a rotation that the server did not know yet, whoever asked
/// for the application was given the superuser's login that had worked before.
#[tokio::test]
async fn what_worked_before_is_the_same_roles() {
    let chart = State::new(&Bitnami, "prod", 1);
    let login = Bitnami.login(&chart);
    let mut setup = Setup::new(17).application(&login.name, &chart.password, &login.database);
    setup.sql.push(format!("ALTER ROLE postgres PASSWORD '{}'", chart.superuser));
    let database = PostgresServer::start(setup).await.unwrap();
    let stage = Stage::new().await;
    draw(&stage.api, &Bitnami, &chart);
    stage.api.backend("prod", &Bitnami.pod_name(&chart, 0), Bitnami.port(), Backend::To(database.address()));
    let pgferry = stage.pgferry().await;
    let target = Bitnami.plain_target(&chart);
    assert_eq!(who(pgferry.connect("postgres", &target).await.unwrap()).await, "postgres");
    let rotated = State { password: secrets::make("app"), superuser: secrets::make("super"), ..chart };
    for (plural, object) in Bitnami.objects(&rotated) {
        if plural == "secrets" {
            stage.api.put(plural, object);
        }
    }
    let refusal = pgferry.refusal(&login.name, &target).await;
    assert_eq!(refusal.code, "28P01", "{refusal:?}");
    assert_eq!(who(pgferry.connect("postgres", &target).await.unwrap()).await, "postgres", "its own still is");
}

/// The story: the labels of a pod were enough to be taken for a server that still uses MD5.
#[tokio::test]
async fn labels_do_not_make_a_server_one_that_uses_md5() {
    let stage = Stage::new().await;
    let hostile = Hostile::start(Asks::Md5).await;
    stage.api.serve_crd("acid.zalan.do", "v1", "postgresqls");
    let labels = json!({"app": "db", "application": "spilo", "cluster-name": "x", "spilo-role": "master"});
    pod(&stage.api, ("tenant", "db-0"), &labels, hostile.address());
    stage.api.put("services", service(("tenant", "db"), json!({"app": "db"}), json!({})));
    stage.api.put("secrets", stage.login(("prod", "conn"), "app", &[("PGHOST", "db.tenant.svc")]));
    let refusal = stage.pgferry().await.refusal("pgferry", "conn.prod").await;
    assert_eq!((refusal.code.as_str(), hostile.answers()), ("28000", 0), "{refusal:?}");
    assert!(refusal.message.contains("MD5"), "{refusal:?}");
}

/// The story: a Secret whose host had a label of 64 letters ended every listing.
#[tokio::test]
async fn no_secret_ends_a_listing() {
    let stage = Stage::new().await;
    stage.connection(("prod", "set"), "secret");
    let long = "a".repeat(64);
    stage.api.put("secrets", stage.login(("tenant", "one"), "app", &[("PGHOST", &long)]));
    let access = format!("svc/{long}");
    let more = [("PGHOST", "db"), ("USER_ACCESS", access.as_str())];
    stage.api.put("secrets", stage.login(("tenant", "two"), "app", &more));
    let listed = list(&stage.api).await;
    assert!(listed.iter().any(|one| one["name"] == "set"), "{listed:#?}");
    assert!(listed.iter().any(|one| one["name"] == "one" && one["status"] == "unusable"), "{listed:#?}");
}

/// A Service publishes its ports; a Secret opens no other of the pods behind it.
#[tokio::test]
async fn a_service_leads_to_its_ports_alone() {
    let stage = Stage::new().await;
    stage.connection(("prod", "set"), "secret");
    let more = [("PGHOST", "set-secret-db.prod.svc"), ("PGPORT", "10250")];
    stage.api.put("secrets", stage.login(("tenant", "conn"), "secret", &more));
    let refusal = stage.pgferry().await.refusal("pgferry", "conn.tenant").await;
    assert!(refusal.message.contains("port 10250 of Service prod/set-secret-db does not exist"), "{refusal:?}");
}
