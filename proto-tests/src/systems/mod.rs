//! Clusters as each system lays them out: the objects that its operator, chart or administrator makes, as plain values
//! that the fake API and a real one take alike, and the servers behind them.
//!
//! A layout is drawn from a state (who leads, what the passwords are), so that a failover, a lying label or a rotation
//! is a changed state drawn again.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{
    cnpg::encoded,
    kubernetes::{FakeKubernetes, certificates::Authority},
    secrets,
};

mod operators;
mod plain;

pub use operators::{
    CloudNativePg, Crunchy, Edb, KubeBlocks, KubeDb, KubeDbCertificate, Kubegres, Percona, StackGres, Tembo, Zalando,
    ZalandoConfigMaps,
};
pub use plain::{Bitnami, BitnamiHa, ConnectionSecret, Deployment, Elastisys, Marked, StatefulSet};

/// One cluster's state.
#[derive(Clone, Debug)]
pub struct State {
    pub namespace: String,
    pub name: String,
    /// How many servers.
    pub servers: usize,
    /// Which one leads.
    pub leader: usize,
    /// Which ones carry the primary's label; more than one is a lie that happens.
    pub labelled: Vec<usize>,
    /// The password of the default login.
    pub password: String,
    /// The password of the further role.
    pub other_password: String,
    /// The superuser's password.
    pub superuser: String,
    /// Whether a pooler stands beside it, with labels like the servers'.
    pub pooler: bool,
    /// The CA that signed the servers' certificates, the certificate, and the client's.
    pub authority: String,
    pub certificate: (String, String),
    pub client: (String, String),
}

impl State {
    /// A cluster `shop` with passwords and certificates of its own, led by its first server.
    #[must_use]
    pub fn new(system: &dyn System, namespace: &str, servers: usize) -> Self {
        let authority = Authority::new("the cluster's CA");
        let mut state = Self {
            namespace: namespace.to_owned(),
            name: "shop".to_owned(),
            servers,
            leader: 0,
            labelled: vec![0],
            password: secrets::make("app"),
            other_password: secrets::make("other"),
            superuser: secrets::make("super"),
            pooler: false,
            authority: authority.pem().to_owned(),
            certificate: (String::new(), String::new()),
            client: authority.client("postgres"),
        };
        // Where nobody can verify it, it is for a name that is nobody's.
        let name = system.certificate_name(&state).unwrap_or_else(|| "spilo.example.org".to_owned());
        state.certificate = authority.server(&[&name]);
        state
    }

    /// Another server leads, and the labels say so.
    pub fn lead(&mut self, leader: usize) {
        self.leader = leader;
        self.labelled = vec![leader];
    }
}

/// A role in the servers, and the database that it owns.
#[derive(Clone, Debug)]
pub struct Role {
    pub name: String,
    pub database: String,
    pub superuser: bool,
}

impl Role {
    fn new(name: &str, database: &str) -> Self {
        Self { name: name.to_owned(), database: database.to_owned(), superuser: false }
    }

    fn postgres() -> Self {
        Self { name: "postgres".to_owned(), database: "postgres".to_owned(), superuser: true }
    }
}

/// How a system's servers let clients in.
#[derive(Clone, Debug)]
pub struct ServerSetup {
    /// The whole `pg_hba.conf` for TCP.
    pub hba: &'static str,
    pub tls: bool,
    pub md5: bool,
}

/// One system.
pub trait System: Send + Sync {
    /// As `pgferry list` prints it.
    fn name(&self) -> &'static str;

    /// As the README calls it.
    fn title(&self) -> &'static str;

