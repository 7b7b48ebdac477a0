//! Clusters as each system lays them out: the objects that its operator, chart or administrator makes, as plain values
//! that the fake API and a real one take alike, and the servers behind them.
//!
//! A layout is drawn from a state (who leads, what the passwords are), so that a failover, a lying label or a rotation
//! is a changed state drawn again.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{
    kubernetes::{FakeKubernetes, certificates::Authority},
    secrets,
};

mod bitnami;
mod cnpg;
mod connection_secret;
mod cybertec;
mod elastisys;
mod kubeblocks;
mod kubedb;
mod kubegres;
mod layout;
mod marked;
mod pgo;
mod stackgres;
mod tembo;
mod workloads;
mod zalando;

pub use bitnami::{Bitnami, BitnamiHa, aliased};
pub use cnpg::{CloudNativePg, Edb};
pub use connection_secret::ConnectionSecret;
pub use cybertec::Cybertec;
pub use elastisys::Elastisys;
pub use kubeblocks::KubeBlocks;
pub use kubedb::{KubeDb, KubeDbCertificate};
pub use kubegres::Kubegres;
pub use marked::Marked;
pub use pgo::{Crunchy, Percona};
pub use stackgres::StackGres;
pub use tembo::Tembo;
pub use workloads::{Deployment, StatefulSet};
pub use zalando::{Zalando, ZalandoConfigMaps};

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
        let name = match system.certificate(&state) {
            Certificate::Named(name) => name,
            Certificate::Brought(name) => name.to_owned(),
            Certificate::Nobodys | Certificate::Signed => "spilo.example.org".to_owned(),
        };
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

/// How far the servers' certificate can be verified.
#[derive(Clone, Debug)]
pub enum Certificate {
    /// There is none, or nobody knows its CA.
    Nobodys,
    /// Its CA is known, and its name is nobody's.
    Signed,
    /// It is for a name that the system gives it.
    Named(String),
    /// Somebody brought it, and has to say its name.
    Brought(&'static str),
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

    /// How many servers are enough to see all of it.
    fn servers(&self) -> usize {
        2
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

    /// Whether a label on the pods says who leads.
    fn labels_move(&self) -> bool {
        self.fails_over()
    }

    fn certificate(&self, _state: &State) -> Certificate {
        Certificate::Nobodys
    }

    /// What a caller with few rights lacks, as (verb, resource): the cluster is found all the same.
    fn dispensable(&self) -> Vec<(&'static str, &'static str)>;

    /// The name by which a caller with few rights finds it.
    fn plain_target(&self, state: &State) -> String {
        format!("{}.{}", self.target(state), state.namespace)
    }

    /// Whether nothing but a Secret stands for it, which names one Service.
    fn is_a_secret(&self) -> bool {
        false
    }

    /// Whether a list, which reads no Secret that a Service or a container's environment names, knows the database.
    fn lists_its_database(&self) -> bool {
        true
    }

    /// Whether a list counts the replicas.
    fn lists_its_replicas(&self) -> bool {
        !self.is_a_secret()
    }

    /// Whether only the resource says whose database it is, so that roles are named where it may not be read.
    fn only_the_resource_knows_the_owner(&self) -> bool {
        false
    }

    /// Whether a login that is rotated becomes another user in the same Secret.
    fn renames_rotated_users(&self) -> bool {
        false
    }

    /// Whether two pods that claim to lead are asked.
    fn asks_who_claims(&self) -> bool {
        false
    }

    /// Whether the servers alone know who leads.
    fn asks_the_servers(&self) -> bool {
        false
    }

    /// Whether the leader object, or where there is none the label, names the pod.
    fn has_leader_object(&self) -> bool {
        !self.asks_the_servers()
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
        Box::new(Cybertec),
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
