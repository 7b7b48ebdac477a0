//! Crunchy's PGO 5 and 6 (<https://github.com/CrunchyData/postgres-operator>, `internal/naming/`), and Percona's
//! operator, which grew out of it and keeps its labels. Both refuse plaintext.

use super::{
    facts::POSTGRES,
    facts::{CaSource, CertificateName, Facts, Halt, Members, OwnedDatabase, Port, Tls},
    leader::LeaderSource,
    login::{Keys, LoginKind, LoginSource, Part},
    system::{Labels, Member, PodLabels, System, by_role},
};
use crate::{
    k8s::api::{
        names::{Namespace, ObjectName, Reference},
        objects::{Object, Pod, text},
        resource::Resource,
    },
    upstream::TlsMode,
};

/// PGO. v6 serves v1 too; v1beta1 works with both.
pub(super) const CRUNCHY: Crunchy = Crunchy {
    system: "crunchy",
    resource: Resource::with_versions("postgres-operator.crunchydata.com", "v1beta1", &["v1"], "postgresclusters"),
    off: "/shutdown",
    state: "shut down",
};

/// Percona Operator for PostgreSQL 2 and 3.
pub(super) const PERCONA: Crunchy = Crunchy {
    system: "percona",
    resource: Resource::new("pgv2.percona.com", "v2", "perconapgclusters"),
    off: "/pause",
    state: "paused",
};

const CLUSTER: &str = "postgres-operator.crunchydata.com/cluster";
const INSTANCE: &str = "postgres-operator.crunchydata.com/instance";
const ROLE: &str = "postgres-operator.crunchydata.com/role";
/// Roles of the operators' own that are nobody's default.
const OWN_ROLES: [&str; 2] = ["monitor", "_crunchyrepl"];

#[derive(Debug)]
pub(super) struct Crunchy {
    system: &'static str,
    resource: Resource,
    /// The switch that stops a cluster.
    off: &'static str,
    state: &'static str,
}

fn keys() -> Keys {
    Keys::Named { user: Part::keys(&["user"]), password: Part::keys(&["password"]), database: Part::keys(&["dbname"]) }
}

fn login(kind: LoginKind, cluster: &str, role: &str, database: &str) -> LoginSource {
    let kind = if role == POSTGRES { LoginKind::Superuser } else { kind };
    let secret = Reference::new(&format!("{cluster}-pguser-{role}"), "spec.users[].name");
    LoginSource::new(kind, Some(role), Some(secret), keys(), database)
}

/// Without a list of users there is one, called as the cluster.
fn logins(object: &Object, cluster: &str) -> (Vec<LoginSource>, Vec<String>) {
    if object.spec.pointer("/users").is_none_or(serde_json::Value::is_null) {
        // Clusters of old operators have a Secret without the role in its name.
        let secret = Reference::computed(&format!("{cluster}-pguser"));
        let old = LoginSource::new(LoginKind::Application, None, Some(secret), keys(), cluster);
        return (vec![login(LoginKind::Application, cluster, cluster, cluster), old], vec![cluster.to_owned()]);
    }
    let mut all: Vec<LoginSource> = Vec::new();
    let mut databases: Vec<String> = Vec::new();
    for user in object.items("/users") {
        let Some(name) = text(user, "/name") else { continue };
        let listed = user.pointer("/databases").and_then(serde_json::Value::as_array);
        let own: Vec<&str> = listed.into_iter().flatten().filter_map(serde_json::Value::as_str).collect();
        let superuser = text(user, "/options")
            .is_some_and(|options| options.split_whitespace().any(|option| option.eq_ignore_ascii_case("superuser")));
        let kind = match (superuser, OWN_ROLES.contains(&name)) {
            (true, _) => LoginKind::Superuser,
            (false, true) => LoginKind::Managed,
            (false, false) => LoginKind::Application,
        };
        let mut login = login(kind, cluster, name, own.first().copied().unwrap_or(POSTGRES));
        if let Some(secret) = text(user, "/secretName") {
            login.secret = Some(Reference::new(secret, "spec.users[].secretName"));
        }
        all.push(login);
        for database in own {
            if !databases.iter().any(|known| known == database) {
                databases.push(database.to_owned());
            }
        }
    }
    // The one that is called as the cluster is the default; else the first.
    all.sort_by_key(|login| (login.kind, login.role.as_deref() != Some(cluster)));
    for other in all.iter_mut().skip(1).filter(|login| login.kind == LoginKind::Application) {
        other.kind = LoginKind::Managed;
    }
    (all, databases)
}