    /// Custom resources: group, version and plural.
    fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        Vec::new()
    }

    /// The namespace of the servers, where that is another than the cluster's.
    fn server_namespace(&self, state: &State) -> String {
        state.namespace.clone()
    }

    /// A server's pod.
    fn pod_name(&self, state: &State, number: usize) -> String {
        format!("{}-{number}", state.name)
    }

    /// The labels of a server's pod.
    fn pod_labels(&self, state: &State, number: usize) -> Value;

    /// Annotations of a server's pod.
    fn pod_annotations(&self, _state: &State, _number: usize) -> Value {
        json!({})
    }

    /// What a client types.
    fn target(&self, state: &State) -> String {
        state.name.clone()
    }

    /// The port of the servers in their pods.
    fn port(&self) -> u16 {
        5432
    }

    /// All objects but the servers' pods: (plural, object).
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)>;

    /// Labels of a pooler's pod that could be taken for a server's.
    fn pooler_labels(&self, _state: &State) -> Option<Value> {
        None
    }

    fn server(&self) -> ServerSetup;

    /// The default login.
    fn login(&self, state: &State) -> Role;

    /// A further role that has a Secret.
    fn other(&self, _state: &State) -> Option<Role> {
        None
    }

    /// The Secret of the default login, by name.
    fn secret(&self, state: &State) -> Option<String>;

    /// Whether a change of leader is something that the system has.
    fn fails_over(&self) -> bool {
        true
    }

    /// The name that the servers' certificate carries, where it can be verified.
    fn certificate_name(&self, _state: &State) -> Option<String> {
        None
    }

    /// What a caller with few rights lacks, as (verb, resource): the cluster is found all the same.
    fn dispensable(&self) -> Vec<(&'static str, &'static str)>;

    /// The name by which a caller with few rights finds it.
    fn plain_target(&self, state: &State) -> String {
        format!("{}.{}", self.target(state), state.namespace)
    }

    /// Whether the servers alone know who leads.
    fn asks_the_servers(&self) -> bool {
        false
    }
}

/// All systems, in the README's order.
#[must_use]
pub fn all() -> Vec<Box<dyn System>> {
    vec![
        Box::new(CloudNativePg),
        Box::new(Edb),
        Box::new(Zalando),
        Box::new(ZalandoConfigMaps),
        Box::new(Crunchy),
        Box::new(Percona),
        Box::new(StackGres),
        Box::new(KubeDb),
        Box::new(KubeDbCertificate),
        Box::new(Elastisys),
        Box::new(Bitnami),
        Box::new(BitnamiHa),
        Box::new(StatefulSet),
        Box::new(Deployment),
        Box::new(KubeBlocks),
        Box::new(Kubegres),
        Box::new(Tembo),
        Box::new(ConnectionSecret),
        Box::new(Marked),
    ]
}

/// Everything of a state: the objects, and the servers' pods.
#[must_use]
pub fn drawn(system: &dyn System, state: &State) -> Vec<(&'static str, Value)> {
    let pods = (0..state.servers).map(|number| ("pods", pod(system, state, number)));
    system.objects(state).into_iter().chain(pods).collect()
}

/// Puts it on the fake API, which serves the system's resources from then on.
pub fn draw(api: &FakeKubernetes, system: &dyn System, state: &State) {
    for (group, version, plural) in system.resources() {
        api.serve_crd(group, version, plural);
    }
    for (plural, object) in drawn(system, state) {
        api.put(plural, object);
    }
}

/// A server's pod, ready; the uid is fixed so that endpoints can name it.
#[must_use]
pub fn pod(system: &dyn System, state: &State, number: usize) -> Value {
    let (namespace, name) = (system.server_namespace(state), system.pod_name(state, number));
    let mut object = bare_pod(&namespace, &name, &system.pod_labels(state, number), system.port());
    object["metadata"]["annotations"] = system.pod_annotations(state, number);
    object
}

/// Any pod, ready.
#[must_use]
pub fn bare_pod(namespace: &str, name: &str, labels: &Value, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels, "uid": uid(namespace, name)},
        "spec": {"containers": [{"name": "postgres", "ports": [{"containerPort": port, "name": "postgresql"}]}]},
        "status": {"phase": "Running", "podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn uid(namespace: &str, name: &str) -> String {
    format!("uid-{namespace}-{name}")
}

/// A Secret.
fn secret(state: &State, name: &str, labels: &Value, data: &[(&str, &str)]) -> (&'static str, Value) {
    typed_secret(state, name, "Opaque", labels, data)
}

fn typed_secret(state: &State, name: &str, kind: &str, labels: &Value, data: &[(&str, &str)]) -> (&'static str, Value) {
    let data: serde_json::Map<String, Value> =
        data.iter().map(|(key, value)| ((*key).to_owned(), json!(encoded(value)))).collect();
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "type": kind,
        "metadata": {"namespace": state.namespace, "name": name, "labels": labels}, "data": data,
    });
    ("secrets", object)
}

/// The Secret of a certificate, as cert-manager and most operators make it.
fn certificate_secret(state: &State, name: &str, (certificate, key): &(String, String)) -> (&'static str, Value) {
    let data = [("ca.crt", state.authority.as_str()), ("tls.crt", certificate), ("tls.key", key)];
    typed_secret(state, name, "kubernetes.io/tls", &json!({}), &data)
}

