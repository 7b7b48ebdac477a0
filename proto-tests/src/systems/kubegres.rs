//! Kubegres.

use serde_json::{Value, json};

use super::{
    Role, ServerSetup, State, System,
    layout::{custom, plaintext, role, secret},
};

/// Kubegres.
pub struct Kubegres;

impl System for Kubegres {
    fn name(&self) -> &'static str {
        "kubegres"
    }
    fn title(&self) -> &'static str {
        "Kubegres"
    }
    fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        vec![("kubegres.reactive-tech.io", "v1", "kubegres")]
    }
    fn pod_name(&self, state: &State, number: usize) -> String {
        format!("{}-{}-0", state.name, number + 1)
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        json!({"app": state.name, "index": (number + 1).to_string(), "replicationRole": role(state, number, "primary", "replica")})
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let key = |name: &str, key: &str| json!({"name": name, "valueFrom": {"secretKeyRef": {"name": "mysecret", "key": key}}});
        let spec = json!({
            "replicas": state.servers, "image": "postgres:17",
            "env": [key("POSTGRES_PASSWORD", "superUserPassword"), key("POSTGRES_REPLICATION_PASSWORD", "replicationUserPassword")],
        });
        vec![
            custom(state, "kubegres", ("kubegres.reactive-tech.io/v1", "Kubegres"), &spec, &json!({})),
            secret(
                state,
                "mysecret",
                &json!({}),
                &[("superUserPassword", &state.password), ("replicationUserPassword", "not-for-people")],
            ),
        ]
    }
    fn server(&self) -> ServerSetup {
        plaintext("host all all all md5")
    }
    fn login(&self, _state: &State) -> Role {
        Role::postgres()
    }
    fn secret(&self, _state: &State) -> Option<String> {
        Some("mysecret".to_owned())
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        // Only the resource says which Secret it is.
        vec![("list", "kubegres"), ("watch", "kubegres"), ("watch", "pods"), ("list", "secrets")]
    }
    fn has_leader_object(&self) -> bool {
        false
    }
}
