//! What a name means: the README's table, row by row, through the binary.

use proto_tests::{cnpg::Cluster, subject::Start, wire::Wire};
use serde_json::json;

use crate::support::{BINARY, World};

#[tokio::test]
async fn a_database_names_a_cluster() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    for database in ["shop", "shop.prod", "shop.prod@fake", "shop@fake", "shop:any", "shop/app", "shop.prod:rw/app"] {
        let mut wire =
            pgferry.connect("pgferry", database).await.unwrap_or_else(|error| panic!("{database}: {error:?}"));
        assert_eq!(
            wire.value("select current_user || ' ' || current_database()").await.unwrap(),
            "app app",
            "{database}"
        );
    }
    let mut wire = pgferry.connect("app", "shop/postgres").await.unwrap();
    assert_eq!(wire.value("select current_database()").await.unwrap(), "postgres");
}

#[tokio::test]
async fn a_user_with_a_target_opens_any_database() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    for (user, database, wanted) in [
        ("app@shop", "app", "app"),
        ("app@shop.prod", "postgres", "postgres"),
        ("app@shop.prod@fake", "app", "app"),
        ("@shop", "app", "app"),
        ("app@shop", "app@shop", "app"),
    ] {
        let mut wire = pgferry.connect(user, database).await.unwrap_or_else(|error| panic!("{user}: {error:?}"));
        assert_eq!(wire.value("select current_database()").await.unwrap(), wanted, "{user} {database}");
    }
    // The server itself says that a database does not exist.
    let refusal = pgferry.refusal("app@shop", "nothing").await;
    assert_eq!((refusal.code.as_str(), refusal.message.as_str()), ("3D000", "database \"nothing\" does not exist"));
}

#[tokio::test]
async fn an_option_names_the_target_and_others_are_forwarded() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
    let options = "-c pgferry.target=shop.prod -c search_path=\"a\\ b\"";
    wire.start(&[("user", "app"), ("database", "postgres"), ("options", options)]).await.unwrap();
    assert_eq!(wire.value("show search_path").await.unwrap(), "\"a b\"");
    assert_eq!(wire.value("select current_database()").await.unwrap(), "postgres");
}

#[tokio::test]
async fn aliases_and_bound_listeners() {
    let world = World::reading().await;
    let config = world.api.write("config.toml", "[names.aliases]\nreports = \"shop.prod/postgres\"\n");
    let pgferry = world.pgferry_with(&["--config", config.to_str().unwrap()]).await;
    let mut wire = pgferry.connect("pgferry", "reports").await.unwrap();
    assert_eq!(wire.value("select current_database()").await.unwrap(), "postgres");

    let free = proto_tests::ports::free();
    let config = world.api.write("bound.toml", &format!("[listen.bindings]\n{free} = \"shop.prod\"\n"));
    let mut pgferry = world.pgferry_with(&["--config", config.to_str().unwrap()]).await;
    pgferry.says("for shop.prod").await;
    let mut wire = Wire::tcp(("127.0.0.1", free)).await.unwrap();
    wire.start(&[("user", "app"), ("database", "postgres")]).await.unwrap();
    assert_eq!(wire.value("select current_user || ' ' || current_database()").await.unwrap(), "app postgres");
}

#[tokio::test]
async fn maintenance_databases_are_never_targets() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    for database in ["postgres", "template0", "template1"] {
        let refusal = pgferry.refusal("alice", database).await;
        assert_eq!(refusal.code, "3D000");
        assert!(refusal.hint.contains("user=ROLE@CLUSTER"), "{refusal:?}");
    }
}

