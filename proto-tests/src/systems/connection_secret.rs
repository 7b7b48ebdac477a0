//! A connection Secret and nothing else.

use serde_json::{Value, json};

use super::{
    Role, ServerSetup, State, System,
    layout::{SCRAM, no_lists, plaintext, service, slice, typed_secret},
};

/// A Secret of a Service Binding that leads to a Service without a selector.
pub struct ConnectionSecret;

impl System for ConnectionSecret {
    fn name(&self) -> &'static str {
        "connection-secret"
    }
    fn title(&self) -> &'static str {
        "connection Secret"
    }
    fn pod_name(&self, state: &State, number: usize) -> String {
        format!("{}-server-{number}", state.name)
    }
    fn pod_labels(&self, _state: &State, _number: usize) -> Value {
        json!({"app": "some-database"})
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let server = format!("{}-server", state.name);
        let host = format!("{server}.{}.svc", state.namespace);
        vec![
            typed_secret(
                state,
                &state.name,
                "servicebinding.io/postgresql",
                &json!({}),
                &[
                    ("type", "postgresql"),
                    ("provider", "acme"),
                    ("host", &host),
                    ("port", "5432"),
                    ("username", "app"),
                    ("password", &state.password),
                    ("database", "shop"),
                    ("uri", "postgresql://app:stale@nowhere/shop"),
                ],
            ),
            service(&state.namespace, &server, &json!({}), &Value::Null),
            slice(self, state, &server, &[state.leader]),
        ]
    }
    fn server(&self) -> ServerSetup {
        plaintext(SCRAM)
    }
    fn login(&self, _state: &State) -> Role {
        Role::new("app", "shop")
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(state.name.clone())
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        let mut all = no_lists();
        // Without a selector only EndpointSlices say where a Service leads, and no pod needs to be read.
        all.retain(|(_, resource)| *resource != "endpointslices");
        all.extend([("get", "pods"), ("list", "pods")]);
        all
    }
    fn labels_move(&self) -> bool {
        false
    }
    fn is_a_secret(&self) -> bool {
        true
    }
    fn has_leader_object(&self) -> bool {
        false
    }
}
