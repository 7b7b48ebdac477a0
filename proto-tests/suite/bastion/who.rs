//! Who is it: tokens, logins and certificates, and what somebody hears who has none.

use proto_tests::{
    secrets,
    wire::{Fields, Wire, startup},
};

use super::stage::{Bastion, TOKENS, as_superuser};
use crate::support::World;

#[tokio::test]
async fn a_token_as_password_is_its_owner() {
    let mut bastion = Bastion::new(TOKENS).await;
    let kim = bastion.token("kim", &["dev"]);
    bastion.bind("kim", "app");
    let mut wire = bastion.connect(&kim, "app@shop.prod", "app").await.unwrap();
    assert_eq!(wire.value("select current_user").await.unwrap(), "app");
    // Groups count as well, and the default login is asked about by the role that it is.
    let lee = bastion.token("lee", &["dev"]);
    assert_eq!(bastion.refusal(&lee, "pgferry", "shop.prod").await.code, "42501");
    bastion.bind("dev", "app");
    let mut wire = bastion.connect(&lee, "pgferry", "shop.prod").await.unwrap();
    assert_eq!(wire.value("select current_user").await.unwrap(), "app");
    bastion.pgferry.says("who=\"lee\"").await;
}

/// No failure tells from another, and nothing is asked of Kubernetes about the cluster.
#[tokio::test]
async fn every_wrong_token_hears_the_same() {
    let bastion = Bastion::new(TOKENS).await;
    let elsewhere = secrets::make("bearer");
    bastion.world.api.bearer(&elsewhere, "kim", &[], "https://kubernetes.default.svc");
    bastion.bind("kim", "app");
    bastion.world.api.forget_requests();
    let nobody = secrets::make("bearer");
    let mut heard = Vec::new();
    for password in [nobody.as_str(), elsewhere.as_str(), "x"] {
        heard.push(bastion.refusal(password, "app@shop.prod", "app").await);
    }
    for fields in &heard {
        assert_eq!((&fields.code, &fields.message), (&heard[0].code, &heard[0].message));
        assert_eq!(fields.code, "28P01");
    }
    assert_eq!(bastion.asked_about_clusters(), Vec::<String>::new());
    // Without a password at all a client closes, or says nothing.
    assert_eq!(bastion.refusal("", "app@shop.prod", "app").await.code, "28P01");
}

#[tokio::test]
async fn a_token_is_not_asked_for_in_the_open() {
    let bastion = Bastion::new(TOKENS).await;
    let mut wire = Wire::tcp(bastion.pgferry.address()).await.unwrap();
    let fields = wire.start(&[("user", "app@shop.prod"), ("database", "app")]).await.unwrap_err();
    assert_eq!(fields.code, "28000");
    assert!(fields.hint.contains("sslmode=verify-full"), "{fields:?}");
}

