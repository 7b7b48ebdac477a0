use serde_json::json;

use super::*;

fn cluster(spec: &Value, status: &Value, annotations: &Value) -> Facts {
    let object = json!({
        "metadata": {"name": "shop", "namespace": "prod", "annotations": annotations,
                     "labels": {"argocd.argoproj.io/instance": "webshop"}},
        "spec": spec,
        "status": status,
    });
    CLOUDNATIVE_PG.read(&serde_json::from_value(object).expect("a Cluster")).expect("facts")
}

fn pod(name: &str, labels: &Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "prod", "labels": labels}})).expect("a pod")
}

#[test]
fn the_status_decides_who_leads() {
    let leader = |status: Value| cluster(&json!({}), &status, &json!({})).leader;
    let of = |name: &str| Leader::Pod(ObjectName::parse(name).expect("a name"));
    assert_eq!(leader(json!({"currentPrimary": "shop-1", "targetPrimary": "shop-1"})), of("shop-1"));
    assert_eq!(leader(json!({"currentPrimary": "shop-1", "targetPrimary": "shop-2"})), Leader::Moving);
    assert_eq!(leader(json!({"currentPrimary": "shop-1", "targetPrimary": "pending"})), Leader::Moving);
    assert_eq!(leader(json!({"targetPrimary": "shop-1"})), Leader::Moving);
    assert_eq!(leader(json!({})), Leader::Unsaid);
}

#[test]
fn the_application_secret_has_an_order() {
    let secret = |bootstrap: Value| {
        let facts = cluster(&json!({"bootstrap": bootstrap}), &json!({}), &json!({}));
        facts.logins.first().map(|login| (login.secret_name().to_owned(), login.role.clone(), login.database.clone()))
    };
    let some = |secret: &str, role: &str, database: &str| {
        Some((secret.to_owned(), Some(role.to_owned()), database.to_owned()))
    };
    let plain = json!({"initdb": {"database": "app", "owner": "app"}});
    assert_eq!(secret(plain), some("shop-app", "app", "app"));
    let custom = json!({"initdb": {"database": "books", "owner": "clerk", "secret": {"name": "clerk-login"}}});
    assert_eq!(secret(custom), some("clerk-login", "clerk", "books"));
    let both = json!({
        "recovery": {"database": "a", "owner": "b", "secret": {"name": "first"}},
        "initdb": {"database": "c", "owner": "d", "secret": {"name": "second"}},
    });
    assert_eq!(secret(both), some("first", "b", "a"));
    assert_eq!(secret(json!({"initdb": {"import": {"type": "monolith"}}})), None);
}

#[test]
fn databases_have_owners() {
    let facts =
        cluster(&json!({"bootstrap": {"initdb": {"database": "books", "owner": "clerk"}}}), &json!({}), &json!({}));
    assert_eq!((facts.owner_of("books"), facts.owner_of("app")), (Some("clerk"), None));
    let owned_by = |spec: Value, status: Value| {
        let object = json!({"metadata": {"name": "x", "namespace": "prod"}, "spec": spec, "status": status});
        CLOUDNATIVE_PG.more_database(&facts, &serde_json::from_value(object).expect("a Database"))
    };
    let spec = json!({"cluster": {"name": "shop"}, "name": "ledger", "owner": "bob"});
    let with = |field: &str, value: Value| {
        let mut spec = spec.clone();
        spec[field] = value;
        spec
    };
    for status in [json!({}), json!(null), json!({"applied": true})] {
        assert_eq!(owned_by(spec.clone(), status), Some(owned("ledger", "bob")));
    }
    assert_eq!(owned_by(spec.clone(), json!({"applied": false})), None);
    for (field, value) in [
        ("cluster", json!({"name": "other"})),
        ("ensure", json!("absent")),
        ("owner", json!(7)),
        ("owner", json!("")),
        ("name", json!(null)),
    ] {
        assert_eq!(owned_by(with(field, value), json!({})), None, "{field}");
    }
}

#[test]
fn managed_roles_with_a_password_have_logins() {
    let facts = cluster(
        &json!({
            "bootstrap": {"initdb": {"database": "app", "owner": "app"}},
            "enableSuperuserAccess": true,
            "superuserSecret": {"name": "admin"},
            "managed": {"roles": [
                {"name": "reporting", "login": true, "passwordSecret": {"name": "reporting-login"}},
                {"name": "nologin", "passwordSecret": {"name": "x"}},
                {"name": "gone", "login": true, "ensure": "absent", "passwordSecret": {"name": "x"}},
                {"name": "nopassword", "login": true, "disablePassword": true, "passwordSecret": {"name": "x"}},
                {"name": "god", "login": true, "superuser": true, "passwordSecret": {"name": "god-login"}},
                {"name": 7, "login": "yes"},
            ]},
        }),
        &json!({}),
        &json!({}),
    );
    let logins: Vec<_> =
        facts.logins.iter().map(|l| (l.role.as_deref().unwrap_or(""), l.secret_name(), l.kind)).collect();
    assert_eq!(
        logins,
        [
            ("app", "shop-app", LoginKind::Application),
            ("reporting", "reporting-login", LoginKind::Managed),
            ("god", "god-login", LoginKind::Superuser),
            ("postgres", "admin", LoginKind::Superuser),
        ]
    );
    assert_eq!(facts.applications, ["webshop"]);
}

#[test]
fn hibernated_fenced_and_replica_clusters() {
    let facts = cluster(&json!({}), &json!({}), &json!({"cnpg.io/hibernation": "on"}));
    assert!(facts.halt.expect("halted").hint.contains("cnpg.io/hibernation=off"));
    let facts = cluster(&json!({}), &json!({}), &json!({"cnpg.io/fencedInstances": "[\"shop-1\"]"}));
    assert!(facts.is_fenced("shop-1") && !facts.is_fenced("shop-2"));
    assert!(cluster(&json!({}), &json!({}), &json!({"cnpg.io/fencedInstances": "[\"*\"]"})).is_fenced("shop-9"));
    assert!(!cluster(&json!({}), &json!({}), &json!({"cnpg.io/fencedInstances": "not json"})).is_fenced("shop-1"));
    assert!(cluster(&json!({"replica": {"enabled": true}}), &json!({}), &json!({})).standby);
    assert!(cluster(&json!({"replica": {"primary": "a", "self": "b"}}), &json!({}), &json!({})).standby);
    assert!(!cluster(&json!({"replica": {"primary": "a", "self": "a"}}), &json!({}), &json!({})).standby);
}

#[test]
fn labels_propose() {
    let facts = CLOUDNATIVE_PG
        .guess(&Namespace::parse("prod").expect("a namespace"), &ObjectName::parse("shop").expect("a name"))
        .expect("facts");
    let member = |labels: Value| CLOUDNATIVE_PG.member(&facts, &pod("shop-1", &labels));
    assert_eq!(member(json!({"cnpg.io/instanceRole": "primary"})), Member::Primary);
    assert_eq!(member(json!({"role": "primary"})), Member::Primary);
    assert_eq!(member(json!({"cnpg.io/instanceRole": "unhealthy", "role": "primary"})), Member::Other);
    assert_eq!(member(json!({"cnpg.io/instanceRole": "replica"})), Member::Replica);
    assert_eq!(member(json!({})), Member::Other);
}
