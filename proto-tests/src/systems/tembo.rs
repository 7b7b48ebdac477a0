//! Tembo.

use serde_json::{Value, json};

use super::{
    CloudNativePg, Role, ServerSetup, State, System,
    layout::{SCRAM, custom, plaintext, secret},
};

/// Tembo: a `CoreDB`, and a CloudNativePG cluster that belongs to it.
pub struct Tembo;

impl System for Tembo {
    fn name(&self) -> &'static str {
        "tembo"
    }
    fn title(&self) -> &'static str {
        "Tembo"
    }
    fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        vec![("coredb.io", "v1alpha1", "coredbs"), ("postgresql.cnpg.io", "v1", "clusters")]
    }
    fn pod_name(&self, state: &State, number: usize) -> String {
        CloudNativePg.pod_name(state, number)
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        CloudNativePg.pod_labels(state, number)
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let host = format!("{}-r.{}.svc.cluster.local", state.name, state.namespace);
        let mut inner = CloudNativePg.objects(state).remove(0);
        inner.1["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "coredb.io/v1alpha1", "kind": "CoreDB", "name": state.name, "uid": "x"}]);
        inner.1["spec"]["bootstrap"] = json!({"initdb": {}});
        vec![
            custom(
                state,
                "coredbs",
                ("coredb.io/v1alpha1", "CoreDB"),
                &json!({"replicas": state.servers}),
                &json!({"running": true}),
            ),
            inner,
            secret(
                state,
                &format!("{}-connection", state.name),
                &json!({"app": "coredb", "coredb.io/name": state.name}),
                &[
                    ("user", "postgres"),
                    ("username", "postgres"),
                    ("password", &state.password),
                    ("host", &host),
                    ("port", "5432"),
                ],
            ),
        ]
    }
    fn pooler_labels(&self, state: &State) -> Option<Value> {
        CloudNativePg.pooler_labels(state)
    }
    fn server(&self) -> ServerSetup {
        plaintext(SCRAM)
    }
    fn login(&self, _state: &State) -> Role {
        Role::postgres()
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(format!("{}-connection", state.name))
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        vec![("list", "coredbs"), ("watch", "coredbs"), ("watch", "clusters"), ("watch", "pods"), ("list", "secrets")]
    }
}
