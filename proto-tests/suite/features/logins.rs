//! Which login a user name gets, and what a broken one says.

use proto_tests::{
    cnpg::{Cluster, secret},
    kubernetes::FakeKubernetes,
    postgres::{Hba, PostgresServer, Setup},
    secrets,
};
use serde_json::json;

use crate::support::{World, serve};

#[tokio::test]
async fn users_that_mean_the_default_login() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    for user in ["pgferry", "shop", "shop.prod", "app"] {
        let mut wire = pgferry.connect(user, "shop.prod").await.unwrap_or_else(|error| panic!("{user}: {error:?}"));
        assert_eq!(wire.value("select current_user").await.unwrap(), "app");
        assert!(wire.notices.is_empty(), "{:?}", wire.notices);
    }
    let refusal = pgferry.refusal("nobody-here", "shop").await;
    assert_eq!(refusal.code, "28000");
    assert!(refusal.message.contains("no login for role \"nobody-here\""), "{refusal:?}");
    assert!(refusal.hint.contains("app"), "{refusal:?}");
}

/// Custom Secrets without a database, a managed role, a superuser Secret whose database is `*`.
#[tokio::test]
async fn every_secret_of_cloudnative_pg() {
    let [clerk, reporting, admin] = ["clerk", "reporting", "admin"].map(secrets::make);
    let mut setup = Setup::new(14).application("clerk", &clerk, "books");
    setup.sql.push(format!("CREATE ROLE reporting LOGIN PASSWORD '{reporting}'"));
    setup.sql.push(format!("ALTER ROLE postgres PASSWORD '{admin}'"));
    let server = PostgresServer::start(setup).await.unwrap();
    let api = FakeKubernetes::start().await;
    let spec = json!({
        "instances": 1,
        "bootstrap": {"initdb": {"database": "books", "owner": "clerk", "secret": {"name": "own"}}},
        "enableSuperuserAccess": true,
        "managed": {"roles": [{"name": "reporting", "login": true, "passwordSecret": {"name": "rep"}}]},
    });
    Cluster::with_spec(&api, ("prod", "ledger"), spec, &[server.address()]);
    api.put("secrets", secret("prod", "own", &[("username", "clerk\n"), ("password", &clerk)]));
    api.put("secrets", secret("prod", "rep", &[("username", "reporting"), ("password", &reporting)]));
    let superuser =
        secret("prod", "ledger-superuser", &[("username", "postgres"), ("password", &admin), ("dbname", "*")]);
    api.put("secrets", superuser);
    let pgferry = proto_tests::subject::Start::new(crate::support::BINARY).serve(&api.kubeconfig()).await;
    for (user, who) in [("pgferry", "clerk books"), ("reporting", "reporting books"), ("postgres", "postgres books")] {
        let mut wire = pgferry.connect(user, "ledger").await.unwrap_or_else(|error| panic!("{user}: {error:?}"));
        assert_eq!(wire.value("select current_user || ' ' || current_database()").await.unwrap(), who);
        assert!(wire.notices.is_empty(), "a superuser asked for by name needs no notice");
    }
    let refusal = pgferry.refusal("other", "ledger").await;
    assert!(refusal.hint.contains("clerk, reporting, postgres"), "{refusal:?}");
}

/// Roles of their own resource, which operators have since 1.30.
#[tokio::test]
async fn a_database_role_has_a_login() {
    let late = secrets::make("late");
    let role = format!("CREATE ROLE late LOGIN PASSWORD '{late}'");
    let world = World::with(|mut setup| {
        setup.sql.push(role);
        setup
    })
    .await;
    let pgferry = world.pgferry().await;
    assert_eq!(pgferry.refusal("late", "shop").await.code, "28000");
    world.api.serve_crd(proto_tests::cnpg::GROUP, "v1", "databaseroles");
    for (object, cluster, name) in [("other", "elsewhere", "late"), ("ours", "shop", "late")] {
        world.api.put(
            "databaseroles",
            json!({
                "metadata": {"namespace": "prod", "name": object},
                "spec": {"cluster": {"name": cluster}, "name": name, "login": true, "passwordSecret": {"name": "late-login"}},
            }),
        );
    }
    world.api.put("secrets", secret("prod", "late-login", &[("username", "late"), ("password", &late)]));
    let mut wire = pgferry.connect("late", "shop").await.unwrap();
    assert_eq!(wire.value("select current_user || ' ' || current_database()").await.unwrap(), "late app");
}

