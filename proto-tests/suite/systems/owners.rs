//! Whoever names a database and no role gets the login of the role that owns it, where the system knows that.

use futures_util::future::join_all;
use proto_tests::{
    cnpg::{Cluster, GROUP, secret},
    hostile::{Asks, Hostile},
    kubernetes::{Backend, FakeKubernetes},
    postgres::{PostgresServer, Setup},
    secrets,
    subject::Subject,
    systems::{State, System, Zalando, draw},
};
use serde_json::{Value, json};

use crate::support::{list, serve};

/// Who a client is, and where.
async fn who(pgferry: &Subject, user: &str, database: &str) -> String {
    let mut wire = pgferry.connect(user, database).await.unwrap_or_else(|told| panic!("{user} {database}: {told:?}"));
    wire.value("select current_user || ' ' || current_database()").await.unwrap()
}

/// Databases by manifest and prepared ones, each with its owner. The named one's owner was nobody: all of them logged in as
/// the default, or not at all where there were several.
#[tokio::test]
async fn zalandos_databases_have_their_owners() {
    let password = secrets::make("owner");
    let setup = Setup::new(17).application("app_owner", &password, "app");
    let server = PostgresServer::start(setup.application("bar_owner_user", &password, "bar")).await.unwrap();
    let state = State::new(&Zalando, "prod", 1);
    let api = FakeKubernetes::start().await;
    draw(&api, &Zalando, &state);
    api.backend("prod", &Zalando.pod_name(&state, 0), Zalando.port(), Backend::To(server.address()));
    api.change("postgresqls", "prod", "shop", |object| {
        object["spec"]["users"] = json!({"app_owner": [], "bi_user": []});
        object["spec"]["databases"] = json!({"app": "app_owner"});
        object["spec"]["preparedDatabases"] = json!({"bar": {"defaultUsers": true}, "foo": {}});
    });
    for role in ["app_owner", "bar_owner_user"] {
        let name = format!("{}.shop.credentials.postgresql.acid.zalan.do", role.replace('_', "-"));
        api.put("secrets", secret("prod", &name, &[("username", role), ("password", &password)]));
    }
    let pgferry = serve(&api, "").await;
    let cases = [
        ("pgferry", "shop.prod/app", "app_owner app"),
        ("pgferry", "shop.prod/bar", "bar_owner_user bar"),
        ("@shop.prod", "bar", "bar_owner_user bar"),
        ("app_owner@shop.prod", "bar", "app_owner bar"),
        ("pgferry", "shop.prod", "app_owner app"),
        ("pgferry", "shop.prod/postgres", "app_owner postgres"),
    ];
    // At once: clients that come together share the reading of one login, and of no other.
    let found = join_all(cases.map(|(user, database, _)| who(&pgferry, user, database))).await;
    assert_eq!(found, cases.map(|(_, _, wanted)| wanted));
}

/// A cluster of CloudNativePG's with further databases, owned by roles with a login, without one, and by a superuser.
async fn declared(password: &str, server: &PostgresServer) -> FakeKubernetes {
    let api = FakeKubernetes::start().await;
    let role = |name: &str, superuser: bool| json!({"name": name, "login": true, "superuser": superuser, "passwordSecret": {"name": format!("{name}-login")}});
    let spec = json!({
        "instances": 1,
        "bootstrap": {"initdb": {"database": "app", "owner": "app"}},
        "managed": {"roles": [role("clerk", false), role("chief", true)]},
    });
    Cluster::with_spec(&api, ("prod", "shop"), spec, &[server.address()]).set_password(password);
    api.serve_crd(GROUP, "v1", "databases");
    for name in ["clerk", "chief"] {
        api.put("secrets", secret("prod", &format!("{name}-login"), &[("username", name), ("password", password)]));
    }
    database(&api, "other", &json!({"cluster": {"name": "elsewhere"}, "name": "books", "owner": "app"}), true);
    database(
        &api,
        "gone",
        &json!({"cluster": {"name": "shop"}, "name": "books", "owner": "app", "ensure": "absent"}),
        true,
    );
    database(&api, "second", &json!({"cluster": {"name": "shop"}, "name": "books", "owner": "app"}), false);
    for (name, owner) in [("books", "clerk"), ("ledger", "nobody"), ("vault", "chief")] {
        database(&api, name, &json!({"cluster": {"name": "shop"}, "name": name, "owner": owner}), true);
    }
    api
}

fn database(api: &FakeKubernetes, name: &str, spec: &Value, applied: bool) {
    let metadata = json!({"namespace": "prod", "name": name});
    api.put("databases", json!({"metadata": metadata, "spec": spec, "status": {"applied": applied}}));
}

