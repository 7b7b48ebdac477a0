//! What a name means: the README's table, row by row, through the binary.

use std::sync::Arc;

use proto_tests::{
    cnpg::Cluster,
    kubernetes::Fault,
    subject::{Start, Subject},
    wire::{Fields, Wire},
};
use serde_json::json;
use tokio::sync::Notify;

use crate::support::{BINARY, World, serve, until};

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

/// Clients that looked for the same name at the same time shared the answer, hint and all: the second was told the
/// connection of the first, with its database for a user.
#[tokio::test]
async fn who_looks_with_another_is_told_its_own_connection() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    let held = Arc::new(Notify::new());
    world.api.fault("get", "clusters", usize::MAX, Fault::Hold(Arc::clone(&held)));
    let release = async {
        until("both look", || world.api.asked("get", "clusters") > 1).await;
        world.api.heal();
        held.notify_waiters();
    };
    let port = pgferry.address().port();
    let (database, user, ()) =
        tokio::join!(pgferry.refusal("pgferry", "shpo"), pgferry.refusal("app@shpo", "books"), release);
    assert!(database.hint.contains(&format!("psql -h localhost -p {port} shop.prod")), "{database:?}");
    assert!(user.hint.contains(&format!("psql -h localhost -p {port} -U app@shop.prod books")), "{user:?}");
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

/// What a client is told about this startup packet.
async fn told(pgferry: &Subject, parameters: &[(&str, &str)]) -> Fields {
    let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
    wire.start(parameters).await.err().unwrap_or_else(|| panic!("{parameters:?} was let in"))
}

/// node's pg without USER in its environment, and pgjdbc with `user=""`, were refused: no user name.
#[tokio::test]
async fn a_client_without_a_user_gets_the_default_login() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    for parameters in [&[("database", "shop")][..], &[("user", ""), ("database", "shop.prod/app")]] {
        let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
        wire.start(parameters).await.unwrap_or_else(|error| panic!("{parameters:?}: {error:?}"));
        assert_eq!(wire.value("select current_user").await.unwrap(), "app");
    }
    let refusal = told(&pgferry, &[("database", "shpo")]).await;
    assert!(refusal.message.contains("no cluster is called \"shpo\""), "{refusal:?}");
    let refusal = told(&pgferry, &[]).await;
    let typed = format!("psql -h localhost -p {} shop.prod", pgferry.address().port());
    assert!(refusal.code == "3D000" && refusal.hint.contains(&typed), "{refusal:?}");
}

/// A mistake behind the role was no target, so that the database was read as one: `no cluster is called "app"`.
#[tokio::test]
async fn a_mistake_behind_the_role_is_told() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    let port = pgferry.address().port();
    for (user, message, hint) in [
        (
            "app@shop.prod:xx",
            "unknown mode \"xx\" in \"shop.prod:xx\": it is rw, ro or any",
            format!("psql -h localhost -p {port} -U app@shop.prod:ro app"),
        ),
        ("APP@SHOP.PROD", "lower-case", format!("-p {port} -U APP@shop.prod app")),
        (
            "app@shop_prod",
            "in user \"app@shop_prod\": \"shop_prod\" does not name a cluster",
            "ROLE@CLUSTER".to_owned(),
        ),
        ("app@shop.prod@nocontext", "no context is called \"nocontext\"", "fake".to_owned()),
        ("app@shop.prod@NoContext", "no context is called \"NoContext\"", "fake".to_owned()),
    ] {
        let refusal = pgferry.refusal(user, "app").await;
        assert_eq!(refusal.code, "3D000", "{user}: {refusal:?}");
        assert!(refusal.message.contains(message) && refusal.hint.contains(&hint), "{user}: {refusal:?}");
    }
    let refusal = pgferry.refusal("alice", "shop:rx").await;
    assert!(refusal.message.contains("unknown mode \"rx\""), "{refusal:?}");
}

/// `postgres@postgres.sys` logged in as the application, without a word: the user is the target's name.
#[tokio::test]
async fn a_role_before_its_target_is_that_role() {
    let world = World::reading().await;
    Cluster::new(&world.api, ("sys", "reporting"), &world.password, &[world.server.address()]);
    let pgferry = world.pgferry().await;
    for user in ["reporting@reporting.sys", "reporting@reporting"] {
        let refusal = pgferry.refusal(user, "app").await;
        assert!(refusal.message.contains("no login for role \"reporting\""), "{user}: {refusal:?}");
    }
    assert!(pgferry.connect("reporting", "reporting.sys").await.is_ok(), "alone it is what clients send by themselves");
}

