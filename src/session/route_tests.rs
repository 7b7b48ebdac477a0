//! One test a rule of the README's section on names.

use super::*;
use crate::{pg::startup::ProtocolVersion, session::target::Mistake};

fn packet(parameters: &[(&str, &str)]) -> Startup {
    let mut startup = Startup::new(ProtocolVersion::V3_0);
    for (name, value) in parameters {
        startup.set(name, Bytes::copy_from_slice(value.as_bytes()));
    }
    startup
}

fn names() -> Names {
    let alias = |name: &str, means: &str, system: Option<&str>| {
        (name.to_owned(), Alias { means: means.to_owned(), system: system.map(str::to_owned) })
    };
    Names {
        aliases: BTreeMap::from([
            alias("reports", "shop.prod:ro/app", None),
            alias("postgres-main", "postgres.prod", None),
            alias("broken", "Not A Target", None),
            alias("lower", "shop.prod/app", Some("statefulset")),
        ]),
        os_user: Some("alice".to_owned()),
        single: false,
    }
}

fn knows(context: &str) -> bool {
    ["staging", "kubernetes-admin@kubernetes", "prod-eu"].contains(&context)
}

fn routed(parameters: &[(&str, &str)]) -> Result<Route, RouteError> {
    at(parameters, None).map_err(|no| *no.error)
}

fn at(parameters: &[(&str, &str)], bound: Option<&Target>) -> Result<Route, NoRoute> {
    let mut startup = packet(parameters);
    let own = startup.take_own();
    route(&startup, &own, bound, &names(), &knows)
}

fn go(user: &str, database: &str) -> (String, Option<String>, Role) {
    let route = routed(&[("user", user), ("database", database)]).expect("a route");
    let database = route.database.map(|d| String::from_utf8(d.to_vec()).expect("text"));
    (route.target.to_string(), database, route.role)
}

#[test]
fn a_bound_listener_passes_database_and_role_through() {
    let bound = parse_target("shop.prod").expect("a target");
    let through =
        |user: &str, database: &str| at(&[("user", user), ("database", database)], Some(&bound)).expect("a route");
    let named = through("reporting", "postgres");
    assert_eq!(named.role, Role::Named("reporting".to_owned()));
    assert_eq!(named.database.as_deref(), Some(&b"postgres"[..]));
    assert_eq!(named.target, bound);
    assert_eq!(through("reporting", "reporting").database.as_deref(), Some(&b"reporting"[..]));
    let plain = through("alice", "alice");
    assert_eq!((plain.role, plain.database), (Role::Default, None));
}

#[test]
fn a_user_with_a_target_passes_the_database_through() {
    assert_eq!(go("app@shop.prod", "other"), ("shop.prod".into(), Some("other".into()), Role::Named("app".into())));
    assert_eq!(go("app@shop", "postgres").1.as_deref(), Some("postgres"));
    assert_eq!(go("app@shop", "app@shop").1, None, "libpq's default database is the whole user string");
    assert_eq!(go("@shop", "app").2, Role::Default);
}

#[test]
fn the_leftmost_at_with_a_known_context_divides() {
    assert_eq!(go("a@corp.com@shop", "x"), ("shop".into(), Some("x".into()), Role::Named("a@corp.com".into())));
    let (target, _, role) = go("app@shop@kubernetes-admin@kubernetes", "x");
    assert_eq!((target.as_str(), role), ("shop@kubernetes-admin@kubernetes", Role::Named("app".into())));
    assert_eq!(go("app@shop@staging:ro", "x").0, "shop@staging:ro");
}

#[test]
fn an_option_names_the_target() {
    let route =
        routed(&[("user", "app"), ("database", "orders"), ("options", "-c pgferry.target=shop.prod:ro -c x=y")]);
    let route = route.expect("a route");
    assert_eq!(route.target.to_string(), "shop.prod:ro");
    assert_eq!(route.database.as_deref(), Some(&b"orders"[..]));
    assert!(matches!(
        routed(&[("user", "app"), ("options", "-c pgferry.target=No!")]),
        Err(RouteError::NotATarget(Mistake::Shape { text })) if text == "No!"
    ));
}

#[test]
fn a_database_is_an_alias_or_a_target() {
    assert_eq!(go("alice", "reports"), ("shop.prod:ro".into(), Some("app".into()), Role::Default));
    assert_eq!(go("alice", "shop"), ("shop".into(), None, Role::Default));
    assert_eq!(go("alice", "shop.prod@prod-eu:any/orders").0, "shop.prod@prod-eu:any");
    assert_eq!(go("alice", "shop/orders").1.as_deref(), Some("orders"));
    assert!(matches!(routed(&[("user", "alice"), ("database", "broken")]), Err(RouteError::Alias { .. })));
}

#[test]
fn maintenance_databases_are_never_targets() {
    for name in NEVER_TARGETS {
        let refused = routed(&[("user", "alice"), ("database", name)]).expect_err("never a target");
        assert_eq!(refused, RouteError::NeverTarget { database: name.to_owned(), user: None });
    }
    assert_eq!(go("alice", "postgres.prod").0, "postgres.prod");
    assert_eq!(go("alice", "postgres-main").0, "postgres.prod");
}

#[test]
fn users_that_mean_the_default_login() {
    for user in ["", "pgferry", "shop", "alice", "shop.prod"] {
        assert_eq!(go(user, "shop.prod").2, Role::Default, "{user}");
    }
    assert_eq!(go("bob", "shop.prod").2, Role::Named("bob".into()));
    assert_eq!(go("reports", "reports").2, Role::Default);
}

