//! A password goes to the server that it is for, and in no way in which another could keep it. Whoever runs the pod
//! chooses what its server asks for.

use proto_tests::{
    cnpg::{Cluster, encoded},
    hostile::{Asks, Hostile},
    kubernetes::{Backend, FakeKubernetes, certificates::Authority},
    postgres::{Hba, PostgresServer, Setup},
    secrets,
    systems::{State, Zalando, draw},
};
use serde_json::{Value, json};

use crate::{
    support::serve,
    trust::stage::{pod, secret, service, who},
};

/// CloudNativePG's `shop` in `prod`, with a server of one's own choice.
async fn shop(password: &str, server: std::net::SocketAddr) -> FakeKubernetes {
    let api = FakeKubernetes::start().await;
    Cluster::new(&api, ("prod", "shop"), password, &[server]);
    api
}

/// Zalando's, whose version 1 still hashes with MD5.
async fn zalando(state: &State, server: std::net::SocketAddr) -> FakeKubernetes {
    let api = FakeKubernetes::start().await;
    draw(&api, &Zalando, state);
    api.backend("prod", "shop-0", 5432, Backend::To(server));
    api
}

/// The story: a tenant's server asked for the password in the clear, inside TLS with a certificate that it had made
/// itself, and got it.
#[tokio::test]
async fn a_server_that_asks_for_cleartext_gets_nothing() {
    let authority = Authority::new("the author's own");
    let certificate = authority.server(&["shop-rw", "shop-rw.prod"]);
    for configuration in [
        "",
        "[clusters.shop]\nsslmode = \"require\"\n",
        "[clusters.shop]\nsslmode = \"prefer\"\n",
        // The CA that the cluster's author keeps beside it: the author may be the attacker.
        "[clusters.shop]\nsslmode = \"verify-full\"\n",
        "[clusters.shop]\nsslmode = \"verify-ca\"\n",
        "[clusters.shop]\nauth = \"md5\"\n",
        "[clusters.shop]\nauth = \"scram-sha-256\"\n",
        "[clusters.other]\nauth = \"password\"\n",
        "[kubernetes]\ntransport = \"port-forward\"\n",
    ] {
        for encrypted in [false, true] {
            let hostile = if encrypted {
                Hostile::with_tls(Asks::Cleartext, &certificate).await
            } else {
                Hostile::start(Asks::Cleartext).await
            };
            let password = secrets::make("victim");
            let api = shop(&password, hostile.address()).await;
            api.put("secrets", secret(("prod", "shop-ca"), &[("ca.crt", authority.pem())]));
            let pgferry = serve(&api, configuration).await;
            let refusal = pgferry.refusal("pgferry", "shop").await;
            assert_eq!((hostile.answers(), hostile.knows(&password)), (0, false), "{configuration}: {refusal:?}");
            assert_eq!(refusal.severity, "FATAL", "{configuration}: {refusal:?}");
            // A server without TLS fails before, where TLS is demanded.
            if encrypted || !configuration.contains("sslmode") {
                assert_eq!(refusal.code, "28000", "{configuration}: {refusal:?}");
                assert!(refusal.message.contains("cleartext"), "{configuration}: {refusal:?}");
            }
            if encrypted && configuration.is_empty() {
                assert!(refusal.hint.contains("auth = \"password\""), "{refusal:?}");
            }
        }
    }
}

/// Without TLS even a server that may have it does not get it in the clear.
#[tokio::test]
async fn cleartext_is_never_sent_without_tls() {
    let password = secrets::make("victim");
    let hostile = Hostile::start(Asks::Cleartext).await;
    let api = shop(&password, hostile.address()).await;
    let pgferry = serve(&api, "[clusters.shop]\nauth = \"password\"\n").await;
    let refusal = pgferry.refusal("pgferry", "shop").await;
    assert_eq!((hostile.answers(), refusal.severity.as_str()), (0, "FATAL"), "{refusal:?}");
}

