//! Elastisys' access Secret.

use serde_json::{Value, json};

use super::{
    Role, ServerSetup, State, System,
    layout::{no_lists, patroni_endpoints, role, secret, service, slice},
    zalando::spilo_status,
};

/// Elastisys: a Secret and a Service, behind which Zalando's operator works where the tenant sees nothing.
pub struct Elastisys;

impl Elastisys {
    fn service(state: &State) -> String {
        format!("{}-access", state.name)
    }
}

impl System for Elastisys {
    fn name(&self) -> &'static str {
        "elastisys"
    }
    fn title(&self) -> &'static str {
        "Elastisys access Secret"
    }
    fn server_namespace(&self, state: &State) -> String {
        format!("{}-system", state.namespace)
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        json!({"application": "spilo", "cluster-name": state.name, "spilo-role": role(state, number, "master", "replica")})
    }
    fn pod_annotations(&self, state: &State, number: usize) -> Value {
        spilo_status(state, number)
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let namespace = self.server_namespace(state);
        let selector = json!({"application": "spilo", "cluster-name": state.name, "spilo-role": "master"});
        let host = format!("{}.{namespace}.svc.cluster.local", state.name);
        let labels = json!({"application": "spilo", "cluster-name": state.name, "spilo-role": "master"});
        vec![
            secret(
                state,
                &format!("{}.user.access", state.name),
                &json!({}),
                &[
                    ("PGHOST", &host),
                    ("PGUSER", "owner"),
                    ("PGPASSWORD", &state.password),
                    ("PGSSLMODE", "require"),
                    ("USER_ACCESS", &format!("svc/{}", Self::service(state))),
                ],
            ),
            service(&namespace, &Self::service(state), &json!({}), &selector),
            slice(self, state, &Self::service(state), &state.labelled),
            patroni_endpoints(self, state, &state.name, &labels),
        ]
    }
    fn pooler_labels(&self, state: &State) -> Option<Value> {
        Some(json!({"application": "db-connection-pooler", "cluster-name": state.name, "spilo-role": "master"}))
    }
    fn server(&self) -> ServerSetup {
        ServerSetup {
            hba: "host all all 127.0.0.1/32 md5\nhost all all ::1/128 md5\nhostssl all all all md5",
            tls: true,
            md5: false,
        }
    }
    fn login(&self, _state: &State) -> Role {
        Role::new("owner", "postgres")
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(format!("{}.user.access", state.name))
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        let mut all = no_lists();
        all.push(("list", "postgresqls"));
        all.push(("get", "postgresqls"));
        all
    }
    fn is_a_secret(&self) -> bool {
        true
    }
}