/// A custom resource.
fn custom(
    state: &State,
    plural: &'static str,
    api: (&str, &str),
    spec: &Value,
    status: &Value,
) -> (&'static str, Value) {
    let (version, kind) = api;
    let object = json!({
        "apiVersion": version, "kind": kind,
        "metadata": {"namespace": state.namespace, "name": state.name, "labels": {}, "annotations": {}},
        "spec": spec, "status": status,
    });
    (plural, object)
}

/// A Service; without a selector where that is null.
fn service(namespace: &str, name: &str, labels: &Value, selector: &Value) -> (&'static str, Value) {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": namespace, "name": name, "labels": labels, "annotations": {}},
        "spec": {"ports": [{"name": "postgresql", "port": 5432, "targetPort": 5432}]},
    });
    if !selector.is_null() {
        object["spec"]["selector"] = selector.clone();
    }
    ("services", object)
}

/// Patroni's Endpoints: annotations and the leader's address.
fn patroni_endpoints(system: &dyn System, state: &State, name: &str, labels: &Value) -> (&'static str, Value) {
    let namespace = system.server_namespace(state);
    let leader = system.pod_name(state, state.leader);
    let object = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"namespace": namespace, "name": name, "labels": labels, "annotations": patroni_annotations(&leader)},
        "subsets": [{
            "addresses": [{"ip": "198.51.100.7", "targetRef": {
                "kind": "Pod", "name": leader, "namespace": namespace, "uid": uid(&namespace, &leader),
            }}],
            "ports": [{"name": "postgresql", "port": system.port(), "protocol": "TCP"}],
        }],
    });
    ("endpoints", object)
}

fn patroni_annotations(leader: &str) -> Value {
    json!({
        "leader": leader, "ttl": "30", "transitions": "3", "optime": "50331648",
        "acquireTime": "2026-01-01T00:00:00+00:00", "renewTime": "2026-01-01T00:00:10+00:00",
    })
}

/// What an EndpointSlice says of a Service whose endpoints are these pods.
fn slice(system: &dyn System, state: &State, service: &str, numbers: &[usize]) -> (&'static str, Value) {
    let namespace = system.server_namespace(state);
    let endpoints: Vec<Value> = numbers
        .iter()
        .map(|number| {
            let pod = system.pod_name(state, *number);
            json!({
                "addresses": ["198.51.100.7"], "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "name": pod, "namespace": namespace, "uid": uid(&namespace, &pod)},
            })
        })
        .collect();
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "namespace": namespace, "name": format!("{service}-abcde"),
            "labels": {"kubernetes.io/service-name": service},
        },
        "endpoints": endpoints,
        "ports": [{"name": "postgresql", "port": system.port(), "protocol": "TCP"}],
    });
    ("endpointslices", object)
}

/// The role of a pod, in a system's own words.
fn role<'a>(state: &State, number: usize, primary: &'a str, replica: &'a str) -> &'a str {
    if state.labelled.contains(&number) { primary } else { replica }
}

/// The SQL that makes the roles of a state.
#[must_use]
pub fn sql(system: &dyn System, state: &State) -> Vec<String> {
    let quote = |text: &str| text.replace('\'', "''");
    let mut all = vec![format!("ALTER ROLE postgres PASSWORD '{}'", quote(&superuser(system, state)))];
    let login = system.login(state);
    let other = system.other(state).map(|other| (other, state.other_password.clone()));
    for (role, password) in std::iter::once((login, state.password.clone())).chain(other) {
        if role.name == "postgres" {
            continue;
        }
        let mut line = format!("CREATE ROLE \"{}\" LOGIN PASSWORD '{}'", role.name, quote(&password));
        if role.superuser {
            let _ = write!(line, " SUPERUSER");
        }
        all.push(line);
        let create = format!("CREATE DATABASE \"{}\" OWNER \"{}\"", role.database, role.name);
        if role.database != "postgres"
            && !all.iter().any(|line| line.contains(&format!("DATABASE \"{}\"", role.database)))
        {
            all.push(create);
        }
    }
    all
}

/// The superuser's password: the login's own, where that is the superuser.
#[must_use]
pub fn superuser(system: &dyn System, state: &State) -> String {
    if system.login(state).name == "postgres" { state.password.clone() } else { state.superuser.clone() }
}
