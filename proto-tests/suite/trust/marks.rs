//! Marks are written by whoever may write Services, which is not whoever may read Secrets: a Secret goes only where it
//! says itself that it may.

use proto_tests::{
    hostile::{Asks, Hostile},
    kubernetes::{Backend, FakeKubernetes, certificates::Authority},
    secrets,
    systems::{State, Zalando, draw},
};
use serde_json::json;

use crate::{
    support::{NO_WAIT, World, list, serve, tunnels_to},
    trust::stage::{pod, secret, server, service, who},
};

/// Without patience for a primary that never comes.
/// A namespace with somebody's Secret, and a Service that is marked with its name and leads to a pod beside it.
async fn marked(password: &str) -> FakeKubernetes {
    let api = FakeKubernetes::start().await;
    let login = [("username", "app"), ("password", password), ("database", "app")];
    api.put("secrets", secret(("tenant", "login"), &login));
    let marks = json!({"pgferry.dev/cluster": "mine", "pgferry.dev/secret": "login"});
    api.put("services", service(("tenant", "web"), json!({"app": "web"}), marks));
    api
}

/// The story: a Service that named another author's Secret had its password sent to the pod behind the Service.
#[tokio::test]
async fn a_secret_that_does_not_agree_goes_nowhere() {
    let password = secrets::make("victim");
    let api = marked(&password).await;
    let hostile = Hostile::with_tls(Asks::Cleartext, &Authority::new("the tenant's own").server(&["web"])).await;
    pod(&api, ("tenant", "web-0"), &json!({"app": "web"}), hostile.address());
    let pgferry = serve(&api, "").await;
    let disagreeing = ["", "shop", "mine2", "min", "mine.tenant.x", "MINE", "shop,other", "pgferry.dev/cluster=mine"];
    for (label, mark) in
        disagreeing.into_iter().flat_map(|mark| [("annotations", mark), ("labels", mark)]).chain([("annotations", "*")])
    {
        api.change("secrets", "tenant", "login", |object| {
            object["metadata"]["labels"] = json!({});
            object["metadata"]["annotations"] = json!({});
            if !mark.is_empty() {
                object["metadata"][label]["pgferry.dev/cluster"] = json!(mark);
            }
        });
        for (user, database) in [("pgferry", "mine"), ("app", "mine.tenant"), ("app@mine", "app")] {
            let refusal = pgferry.refusal(user, database).await;
            assert_eq!((refusal.severity.as_str(), refusal.code.as_str()), ("FATAL", "28000"), "{mark}: {refusal:?}");
            assert!(
                refusal.message.contains("Secret tenant/login") && refusal.message.contains("does not agree"),
                "{mark}: {refusal:?}"
            );
            let command = "kubectl annotate secret login -n tenant pgferry.dev/cluster=mine";
            assert!(refusal.hint.contains(command), "{mark}: {refusal:?}");
        }
    }
    assert!(!hostile.knows(&password));
}

#[tokio::test]
async fn a_secret_agrees_by_a_label_an_annotation_or_the_configuration() {
    let password = secrets::make("app");
    let (api, server) = (marked(&password).await, server(&[("app", &password)]).await);
    pod(&api, ("tenant", "web-0"), &json!({"app": "web"}), server.address());
    let pgferry = serve(&api, "").await;
    for (kind, mark) in [
        ("labels", "mine"),
        ("annotations", "mine"),
        ("annotations", "shop,mine"),
        ("annotations", "shop, mine"),
        ("annotations", "mine shop"),
        ("annotations", " other ,\tmine,shop "),
    ] {
        api.change("secrets", "tenant", "login", |object| {
            object["metadata"]["labels"] = json!({});
            object["metadata"]["annotations"] = json!({});
            object["metadata"][kind]["pgferry.dev/cluster"] = json!(mark);
        });
        for user in ["pgferry", "app"] {
            let wire = pgferry.connect(user, "mine").await.unwrap_or_else(|error| panic!("{kind} {mark}: {error:?}"));
            assert_eq!(who(wire).await, "app");
        }
    }
    // What agreed once and does no more is not remembered.
    api.change("secrets", "tenant", "login", |object| object["metadata"]["annotations"] = json!({}));
    assert_eq!(pgferry.refusal("pgferry", "mine").await.code, "28000");
    for table in ["mine", "mine.tenant"] {
        let pgferry = serve(&api, &format!("[clusters.\"{table}\"]\nsecret = \"login\"\n")).await;
        assert_eq!(who(pgferry.connect("pgferry", "mine").await.unwrap()).await, "app", "{table}");
    }
    // Another cluster's table, or another Secret's name, says nothing of this one.
    for configuration in ["[clusters.shop]\nsecret = \"login\"\n", "[clusters.\"mine.other\"]\nsecret = \"login\"\n"] {
        let pgferry = serve(&api, configuration).await;
        assert_eq!(pgferry.refusal("pgferry", "mine").await.code, "28000", "{configuration}");
    }
}

