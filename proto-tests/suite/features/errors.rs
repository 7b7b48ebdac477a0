//! Each failure of the table in `docs/errors.md`, caused and read by a client. The table is generated from this list.

use std::fmt::Write as _;

use proto_tests::{
    cnpg::Cluster,
    hostile::{Asks, Hostile},
    kubernetes::{Backend, Fault, certificates::Authority},
    subject::Subject,
    systems::{State, Zalando, draw},
    wire::{Fields, Wire, startup},
};
use serde_json::json;

use crate::{
    bastion::stage::{Bastion, TOKENS},
    documents::in_docs,
    support::{World, let_in, serve},
    trust::stage::{secret, service},
};

/// A caused failure: what happened in the reader's words, and what the client read.
struct Row {
    what: &'static str,
    fields: Fields,
}

async fn impatient(world: &World) -> Subject {
    within(world, "1m").await
}

/// Impatient, and with so long for all that a connection takes.
async fn within(world: &World, limit: &str) -> Subject {
    let config = format!("[sessions]\nprimary_wait = \"0s\"\nconnect_timeout = \"{limit}\"\n");
    serve(&world.api, &config).await
}

/// One world for each, so that no failure hides another.
async fn caused(what: &'static str, user: &str, database: &str, cause: impl FnOnce(&World)) -> Row {
    let world = World::reading().await;
    cause(&world);
    let pgferry = impatient(&world).await;
    Row { what, fields: pgferry.refusal(user, database).await }
}

fn denied(verb: &'static str, resource: &'static str) -> impl FnOnce(&World) {
    move |world| world.api.deny(None, verb, resource, None)
}

async fn rows() -> Vec<Row> {
    let status = |code: u16, reason: &str| {
        Fault::Status(
            code,
            json!({"kind": "Status", "status": "Failure", "reason": reason, "message": reason, "code": code})
                .to_string(),
        )
    };
    let html = || Fault::Status(502, "<html>Bad Gateway</html>".to_owned());
    vec![
        caused("no cluster of this name", "pgferry", "shpo", |_| ()).await,
        caused("no context of this name", "pgferry", "shop@fke", |_| ()).await,
        caused("a database that is never a target", "pgferry", "postgres", |_| ()).await,
        caused("no login for this role", "nobody-here", "shop", |_| ()).await,
        caused("the login to Kubernetes has expired", "pgferry", "shop", |world| world.api.revoke(world.api.token()))
            .await,
        caused("RBAC: neither `list` nor `get` on pods", "pgferry", "shop", |world| {
            world.api.deny(None, "get", "pods", None);
            world.api.deny(None, "list", "pods", None);
        })
        .await,
        caused("RBAC: no `get` on secrets", "pgferry", "shop", denied("get", "secrets")).await,
        caused("RBAC: no `create` on pods/portforward", "pgferry", "shop", denied("create", "pods/portforward")).await,
        caused("RBAC: no `get` on pods/portforward", "pgferry", "shop", denied("get", "pods/portforward")).await,
        caused("the Secret is missing", "pgferry", "shop", |world| world.api.delete("secrets", "prod", "shop-app"))
            .await,
        caused("the Secret has no password", "pgferry", "shop", |world| {
            world.api.change("secrets", "prod", "shop-app", |secret| {
                secret["data"].as_object_mut().unwrap().remove("password");
            });
        })
        .await,
        caused("the password is refused, twice", "pgferry", "shop", |world| world.cluster().set_password("wrong"))
            .await,
        caused("no ready primary", "pgferry", "shop", |world| world.cluster().set_ready(1, false)).await,
        caused("the cluster is hibernated", "pgferry", "shop", |world| {
            world.cluster().annotate("cnpg.io/hibernation", "on");
        })
        .await,
        caused("the primary is fenced", "pgferry", "shop", |world| {
            world.cluster().annotate("cnpg.io/fencedInstances", "[\"*\"]");
        })
        .await,
        caused("nothing listens in the pod", "pgferry", "shop", |world| {
            world.api.backend("prod", "shop-1", 5432, Backend::Refuse);
        })
        .await,
        caused("an intermediary refuses WebSockets", "pgferry", "shop", |world| world.api.without_websockets()).await,
        caused("something else answers for the API server", "pgferry", "shop", move |world| {
            world.api.fault("get", "clusters", 99, html());
        })
        .await,
        caused("the API server is overloaded", "pgferry", "shop", move |world| {
            world.api.fault("get", "clusters", 99, status(503, "ServiceUnavailable"));
        })
        .await,
        silent().await,
    ]
}

/// Nothing else takes as long as there is.
async fn silent() -> Row {
    let world = World::reading().await;
    world.api.fault("get", "clusters", 99, Fault::Hold(std::sync::Arc::default()));
    let pgferry = within(&world, "3s").await;
    Row { what: "the API server does not answer", fields: pgferry.refusal("pgferry", "shop").await }
}