/// `Database` resources, read only where the cluster's own does not know the database.
#[tokio::test]
async fn cloudnative_pgs_databases_have_their_owners() {
    let password = secrets::make("owner");
    let mut setup = Setup::new(17).application("app", &password, "app").application("clerk", &password, "books");
    setup.sql.extend(["CREATE DATABASE ledger", "CREATE DATABASE vault"].map(str::to_owned));
    setup.sql.push(format!("CREATE ROLE chief SUPERUSER LOGIN PASSWORD '{password}'"));
    let server = PostgresServer::start(setup).await.unwrap();
    let api = declared(&password, &server).await;
    let pgferry = serve(&api, "").await;
    for (user, database, wanted, lists) in [
        ("pgferry", "shop.prod/app", "app app", 0),
        ("@shop.prod", "postgres", "app postgres", 0),
        ("pgferry", "shop.prod/books", "clerk books", 1),
        ("@shop.prod", "books", "clerk books", 1),
        ("clerk@shop.prod", "app", "clerk app", 0),
        ("pgferry", "shop.prod/ledger", "app ledger", 1),
        ("pgferry", "shop.prod/vault", "app vault", 1),
    ] {
        api.forget_requests();
        assert_eq!(who(&pgferry, user, database).await, wanted, "{user} {database}");
        assert_eq!(api.count("list", "databases"), lists, "{user} {database}");
    }
    let databases = list(&api).await[0]["databases"].clone();
    assert_eq!(databases, json!(["app", "books", "ledger", "vault"]), "a list shows them all");
    // Two that do not agree, and a configuration that says which login it is.
    database(&api, "third", &json!({"cluster": {"name": "shop"}, "name": "books", "owner": "app"}), true);
    assert_eq!(who(&pgferry, "pgferry", "shop.prod/books").await, "app books");
    api.delete("databases", "prod", "third");
    let configured = serve(&api, "[clusters.\"shop.prod\"]\nsecret = \"shop-app\"\n").await;
    assert_eq!(who(&configured, "pgferry", "shop.prod/books").await, "app books");
    // The owner's Secret should be there: nobody becomes another role because it is not.
    api.delete("secrets", "prod", "clerk-login");
    let refusal = pgferry.refusal("pgferry", "shop.prod/books").await;
    assert_eq!(refusal.code, "28000", "{refusal:?}");
    assert!(refusal.message.contains("Secret prod/clerk-login"), "{refusal:?}");
}

/// `postgres@postgres.prod` logged in as `app` without a word.
#[tokio::test]
async fn a_role_that_is_called_as_the_cluster_can_be_asked_for() {
    let [app, admin] = ["app", "admin"].map(secrets::make);
    let mut setup = Setup::new(17).application("app", &app, "app");
    setup.sql.push(format!("ALTER ROLE postgres PASSWORD '{admin}'"));
    let server = PostgresServer::start(setup).await.unwrap();
    let api = FakeKubernetes::start().await;
    let spec = json!({
        "instances": 1, "enableSuperuserAccess": true,
        "bootstrap": {"initdb": {"database": "app", "owner": "app"}},
    });
    Cluster::with_spec(&api, ("prod", "postgres"), spec, &[server.address()]).set_password(&app);
    let superuser = [("username", "postgres"), ("password", admin.as_str())];
    api.put("secrets", secret("prod", "postgres-superuser", &superuser));
    let pgferry = serve(&api, "").await;
    for (user, database, wanted) in [
        ("postgres@postgres.prod", "app", "postgres app"),
        ("@postgres.prod", "app", "app app"),
        ("postgres", "postgres.prod", "app app"),
    ] {
        assert_eq!(who(&pgferry, user, database).await, wanted, "{user} {database}");
    }
}

/// A zero byte was refused, and a line break or a terminal's escape sequence went to the server and into everybody's log.
#[tokio::test]
async fn names_with_control_characters_are_refused() {
    let server = Hostile::start(Asks::Nothing).await;
    let state = State::new(&Zalando, "prod", 1);
    let api = FakeKubernetes::start().await;
    Cluster::new(&api, ("prod", "ledger"), &secrets::make("app"), &[server.address()]);
    draw(&api, &Zalando, &state);
    api.backend("prod", &Zalando.pod_name(&state, 0), Zalando.port(), Backend::To(server.address()));
    let pgferry = serve(&api, "").await;
    for name in ["a\u{1b}[31mb", "a\nb", "\ta", "a\u{7f}", "a\u{85}b"] {
        for (key, data) in [
            ("username", [("username", name), ("password", "x"), ("dbname", "app")]),
            ("dbname", [("username", "app"), ("password", "x"), ("dbname", name)]),
        ] {
            api.put("secrets", secret("prod", "ledger-app", &data));
            let refusal = pgferry.refusal("pgferry", "ledger.prod").await;
            assert_eq!(refusal.code, "28000", "{name:?} {refusal:?}");
            let named = ["Secret prod/ledger-app", &format!("\"{key}\""), "control character"];
            assert!(named.iter().all(|part| refusal.message.contains(part)), "{name:?} {refusal:?}");
        }
        api.change("postgresqls", "prod", "shop", |object| object["spec"]["databases"] = json!({name: "the_clerk"}));
        let refusal = pgferry.refusal("pgferry", "shop.prod").await;
        assert_eq!(refusal.code, "28000", "{name:?} {refusal:?}");
        assert!(refusal.message.contains("postgresqls.acid.zalan.do prod/shop: a database's name"), "{refusal:?}");
    }
}
