//! Connection Secrets as people and tools write them: what they say is what is done.

use proto_tests::{kubernetes::FakeKubernetes, subject::Subject};
use serde_json::{Value, json};

use crate::{
    support::{list, serve},
    systems::unknown::{PASSWORD, Stage, secret, stage, who},
};

/// A Service of one role's pods, as the stage labels them.
fn service(api: &FakeKubernetes, name: &str, role: &str) {
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": name},
        "spec": {"selector": {"acme.example.com/role": role}, "ports": [{"port": 5432, "targetPort": 5999}]}});
    api.put("services", object);
}

/// The stage with a Service for each of its servers, and a Secret `db`.
async fn with_url(key: &str, url: &str) -> (Stage, Subject) {
    let stage = stage().await;
    service(&stage.api, "one", "leader");
    service(&stage.api, "two", "follower");
    stage.api.put("secrets", secret("default", "db", &[(key, url.as_bytes())]));
    let pgferry = serve(&stage.api, "[sessions]\nprimary_wait = \"5s\"\n[kubernetes]\nexternal = true\n").await;
    (stage, pgferry)
}

async fn leads(pgferry: &Subject, database: &str, wanted: &str) {
    let mut wire = pgferry.connect("pgferry", database).await.unwrap_or_else(|told| panic!("{database}: {told:?}"));
    assert_eq!(who(&mut wire).await, wanted, "{database}");
}

/// Of several hosts the first was taken, whether it led anywhere or not, and what the Secret says of standbys was not read.
#[tokio::test]
async fn of_several_hosts_each_is_tried() {
    let url = |hosts: &str, more: &str| format!("postgres://app:{PASSWORD}@{hosts}/shop{more}");
    let (stage, pgferry) = with_url("DATABASE_URL", &url("nowhere,two,one", "")).await;
    leads(&pgferry, "db", "app shop false").await;
    leads(&pgferry, "db:ro", "app shop true").await;
    for (attributes, wanted) in [
        ("standby", "app shop true"),
        ("prefer-standby", "app shop true"),
        ("read-write", "app shop false"),
        ("primary", "app shop false"),
    ] {
        let url = url("one,two", &format!("?target_session_attrs={attributes}"));
        stage.api.put("secrets", secret("default", attributes, &[("DATABASE_URL", url.as_bytes())]));
        leads(&pgferry, attributes, wanted).await;
    }
    let row = list(&stage.api).await.into_iter().find(|row| row["name"] == "db").unwrap();
    assert_eq!(row["system"], "connection-secret", "{row:#}");
    // Outside Kubernetes: a closed port, the standby, the primary.
    let [primary, standby] = stage.servers.each_ref().map(|server| server.address().port());
    let closed = proto_tests::ports::free();
    let hosts = format!("127.0.0.1:{closed},127.0.0.1:{standby},127.0.0.1:{primary}");
    let outside = url(&hosts, "?sslmode=disable&target_session_attrs=read-write");
    stage.api.put("secrets", secret("default", "outside", &[("DATABASE_URL", outside.as_bytes())]));
    leads(&pgferry, "outside", "app shop false").await;
}

#[tokio::test]
async fn a_url_for_reads_serves_replicas() {
    let (stage, pgferry) = with_url("DATABASE_URL", &format!("postgres://app:{PASSWORD}@one/shop")).await;
    let refusal = pgferry.refusal("pgferry", "db:ro").await;
    assert!(refusal.code == "57P03" && refusal.message.contains("no ready replica"), "{refusal:?}");
    for (key, value) in
        [("DATABASE_URL_RO", "postgres://app:x@two/shop".to_owned()), ("PGHOST_REPLICA", "two".to_owned())]
    {
        let url = format!("postgres://app:{PASSWORD}@one/shop");
        let pairs = [("DATABASE_URL", url.as_bytes()), (key, value.as_bytes())];
        stage.api.put("secrets", secret("default", "db", &pairs));
        leads(&pgferry, "db:ro", "app shop true").await;
        leads(&pgferry, "db", "app shop false").await;
    }
}

/// `ten%zz1` was sent as it stands, and the server's refusal said nothing of the Secret.
#[tokio::test]
async fn a_url_that_cannot_be_decoded_names_secret_and_key() {
    let (stage, pgferry) = with_url("DATABASE_URL", "postgres://app:ten%zz1@one/shop").await;
    let refusal = pgferry.refusal("pgferry", "db").await;
    let named = ["\"DATABASE_URL\"", "Secret default/db", "percent-encoding"];
    assert!(named.iter().all(|part| refusal.message.contains(part)), "{refusal:?}");
    assert!(!refusal.message.contains("ten%zz1"), "{refusal:?}");
    // A CA in a file is one of its author's own container.
    let url = format!("postgres://app:{PASSWORD}@one/shop?sslmode=verify-full&sslrootcert=/etc/ca/ca.pem");
    stage.api.put("secrets", secret("default", "db", &[("DATABASE_URL", url.as_bytes())]));
    let refusal = pgferry.refusal("pgferry", "db").await;
    let named = ["\"DATABASE_URL\"", "Secret default/db", "verify-full", "no CA"];
    assert!(named.iter().all(|part| refusal.message.contains(part)), "{refusal:?}");
    assert!(refusal.hint.contains("clusters.\"db.default\".sslrootcert"), "{refusal:?}");
}

/// Crossplane's Secrets have a port of their own or none, and never say that they are about PostgreSQL.
#[tokio::test]
async fn crossplanes_secrets_are_listed() {
    let stage = stage().await;
    let provided = |name: &str, pairs: &[(&str, &[u8])]| {
        let mut object: Value = secret("default", name, pairs);
        object["type"] = json!("connection.crossplane.io/v1alpha1");
        stage.api.put("secrets", object);
    };
    let login: [(&str, &[u8]); 3] = [("endpoint", b"db.example.com"), ("username", b"app"), ("password", b"x")];
    let with = |more: &[(&'static str, &'static [u8])]| [&login[..], more].concat();
    provided("other-port", &with(&[("port", b"6432")]));
    provided("no-port", &login);
    provided("mysql", &with(&[("port", b"3306")]));
    provided("gke", &with(&[("kubeconfig", b"{}")]));
    let listed: Vec<String> =
        list(&stage.api).await.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(listed, ["no-port", "other-port"]);
}
