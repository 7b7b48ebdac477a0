use serde_json::{Value, json};

use super::*;
use crate::k8s::operators::registry::{Systems, SystemsParams};

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
        {"name": "POSTGRES_DB", "value": "$(NAME)"}, {"name": "NAME", "value": "shop"},
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
