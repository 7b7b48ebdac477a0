use serde_json::{Value, json};

use super::*;
use crate::k8s::{
    api::names::Reference,
    operators::registry::{Systems, SystemsParams},
};

fn read(labels: &Value, spec: &Value) -> Option<Facts> {
    let mut object = json!({
        "metadata": {"name": "db", "namespace": "prod", "labels": labels},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "db"}}, "template": {"spec": spec}},
        "status": {"readyReplicas": 1},
    });
    if labels.get("app.kubernetes.io/component").is_some() {
        object["metadata"]["name"] = json!("db-postgresql-primary");
    }
    stateful_sets(Systems::new(&SystemsParams::default()).operators)
        .read(&serde_json::from_value(object).expect("a StatefulSet"))
}

fn plain(container: &Value) -> Option<Facts> {
    read(&json!({}), &json!({"containers": [container]}))
}

fn default_login(facts: &Facts) -> (Option<&str>, &str, &Keys, &str) {
    let login = facts.logins.first().expect("a login");
    (login.role.as_deref(), login.secret_name(), &login.keys, &login.database)
}

#[test]
fn the_official_images_environment_is_read() {
    let facts = plain(&json!({"image": "docker.io/library/postgres:17", "env": [
        {"name": "POSTGRES_USER", "value": "app"},
        {"name": "POSTGRES_DB", "value": "shop"},
        {"name": "POSTGRES_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "pw"}}},
    ]}))
    .expect("a server");
    let (role, secret, _, database) = default_login(&facts);
    assert_eq!((role, secret, database), (Some("app"), "login", "shop"));
    assert_eq!((facts.instances, facts.ready, facts.members), (1, Some(1), Members::Selected("app=db".to_owned())));
    // A password in the object itself is used, and not shown.
    let facts = plain(&json!({"image": "postgres", "env": [{"name": "POSTGRES_PASSWORD", "value": "hunter2"}]}))
        .expect("a server");
    assert!(!format!("{facts:?}").contains("hunter2"));
    assert_eq!(default_login(&facts).0, Some("postgres"));
}

#[test]
fn all_keys_of_a_secret_may_be_the_environment() {
    let facts =
        plain(&json!({"image": "postgres", "envFrom": [{"prefix": "POSTGRES_", "secretRef": {"name": "login"}}]}))
            .expect("a server");
    let (role, secret, keys, _) = default_login(&facts);
    assert_eq!((role, secret), (None, "login"));
    let Keys::Named { user, password, .. } = keys else { panic!("{keys:?}") };
    let place = KeyOf::Secret(Reference::computed("login"), "USER".to_owned());
    assert_eq!((user, password), (&Part::In(vec![place], Some("postgres".to_owned())), &Part::key("PASSWORD")));
}

#[test]
fn passwords_in_files_lead_to_their_secrets() {
    let labels = json!({
        "app.kubernetes.io/name": "postgresql", "app.kubernetes.io/instance": "db", "app.kubernetes.io/component": "primary",
    });
    let spec = json!({
        "containers": [{
            "image": "docker.io/bitnami/postgresql:17",
            "env": [
                {"name": "POSTGRES_USER", "value": "app"}, {"name": "POSTGRES_DATABASE", "value": "shop"},
                {"name": "POSTGRES_PASSWORD_FILE", "value": "/opt/bitnami/postgresql/secrets/password"},
                {"name": "POSTGRES_POSTGRES_PASSWORD_FILE", "value": "/opt/bitnami/postgresql/secrets/postgres-password"},
            ],
            "volumeMounts": [{"name": "pw", "mountPath": "/opt/bitnami/postgresql/secrets/"}],
        }],
        "volumes": [{"name": "pw", "secret": {"secretName": "db-postgresql"}}],
    });
    let facts = read(&labels, &spec).expect("a server");
    assert_eq!(
        (&*facts.name, facts.flavor, facts.aliases.as_slice()),
        ("db-postgresql", Some("bitnami"), &["db".to_owned()][..])
    );
    let kinds: Vec<_> = facts.logins.iter().map(|login| (login.kind, login.secret_name())).collect();
    assert_eq!(kinds, [(LoginKind::Application, "db-postgresql"), (LoginKind::Superuser, "db-postgresql")]);
    assert_eq!(facts.leader, Leader::Unsaid);
}

#[test]
fn clients_and_sidecars_are_no_servers() {
    let password = json!({"name": "POSTGRES_PASSWORD", "value": "x"});
    for container in [
        json!({"image": "shop/web", "env": [password]}),
        json!({"image": "shop/web", "env": [password, {"name": "POSTGRES_HOST", "value": "db"}], "ports": [{"containerPort": 5432}]}),
        json!({"image": "quay.io/prometheuscommunity/postgres-exporter", "env": [password]}),
        json!({"image": "bitnami/pgpool", "env": [password]}),
    ] {
        assert!(plain(&container).is_none(), "{container}");
    }
    let own_image = json!({"image": "shop/database", "env": [password], "ports": [{"containerPort": 5432}]});
    assert!(plain(&own_image).is_some());
}

#[test]
fn configmaps_and_references_are_followed() {
    let facts = plain(&json!({"image": "postgres:17", "envFrom": [{"configMapRef": {"name": "settings"}}], "env": [
        {"name": "POSTGRES_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "pw"}}},
        {"name": "NAME", "value": "shop"}, {"name": "POSTGRES_DB", "value": "$(NAME)"},
    ]}))
    .expect("a server");
    let (role, secret, keys, database) = default_login(&facts);
    assert_eq!((role, secret, database), (None, "login", "shop"));
    let Keys::Named { user, .. } = keys else { panic!("{keys:?}") };
    let place = KeyOf::ConfigMap(Reference::computed("settings"), "POSTGRES_USER".to_owned());
    assert_eq!(user, &Part::In(vec![place], Some("postgres".to_owned())));
    assert!(plain(&json!({"image": "postgres:17", "command": ["sleep", "infinity"]})).is_none());
}

/// A server's StatefulSet and a pooler's Deployment run images of PostgreSQL as well.
#[test]
fn what_an_operator_looks_after_is_no_cluster_of_its_own() {
    let with = |labels: &Value| {
        let container =
            json!({"name": "db", "image": "postgres:17", "env": [{"name": "POSTGRES_PASSWORD", "value": "x"}]});
        let object = json!({
            "metadata": {"name": "db", "namespace": "prod"},
            "spec": {
                "selector": {"matchLabels": {"app": "db"}},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            },
        });
        let systems = Systems::new(&SystemsParams::default());
        stateful_sets(systems.operators).read(&serde_json::from_value(object).expect("a StatefulSet"))
    };
    assert!(with(&json!({"app": "db"})).is_some());
    for labels in [
        json!({"cnpg.io/cluster": "shop", "cnpg.io/jobRole": "import"}),
        json!({"k8s.enterprisedb.io/cluster": "shop"}),
        json!({"application": "spilo"}),
        json!({"connection-pooler": "shop-pooler"}),
        json!({"postgres-operator.crunchydata.com/cluster": "shop"}),
        json!({"stackgres.io/cluster-name": "shop"}),
        json!({"apps.kubeblocks.io/component-name": "postgresql"}),
        json!({"app": "shop", "replicationRole": "primary"}),
        json!({"app.kubernetes.io/name": "postgreses.kubedb.com"}),
    ] {
        assert!(with(&labels).is_none(), "{labels}");
    }
}

/// `$(VAR)` in the midst of a value was taken as it is written, and one that is set later was followed.
#[test]
fn references_are_expanded_as_kubernetes_does() {
    let login = json!({"secretKeyRef": {"name": "login", "key": "pw"}});
    let database = |value: &str| {
        let facts = plain(&json!({"image": "postgres:17", "env": [
            {"name": "POSTGRES_PASSWORD", "valueFrom": login},
            {"name": "STAGE", "value": "prod"}, {"name": "BOTH", "value": "$(STAGE)-$$(STAGE)"},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "POSTGRES_DB", "value": value}, {"name": "LATER", "value": "late"},
        ]}))
        .expect("a server");
        default_login(&facts).3.to_owned()
    };
    for (value, expanded) in [
        ("shop_$(STAGE)_$(STAGE)", "shop_prod_prod"),
        ("$$(STAGE)", "$(STAGE)"),
        ("$(BOTH)", "prod-$(STAGE)"),
        ("$(LATER)", "$(LATER)"),
        ("$(POSTGRES_DB)", "$(POSTGRES_DB)"),
        ("$(STAGE", "$(STAGE"),
        ("a$b$", "a$b$"),
        // What only the pod knows is not guessed: the database is called as the user.
        ("$(NODE)", "postgres"),
    ] {
        assert_eq!(database(value), expanded, "{value}");
    }
    // With a part that a Secret holds: it is read when somebody logs in.
    let facts = plain(&json!({"image": "postgres:17", "env": [
        {"name": "POSTGRES_PASSWORD", "valueFrom": login},
        {"name": "POSTGRES_USER", "value": "u-$(POSTGRES_PASSWORD)!"},
    ]}))
    .expect("a server");
    let (_, _, keys, _) = default_login(&facts);
    let Keys::Named { user, .. } = keys else { panic!("{keys:?}") };
    let secret = Part::In(vec![KeyOf::Secret(Reference::computed("login"), "pw".to_owned())], None);
    let fixed = |text: &str| Part::Fixed(text.to_owned());
    assert_eq!(user, &Part::Joined(vec![fixed("u-"), secret, fixed("!")]));
    // Each variable twice the one before it: what becomes of it is no password, and no reason to run out of memory.
    let mut env = vec![json!({"name": "POSTGRES_PASSWORD", "value": "x"}), json!({"name": "V0", "value": "xxxx"})];
    env.extend((1..64).map(|n| json!({"name": format!("V{n}"), "value": format!("$(V{0})$(V{0})", n - 1)})));
    env.push(json!({"name": "POSTGRES_DB", "value": "$(V63)"}));
    assert!(plain(&json!({"image": "postgres:17", "env": env})).is_some());
}

/// In an umbrella chart the label with the name is the alias, and so is the chart's: a primary and its replicas were two
/// clusters, and the application a superuser.
#[test]
fn a_chart_is_known_under_another_name() {
    let environment = json!([
        {"name": "POSTGRES_USER", "value": "app"}, {"name": "POSTGRES_PASSWORD", "value": "x"},
        {"name": "POSTGRES_REPLICATION_MODE", "value": "master"}, {"name": "POSTGRESQL_PORT_NUMBER", "value": "5432"},
    ]);
    let spec = json!({"containers": [{"image": "registry.example.com/pg:17", "env": environment, "ports": [{"containerPort": 5432}]}]});
    for chart in ["orders-17.1.0", "postgresql-17.1.0"] {
        let labels = json!({
            "app.kubernetes.io/name": "orders", "app.kubernetes.io/instance": "shop",
            "app.kubernetes.io/component": "primary", "helm.sh/chart": chart,
        });
        let facts = read(&labels, &spec).expect("a server");
        assert_eq!((&*facts.name, facts.flavor), ("db-postgresql", Some("bitnami")), "{chart}");
        let both = "app.kubernetes.io/name=orders,app.kubernetes.io/instance=shop,\
                    app.kubernetes.io/component in (primary,read)";
        assert_eq!(facts.members, Members::Selected(both.to_owned()));
        assert_eq!(facts.logins.first().map(|login| login.kind), Some(LoginKind::Application));
    }
    // Without the chart the image makes an owner all the same.
    let facts = read(&json!({}), &spec).expect("a server");
    assert_eq!((facts.flavor, facts.logins.first().map(|login| login.kind)), (None, Some(LoginKind::Application)));
}
