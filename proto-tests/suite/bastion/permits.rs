//! May they: what RBAC and rules say is asked before a server hears anything, and as long as a session lasts.

use proto_tests::{kubernetes::Backend, wire::Wire};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::stage::{Bastion, TOKENS, as_superuser};
use crate::{
    support::{PATIENCE, World, until},
    trust::stage::{secret, service},
};

const RECHECKED: &str = "[auth]\nmethods = [\"kubernetes\"]\nrecheck = \"100ms\"\n";

/// What is absent and what is forbidden is told alike, word by word.
#[tokio::test]
async fn absent_and_forbidden_look_alike() {
    let bastion = Bastion::new(TOKENS).await;
    let kim = bastion.token("kim", &[]);
    let forbidden = bastion.refusal(&kim, "app@shop.prod", "app").await;
    let absent = bastion.refusal(&kim, "app@shap.prod", "app").await;
    let unknown_role = bastion.refusal(&kim, "nobody@shop.prod", "app").await;
    assert_eq!(forbidden.code, "42501");
    let as_if = |text: &str| text.replace("shap", "shop").replace("nobody", "app");
    for other in [absent, unknown_role] {
        assert_eq!(forbidden.code, other.code);
        assert_eq!(forbidden.message, as_if(&other.message));
        assert_eq!(forbidden.detail, as_if(&other.detail));
        assert_eq!(forbidden.hint, as_if(&other.hint));
    }
    let rule = "{apiGroups: [pgferry.dev], resources: [\"clusters/app\"], resourceNames: [shop], verbs: [connect]}";
    assert!(forbidden.hint.contains(rule) && forbidden.hint.contains("namespace prod"), "{forbidden:?}");
}

/// A cluster without a server is waited for by who may connect, and does not exist for others.
#[tokio::test]
async fn a_cluster_that_is_down_is_known_to_its_people_alone() {
    let bastion = Bastion::new(TOKENS).await;
    bastion.world.cluster().set_ready(1, false);
    let (kim, lee) = (bastion.token("kim", &[]), bastion.token("lee", &[]));
    bastion.bind("kim", "app");
    for user in ["app@shop.prod", "pgferry@shop.prod"] {
        assert_eq!(bastion.refusal(&kim, user, "app").await.code, "57P03", "{user}");
        assert_eq!(bastion.refusal(&lee, user, "app").await.code, "42501", "{user}");
    }
}

/// One question more than a laptop asks, and no server hears of who may not.
#[tokio::test]
async fn the_server_hears_nothing_of_who_may_not() {
    let bastion = Bastion::before(World::new().await, TOKENS).await;
    let (kim, lee) = (bastion.token("kim", &[]), bastion.token("lee", &[]));
    bastion.bind("kim", "app");
    drop(bastion.connect(&kim, "app@shop.prod", "app").await.unwrap());
    bastion.world.api.forget_requests();
    drop(bastion.connect(&kim, "app@shop.prod", "app").await.unwrap());
    assert_eq!(bastion.world.api.asked("create", "subjectaccessreviews"), 1);
    // Its place is taken by one that only listens.
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    bastion.world.api.backend("prod", "shop-1", 5432, Backend::To(server.local_addr().unwrap()));
    bastion.refusal(&lee, "app@shop.prod", "app").await;
    // Whether a tunnel came so far is a matter of who was quicker; what came through it is not.
    let mut last = TcpStream::connect(server.local_addr().unwrap()).await.unwrap();
    last.write_all(b"the last one").await.unwrap();
    drop(last);
    loop {
        let (mut tunnel, _) = server.accept().await.unwrap();
        let mut heard = Vec::new();
        tunnel.read_to_end(&mut heard).await.unwrap();
        if heard == b"the last one" {
            break;
        }
        assert_eq!(heard, b"");
    }
}