/// Those that take more than a wrong name or a changed object.
async fn staged() -> Vec<Row> {
    let ambiguous = World::reading().await;
    Cluster::new(&ambiguous.api, ("staging", "shop"), &ambiguous.password, &[ambiguous.server.address()]);
    let two = impatient(&ambiguous).await.refusal("pgferry", "shop").await;

    let offline = World::reading().await;
    let pgferry = impatient(&offline).await;
    offline.api.go_down().await;
    let unreachable = pgferry.refusal("pgferry", "shop").await;

    let world = World::reading().await;
    let mut pgferry = serve(&world.api, "[sessions]\nmax_connections = 1\n").await;
    let mut open = pgferry.connect("pgferry", "shop").await.unwrap();
    let full = pgferry.refusal("pgferry", "shop").await;
    world.api.cut_tunnels("prod", "shop-1");
    let cut = open.next().await.unwrap().unwrap().fields();
    drop(open);
    let said = |bytes: Vec<u8>| {
        let address = pgferry.address();
        async move {
            let mut wire = Wire::tcp(address).await.unwrap();
            wire.send(&bytes).await.unwrap();
            wire.next().await.unwrap().unwrap().fields()
        }
    };
    let bad = said(startup(3, 0, &[("user", "a"), ("user", "b")])).await;
    let oversized = said(10_001_u32.to_be_bytes().to_vec()).await;
    pgferry.says("session ended").await;
    // The place of the session that was cut is free in a moment.
    let mut open = let_in(&pgferry, "pgferry", "shop").await;
    world.cluster().begin_deleting(1);
    let deleted = open.next().await.unwrap().unwrap().fields();
    let rows = [
        ("two clusters of this name", two),
        ("the API server cannot be reached", unreachable),
        ("too many connections", full),
        ("the tunnel is lost", cut),
        ("a broken startup packet", bad),
        ("an oversized startup packet", oversized),
        ("the primary's pod is deleted under a session", deleted),
    ];
    rows.into_iter().map(|(what, fields)| Row { what, fields }).collect()
}

/// What others have written, and pgferry does not follow.
async fn distrusted() -> Vec<Row> {
    let asking = async |what, asks, tls: bool| {
        let certificate = Authority::new("the author's own").server(&["shop-rw"]);
        let hostile = if tls { Hostile::with_tls(asks, &certificate).await } else { Hostile::start(asks).await };
        caused(what, "pgferry", "shop", |world| {
            world.api.backend("prod", "shop-1", 5432, Backend::To(hostile.address()));
        })
        .await
    };
    vec![
        caused("a name in an object is a path", "reporting", "shop", |world| {
            world.cluster().change(|cluster| {
                cluster["spec"]["managed"] =
                    json!({"roles": [{"name": "reporting", "login": true, "passwordSecret": {"name": "../../staging/secrets/x"}}]});
            });
        })
        .await,
        caused("a Secret does not agree to the Service that names it", "pgferry", "mine", |world| {
            let marks = json!({"pgferry.dev/cluster": "mine", "pgferry.dev/secret": "shop-app"});
            world.api.put("services", service(("prod", "web"), json!({"cnpg.io/cluster": "shop"}), marks));
        })
        .await,
        caused("an `ExternalName` that is not configured", "pgferry", "conn", |world| {
            let login = [("host", "alias"), ("port", "5432"), ("username", "app"), ("password", &world.password)];
            world.api.put("secrets", secret(("prod", "conn"), &login));
            let mut alias = service(("prod", "alias"), json!(null), json!({}));
            alias["spec"]["type"] = json!("ExternalName");
            alias["spec"]["externalName"] = json!("db.example.com");
            world.api.put("services", alias);
        })
        .await,
        asking("a server asks for a cleartext password", Asks::Cleartext, true).await,
        asking("a server asks for an MD5 hash", Asks::Md5, false).await,
        caused("two systems have a cluster of this name", "pgferry", "shop.prod", |world| {
            let state = State::new(&Zalando, "prod", 1);
            draw(&world.api, &Zalando, &state);
        })
        .await,
    ]
}

/// What people hear of a bastion.
async fn in_a_bastion() -> Vec<Row> {
    let rule = "recheck = \"100ms\"\n[[access]]\npeople = [\"lee\"]\ntargets = [\"*.*\"]\nreason = \"required\"\n\
                [[access]]\ntargets = [\"*.*\"]\n";
    let bastion = Bastion::new(&format!("{TOKENS}{rule}")).await;
    let (kim, lee) = (bastion.token("kim", &[]), bastion.token("lee", &[]));
    bastion.bind("lee", "app");
    let shop = ("app@shop.prod", "app");
    let wrong = bastion.refusal("a guess", shop.0, shop.1).await;
    let mut wire = Wire::tcp(bastion.pgferry.address()).await.unwrap();
    let open = wire.start(&[("user", shop.0), ("database", shop.1)]).await.unwrap_err();
    let forbidden = bastion.refusal(&kim, shop.0, shop.1).await;
    let reason = bastion.refusal(&lee, shop.0, shop.1).await;
    bastion.bind("kim", "app");
    let mut session = bastion.connect(&kim, shop.0, shop.1).await.unwrap();
    bastion.unbind("kim", "app");
    let revoked = session.next().await.unwrap().unwrap().fields();
    let rows = [
        ("a bastion: a token or password that is refused", wrong),
        ("a bastion: no TLS, where a token would be asked for", open),
        ("a bastion: it is not allowed, or does not exist", forbidden),
        ("a rule demands a reason", reason),
        ("a bastion: the right is taken away under a session", revoked),
    ];
    rows.into_iter().map(|(what, fields)| Row { what, fields }).collect()
}

