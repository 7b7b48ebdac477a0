//! Zalando's operator, in both its versions.

use serde_json::{Value, json};

use super::{
    Certificate, Role, ServerSetup, State, System,
    layout::{certificate_secret, custom, patroni_config_map, patroni_endpoints, role, secret, service, with_tls},
};

/// Spilo (`configure_spilo.py`): plaintext on loopback only.
const SPILO: &str =
    "host all all 127.0.0.1/32 md5\nhost all all ::1/128 md5\nhostnossl all all all reject\nhostssl all all all md5";

/// Zalando's operator 1.x: Patroni's Endpoints, MD5.
pub struct Zalando;
/// Zalando's operator 2.x: Patroni's ConfigMaps, SCRAM, an own certificate.
pub struct ZalandoConfigMaps;

fn spilo_labels(state: &State, number: usize) -> Value {
    json!({
        "application": "spilo", "cluster-name": state.name, "team": "acid",
        "spilo-role": role(state, number, "master", "replica"),
    })
}

pub(super) fn spilo_status(state: &State, number: usize) -> Value {
    let role = if number == state.leader { "primary" } else { "replica" };
    json!({"status": json!({"conn_url": "postgres://198.51.100.7:5432/postgres", "state": "running", "role": role}).to_string()})
}

pub(super) fn spilo_secret(state: &State, role: &str, password: &str) -> (&'static str, Value) {
    let name = format!("{}.{}.credentials.postgresql.acid.zalan.do", role.replace('_', "-"), state.name);
    let labels = json!({"application": "spilo", "cluster-name": state.name, "team": "acid"});
    secret(state, &name, &labels, &[("username", role), ("password", password)])
}

fn zalando_objects(state: &State, tls: bool) -> Vec<(&'static str, Value)> {
    let mut spec = json!({
        "numberOfInstances": state.servers, "teamId": "acid", "postgresql": {"version": "17"},
        "users": {"the_clerk": ["createdb"], "bi_user": []}, "databases": {"books": "the_clerk"},
    });
    if tls {
        spec["tls"] = json!({"secretName": format!("{}-tls", state.name), "caFile": "ca.crt"});
    }
    let mut all = vec![
        custom(
            state,
            "postgresqls",
            ("acid.zalan.do/v1", "postgresql"),
            &spec,
            &json!({"PostgresClusterStatus": "Running"}),
        ),
        spilo_secret(state, "the_clerk", &state.password),
        spilo_secret(state, "bi_user", &state.other_password),
        spilo_secret(state, "postgres", &state.superuser),
        spilo_secret(state, "standby", "not-for-people"),
    ];
    if tls {
        all.push(certificate_secret(state, &format!("{}-tls", state.name), &state.certificate));
    }
    all
}

fn zalando_pooler(state: &State) -> Value {
    json!({
        "application": "db-connection-pooler", "cluster-name": state.name, "spilo-role": "master",
        "connection-pooler": format!("{}-pooler", state.name),
    })
}

impl System for Zalando {
    fn name(&self) -> &'static str {
        "zalando"
    }
    fn title(&self) -> &'static str {
        "Zalando postgres-operator 1"
    }
    fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        vec![("acid.zalan.do", "v1", "postgresqls")]
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        spilo_labels(state, number)
    }
    fn pod_annotations(&self, state: &State, number: usize) -> Value {
        spilo_status(state, number)
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let labels = json!({"application": "spilo", "cluster-name": state.name, "spilo-role": "master"});
        let mut all = zalando_objects(state, false);
        all.push(patroni_endpoints(self, state, &state.name, &labels));
        all.push(service(&state.namespace, &state.name, &labels, &Value::Null));
        all
    }
    fn pooler_labels(&self, state: &State) -> Option<Value> {
        Some(zalando_pooler(state))
    }
    fn server(&self) -> ServerSetup {
        ServerSetup { hba: SPILO, tls: true, md5: true }
    }
    fn login(&self, _state: &State) -> Role {
        Role::new("the_clerk", "books")
    }
    fn other(&self, _state: &State) -> Option<Role> {
        Some(Role::new("bi_user", "books"))
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(format!("the-clerk.{}.credentials.postgresql.acid.zalan.do", state.name))
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        vec![("get", "postgresqls"), ("list", "postgresqls"), ("watch", "postgresqls"), ("watch", "pods")]
    }
    fn only_the_resource_knows_the_owner(&self) -> bool {
        true
    }
    fn renames_rotated_users(&self) -> bool {
        true
    }
}

impl System for ZalandoConfigMaps {
    fn name(&self) -> &'static str {
        "zalando"
    }
    fn title(&self) -> &'static str {
        "Zalando postgres-operator 2"
    }
    fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        Zalando.resources()
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        spilo_labels(state, number)
    }
    fn pod_annotations(&self, state: &State, number: usize) -> Value {
        spilo_status(state, number)
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let labels = json!({"application": "spilo", "cluster-name": state.name});
        let mut all = zalando_objects(state, true);
        all.push(patroni_config_map(self, state, &labels));
        let selector = json!({"application": "spilo", "cluster-name": state.name, "spilo-role": "master"});
        all.push(service(&state.namespace, &state.name, &labels, &selector));
        all
    }
    fn pooler_labels(&self, state: &State) -> Option<Value> {
        Some(zalando_pooler(state))
    }
    fn server(&self) -> ServerSetup {
        with_tls(SPILO)
    }
    fn login(&self, state: &State) -> Role {
        Zalando.login(state)
    }
    fn other(&self, state: &State) -> Option<Role> {
        Zalando.other(state)
    }
    fn secret(&self, state: &State) -> Option<String> {
        Zalando.secret(state)
    }
    fn certificate(&self, _state: &State) -> Certificate {
        Certificate::Brought("spilo.example.com")
    }
    fn only_the_resource_knows_the_owner(&self) -> bool {
        Zalando.only_the_resource_knows_the_owner()
    }
    fn renames_rotated_users(&self) -> bool {
        Zalando.renames_rotated_users()
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        let mut all = Zalando.dispensable();
        all.push(("get", "endpoints"));
        all
    }
}
