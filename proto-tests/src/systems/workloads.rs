//! The official image, in a StatefulSet or a Deployment.

use serde_json::{Value, json};

use super::{
    Role, ServerSetup, State, System,
    layout::{SCRAM, no_lists, plaintext, secret, service, workload},
};

/// The official image leaves initdb's `trust` on loopback.
const TRUST: ServerSetup = ServerSetup {
    hba: "host all all 127.0.0.1/32 trust\nhost all all ::1/128 trust\nhost all all all scram-sha-256",
    tls: false,
    md5: false,
};

/// The official image in a StatefulSet.
pub struct StatefulSet;
/// The official image in a Deployment, its environment from a Secret.
pub struct Deployment;

impl System for StatefulSet {
    fn name(&self) -> &'static str {
        "statefulset"
    }
    fn title(&self) -> &'static str {
        "official image, StatefulSet"
    }
    fn pod_labels(&self, state: &State, _number: usize) -> Value {
        json!({"app": state.name})
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let pod = json!({"containers": [{
            "name": "postgres", "image": "docker.io/library/postgres:17",
            "env": [
                {"name": "POSTGRES_USER", "value": "app"}, {"name": "POSTGRES_DB", "value": "shop"},
                {"name": "POSTGRES_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}},
            ],
            "ports": [{"containerPort": 5432}],
        }]});
        let labels = json!({"app": state.name});
        vec![
            workload(state, ("StatefulSet", &state.name), &labels, &labels, (state.servers, &pod)),
            secret(state, "login", &json!({}), &[("password", &state.password)]),
            service(&state.namespace, &state.name, &json!({}), &labels),
        ]
    }
    fn server(&self) -> ServerSetup {
        TRUST
    }
    fn login(&self, _state: &State) -> Role {
        Role { superuser: true, ..Role::new("app", "shop") }
    }
    fn secret(&self, _state: &State) -> Option<String> {
        Some("login".to_owned())
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        no_lists()
    }
    fn asks_the_servers(&self) -> bool {
        true
    }
}

impl System for Deployment {
    fn name(&self) -> &'static str {
        "deployment"
    }
    fn title(&self) -> &'static str {
        "official image, Deployment"
    }
    fn servers(&self) -> usize {
        1
    }
    fn pod_name(&self, state: &State, number: usize) -> String {
        format!("{}-7d9c5b{number}-x2x4z", state.name)
    }
    fn pod_labels(&self, state: &State, _number: usize) -> Value {
        json!({"app": state.name})
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let pod = json!({"containers": [{
            "name": "postgres", "image": "postgres:17", "envFrom": [{"secretRef": {"name": "environment"}}],
        }]});
        let labels = json!({"app": state.name});
        let data = [("POSTGRES_USER", "app"), ("POSTGRES_PASSWORD", state.password.as_str())];
        vec![
            workload(state, ("Deployment", &state.name), &labels, &labels, (1, &pod)),
            secret(state, "environment", &json!({}), &data),
        ]
    }
    fn server(&self) -> ServerSetup {
        plaintext(SCRAM)
    }
    fn login(&self, _state: &State) -> Role {
        // The image calls the database as the user.
        Role { superuser: true, ..Role::new("app", "app") }
    }
    fn secret(&self, _state: &State) -> Option<String> {
        Some("environment".to_owned())
    }
    fn fails_over(&self) -> bool {
        false
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        no_lists()
    }
    fn lists_its_database(&self) -> bool {
        false
    }
    fn has_leader_object(&self) -> bool {
        false
    }
}
