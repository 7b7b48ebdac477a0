//! The list of rules: on a laptop and in a bastion.

use rustix::process::Signal;

use super::stage::{Bastion, TOKENS};
use crate::support::{World, serve};

/// A person keeps its own hands off production.
#[tokio::test]
async fn rules_narrow_what_a_laptop_reaches() {
    let world = World::reading().await;
    let rules = "[[access]]\ntargets = [\"*.staging\"]\n[[access]]\ntargets = [\"shop.prod\"]\nroles = [\"nobody\"]\n";
    let pgferry = serve(&world.api, rules).await;
    let fields = pgferry.refusal("pgferry", "shop.prod").await;
    assert!(fields.code == "42501" && fields.hint.contains("[[access]]"), "{fields:?}");
    let pgferry = serve(&world.api, &format!("{rules}[[access]]\ntargets = [\"*.prod\"]\nroles = [\"app\"]\n")).await;
    assert!(pgferry.connect("pgferry", "shop.prod").await.is_ok());
}

#[tokio::test]
async fn rules_narrow_what_rbac_allows() {
    let rules = "[[access]]\ngroups = [\"dev\"]\ntargets = [\"*.prod\"]\nmodes = [\"any\"]\n\
                 [[access]]\npeople = [\"kim\"]\ntargets = [\"shop.prod\"]\nlimits = { connections = 1 }\n";
    let bastion = Bastion::new(&format!("{TOKENS}{rules}")).await;
    let (kim, lee) = (bastion.token("kim", &[]), bastion.token("lee", &["dev"]));
    bastion.bind("kim", "app");
    bastion.bind("dev", "app");
    assert_eq!(bastion.refusal(&lee, "app@shop.prod", "app").await.code, "42501");
    assert!(bastion.connect(&lee, "app@shop.prod:any", "app").await.is_ok());
    let held = bastion.connect(&kim, "app@shop.prod", "app").await.unwrap();
    let fields = bastion.refusal(&kim, "app@shop.prod", "app").await;
    assert!(fields.code == "53300" && fields.message.contains("access[1]"), "{fields:?}");
    drop(held);
    bastion.unbind("kim", "app");
    // They never widen.
    assert_eq!(bastion.refusal(&kim, "app@shop.prod", "app").await.code, "42501");
}

#[tokio::test]
async fn rules_alone_decide_where_rbac_is_not_the_policy() {
    let rules = "[[access]]\npeople = [\"kim\"]\ntargets = [\"shop.prod\"]\n";
    let bastion = Bastion::new(&format!("{TOKENS}authority = \"rules\"\n{rules}")).await;
    let (kim, lee) = (bastion.token("kim", &[]), bastion.token("lee", &[]));
    assert!(bastion.connect(&kim, "app@shop.prod", "app").await.is_ok());
    assert_eq!(bastion.refusal(&lee, "app@shop.prod", "app").await.code, "42501");
    assert_eq!(bastion.world.api.asked("create", "subjectaccessreviews"), 0);
}

#[tokio::test]
async fn a_reason_is_asked_for_and_kept_from_the_server() {
    let rules = "[[access]]\ntargets = [\"*.prod\"]\nreason = \"required\"\n";
    let world = World::reading().await;
    let pgferry = serve(&world.api, rules).await;
    let fields = pgferry.refusal("pgferry", "shop.prod").await;
    assert!(fields.code == "42501" && fields.hint.contains("pgferry.reason="), "{fields:?}");
    let mut wire = proto_tests::wire::Wire::tcp(pgferry.address()).await.unwrap();
    let options = "-c pgferry.reason=TICKET-1 -c statement_timeout=7s";
    wire.start(&[("user", "pgferry"), ("database", "shop.prod"), ("options", options)]).await.unwrap();
    assert_eq!(wire.value("show statement_timeout").await.unwrap(), "7s");
    assert!(wire.value("show pgferry.reason").await.is_err());
}