#[tokio::test]
async fn a_bare_name_is_looked_up_in_the_namespace_in_force_then_everywhere() {
    let world = World::reading().await;
    let address = world.server.address();
    Cluster::new(&world.api, ("staging", "shop"), &world.password, &[address]);
    Cluster::new(&world.api, ("finance", "ledger"), &world.password, &[address]);
    let pgferry = world.pgferry().await;
    let refusal = pgferry.refusal("alice", "shop").await;
    assert_eq!(
        (refusal.code.as_str(), refusal.message.as_str()),
        ("3D000", "\"shop\" names 2 clusters: shop.prod and shop.staging")
    );
    assert!(pgferry.connect("pgferry", "ledger").await.is_ok(), "the only one of its name");
    assert!(pgferry.connect("pgferry", "shop.staging").await.is_ok());
    drop(pgferry);
    let mut here = world.pgferry_with(&["--namespace", "staging"]).await;
    assert!(here.connect("pgferry", "shop").await.is_ok());
    here.says("namespace=\"staging\"").await;
}

#[tokio::test]
async fn an_argo_application_leads_to_its_only_cluster() {
    let world = World::reading().await;
    world.cluster().change(|cluster| cluster["metadata"]["labels"]["argocd.argoproj.io/instance"] = json!("webshop"));
    let pgferry = world.pgferry().await;
    assert!(pgferry.connect("pgferry", "webshop").await.is_ok());
    let other = Cluster::new(&world.api, ("staging", "other"), &world.password, &[world.server.address()]);
    other.annotate("argocd.argoproj.io/tracking-id", "webshop:postgresql.cnpg.io/Cluster:staging/other");
    let pgferry = world.pgferry().await;
    let refusal = pgferry.refusal("pgferry", "webshop").await;
    assert!(refusal.message.contains("other.staging and shop.prod"), "{refusal:?}");
}

#[tokio::test]
async fn unknown_names_come_with_near_misses() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    let refusal = pgferry.refusal("alice", "shpo").await;
    assert_eq!(refusal.code, "3D000");
    assert!(refusal.message.contains("no cluster is called \"shpo\""), "{refusal:?}");
    assert!(refusal.hint.contains("shop.prod") && refusal.hint.contains("pgferry list"), "{refusal:?}");
    let refusal = pgferry.refusal("alice", "shop@fke").await;
    assert!(refusal.message.contains("no context is called \"fke\"") && refusal.hint.contains("fake"), "{refusal:?}");
    // A name that would draw in a terminal, or forge a line of the log.
    let refusal = pgferry.refusal("alice", "Not\nA \u{1b}[31mName").await;
    assert_eq!(
        (refusal.code.as_str(), refusal.message.as_str()),
        ("3D000", "\"Not\u{fffd}A \u{fffd}[31mName\" does not name a cluster")
    );
}

#[tokio::test]
async fn contexts_with_awkward_names() {
    let world = World::reading().await;
    let user = json!({"token": world.api.token()});
    let name = "arn:aws:eks:eu-north-1:1:cluster/x";
    let kubeconfig = world.api.kubeconfig_with(name, None, user, json!({}));
    let config = world.api.write("config.toml", &format!("[kubernetes.contexts]\neu = \"{name}\"\n"));
    let pgferry = Start::new(BINARY).args(["serve", "--port", "0", "--config"]).arg(config);
    let pgferry = pgferry.arg("--kubeconfig").arg(kubeconfig).wait().await;
    for database in ["shop", "shop@eu", "shop.prod@eu:any"] {
        assert!(pgferry.connect("pgferry", database).await.is_ok(), "{database}");
    }
    assert!(pgferry.connect("app@shop@eu", "app").await.is_ok());
}

#[tokio::test]
async fn replication_names_its_target_in_the_user() {
    let world = World::with(|mut setup| {
        setup.sql.push("ALTER ROLE app REPLICATION".to_owned());
        setup
    })
    .await;
    let pgferry = world.pgferry().await;
    let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
    let refusal = wire.start(&[("user", "app"), ("database", "shop"), ("replication", "database")]).await.unwrap_err();
    assert_eq!(refusal.code, "3D000");
    let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
    wire.start(&[("user", "app@shop"), ("database", "app"), ("replication", "database")]).await.unwrap();
    assert_eq!(wire.query("IDENTIFY_SYSTEM").await.unwrap().len(), 1);
}
