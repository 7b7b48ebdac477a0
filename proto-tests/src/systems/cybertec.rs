//! CYBERTEC's PG operator (<https://github.com/cybertec-postgresql/CYBERTEC-pg-operator>, `pkg/cluster/k8sres.go`).

use serde_json::{Value, json};

use super::{
    Certificate, Role, ServerSetup, State, System,
    layout::{certificate_secret, custom, patroni_config_map, role, secret, service, with_tls},
    zalando::spilo_status,
};

const GROUP: &str = "cpo.opensource.cybertec.at";
/// `configure_spilo.py` of <https://github.com/cybertec-postgresql/CYBERTEC-pg-container>: plaintext on loopback only.
const HBA: &str = "host all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256\n\
    hostnossl all all all reject\nhostssl all all all scram-sha-256";

/// CYBERTEC's operator, with Patroni's ConfigMaps as its chart has it, and an own certificate.
pub struct Cybertec;

/// What every object of a cluster carries (`labelsSet` in `pkg/cluster/util.go`).
fn labels(state: &State) -> Value {
    json!({"application": "cpo", "cluster.cpo.opensource.cybertec.at/name": state.name, "team": "acid"})
}

/// What the Service of the primary looks for (`roleLabelsSet` there).
fn selector(state: &State) -> Value {
    json!({
        "application": "cpo", "cluster.cpo.opensource.cybertec.at/name": state.name,
        "member.cpo.opensource.cybertec.at/role": "master",
    })
}

/// The same of a pod, with what it is for and its role.
fn member(state: &State, kind: &str, role: &str) -> Value {
    let mut labels = labels(state);
    labels["member.cpo.opensource.cybertec.at/type"] = json!(kind);
    labels["member.cpo.opensource.cybertec.at/role"] = json!(role);
    labels
}

fn secret_name(state: &State, role: &str) -> String {
    format!("{}.{}.credentials.postgresql.{GROUP}", role.replace('_', "-"), state.name)
}

fn login_secret(state: &State, role: &str, password: &str) -> (&'static str, Value) {
    secret(state, &secret_name(state, role), &labels(state), &[("username", role), ("password", password)])
}

impl System for Cybertec {
    fn name(&self) -> &'static str {
        "cybertec"
    }
    fn title(&self) -> &'static str {
        "CYBERTEC PG Operator"
    }
    fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        vec![(GROUP, "v1", "postgresqls")]
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        member(state, "postgresql", role(state, number, "master", "replica"))
    }
    fn pod_annotations(&self, state: &State, number: usize) -> Value {
        spilo_status(state, number)
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let certificate = format!("{}-tls", state.name);
        let spec = json!({
            "numberOfInstances": state.servers, "teamId": "acid", "postgresql": {"version": "18"},
            "users": {"app_owner": ["createdb"], "report": []}, "databases": {"orders": "app_owner"},
            "monitor": {"image": "cybertec-pg-container/exporter"},
            "tls": {"secretName": certificate, "caFile": "ca.crt"},
        });
        let api = format!("{GROUP}/v1");
        let status = json!({"PostgresClusterStatus": "Running", "RestoreID": ""});
        vec![
            custom(state, "postgresqls", (&api, "postgresql"), &spec, &status),
            login_secret(state, "app_owner", &state.password),
            login_secret(state, "report", &state.other_password),
            login_secret(state, "postgres", &state.superuser),
            login_secret(state, "standby", "not-for-people"),
            login_secret(state, "cpo_exporter", "not-for-people-either"),
            certificate_secret(state, &certificate, &state.certificate),
            patroni_config_map(self, state, &labels(state)),
            service(&state.namespace, &state.name, &labels(state), &selector(state)),
        ]
    }
    fn pooler_labels(&self, state: &State) -> Option<Value> {
        let mut labels = member(state, "pooler", "master");
        labels["application"] = json!("db-connection-pooler");
        labels["connection-pooler"] = json!(format!("{}-pooler", state.name));
        Some(labels)
    }
    fn server(&self) -> ServerSetup {
        with_tls(HBA)
    }
    fn login(&self, _state: &State) -> Role {
        Role::new("app_owner", "orders")
    }
    fn other(&self, _state: &State) -> Option<Role> {
        Some(Role::new("report", "orders"))
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(secret_name(state, "app_owner"))
    }
    fn certificate(&self, _state: &State) -> Certificate {
        Certificate::Brought("shop.example.com")
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        let resource = ["get", "list", "watch"].map(|verb| (verb, "postgresqls"));
        resource.into_iter().chain([("watch", "pods"), ("get", "endpoints")]).collect()
    }
    fn only_the_resource_knows_the_owner(&self) -> bool {
        true
    }
    fn renames_rotated_users(&self) -> bool {
        true
    }
}