#[tokio::test]
async fn a_right_that_is_taken_away_ends_sessions() {
    let bastion = Bastion::new(RECHECKED).await;
    let kim = bastion.token("kim", &[]);
    bastion.bind("kim", "app");
    let mut idle = bastion.connect(&kim, "app@shop.prod", "app").await.unwrap();
    let mut busy = bastion.connect(&kim, "app@shop.prod", "app").await.unwrap();
    // An endless COPY, whose client reads.
    busy.message(b'Q', b"copy (select repeat('x', 1000) from generate_series(1, 1000000000)) to stdout\0")
        .await
        .unwrap();
    bastion.unbind("kim", "app");
    let ends = async |wire: &mut Wire| loop {
        match wire.next().await.unwrap() {
            Some(message) if message.tag == 'E' && message.fields().code == "57P01" => return message.fields(),
            Some(_) => {}
            None => panic!("closed without a word"),
        }
    };
    for wire in [&mut idle, &mut busy] {
        let fields = tokio::time::timeout(PATIENCE, ends(wire)).await.expect("it ends");
        assert!(fields.message.contains("no longer allowed"), "{fields:?}");
    }
    assert_eq!(bastion.refusal(&kim, "app@shop.prod", "app").await.code, "42501");
}

/// An API server that does not answer takes no right away.
#[tokio::test]
async fn a_session_outlives_an_api_server_that_cannot_say() {
    let bastion = Bastion::new(RECHECKED).await;
    let kim = bastion.token("kim", &[]);
    bastion.bind("kim", "app");
    let mut wire = bastion.connect(&kim, "app@shop.prod", "app").await.unwrap();
    bastion.world.api.deny(None, "create", "subjectaccessreviews", None);
    bastion.world.api.forget_requests();
    until("it was asked and got no answer", || bastion.world.api.asked("create", "subjectaccessreviews") >= 3).await;
    assert_eq!(wire.value("select 1").await.unwrap(), "1");
}

/// A Secret of one's own that leads into somebody else's cluster opens nothing there.
#[tokio::test]
async fn a_secret_elsewhere_needs_the_clusters_right_too() {
    let bastion = Bastion::new(TOKENS).await;
    let api = &bastion.world.api;
    api.put("services", service(("prod", "shop-rw"), json!({"cnpg.io/cluster": "shop"}), json!({})));
    let login =
        [("host", "shop-rw.prod.svc"), ("port", "5432"), ("username", "app"), ("password", &bastion.world.password)];
    api.put("secrets", secret(("mine", "conn"), &login));
    let kim = bastion.token("kim", &[]);
    api.bind("kim", "connect", "clusters/app", "mine", "conn");
    assert_eq!(bastion.refusal(&kim, "app@conn.mine", "app").await.code, "42501");
    bastion.bind("kim", "app");
    assert!(bastion.connect(&kim, "app@conn.mine", "app").await.is_ok());
    api.unbind("kim", "connect", "clusters/app", "mine", "conn");
    assert_eq!(bastion.refusal(&kim, "app@conn.mine", "app").await.code, "42501");
}

/// Whoever writes in some namespace takes no bare name of other people's.
#[tokio::test]
async fn bare_names_stay_in_the_namespace_in_force() {
    let bastion = Bastion::new(TOKENS).await;
    let kim = bastion.token("kim", &[]);
    bastion.bind("kim", "app");
    assert_eq!(bastion.refusal(&kim, "app@shop", "app").await.code, "42501");
    assert!(bastion.connect(&kim, "app@shop.prod", "app").await.is_ok());
}

/// Whoever may use an ordinary role is no superuser by a role that turns out to be one.
#[tokio::test]
async fn a_superuser_needs_a_verb_of_its_own() {
    let world = World::new().await;
    as_superuser(&world, "alter role app superuser").await;
    let bastion = Bastion::before(world, TOKENS).await;
    let kim = bastion.token("kim", &[]);
    bastion.bind("kim", "app");
    assert_eq!(bastion.refusal(&kim, "app@shop.prod", "app").await.code, "42501");
    bastion.world.api.bind("kim", "connect-superuser", "clusters/app", "prod", "shop");
    let mut wire = bastion.connect(&kim, "app@shop.prod", "app").await.unwrap();
    assert_eq!(wire.value("show is_superuser").await.unwrap(), "on");
}