/// Whoever may create Secrets may mark one with the name of an operator's cluster: it adds a role, and that is all.
#[tokio::test]
async fn a_marked_secret_never_replaces_what_the_system_names() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    let mark = |place: (&str, &str), user: &str, password: &str| {
        let mut object = secret(place, &[("username", user), ("password", password), ("database", "app")]);
        object["metadata"]["labels"] = json!({"pgferry.dev/cluster": "shop"});
        object
    };
    let wrong = secrets::make("wrong");
    // Of the same role, and earlier in the alphabet than the operator's.
    world.api.put("secrets", mark(("prod", "a-login"), "app", &wrong));
    for user in ["pgferry", "app", "shop"] {
        assert_eq!(who(pgferry.connect(user, "shop.prod").await.unwrap()).await, "app");
    }
    // The declared role's own Secret is missing: that is an error, and no occasion.
    world.api.put("secrets", mark(("prod", "a-login"), "app", &world.password));
    world.api.delete("secrets", "prod", "shop-app");
    for user in ["pgferry", "app"] {
        let refusal = pgferry.refusal(user, "shop.prod").await;
        assert_eq!(refusal.code, "28000", "{user}: {refusal:?}");
        assert!(refusal.message.contains("Secret prod/shop-app"), "{user}: {refusal:?}");
    }
    // A Secret of another namespace marks nothing here.
    world.api.put("secrets", mark(("tenant", "theirs"), "theirs", &wrong));
    let refusal = pgferry.refusal("theirs", "shop.prod").await;
    assert!(refusal.code == "28000" && refusal.message.contains("theirs"), "{refusal:?}");
}

#[tokio::test]
async fn a_marked_secret_is_never_the_default_login() {
    let password = secrets::make("app");
    let (api, server) = (FakeKubernetes::start().await, server(&[("app", &password)]).await);
    api.put("services", service(("tenant", "web"), json!({"app": "web"}), json!({"pgferry.dev/cluster": "mine"})));
    pod(&api, ("tenant", "web-0"), &json!({"app": "web"}), server.address());
    let mut login = secret(("tenant", "login"), &[("username", "app"), ("password", &password), ("database", "app")]);
    login["metadata"]["labels"] = json!({"pgferry.dev/cluster": "mine"});
    api.put("secrets", login);
    let pgferry = serve(&api, "").await;
    for user in ["pgferry", "mine"] {
        let refusal = pgferry.refusal(user, "mine.tenant").await;
        assert_eq!(refusal.code, "28000", "{user}: {refusal:?}");
        assert!(refusal.hint.contains("app"), "the role that has one: {refusal:?}");
    }
    assert_eq!(who(pgferry.connect("app", "mine.tenant").await.unwrap()).await, "app");
}

/// Zalando's operator names the superuser where nothing else is declared: a marked Secret does not come before it.
#[tokio::test]
async fn nor_where_the_system_has_only_a_superuser() {
    let password = secrets::make("extra");
    let mut state = State::new(&Zalando, "prod", 1);
    state.superuser = secrets::make("super");
    let (api, server) = (FakeKubernetes::start().await, server(&[("extra", &password)]).await);
    let superuser = state.superuser.clone();
    server.set_hba("local all all trust\nhost all all all trust\n");
    server.execute(&format!("ALTER ROLE postgres PASSWORD '{superuser}'")).await.unwrap();
    draw(&api, &Zalando, &state);
    api.backend("prod", "shop-0", 5432, Backend::To(server.address()));
    api.change("postgresqls", "prod", "shop", |object| object["spec"] = json!({"numberOfInstances": 1}));
    let mut extra = secret(("prod", "extra"), &[("username", "extra"), ("password", &password)]);
    extra["metadata"]["labels"] = json!({"pgferry.dev/cluster": "shop"});
    api.put("secrets", extra);
    let pgferry = serve(&api, "").await;
    assert_eq!(who(pgferry.connect("extra", "shop.prod/extra").await.unwrap()).await, "extra");
    assert_eq!(who(pgferry.connect("pgferry", "shop.prod").await.unwrap()).await, "postgres");
    api.delete("secrets", "prod", "postgres.shop.credentials.postgresql.acid.zalan.do");
    assert_eq!(pgferry.refusal("pgferry", "shop.prod").await.code, "28000");
}