/// Hints said `psql -h localhost shop.prod` to somebody on another port whose user was `app@shop`.
#[tokio::test]
async fn hints_are_the_clients_own_connection() {
    let world = World::reading().await;
    Cluster::new(&world.api, ("staging", "shop"), &world.password, &[world.server.address()]);
    let sockets = world.api.directory().join("s");
    let pgferry = world.pgferry_with(&["--socket-dir", sockets.to_str().unwrap()]).await;
    let port = pgferry.address().port();
    let psql = format!("psql -h localhost -p {port}");
    for (user, database, typed) in [
        ("app@shop", "app", format!("{psql} -U app@shop.prod app")),
        ("app@shpo", "app", format!("{psql} -U app@shop.prod app")),
        ("app@shop:ro", "app@shop:ro", format!("{psql} -U app@shop.prod:ro")),
        ("pgferry", "shop", format!("{psql} shop.prod")),
        ("app", "shop/books", format!("{psql} -U app shop.prod/books")),
        ("app", "shpo@fake", format!("{psql} -U app shop.prod@fake")),
    ] {
        let refusal = pgferry.refusal(user, database).await;
        assert!(refusal.hint.contains(&typed), "{user} {database}, {typed}: {refusal:?}");
    }
    let option = ("options", "-cpgferry.target=shop");
    let refusal = told(&pgferry, &[("user", "app"), ("database", "books"), option]).await;
    assert!(
        refusal.hint.contains(&format!("PGOPTIONS='-c pgferry.target=shop.prod' {psql} -U app books")),
        "{refusal:?}"
    );
    let socket = sockets.join(format!(".s.PGSQL.{port}"));
    let refusal =
        Wire::unix(&socket).await.unwrap().start(&[("user", "pgferry"), ("database", "shop")]).await.unwrap_err();
    assert!(refusal.hint.contains(&format!("psql -h {} -p {port} shop.prod", sockets.display())), "{refusal:?}");
}

/// `psql -h localhost -p 10000` sends the user as the database; no person had written the name in the error.
#[tokio::test]
async fn a_database_that_nobody_wrote_is_explained() {
    let world = World::reading().await;
    Cluster::new(&world.api, ("finance", "ledger"), &world.password, &[world.server.address()]);
    let pgferry = world.pgferry().await;
    let refusal = pgferry.refusal("alice", "alice").await;
    assert!(refusal.message.contains("clients send the user's name where no database is given"), "{refusal:?}");
    let typed = format!("psql -h localhost -p {} ledger.finance", pgferry.address().port());
    assert!(refusal.hint.contains("ledger.finance, shop.prod") && refusal.hint.contains(&typed), "{refusal:?}");
}

/// In psql, `\c app` in a session of `shop` is a connection to a cluster `app`, and nothing said what to type.
#[tokio::test]
async fn a_database_without_its_cluster_is_found() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    let refusal = pgferry.refusal("pgferry", "app").await;
    assert!(refusal.message.contains("no cluster is called \"app\""), "{refusal:?}");
    assert!(refusal.hint.contains("\\c shop.prod/app in psql"), "{refusal:?}");
    // And the other way round: a target as the database, where the user has one.
    let refusal = pgferry.refusal("app@shop", "shop.prod:ro").await;
    assert_eq!(refusal.message, "database \"shop.prod:ro\" does not exist", "the server's own words");
    assert!(refusal.hint.contains("\\c app app@shop.prod:ro"), "{refusal:?}");
    assert_eq!(pgferry.refusal("app@shop", "nothing").await.hint, "", "no target");
}

/// `jdbc:postgresql://localhost:10000/shop.prod/app` is no URL for pgjdbc, and `%2F` no name that anybody remembers.
#[tokio::test]
async fn a_tilde_needs_no_escape_in_a_url() {
    let world = World::reading().await;
    let config = world.api.write("config.toml", "[names.aliases]\n\"shop~x\" = \"shop.prod~app\"\n");
    let pgferry = world.pgferry_with(&["--config", config.to_str().unwrap()]).await;
    for (user, database, wanted) in [
        ("pgferry", "shop.prod~postgres", Ok("postgres")),
        ("pgferry", "shop:any~app", Ok("app")),
        ("pgferry", "shop~x", Ok("app")),
        ("pgferry", "shop/a~b", Err("database \"a~b\" does not exist")),
        ("app@shop", "a~b", Err("database \"a~b\" does not exist")),
    ] {
        let opened = match pgferry.connect(user, database).await {
            Ok(mut wire) => Ok(wire.value("select current_database()").await.unwrap()),
            Err(refusal) => Err(refusal.message),
        };
        assert_eq!(opened.as_deref().map_err(String::as_str), wanted, "{user} {database}");
    }
}

/// Tools open `postgres` first: the error named neither a cluster nor the port.
#[tokio::test]
async fn postgres_alone_names_the_clusters_or_means_the_only_one() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    let refusal = pgferry.refusal("app", "postgres").await;
    let typed = format!("psql -h localhost -p {} -U app@shop.prod postgres", pgferry.address().port());
    assert!(refusal.hint.contains(&typed) && refusal.hint.contains("The clusters are shop.prod"), "{refusal:?}");
    let single = serve(&world.api, "[names]\nsingle = true\n").await;
    let mut wire = single.connect("app", "postgres").await.unwrap();
    assert_eq!(wire.value("select current_user || ' ' || current_database()").await.unwrap(), "app postgres");
    Cluster::new(&world.api, ("finance", "ledger"), &world.password, &[world.server.address()]);
    let refusal = single.refusal("app", "postgres").await;
    assert!(refusal.hint.contains("The clusters are ledger.finance, shop.prod"), "{refusal:?}");
}

/// An option that was mistyped went to the server, which kept it, and the database was read as the target.
#[tokio::test]
async fn options_that_would_be_ours_are_known_or_refused() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    for option in [("options", "-c pgferry.tarqet=shop"), ("pgferry.tarqet", "shop")] {
        let refusal = told(&pgferry, &[("user", "app"), ("database", "shop"), option]).await;
        assert_eq!((refusal.code.as_str(), refusal.message.as_str()), ("3D000", "there is no option pgferry.tarqet"));
        assert!(refusal.hint.contains("pgferry.target"), "{refusal:?}");
    }
}
