//! Bitnami's charts.

use serde_json::{Value, json};

use super::{
    Role, ServerSetup, State, System,
    layout::{SCRAM, no_lists, plaintext, secret, workload},
};

/// Bitnami's chart `postgresql`, replicated.
pub struct Bitnami;

impl Bitnami {
    fn fullname(state: &State) -> String {
        format!("{}-postgresql", state.name)
    }

    fn labels(state: &State, component: &str) -> Value {
        json!({
            "app.kubernetes.io/name": "postgresql", "app.kubernetes.io/instance": state.name,
            "app.kubernetes.io/component": component, "helm.sh/chart": "postgresql-17.1.0",
        })
    }
}

/// The same chart under another name: `orders` in the release `shop` of an umbrella chart. Helm calls the chart by its alias.
#[must_use]
pub fn aliased(object: &Value) -> Value {
    let text = object.to_string().replace("shop-postgresql", "shop-orders");
    let text = text.replace("\"app.kubernetes.io/name\":\"postgresql\"", "\"app.kubernetes.io/name\":\"orders\"");
    text.replace("postgresql-17.1.0", "orders-17.1.0").parse().unwrap_or_default()
}

impl System for Bitnami {
    fn name(&self) -> &'static str {
        "bitnami"
    }
    fn title(&self) -> &'static str {
        "Bitnami postgresql"
    }
    fn pod_name(&self, state: &State, number: usize) -> String {
        let component = if number == 0 { "primary" } else { "read" };
        format!("{}-{component}-0", Self::fullname(state))
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        Self::labels(state, if number == 0 { "primary" } else { "read" })
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let fullname = Self::fullname(state);
        let pod = json!({
            "containers": [{
                "name": "postgresql", "image": "docker.io/bitnami/postgresql:17",
                "env": [
                    {"name": "POSTGRES_USER", "value": "app"}, {"name": "POSTGRES_DATABASE", "value": "shop"},
                    {"name": "POSTGRES_PASSWORD_FILE", "value": "/opt/bitnami/postgresql/secrets/password"},
                    {"name": "POSTGRES_POSTGRES_PASSWORD_FILE", "value": "/opt/bitnami/postgresql/secrets/postgres-password"},
                ],
                "ports": [{"name": "tcp-postgresql", "containerPort": 5432}],
                "volumeMounts": [{"name": "postgresql-password", "mountPath": "/opt/bitnami/postgresql/secrets/"}],
            }],
            "volumes": [{"name": "postgresql-password", "secret": {"secretName": fullname}}],
        });
        let set = |component: &str| {
            let labels = Self::labels(state, component);
            let mut pod = pod.clone();
            let env = pod["containers"][0]["env"].as_array_mut().unwrap();
            let mode = if component == "read" { "slave" } else { "master" };
            env.push(json!({"name": "POSTGRES_REPLICATION_MODE", "value": mode}));
            env.push(json!({"name": "POSTGRESQL_PORT_NUMBER", "value": "5432"}));
            if component == "read" {
                // The chart tells replicas who logs in, and not the database.
                env.retain(|variable| variable["name"] != "POSTGRES_DATABASE");
            }
            workload(state, ("StatefulSet", &format!("{fullname}-{component}")), &labels, &labels, (1, &pod))
        };
        vec![
            set("primary"),
            set("read"),
            secret(
                state,
                &fullname,
                &json!({}),
                &[
                    ("password", &state.password),
                    ("postgres-password", &state.superuser),
                    ("replication-password", "x"),
                ],
            ),
        ]
    }
    fn server(&self) -> ServerSetup {
        ServerSetup { hba: "host all all 0.0.0.0/0 md5\nhost all all ::/0 md5", tls: false, md5: false }
    }
    fn login(&self, _state: &State) -> Role {
        Role::new("app", "shop")
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(Self::fullname(state))
    }
    fn fails_over(&self) -> bool {
        false
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        no_lists()
    }
    fn has_leader_object(&self) -> bool {
        false
    }
}

/// Bitnami's chart `postgresql-ha`: only the servers know who leads.
pub struct BitnamiHa;

impl BitnamiHa {
    fn set(state: &State) -> String {
        format!("{}-postgresql-ha-postgresql", state.name)
    }
}

impl System for BitnamiHa {
    fn name(&self) -> &'static str {
        "bitnami-ha"
    }
    fn title(&self) -> &'static str {
        "Bitnami postgresql-ha"
    }
    fn pod_name(&self, state: &State, number: usize) -> String {
        format!("{}-{number}", Self::set(state))
    }
    fn pod_labels(&self, state: &State, _number: usize) -> Value {
        json!({
            "app.kubernetes.io/name": "postgresql-ha", "app.kubernetes.io/instance": state.name,
            "app.kubernetes.io/component": "postgresql", "role": "data",
        })
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let labels = self.pod_labels(state, 0);
        let pod = json!({"containers": [{
            "name": "postgresql", "image": "docker.io/bitnami/postgresql-repmgr:17",
            "env": [
                {"name": "POSTGRES_USER", "value": "app"}, {"name": "POSTGRES_DB", "value": "shop"},
                {"name": "POSTGRES_PASSWORD", "valueFrom": {"secretKeyRef": {"name": Self::set(state), "key": "password"}}},
            ],
            "ports": [{"name": "postgresql", "containerPort": 5432}],
        }]});
        vec![
            workload(state, ("StatefulSet", &Self::set(state)), &labels, &labels, (state.servers, &pod)),
            secret(
                state,
                &Self::set(state),
                &json!({}),
                &[("password", &state.password), ("postgres-password", &state.superuser), ("repmgr-password", "x")],
            ),
        ]
    }
    fn pooler_labels(&self, state: &State) -> Option<Value> {
        Some(json!({
            "app.kubernetes.io/name": "postgresql-ha", "app.kubernetes.io/instance": state.name,
            "app.kubernetes.io/component": "pgpool",
        }))
    }
    fn server(&self) -> ServerSetup {
        plaintext(SCRAM)
    }
    fn login(&self, _state: &State) -> Role {
        Role::new("app", "shop")
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(Self::set(state))
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        no_lists()
    }
    fn asks_the_servers(&self) -> bool {
        true
    }
}