#[tokio::test]
async fn a_session_ends_when_its_time_is_over() {
    let world = World::reading().await;
    for (limits, code) in [("session = \"1s\"", "57P01"), ("idle = \"1s\"", "57P05")] {
        let rules = format!("[[access]]\ntargets = [\"*.prod\"]\nlimits = {{ {limits} }}\n");
        let pgferry = serve(&world.api, &rules).await;
        let mut wire = pgferry.connect("pgferry", "shop.prod").await.unwrap();
        let message = wire.next().await.unwrap().expect("a word");
        assert_eq!(message.fields().code, code, "{limits}");
    }
}

/// Rules are changed under open sessions: who may stay stays, who may not ends, and a file that cannot be used changes
/// nothing.
#[tokio::test]
async fn rules_are_read_again_on_sighup() {
    let rules = |people: &str| format!("[[access]]\npeople = [{people}]\ntargets = [\"*.*\"]\n");
    let mut bastion = Bastion::new(&format!("{TOKENS}{}", rules("\"kim\", \"lee\""))).await;
    let (kim, lee) = (bastion.token("kim", &[]), bastion.token("lee", &[]));
    for name in ["kim", "lee"] {
        bastion.bind(name, "app");
    }
    let mut stays = bastion.connect(&kim, "app@shop.prod", "app").await.unwrap();
    let mut leaves = bastion.connect(&lee, "app@shop.prod", "app").await.unwrap();
    let file = bastion.world.api.directory().join("config.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, before.replace("people", "peeple")).unwrap();
    bastion.pgferry.signal(Signal::HUP);
    bastion.pgferry.says("the old one stays").await;
    assert_eq!(leaves.value("select 1").await.unwrap(), "1");
    std::fs::write(&file, before.replace("\"kim\", \"lee\"", "\"kim\"")).unwrap();
    bastion.pgferry.signal(Signal::HUP);
    bastion.pgferry.says("logins and rules are read again").await;
    assert_eq!(leaves.next().await.unwrap().unwrap().fields().code, "57P01");
    assert_eq!(bastion.refusal(&lee, "app@shop.prod", "app").await.code, "42501");
    assert_eq!(stays.value("select 1").await.unwrap(), "1");
    // What is fixed at the start is not changed by the way.
    std::fs::write(
        &file,
        before.replace("methods = [\"kubernetes\"]", "methods = []").replace("people = [\"kim\", \"lee\"]\n", ""),
    )
    .unwrap();
    bastion.pgferry.signal(Signal::HUP);
    bastion.pgferry.says("restart pgferry").await;
}

#[tokio::test]
async fn what_can_never_fit_is_an_error() {
    for (configuration, named) in [
        ("[listen]\naddresses = [\"0.0.0.0\"]\n", "listen.addresses"),
        ("[auth]\nmethods = [\"kubernetes\"]\n", "listen.tls"),
        ("[auth]\nmethods = [\"certificate\"]\n", "auth.client_ca"),
        ("[auth]\nmethods = [\"login\"]\n", "[auth.logins]"),
        ("[auth]\nauthority = \"rules\"\n", "auth.authority"),
        ("[auth.logins]\nkim = { verifier = \"SCRAM-SHA-256$4096:\" }\n", "auth.logins"),
        ("[[access]]\npeople = [\"kim\"]\ntargets = [\"*.*\"]\n", "people"),
        ("[[access]]\nroles = [\"app\"]\n", "targets"),
        ("[[access]]\ntargets = [\"shop\"]\n", "cluster.namespace"),
        ("[[access]]\ntargets = [\"*.*\"]\nuntil = \"tomorrow\"\n", "tomorrow"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        std::fs::write(&file, configuration).unwrap();
        let start = proto_tests::subject::Start::new(crate::support::BINARY).args(["serve", "--port", "0", "--config"]);
        let (code, _, err) = start.arg(&file).run().await;
        assert!(code == 78 && err.contains(named), "{configuration}: {code} {err}");
    }
}