#[tokio::test]
async fn a_server_that_asks_for_md5_gets_nothing() {
    for configuration in
        ["", "[clusters.shop]\nauth = \"scram-sha-256\"\n", "[clusters.\"shop.staging\"]\nauth = \"md5\"\n"]
    {
        let (hostile, password) = (Hostile::start(Asks::Md5).await, secrets::make("victim"));
        let api = shop(&password, hostile.address()).await;
        let refusal = serve(&api, configuration).await.refusal("pgferry", "shop").await;
        assert_eq!((refusal.code.as_str(), hostile.answers()), ("28000", 0), "{configuration}: {refusal:?}");
        assert!(refusal.message.contains("MD5") && refusal.hint.contains("auth = \"md5\""), "{refusal:?}");
    }
}

/// Where the system still uses MD5 it is answered, but for a login that the server has known by SCRAM.
#[tokio::test]
async fn a_login_that_has_done_scram_does_no_md5_any_more() {
    let state = State::new(&Zalando, "prod", 1);
    let setup = Setup::new(17).application("the_clerk", &state.password, "books");
    let server = PostgresServer::start(setup).await.unwrap();
    let api = zalando(&state, server.address()).await;
    let pgferry = serve(&api, "").await;
    assert_eq!(who(pgferry.connect("pgferry", "shop.prod").await.unwrap()).await, "the_clerk");
    let hostile = Hostile::start(Asks::Md5).await;
    api.backend("prod", "shop-0", 5432, Backend::To(hostile.address()));
    // SCRAM's first message, which holds nothing of the password, may ride along: an MD5 hash begins with its name.
    let refusal = pgferry.refusal("pgferry", "shop.prod").await;
    assert_eq!((refusal.code.as_str(), hostile.knows("md5")), ("28000", false), "{refusal:?}");
    // Configuration can forbid it from the beginning.
    let strict = serve(&api, "[clusters.shop]\nauth = \"scram-sha-256\"\n").await;
    let refusal = strict.refusal("pgferry", "shop.prod").await;
    assert_eq!((refusal.code.as_str(), hostile.knows("md5")), ("28000", false), "{refusal:?}");
    // Whoever starts anew knows of no SCRAM, and the system's own MD5 is answered.
    assert!(serve(&api, "").await.connect("pgferry", "shop.prod").await.is_ok() && hostile.knows("md5"));
}

#[tokio::test]
async fn configuration_allows_what_a_real_server_wants() {
    let password = secrets::make("app");
    let pair = Authority::new("anybody").server(&["shop-rw"]);
    let cleartext =
        Setup { hba: Hba::Password, tls: Some(pair), ..Setup::new(17).application("app", &password, "app") };
    let md5 = Setup { hba: Hba::Md5, ..Setup::new(14).application("app", &password, "app") };
    for (setup, auths) in [(cleartext, &["password"] as &[&str]), (md5, &["md5", "password"])] {
        let server = PostgresServer::start(setup).await.unwrap();
        let api = shop(&password, server.address()).await;
        assert_eq!(serve(&api, "").await.refusal("pgferry", "shop").await.code, "28000");
        for (auth, cluster) in auths.iter().flat_map(|auth| [(auth, "shop"), (auth, "shop.prod")]) {
            let pgferry = serve(&api, &format!("[clusters.\"{cluster}\"]\nauth = \"{auth}\"\n")).await;
            assert_eq!(who(pgferry.connect("pgferry", "shop").await.unwrap()).await, "app", "{auth} for {cluster}");
        }
    }
}