/// Who has which database, in the order in which the logins are preferred: several users may have one.
fn owned(object: &Object, logins: &[LoginSource]) -> Vec<OwnedDatabase> {
    let users: Vec<&serde_json::Value> = object.items("/users").collect();
    let databases = |role: &str| {
        let user = users.iter().find(|user| text(user, "/name") == Some(role));
        let listed = user.and_then(|user| user.pointer("/databases")).and_then(serde_json::Value::as_array);
        listed.into_iter().flatten().filter_map(serde_json::Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let owners = logins.iter().filter(|login| login.kind != LoginKind::Superuser);
    let owners = owners.filter_map(|login| login.role.as_deref()).filter(|role| !OWN_ROLES.contains(role));
    let of = |owner: &str| {
        let owner = owner.to_owned();
        databases(&owner).into_iter().map(move |database| OwnedDatabase { database, owner: owner.clone() })
    };
    owners.flat_map(of).collect()
}

/// The CA of the cluster's own certificate, or of one that somebody brought.
fn tls(object: &Object, namespace: &str, name: &str) -> Tls {
    let custom = object.spec("/customTLSSecret/name").or_else(|| object.spec("/secrets/customTLSSecret/name"));
    let items = object.items("/customTLSSecret/items").chain(object.items("/secrets/customTLSSecret/items"));
    let renamed =
        items.into_iter().find(|item| text(item, "/path") == Some("ca.crt")).and_then(|item| text(item, "/key"));
    let secret = custom.map_or_else(
        || Reference::computed(&format!("{name}-cluster-cert")),
        |custom| Reference::new(custom, "spec.customTLSSecret.name"),
    );
    Tls {
        mode: TlsMode::Require,
        name: Some(CertificateName::Cluster(format!("{name}-primary.{namespace}.svc"))),
        ca: vec![CaSource::Secret(secret, renamed.unwrap_or("ca.crt").to_owned())],
        ..Tls::default()
    }
}

fn services(name: &str) -> Vec<String> {
    ["primary", "ha", "replicas", "pods", "pgbouncer"].iter().map(|suffix| format!("{name}-{suffix}")).collect()
}

impl System for Crunchy {
    fn name(&self) -> &'static str {
        self.system
    }

    fn resource(&self) -> Resource {
        self.resource.clone()
    }

    /// Services, Secrets and PgBouncer carry cluster and role too; only servers have an instance. Percona's logical
    /// replicas are clusters of their own.
    fn pod_labels(&self) -> Option<PodLabels> {
        Some(PodLabels { without: &["pgv2.percona.com/logical-replica"], ..PodLabels::of(CLUSTER, &[(INSTANCE, "")]) })
    }

    fn is_pooler(&self, labels: &Labels) -> bool {
        labels.get(ROLE).is_some_and(|role| role == "pgbouncer")
    }

    /// Whatever belongs to a cluster carries its label: backups' hosts, too.
    fn tends(&self, labels: &Labels) -> bool {
        labels.contains_key(CLUSTER)
    }

    fn read(&self, object: &Object) -> Option<Facts> {
        let meta = &object.metadata;
        let (namespace, name) = (&meta.namespace, &meta.name);
        let (logins, databases) = logins(object, name);
        let sets =
            object.items("/instances").map(|set| set.get("replicas").and_then(serde_json::Value::as_u64).unwrap_or(1));
        let instances = sets.sum::<u64>();
        let port = object.number("/port").and_then(|port| port.try_into().ok()).unwrap_or(super::facts::PORT);
        let off = self.off.trim_start_matches('/');
        let facts = Facts::of(object, name, Members::Labelled);
        Some(Facts {
            port: Port::Number(port),
            halt: facts.halt.clone().or_else(|| object.is_set(self.off).then(|| Halt {
                state: self.state,
                hint: format!(
                    "Start it with: kubectl patch {} {name} -n {namespace} --type merge -p '{{\"spec\":{{\"{off}\":false}}}}'",
                    self.resource.qualified()
                ),
            })),
            standby: object.is_set("/standby/enabled"),
            phase: object.status("/state").map_or_else(|| object.unmet(), str::to_owned),
            tls: tls(object, namespace, name),
            owned: owned(object, &logins),
            logins,
            databases,
            instances: instances.try_into().unwrap_or(1),
            services: services(name),
            ..facts
        })
    }

    fn guess(&self, namespace: &Namespace, name: &ObjectName) -> Option<Facts> {
        let object = Object::unread(namespace, name);
        Some(Facts {
            tls: tls(&object, namespace, name),
            logins: vec![
                login(LoginKind::Application, name, name, name),
                login(LoginKind::Superuser, name, POSTGRES, POSTGRES),
            ],
            services: services(name),
            ..Facts::new(namespace, name, Members::Labelled)
        })
    }

    fn member(&self, _facts: &Facts, pod: &Pod) -> Member {
        by_role(pod.metadata.label(ROLE))
    }

    fn leader_sources(&self, name: &ObjectName) -> Vec<LeaderSource> {
        vec![LeaderSource::Endpoints(name.with("-ha"))]
    }

    fn login_of(&self, facts: &Facts, role: &str) -> Option<LoginSource> {
        Some(login(LoginKind::Managed, &facts.name, role, POSTGRES))
    }

    fn is_own_role(&self, role: &str) -> bool {
        OWN_ROLES.contains(&role)
    }

    fn login_secrets(&self, facts: &Facts) -> Option<(String, LoginSource)> {
        let source = LoginSource::new(LoginKind::Managed, None, None, keys(), POSTGRES);
        Some((format!("{CLUSTER}={},{ROLE}=pguser", facts.name), source))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: &Value) -> Facts {
        let object = json!({"metadata": {"name": "shop", "namespace": "prod"}, "spec": spec});
        CRUNCHY.read(&serde_json::from_value(object).expect("an object")).expect("facts")
    }

    fn logins(spec: &Value) -> Vec<(String, String, String)> {
        let logins = read(spec).logins.into_iter();
        let secret = |login: &LoginSource| login.secret_name().to_owned();
        logins.map(|login| (login.role.clone().unwrap_or_default(), secret(&login), login.database)).collect()
    }

    fn of(role: &str, secret: &str, database: &str) -> (String, String, String) {
        (role.to_owned(), secret.to_owned(), database.to_owned())
    }

    #[test]
    fn users_are_listed_or_one_is_called_as_the_cluster() {
        assert_eq!(logins(&json!({})).first(), Some(&of("shop", "shop-pguser-shop", "shop")));
        assert_eq!(logins(&json!({"users": []})), []);
        let several = json!({"users": [
            {"name": "bi", "databases": ["reports"]}, {"name": "postgres"}, {"name": "shop", "databases": ["web", "log"]},
            {"name": "named", "secretName": "my-secret"}, {"name": 7},
        ]});
        assert_eq!(
            logins(&several),
            [
                of("shop", "shop-pguser-shop", "web"),
                of("bi", "shop-pguser-bi", "reports"),
                of("named", "my-secret", "postgres"),
                of("postgres", "shop-pguser-postgres", "postgres"),
            ]
        );
        assert_eq!(read(&several).databases, ["reports", "web", "log"]);
    }

    #[test]
    fn the_first_user_that_has_a_database_is_its_owner() {
        let facts = read(&json!({"users": [
            {"name": "postgres", "databases": ["reports"]}, {"name": "god", "databases": ["reports"], "options": "SUPERUSER"},
            {"name": "monitor", "databases": ["reports"]}, {"name": "bi", "databases": ["reports", "web", 7]},
            {"name": "ops", "databases": ["reports", "log"]}, {"name": "shop", "databases": ["web"]},
        ]}));
        let owners = ["reports", "web", "log", "postgres"].map(|database| facts.owner_of(database));
        assert_eq!(owners, [Some("bi"), Some("shop"), Some("ops"), None]);
    }

    #[test]
    fn the_spec_says_port_and_instances() {
        let facts = read(&json!({"port": 5433, "shutdown": true, "instances": [{"replicas": 2}, {}]}));
        assert_eq!((facts.port, facts.instances), (Port::Number(5433), 3));
        assert_eq!(facts.halt.map(|halt| halt.state), Some("shut down"));
        let custom = json!({"customTLSSecret": {"name": "own", "items": [{"key": "root.pem", "path": "ca.crt"}]}});
        assert_eq!(read(&custom).tls.ca, [CaSource::Secret(Reference::computed("own"), "root.pem".to_owned())]);
    }
}