#[tokio::test]
async fn a_superuser_is_used_unasked_only_where_there_is_no_other() {
    let admin = secrets::make("admin");
    let mut setup = Setup::new(17);
    setup.sql.push(format!("ALTER ROLE postgres PASSWORD '{admin}'"));
    let server = PostgresServer::start(setup).await.unwrap();
    let api = FakeKubernetes::start().await;
    let spec = json!({"instances": 1, "enableSuperuserAccess": true, "bootstrap": {"initdb": {"import": {}}}});
    Cluster::with_spec(&api, ("prod", "bare"), spec, &[server.address()]);
    api.put("secrets", secret("prod", "bare-superuser", &[("username", "postgres"), ("password", &admin)]));
    let pgferry = proto_tests::subject::Start::new(crate::support::BINARY).serve(&api.kubeconfig()).await;
    let wire = pgferry.connect("pgferry", "bare").await.unwrap();
    assert!(wire.notices.iter().any(|notice| notice.message.contains("superuser")), "{:?}", wire.notices);
}

#[tokio::test]
async fn every_way_a_server_asks_for_a_password() {
    let (certificate, key) = proto_tests::kubernetes::certificates::Authority::new("x").server(&["shop-rw"]);
    for (hba, tls, configuration) in [
        (Hba::Scram, false, ""),
        (Hba::Md5, false, "auth = \"md5\""),
        (Hba::Trust, false, ""),
        (Hba::TlsOnly, true, ""),
        // Cleartext goes only inside TLS, which is found out at the first login.
        (Hba::Password, true, "auth = \"password\""),
    ] {
        let what = format!("{hba:?}");
        let pair = tls.then(|| (certificate.clone(), key.clone()));
        let world = World::with(|setup| Setup { hba, tls: pair, ..setup }).await;
        let pgferry = serve(&world.api, &format!("[clusters.\"shop.prod\"]\n{configuration}\n")).await;
        for _ in 0..2 {
            let mut wire = pgferry.connect("pgferry", "shop").await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            let encrypted = wire.value("select ssl from pg_stat_ssl where pid = pg_backend_pid()").await.unwrap();
            assert_eq!(encrypted == "t", tls, "{what}");
        }
    }
}

/// A server that is not what it claims to be asks for something weaker than SCRAM.
#[tokio::test]
async fn md5_is_not_given_to_a_system_that_does_not_use_it() {
    let world = World::with(|setup| Setup { hba: Hba::Md5, ..setup }).await;
    let refusal = world.pgferry().await.refusal("pgferry", "shop").await;
    assert_eq!(refusal.code, "28000");
    assert!(refusal.message.contains("MD5"), "{refusal:?}");
    assert!(refusal.hint.contains("clusters.\"shop.prod\".auth = \"md5\""), "{refusal:?}");
    assert!(refusal.hint.contains("password_encryption = 'scram-sha-256'"), "{refusal:?}");
}

#[tokio::test]
async fn md5_is_not_given_after_scram_whatever_is_configured() {
    // This method is SCRAM where the password is stored so, and MD5 where it is not.
    let hba = Hba::Custom("local all all trust\nhost all all all md5\n".to_owned());
    let world = World::with(|setup| Setup { hba, ..setup }).await;
    let pgferry = serve(&world.api, "[clusters.\"shop.prod\"]\nauth = \"md5\"\n").await;
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    wire.query("SET password_encryption = 'md5'").await.unwrap();
    wire.query(&format!("ALTER ROLE app PASSWORD '{}'", world.password)).await.unwrap();
    let refusal = pgferry.refusal("pgferry", "shop").await;
    assert_eq!(refusal.code, "28000");
    assert!(refusal.message.contains("has logged in with SCRAM before"), "{refusal:?}");
    wire.query("SET password_encryption = 'scram-sha-256'").await.unwrap();
    wire.query(&format!("ALTER ROLE app PASSWORD '{}'", world.password)).await.unwrap();
    pgferry.connect("pgferry", "shop").await.unwrap();
}

/// The server says how often a password is hashed, and could keep a core busy for an hour.
#[tokio::test]
async fn a_server_may_ask_for_so_many_rounds_and_no_more() {
    let world = World::new().await;
    let mut wire = world.directly().await;
    wire.query("SET scram_iterations = 100001").await.unwrap();
    wire.query(&format!("ALTER ROLE app PASSWORD '{}'", world.password)).await.unwrap();
    let refusal = world.pgferry().await.refusal("pgferry", "shop").await;
    assert_eq!(refusal.code, "28000");
    assert!(refusal.message.contains("100001 rounds"), "{refusal:?}");
    assert!(refusal.hint.contains("clusters.\"shop.prod\".scram_iterations"), "{refusal:?}");
    let pgferry = serve(&world.api, "[clusters.\"shop.prod\"]\nscram_iterations = 100001\n").await;
    for _ in 0..2 {
        pgferry.connect("pgferry", "shop").await.unwrap();
    }
}