/// Whoever wrote a password and a CA into one Secret has said whom the password is for; so has the configuration.
#[tokio::test]
async fn a_ca_beside_the_password_or_from_the_configuration_is_enough() {
    let (password, authority) = (secrets::make("app"), Authority::new("the Secret's own"));
    let pair = authority.server(&["db", "db.prod", "db.prod.svc", "shop-rw"]);
    let setup = Setup { hba: Hba::Password, tls: Some(pair), ..Setup::new(17).application("app", &password, "app") };
    let server = PostgresServer::start(setup).await.unwrap();
    let api = shop(&password, server.address()).await;
    api.put("services", service(("prod", "db"), json!({"app": "db"}), json!({})));
    pod(&api, ("prod", "db-0"), &json!({"app": "db"}), server.address());
    let stranger = Authority::new("a stranger");
    for (mode, ca, works) in [
        ("verify-full", authority.pem(), true),
        ("verify-ca", authority.pem(), true),
        ("verify-full", stranger.pem(), false),
        ("verify-ca", stranger.pem(), false),
        ("require", "", false),
    ] {
        let mut pairs = vec![
            ("host", "db"),
            ("port", "5432"),
            ("username", "app"),
            ("password", &password),
            ("database", "app"),
            ("sslmode", mode),
        ];
        pairs.extend(Some(("ca.crt", ca)).filter(|_| !ca.is_empty()));
        api.put("secrets", secret(("prod", "conn"), &pairs));
        let connected = serve(&api, "").await.connect("pgferry", "conn.prod").await;
        assert_eq!(connected.is_ok(), works, "{mode}: {:?}", connected.err());
    }
    let file = api.write("ca.pem", authority.pem());
    let text = format!("[clusters.shop]\nsslmode = \"verify-full\"\nsslrootcert = \"{}\"\n", file.display());
    assert_eq!(who(serve(&api, &text).await.connect("pgferry", "shop").await.unwrap()).await, "app");
    let wrong = api.write("wrong.pem", stranger.pem());
    let text = text.replace(&*file.to_string_lossy(), &wrong.to_string_lossy());
    serve(&api, &text).await.refusal("pgferry", "shop").await;
}

/// The server chooses how often the password is hashed: each connection would keep a core for minutes.
#[tokio::test]
async fn scram_has_a_limit_of_rounds() {
    let allowed = "[clusters.shop]\nscram_iterations = 200000\n";
    for (rounds, configuration, answers) in [
        (4096, "", 2),
        (100_000, "", 2),
        (100_001, "", 1),
        (10_000_000, "", 1),
        (u32::MAX, "", 1),
        (0, "", 1),
        (100_001, allowed, 2),
        (200_001, allowed, 1),
        (10_000_000, "[clusters.other]\nscram_iterations = 20000000\n", 1),
    ] {
        let hostile = Hostile::start(Asks::Scram(rounds)).await;
        let api = shop(&secrets::make("victim"), hostile.address()).await;
        let refusal = serve(&api, configuration).await.refusal("pgferry", "shop").await;
        // It never proves that it knows the password, so nobody gets in.
        assert_eq!((refusal.code.as_str(), hostile.answers()), ("28000", answers), "{rounds}: {refusal:?}");
        if answers == 1 && rounds > 0 {
            assert!(refusal.message.contains(&rounds.to_string()), "{refusal:?}");
            assert!(refusal.hint.contains("scram_iterations"), "{refusal:?}");
        }
    }
}