/// Those who bring the same token at the same time cost one question, and a refused one is asked about again soon.
#[tokio::test]
async fn a_token_is_asked_about_once() {
    let bastion = Bastion::new(TOKENS).await;
    let kim = bastion.token("kim", &[]);
    bastion.bind("kim", "app");
    let all = futures_util::future::join_all((0..8).map(|_| bastion.connect(&kim, "app@shop.prod", "app"))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(bastion.world.api.asked("create", "tokenreviews"), 1);
}

/// An API server that cannot say is not one that says no.
#[tokio::test]
async fn who_cannot_be_asked_about_is_told_to_come_again() {
    let bastion = Bastion::new(TOKENS).await;
    let kim = bastion.token("kim", &[]);
    bastion.bind("kim", "app");
    bastion.world.api.deny(None, "create", "tokenreviews", None);
    let fields = bastion.refusal(&kim, "app@shop.prod", "app").await;
    assert_eq!(fields.code, "57P03", "{fields:?}");
    bastion.world.api.allow_all();
    assert!(bastion.connect(&kim, "app@shop.prod", "app").await.is_ok());
}

fn logins(verifier: &str, role: &str) -> String {
    format!(
        "[auth]\nmethods = [\"login\"]\n[auth.logins]\nkim = {{ verifier = \"{verifier}\", {role} groups = [\"dev\"] }}\n"
    )
}

/// What PostgreSQL itself stores of a password is what a login is verified with.
async fn verifier(world: &World, password: &str) -> String {
    as_superuser(world, &format!("create role stored password '{password}'")).await;
    let stored = as_superuser(world, "select rolpassword from pg_authid where rolname = 'stored'").await;
    stored[0][0].clone()
}

#[tokio::test]
async fn a_login_of_the_configuration_is_proved_by_scram() {
    let world = World::new().await;
    let password = secrets::make("login");
    let verifier = verifier(&world, &password).await;
    let bastion = Bastion::before(world, &logins(&verifier, "role = \"app\",")).await;
    bastion.bind("login:dev", "app");
    for (user, database) in [("login-kim", "shop.prod"), ("login-kim@shop.prod", "app")] {
        let mut wire = bastion.connect(&password, user, database).await.unwrap();
        assert_eq!(wire.value("select current_user").await.unwrap(), "app");
    }
    let refusals: Vec<Fields> = vec![
        bastion.refusal("wrong", "login-kim", "shop.prod").await,
        bastion.refusal(&password, "login-lee", "shop.prod").await,
    ];
    for fields in refusals {
        assert_eq!(
            (fields.code.as_str(), fields.message.starts_with("password authentication failed")),
            ("28P01", true)
        );
    }
    // Whoever names no login is not asked for a password that nobody has given out.
    assert_eq!(bastion.refusal(&password, "app@shop.prod", "app").await.code, "28000");
}

/// A stranger's name gets the salt that it got before: nobody finds out which names there are.
#[tokio::test]
async fn an_unknown_login_looks_like_a_known_one() {
    let world = World::new().await;
    let verifier = verifier(&world, &secrets::make("login")).await;
    let bastion = Bastion::before(world, &logins(&verifier, "")).await;
    let salt = async |user: &str| {
        let mut wire = Wire::tls(bastion.pgferry.address()).await.unwrap();
        wire.send(&startup(3, 0, &[("user", user), ("database", "shop.prod")])).await.unwrap();
        let offer = wire.next().await.unwrap().unwrap();
        assert!(offer.body.ends_with(b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"), "{offer:?}");
        let first = b"n,,n=,r=abcdefghijklmnopqrstuvwx";
        let mut body = b"SCRAM-SHA-256\0".to_vec();
        body.extend(u32::try_from(first.len()).unwrap().to_be_bytes());
        body.extend(first);
        wire.message(b'p', &body).await.unwrap();
        let challenge = String::from_utf8(wire.next().await.unwrap().unwrap().body[4..].to_vec()).unwrap();
        let fields: Vec<String> = challenge.split(',').map(str::to_owned).collect();
        (fields[1].clone(), fields[2].clone())
    };
    let (known, stranger) = (salt("login-kim").await, salt("login-lee").await);
    assert_eq!(stranger, salt("login-lee").await);
    assert_ne!(known.0, stranger.0);
    assert_eq!((known.0.len(), known.1), (stranger.0.len(), stranger.1));
}

#[tokio::test]
async fn a_certificate_is_its_subject() {
    let bastion =
        Bastion::new("[auth]\nmethods = [\"certificate\", \"kubernetes\"]\nclient_ca = \"CLIENT_CA\"\n").await;
    bastion.bind("cert:kim", "app");
    let (certificate, key) = bastion.authority.client("kim");
    let with = async |certificate: &str, key: &str| {
        let mut wire = Wire::tls_as(bastion.pgferry.address(), certificate, key).await?;
        let started = wire.start(&[("user", "app@shop.prod"), ("database", "app")]).await;
        started.map(|_| wire).map_err(|fields| std::io::Error::other(fields.message))
    };
    let mut wire = with(&certificate, &key).await.unwrap();
    assert_eq!(wire.value("select current_user").await.unwrap(), "app");
    // Nobody is a user of Kubernetes by a certificate, and another CA's is none.
    let (certificate, key) = bastion.authority.client("system:masters");
    let refused = with(&certificate, &key).await.err().expect("refused");
    assert!(refused.to_string().contains("system:"), "{refused}");
    let (certificate, key) = proto_tests::kubernetes::certificates::Authority::new("another").client("kim");
    assert!(with(&certificate, &key).await.is_err());
    // Who shows none may bring a token.
    let lee = bastion.token("lee", &[]);
    bastion.bind("lee", "app");
    assert!(bastion.connect(&lee, "app@shop.prod", "app").await.is_ok());
}
