//! KubeBlocks.

use serde_json::{Value, json};

use super::{
    Role, ServerSetup, State, System,
    layout::{by_labels, custom, plaintext, role, secret},
};

/// KubeBlocks.
pub struct KubeBlocks;

impl System for KubeBlocks {
    fn name(&self) -> &'static str {
        "kubeblocks"
    }
    fn title(&self) -> &'static str {
        "KubeBlocks"
    }
    fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        vec![("apps.kubeblocks.io", "v1", "clusters")]
    }
    fn pod_name(&self, state: &State, number: usize) -> String {
        format!("{}-postgresql-{number}", state.name)
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        json!({
            "app.kubernetes.io/instance": state.name, "app.kubernetes.io/managed-by": "kubeblocks",
            "apps.kubeblocks.io/component-name": "postgresql", "kubeblocks.io/role": role(state, number, "primary", "secondary"),
        })
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let spec = json!({"clusterDef": "postgresql", "topology": "replication", "componentSpecs": [{"name": "postgresql", "replicas": state.servers}]});
        let account = |name: &str, password: &str| {
            let labels = json!({"app.kubernetes.io/instance": state.name, "apps.kubeblocks.io/system-account": name});
            secret(
                state,
                &format!("{}-postgresql-account-{name}", state.name),
                &labels,
                &[("username", name), ("password", password)],
            )
        };
        vec![
            custom(state, "clusters", ("apps.kubeblocks.io/v1", "Cluster"), &spec, &json!({"phase": "Running"})),
            account("postgres", &state.password),
            account("reporting", &state.other_password),
        ]
    }
    fn server(&self) -> ServerSetup {
        plaintext("host all all 0.0.0.0/0 md5\nhost all all ::/0 md5\nhost all all 127.0.0.1/32 trust")
    }
    fn login(&self, _state: &State) -> Role {
        Role::postgres()
    }
    fn other(&self, _state: &State) -> Option<Role> {
        Some(Role::new("reporting", "postgres"))
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(format!("{}-postgresql-account-postgres", state.name))
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        by_labels("clusters")
    }
    fn has_leader_object(&self) -> bool {
        false
    }
}
