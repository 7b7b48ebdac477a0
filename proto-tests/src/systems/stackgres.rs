//! StackGres.

use serde_json::{Value, json};

use super::{
    Certificate, Role, ServerSetup, State, System,
    layout::{by_labels, custom, patroni_endpoints, role, secret, service},
};

/// StackGres (`PatroniConfigEndpoints.java`).
const LOOPBACK_MD5: &str = "host all all 127.0.0.1/32 md5\nhost all all ::1/128 md5\nhost all all all md5";

/// StackGres.
pub struct StackGres;

impl System for StackGres {
    fn name(&self) -> &'static str {
        "stackgres"
    }
    fn title(&self) -> &'static str {
        "StackGres"
    }
    fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        vec![("stackgres.io", "v1", "sgclusters")]
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        json!({
            "app": "StackGresCluster", "stackgres.io/cluster-name": state.name, "stackgres.io/cluster": "true",
            "role": role(state, number, "primary", "replica"),
        })
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let spec = json!({"instances": state.servers, "postgres": {"version": "17", "ssl": {"enabled": true}}});
        let pods: Vec<Value> = (0..state.servers)
            .map(|number| json!({"name": self.pod_name(state, number), "primary": number == state.leader}))
            .collect();
        let labels = json!({"app": "StackGresCluster", "stackgres.io/cluster-name": state.name});
        let (certificate, key) = &state.certificate;
        vec![
            custom(state, "sgclusters", ("stackgres.io/v1", "SGCluster"), &spec, &json!({"podStatuses": pods})),
            secret(
                state,
                &state.name,
                &labels,
                &[
                    ("superuser-username", "postgres"),
                    ("superuser-password", &state.password),
                    ("replication-username", "replicator"),
                    ("replication-password", "not-for-people"),
                ],
            ),
            secret(state, &format!("{}-ssl", state.name), &labels, &[("tls.crt", certificate), ("tls.key", key)]),
            patroni_endpoints(self, state, &state.name, &labels),
            service(&state.namespace, &state.name, &labels, &Value::Null),
        ]
    }
    fn server(&self) -> ServerSetup {
        ServerSetup { hba: LOOPBACK_MD5, tls: true, md5: false }
    }
    fn login(&self, _state: &State) -> Role {
        Role::postgres()
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(state.name.clone())
    }
    fn certificate(&self, _state: &State) -> Certificate {
        Certificate::Signed
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        by_labels("sgclusters")
    }
}
