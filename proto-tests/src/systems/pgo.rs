//! Crunchy's PGO, and Percona's operator, which works by it.

use serde_json::{Value, json};

use super::{
    Certificate, Role, ServerSetup, State, System,
    layout::{by_labels, certificate_secret, custom, patroni_endpoints, role, secret, service, with_tls},
};

/// PGO (`internal/postgres/hba.go`): no plaintext at all.
const TLS_ONLY: &str = "hostssl all all all scram-sha-256";

/// Crunchy's PGO.
pub struct Crunchy;
/// Percona's operator, which makes one of PGO's resources for each of its own.
pub struct Percona;

const PGO: &str = "postgres-operator.crunchydata.com";

fn pgo_labels(state: &State, number: usize, primary: &str) -> Value {
    json!({
        format!("{PGO}/cluster"): state.name, format!("{PGO}/instance"): format!("{}-instance1-{number}", state.name),
        format!("{PGO}/instance-set"): "instance1", format!("{PGO}/data"): "postgres",
        format!("{PGO}/patroni"): format!("{}-ha", state.name), format!("{PGO}/role"): role(state, number, primary, "replica"),
    })
}

fn pgo_users(state: &State) -> Value {
    json!([{"name": state.name, "databases": [state.name]}, {"name": "reporting", "databases": [state.name]}])
}

fn pgo_objects(system: &dyn System, state: &State) -> Vec<(&'static str, Value)> {
    let user = |name: &str, password: &str| {
        let labels = json!({format!("{PGO}/cluster"): state.name, format!("{PGO}/role"): "pguser", format!("{PGO}/pguser"): name});
        let host = format!("{}-primary.{}.svc", state.name, state.namespace);
        secret(
            state,
            &format!("{}-pguser-{name}", state.name),
            &labels,
            &[
                ("user", name),
                ("password", password),
                ("verifier", "SCRAM-SHA-256$4096:x"),
                ("dbname", &state.name),
                ("host", &host),
                ("port", "5432"),
                ("uri", &format!("postgresql://{name}:stale@{host}:5432/{}", state.name)),
            ],
        )
    };
    let labels = json!({format!("{PGO}/cluster"): state.name, format!("{PGO}/patroni"): format!("{}-ha", state.name)});
    vec![
        user(&state.name, &state.password),
        user("reporting", &state.other_password),
        certificate_secret(state, &format!("{}-cluster-cert", state.name), &state.certificate),
        patroni_endpoints(system, state, &format!("{}-ha", state.name), &labels),
        service(&state.namespace, &format!("{}-primary", state.name), &labels, &Value::Null),
    ]
}

fn pgbouncer(state: &State) -> Value {
    json!({format!("{PGO}/cluster"): state.name, format!("{PGO}/role"): "pgbouncer"})
}

impl System for Crunchy {
    fn name(&self) -> &'static str {
        "crunchy"
    }
    fn title(&self) -> &'static str {
        "Crunchy PGO 5 and 6"
    }
    fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        vec![(PGO, "v1beta1", "postgresclusters")]
    }
    fn pod_name(&self, state: &State, number: usize) -> String {
        format!("{}-instance1-{number}-0", state.name)
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        pgo_labels(state, number, "master")
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let spec = json!({"port": 5432, "users": pgo_users(state), "instances": [{"name": "instance1", "replicas": state.servers}]});
        let mut all = pgo_objects(self, state);
        all.push(custom(state, "postgresclusters", (&format!("{PGO}/v1beta1"), "PostgresCluster"), &spec, &json!({})));
        all
    }
    fn pooler_labels(&self, state: &State) -> Option<Value> {
        Some(pgbouncer(state))
    }
    fn server(&self) -> ServerSetup {
        with_tls(TLS_ONLY)
    }
    fn login(&self, state: &State) -> Role {
        Role::new(&state.name, &state.name)
    }
    fn other(&self, state: &State) -> Option<Role> {
        Some(Role::new("reporting", &state.name))
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(format!("{}-pguser-{0}", state.name))
    }
    fn certificate(&self, state: &State) -> Certificate {
        Certificate::Named(format!("{}-primary.{}.svc", state.name, state.namespace))
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        by_labels("postgresclusters")
    }
}

impl System for Percona {
    fn name(&self) -> &'static str {
        "percona"
    }
    fn title(&self) -> &'static str {
        "Percona Operator 2 and 3"
    }
    fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        vec![("pgv2.percona.com", "v2", "perconapgclusters"), (PGO, "v1beta1", "postgresclusters")]
    }
    fn pod_name(&self, state: &State, number: usize) -> String {
        Crunchy.pod_name(state, number)
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        pgo_labels(state, number, "primary")
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let spec = json!({"users": pgo_users(state), "instances": [{"name": "instance1", "replicas": state.servers}]});
        let mut all = pgo_objects(self, state);
        all.push(custom(
            state,
            "perconapgclusters",
            ("pgv2.percona.com/v2", "PerconaPGCluster"),
            &spec,
            &json!({"state": "ready"}),
        ));
        let (plural, mut inner) =
            custom(state, "postgresclusters", (&format!("{PGO}/v1beta1"), "PostgresCluster"), &spec, &json!({}));
        inner["metadata"]["ownerReferences"] = json!([
            {"apiVersion": "pgv2.percona.com/v2", "kind": "PerconaPGCluster", "name": state.name, "uid": "x", "controller": true},
        ]);
        all.push((plural, inner));
        all
    }
    fn pooler_labels(&self, state: &State) -> Option<Value> {
        Some(pgbouncer(state))
    }
    fn server(&self) -> ServerSetup {
        with_tls(TLS_ONLY)
    }
    fn login(&self, state: &State) -> Role {
        Crunchy.login(state)
    }
    fn other(&self, state: &State) -> Option<Role> {
        Crunchy.other(state)
    }
    fn secret(&self, state: &State) -> Option<String> {
        Crunchy.secret(state)
    }
    fn certificate(&self, state: &State) -> Certificate {
        Crunchy.certificate(state)
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        by_labels("perconapgclusters")
    }
}