/// Where a value of the Secret is put, and what the message names.
type Place = (&'static str, fn(&FakeKubernetes, &str), &'static [&'static str]);

/// A zero byte ends a name in the startup packet, and what follows it is the next parameter.
#[tokio::test]
async fn a_name_with_a_zero_byte_is_refused() {
    let places: [Place; 6] = [
        ("shop.prod", |api, name| put(api, "shop-app", "username", name), &["Secret prod/shop-app", "\"username\""]),
        ("shop.prod", |api, name| put(api, "shop-app", "dbname", name), &["Secret prod/shop-app", "\"dbname\""]),
        ("conn.prod", |api, name| put(api, "conn", "username", name), &["Secret prod/conn", "\"username\""]),
        ("conn.prod", |api, name| put(api, "conn", "database", name), &["Secret prod/conn", "\"database\""]),
        (
            "url.prod",
            |api, name| {
                let url = format!("postgresql://{}:x@db/app", name.replace('\0', "%00").replace(' ', "%20"));
                put(api, "url", "DATABASE_URL", &url);
            },
            &["Secret prod/url", "\"DATABASE_URL\""],
        ),
        (
            "url.prod",
            |api, name| {
                let url = format!("postgresql://app:x@db/{}", name.replace('\0', "%00").replace(' ', "%20"));
                put(api, "url", "DATABASE_URL", &url);
            },
            &["Secret prod/url", "\"DATABASE_URL\""],
        ),
    ];
    for (database, place, named) in places {
        let (hostile, password) = (Hostile::start(Asks::Nothing).await, secrets::make("app"));
        let api = shop(&password, hostile.address()).await;
        api.put("services", service(("prod", "db"), json!({"app": "db"}), json!({})));
        pod(&api, ("prod", "db-0"), &json!({"app": "db"}), hostile.address());
        let whole = [("host", "db"), ("username", "app"), ("password", &password), ("database", "app")];
        api.put("secrets", secret(("prod", "conn"), &whole));
        api.put("secrets", secret(("prod", "url"), &[]));
        place(&api, "app\0options\0-c x=y");
        let refusal = serve(&api, "").await.refusal("pgferry", database).await;
        assert_eq!(refusal.code, "28000", "{named:?}: {refusal:?}");
        assert!(named.iter().all(|part| refusal.message.contains(part)), "{named:?}: {refusal:?}");
        assert!(!hostile.knows("options"), "{named:?}");
    }
}

fn put(api: &FakeKubernetes, name: &str, key: &str, value: &str) {
    api.change("secrets", "prod", name, |object| object["data"][key] = json!(encoded(value)));
}

/// Names outside Secrets: a database of a resource, a role of a mark.
#[tokio::test]
async fn so_is_one_in_a_resource_or_a_mark() {
    let state = State::new(&Zalando, "prod", 1);
    let hostile = Hostile::start(Asks::Nothing).await;
    let api = zalando(&state, hostile.address()).await;
    api.change("postgresqls", "prod", "shop", |object| {
        object["spec"]["databases"] = json!({"books\u{0}options\u{0}-c x=y": "the_clerk"});
    });
    let mut marks: Value = json!({"pgferry.dev/secret": "login", "pgferry.dev/role": "app\u{0}options\u{0}-c x=y"});
    marks["pgferry.dev/cluster"] = json!("mine");
    api.put("services", service(("prod", "web"), json!({"app": "web"}), marks));
    let mut login = secret(("prod", "login"), &[("password", "x")]);
    login["metadata"]["annotations"]["pgferry.dev/cluster"] = json!("mine");
    api.put("secrets", login);
    pod(&api, ("prod", "web-0"), &json!({"app": "web"}), hostile.address());
    let pgferry = serve(&api, "").await;
    for database in ["shop.prod", "mine.prod"] {
        let refusal = pgferry.refusal("pgferry", database).await;
        assert_eq!(refusal.code, "28000", "{database}: {refusal:?}");
    }
    assert!(!hostile.knows("options"));
}

/// A password is hashed as it stands before it is salted: a megabyte of it is work as well.
#[tokio::test]
async fn a_password_has_a_limit_of_length() {
    for (length, code) in [(1024, ""), (1025, "28000")] {
        let password = "x".repeat(length);
        let server = PostgresServer::start(Setup::new(17).application("app", &password, "app")).await.unwrap();
        let api = shop(&password, server.address()).await;
        match serve(&api, "").await.connect("pgferry", "shop").await {
            Ok(_) => assert_eq!(code, "", "{length}"),
            Err(told) => {
                assert_eq!(told.code, code, "{length}: {told:?}");
                assert!(told.message.contains("Secret prod/shop-app"), "{told:?}");
            }
        }
    }
}
