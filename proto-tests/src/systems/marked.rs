//! Marks on a Service of anything.

use serde_json::{Value, json};

use super::{
    Role, ServerSetup, State, System,
    layout::{SCRAM, plaintext, role, secret, service, slice},
};

/// A Service and a Secret that somebody has marked.
pub struct Marked;

impl System for Marked {
    fn name(&self) -> &'static str {
        "service"
    }
    fn title(&self) -> &'static str {
        "marked Service (`pgferry.dev/...`)"
    }
    fn pod_name(&self, state: &State, number: usize) -> String {
        format!("{}-db-{number}", state.name)
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        json!({"app": state.name, "role": role(state, number, "leader", "follower")})
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let marked = |suffix: &str, pods: &str, marks: Value| {
            let (plural, mut object) = service(
                &state.namespace,
                &format!("{}-{suffix}", state.name),
                &json!({"pgferry.dev/cluster": state.name}),
                &json!({"app": state.name, "role": pods}),
            );
            object["metadata"]["annotations"] = marks;
            (plural, object)
        };
        let labels = json!({"pgferry.dev/cluster": state.name});
        vec![
            marked("write", "leader", json!({"pgferry.dev/secret": "login"})),
            marked("read", "follower", json!({"pgferry.dev/role": "replica"})),
            slice(self, state, &format!("{}-write", state.name), &state.labelled),
            slice(self, state, &format!("{}-read", state.name), &[1 - state.leader]),
            secret(
                state,
                "login",
                &labels,
                &[("username", "app"), ("password", &state.password), ("database", "shop")],
            ),
            secret(
                state,
                "reporting",
                &labels,
                &[("username", "reporting"), ("password", &state.other_password), ("database", "shop")],
            ),
        ]
    }
    fn server(&self) -> ServerSetup {
        plaintext(SCRAM)
    }
    fn login(&self, _state: &State) -> Role {
        Role::new("app", "shop")
    }
    fn other(&self, _state: &State) -> Option<Role> {
        Some(Role::new("reporting", "shop"))
    }
    fn secret(&self, _state: &State) -> Option<String> {
        Some("login".to_owned())
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        vec![("list", "secrets"), ("list", "statefulsets"), ("list", "deployments"), ("watch", "pods")]
    }
    fn lists_its_database(&self) -> bool {
        false
    }
    fn lists_its_replicas(&self) -> bool {
        false
    }
    fn asks_who_claims(&self) -> bool {
        true
    }
    fn has_leader_object(&self) -> bool {
        false
    }
}