#[tokio::test]
async fn a_cleartext_password_is_never_sent_in_plaintext() {
    let world = World::with(|setup| Setup { hba: Hba::Password, ..setup }).await;
    let pgferry = world.pgferry().await;
    let refusal = pgferry.refusal("pgferry", "shop").await;
    assert!(refusal.code == "28000" && refusal.message.contains("asks for a cleartext password"), "{refusal:?}");
    let allowed = serve(&world.api, "[clusters.\"shop.prod\"]\nauth = \"password\"\n").await;
    let refusal = allowed.refusal("pgferry", "shop").await;
    assert!(refusal.message.contains("does not support TLS"), "{refusal:?}");
}

#[tokio::test]
async fn passwords_with_every_kind_of_character() {
    for password in ["  spaces  ", "quote'\"\\", "ünïcödé ✓ 密码", "\u{00AA}\u{2168}", "%40:/@?#", "tab\there"]
    {
        let server = PostgresServer::start(Setup::new(18).application("app", password, "app")).await.unwrap();
        let api = FakeKubernetes::start().await;
        Cluster::new(&api, ("prod", "shop"), password, &[server.address()]);
        let pgferry = proto_tests::subject::Start::new(crate::support::BINARY).serve(&api.kubeconfig()).await;
        pgferry.connect("pgferry", "shop").await.unwrap_or_else(|error| panic!("{password:?}: {error:?}"));
    }
}

/// A rotated password must work for the next connection, and cost one refused login at the most.
#[tokio::test]
async fn a_changed_secret_is_used_by_the_next_login() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    pgferry.connect("pgferry", "shop").await.unwrap();
    let fresh = secrets::make("fresh");
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    wire.query(&format!("ALTER ROLE app PASSWORD '{fresh}'")).await.unwrap();
    // The operator leaves uri and pgpass as they were.
    world.api.change("secrets", "prod", "shop-app", |secret| {
        secret["data"]["password"] = json!(proto_tests::cnpg::encoded(&fresh));
    });
    pgferry.connect("pgferry", "shop").await.unwrap();
}

#[tokio::test]
async fn a_refused_password_says_where_it_came_from_and_is_left_alone() {
    let world = World::new().await;
    world.cluster().set_password(&secrets::make("wrong"));
    let pgferry = world.pgferry().await;
    let refusal = pgferry.refusal("pgferry", "shop").await;
    assert_eq!(refusal.code, "28P01");
    assert!(refusal.message.contains("password authentication failed for user \"app\""), "{refusal:?}");
    assert!(refusal.hint.contains("Secret prod/shop-app"), "{refusal:?}");
    assert_eq!(pgferry.refusal("pgferry", "shop").await.detail, "", "one more try");
    let tunnels = world.api.count("get", "pods/portforward");
    let refusal = pgferry.refusal("pgferry", "shop").await;
    assert_eq!(refusal.code, "28P01");
    assert!(refusal.detail.contains("not tried again for"), "{refusal:?}");
    // The stream is dialled beside the Secret; the server sees no login on it.
    assert!(world.api.count("get", "pods/portforward") <= tunnels + 1);
    world.cluster().set_password(&world.password);
    pgferry.connect("pgferry", "shop").await.unwrap();
}

#[tokio::test]
async fn broken_secrets_name_the_object_and_the_key() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    let put = |data: &[(&str, &str)]| world.api.put("secrets", secret("prod", "shop-app", data));
    for (data, code, part) in [
        (vec![("username", "app")], "28000", "Secret prod/shop-app has no key \"password\""),
        (vec![("password", "x")], "28000", "Secret prod/shop-app has no key \"username\""),
        (vec![("username", "app"), ("password", "")], "28000", "has nothing in its key \"password\""),
    ] {
        put(&data);
        let refusal = pgferry.refusal("pgferry", "shop").await;
        assert_eq!(refusal.code, code);
        assert!(refusal.message.contains(part), "{refusal:?}");
    }
    world.api.change("secrets", "prod", "shop-app", |secret| {
        secret["data"]["password"] = json!(proto_tests::cnpg::encoded([0xff, 0xfe]));
    });
    assert!(pgferry.refusal("pgferry", "shop").await.message.contains("no UTF-8 text"));
    world.api.delete("secrets", "prod", "shop-app");
    let refusal = pgferry.refusal("pgferry", "shop").await;
    assert!(
        refusal.message.contains("Secret prod/shop-app") && refusal.message.contains("does not exist"),
        "{refusal:?}"
    );
}