/// Roles primary and replica are one cluster, as the example has it. Two that both claim the primary are two authors.
#[tokio::test]
async fn two_marked_services_that_both_claim_the_primary_are_an_error() {
    let password = secrets::make("app");
    let (api, server) = (marked(&password).await, server(&[("app", &password)]).await);
    api.change("secrets", "tenant", "login", |object| {
        object["metadata"]["annotations"]["pgferry.dev/cluster"] = json!("mine");
    });
    pod(&api, ("tenant", "web-0"), &json!({"app": "web"}), server.address());
    let replica = json!({"pgferry.dev/cluster": "mine", "pgferry.dev/role": "replica"});
    api.put("services", service(("tenant", "web-read"), json!({"app": "web-read"}), replica));
    let pgferry = serve(&api, NO_WAIT).await;
    assert_eq!(who(pgferry.connect("pgferry", "mine").await.unwrap()).await, "app");
    assert_eq!(list(&api).await.len(), 1);
    // Earlier and later in the alphabet, so that no order decides.
    for other in ["a-thief", "z-thief"] {
        api.put(
            "services",
            service(("tenant", other), json!({"app": "thief"}), json!({"pgferry.dev/cluster": "mine"})),
        );
        let pgferry = serve(&api, NO_WAIT).await;
        for database in ["mine", "mine.tenant"] {
            let refusal = pgferry.refusal("pgferry", database).await;
            assert!(["3D000", "28000"].contains(&refusal.code.as_str()), "{refusal:?}");
            let told = format!("{} {}", refusal.message, refusal.detail);
            assert!(told.contains("web") && told.contains(other), "{refusal:?}");
        }
        api.delete("services", "tenant", other);
    }
    // A list tells of both, or of neither; it shows no cluster whose primary is a toss.
    api.put(
        "services",
        service(("tenant", "z-thief"), json!({"app": "thief"}), json!({"pgferry.dev/cluster": "mine"})),
    );
    let listed = list(&api).await;
    assert!(listed.iter().all(|one| one["name"] != json!("mine") || one["ready"] == json!(false)), "{listed:#?}");
}

/// The story: the labels of an operator on a Service of one's own, without a selector, led to the operator's pods, and
/// the login that went there was the Service's.
#[tokio::test]
async fn the_members_of_a_marked_service_are_its_own() {
    let password = secrets::make("mine");
    let state = State::new(&Zalando, "prod", 2);
    let api = FakeKubernetes::start().await;
    let hostile = Hostile::start(Asks::Nothing).await;
    draw(&api, &Zalando, &state);
    for pod in ["shop-0", "shop-1"] {
        api.backend("prod", pod, 5432, Backend::To(hostile.address()));
    }
    let mut login = secret(("prod", "mine-login"), &[("username", "app"), ("password", &password)]);
    login["metadata"]["annotations"]["pgferry.dev/cluster"] = json!("mine");
    api.put("secrets", login);
    for name in ["shop-pooler", "shop-repl", "other"] {
        let marks = json!({"pgferry.dev/cluster": "mine", "pgferry.dev/secret": "mine-login"});
        let mut object = service(("prod", name), serde_json::Value::Null, marks);
        object["metadata"]["labels"] = json!({"application": "spilo", "cluster-name": "shop", "team": "acid"});
        api.put("services", object);
        let pgferry = serve(&api, NO_WAIT).await;
        let refusal = pgferry.refusal("pgferry", "mine.prod").await;
        assert!(["57P03", "28000"].contains(&refusal.code.as_str()), "{name}: {refusal:?}");
        api.delete("services", "prod", name);
    }
    assert_eq!(tunnels_to(&api, "shop-0") + tunnels_to(&api, "shop-1") + hostile.connections(), 0);
}