/// What each row must say; a message alone must suffice, and a hint is something to type or do.
#[tokio::test]
async fn every_failure_says_what_happened_and_what_to_type() {
    let mut rows = rows().await;
    rows.extend(staged().await);
    rows.extend(distrusted().await);
    rows.extend(in_a_bastion().await);
    let expected: &[(&str, &str, &str)] = &[
        ("3D000", "no cluster is called \"shpo\"", "shop.prod"),
        ("3D000", "no context is called \"fke\"", "kubectl config get-contexts"),
        ("3D000", "postgres", "user=ROLE@CLUSTER"),
        ("28000", "no login for role \"nobody-here\"", "app"),
        ("28000", "expired", "kubectl --context 'fake'"),
        ("42501", "list pods in namespace", "kubectl auth can-i list pods -n"),
        ("42501", "get secrets in namespace prod", "verbs: [get]"),
        (
            "42501",
            "create pods/portforward in namespace prod",
            "kubectl auth can-i create pods/portforward -n prod --context 'fake'",
        ),
        ("42501", "get pods/portforward in namespace prod", "verbs: [create, get]"),
        ("28000", "Secret prod/shop-app", "kubectl get secrets -n prod"),
        ("28000", "Secret prod/shop-app has no key \"password\"", "kubectl describe secret -n prod shop-app"),
        ("28P01", "password authentication failed", "Secret prod/shop-app"),
        ("57P03", "no ready primary", "kubectl get pods -n prod"),
        ("57P03", "hibernated", "kubectl annotate"),
        ("57P03", "fenced", "kubectl annotate"),
        ("08001", "pod shop-1", "kubectl logs -n prod shop-1"),
        ("08006", "WebSockets", "WebSocket"),
        ("08006", "does not answer like a Kubernetes API server (status 502)", "kubectl config view"),
        ("08006", "answers 503", ""),
        ("08006", "did not answer within 3 s", "kubectl version"),
        ("3D000", "shop.prod and shop.staging", " shop.prod"),
        ("08001", "cannot be reached", "kubectl version"),
        ("53300", "1 connections already", "max_connections"),
        ("08006", "tunnel to pod shop-1 was lost", "Connect again"),
        ("08P01", "given twice", ""),
        ("08P01", "invalid length", "psql"),
        ("57P01", "pod shop-1 is being deleted", "Connect again"),
        ("28000", "passwordSecret", ""),
        (
            "28000",
            "does not agree: it does not carry pgferry.dev/cluster=mine",
            "kubectl annotate secret shop-app -n prod pgferry.dev/cluster=mine",
        ),
        ("42501", "Service prod/alias", "kubernetes.external_names"),
        ("28000", "cleartext", "auth = \"password\""),
        ("28000", "MD5", "auth = \"md5\""),
        ("3D000", "cloudnative-pg and of zalando", "system = "),
        ("28P01", "password authentication failed", ""),
        ("28000", "only over TLS", "sslmode=verify-full"),
        ("42501", "there is no shop.prod that kim may connect to as role app", "resources: [\"clusters/app\"]"),
        ("42501", "only with a reason", "pgferry.reason="),
        ("57P01", "no longer allowed", ""),
    ];
    assert_eq!(rows.len(), expected.len());
    for (row, (code, message, hint)) in rows.iter().zip(expected) {
        let fields = &row.fields;
        assert!(fields.severity == "FATAL" && fields.code == *code, "{}: {fields:?}", row.what);
        assert!(fields.message.contains(message) && fields.hint.contains(hint), "{}: {fields:?}", row.what);
    }
    let table = rows.iter().fold(
        String::from("| what happened | SQLSTATE | message |\n| --- | --- | --- |\n"),
        |mut table, row| {
            writeln!(table, "| {} | {} | {} |", row.what, row.fields.code, plain(&row.fields.message)).unwrap();
            table
        },
    );
    in_docs("docs/errors.md", "errors", &table);
}

/// Ports differ from run to run.
fn plain(message: &str) -> String {
    let mut words: Vec<String> = message.split(' ').map(str::to_owned).collect();
    for word in &mut words {
        if word.starts_with("https://127.0.0.1:") {
            "https://...".clone_into(word);
        }
    }
    words.join(" ")
}