/// `postgres@postgres.prod` logged in as `app` without a word, because the user is the target's name.
#[test]
fn a_role_that_is_written_before_the_target_is_that_role() {
    for (user, target) in [("shop", "shop"), ("postgres", "postgres.prod"), ("shop", "shop.prod@staging:ro")] {
        let role = go(&format!("{user}@{target}"), "x").2;
        assert_eq!(role, Role::Named(user.to_owned()), "{user}@{target}");
    }
    for user in ["", "pgferry", "alice"] {
        assert_eq!(go(&format!("{user}@shop"), "x").2, Role::Default, "{user}");
    }
}

#[test]
fn no_database_means_the_one_named_like_the_user() {
    let route = routed(&[("user", "shop")]).expect("a route");
    assert_eq!((route.target.to_string().as_str(), route.role), ("shop", Role::Default));
}

#[test]
fn replication_needs_the_target_elsewhere() {
    let refused = routed(&[("user", "alice"), ("database", "shop"), ("replication", "database")]);
    assert_eq!(refused, Err(RouteError::Replication));
    let refused = routed(&[("user", "alice"), ("database", "shop"), ("replication", "true")]);
    assert_eq!(refused, Err(RouteError::Replication));
    assert!(routed(&[("user", "alice"), ("database", "shop"), ("replication", "off")]).is_ok());
    assert!(routed(&[("user", "s@shop"), ("database", "x"), ("replication", "database")]).is_ok());
}

/// `app@shop.prod:xx` said that no cluster is called `app`.
#[test]
fn a_mistake_behind_the_role_is_told() {
    for (user, mistake) in [
        ("app@shop.prod:xx", Mistake::Mode { text: "shop.prod:xx".to_owned(), mode: "xx".to_owned() }),
        ("APP@SHOP.PROD", Mistake::Case { text: "SHOP.PROD".to_owned() }),
        ("app@shop_prod", Mistake::Shape { text: "shop_prod".to_owned() }),
        ("app@", Mistake::Shape { text: String::new() }),
    ] {
        let refused = routed(&[("user", user), ("database", "app")]);
        assert_eq!(refused, Err(RouteError::User { user: user.to_owned(), mistake }), "{user}");
    }
    let option = ("options", "-c pgferry.target=shop.prod");
    assert!(routed(&[("user", "kim@corp_x"), ("database", "app"), option]).is_ok(), "the option says where");
}

#[test]
fn a_context_that_is_not_known_is_another_reading() {
    let route = routed(&[("user", "app@shop.prod@elsewhere"), ("database", "app")]).expect("a route");
    assert_eq!((route.target.to_string().as_str(), &route.role), ("elsewhere", &Role::Named("app@shop.prod".into())));
    assert_eq!(route.otherwise.expect("another").to_string(), "shop.prod@elsewhere");
    let route = routed(&[("user", "app@shop.prod@Elsewhere"), ("database", "app")]).expect("a route");
    assert_eq!((route.target.to_string().as_str(), route.role), ("shop.prod@Elsewhere", Role::Named("app".into())));
    assert_eq!(routed(&[("user", "app@shop@staging")]).expect("a route").otherwise, None);
}

#[test]
fn an_absent_user_is_the_default_login() {
    let route = routed(&[("database", "shop")]).expect("a route");
    assert_eq!((route.target.to_string().as_str(), route.role), ("shop", Role::Default));
    assert_eq!(routed(&[]), Err(RouteError::Nothing));
}

#[test]
fn a_tilde_divides_where_a_slash_would_need_an_escape() {
    assert_eq!(go("alice", "shop.prod~app"), ("shop.prod".into(), Some("app".into()), Role::Default));
    assert_eq!(go("alice", "shop:ro~a/b").1.as_deref(), Some("a/b"));
    assert_eq!(go("alice", "shop/a~b").1.as_deref(), Some("a~b"));
    assert_eq!(go("app@shop", "a~b").1.as_deref(), Some("a~b"));
}

#[test]
fn options_that_would_be_ours_are_known_or_refused() {
    for parameter in [("options", "-c pgferry.tarqet=shop"), ("pgferry.context", "x")] {
        assert!(matches!(routed(&[("user", "app@shop"), parameter]), Err(RouteError::Option(_))), "{parameter:?}");
    }
    assert_eq!(routed(&[("user", "app"), ("pgferry.target", "shop")]).expect("a route").target.to_string(), "shop");
}

/// What a client is told is written as it wrote itself.
#[test]
fn the_form_is_the_clients() {
    let form = |parameters: &[(&str, &str)]| routed(parameters).expect("a route").form;
    let some = |text: &str| Some(text.to_owned());
    for (parameters, expected) in [
        (vec![("user", "shop"), ("database", "shop")], Form::Nowhere),
        (vec![("user", "alice"), ("database", "shop")], Form::Database { user: None, database: None }),
        (vec![("user", "bob"), ("database", "shop/x")], Form::Database { user: some("bob"), database: some("x") }),
        (vec![("user", "app@shop"), ("database", "x")], Form::User { role: "app".to_owned(), database: some("x") }),
        (vec![("user", "app@shop"), ("database", "app@shop")], Form::User { role: "app".to_owned(), database: None }),
        (
            vec![("user", "bob"), ("database", "x"), ("options", "-c pgferry.target=shop")],
            Form::Option { user: some("bob"), database: some("x") },
        ),
    ] {
        assert_eq!(form(&parameters), expected, "{parameters:?}");
    }
}
