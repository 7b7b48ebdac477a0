//! CloudNativePG (<https://cloudnative-pg.io/documentation/>, `api/v1/cluster_types.go`), and EDB Postgres for
//! Kubernetes, which is the same under another group.

use serde_json::Value;

use super::{
    CaSource, Custom, Facts, Halt, Leader, LoginKind, LoginSource, Member, Operator, Pod, Resource, argo_applications,
};
use crate::upstream::TlsMode;

/// CloudNativePG.
pub(super) const CLOUDNATIVE_PG: Cnpg = Cnpg {
    system: "cloudnative-pg",
    group: "postgresql.cnpg.io",
    cluster_label: "cnpg.io/cluster",
    // A pooler's pods carry the cluster's label too, and a major upgrade's job even the primary's.
    pod_selector: "cnpg.io/podRole=instance",
    role_label: "cnpg.io/instanceRole",
    hibernation: "cnpg.io/hibernation",
    fenced: "cnpg.io/fencedInstances",
};

/// EDB Postgres for Kubernetes.
pub(super) const EDB: Cnpg = Cnpg {
    system: "edb-postgres",
    group: "postgresql.k8s.enterprisedb.io",
    cluster_label: "k8s.enterprisedb.io/cluster",
    pod_selector: "k8s.enterprisedb.io/podRole=instance",
    role_label: "k8s.enterprisedb.io/instanceRole",
    hibernation: "k8s.enterprisedb.io/hibernation",
    fenced: "k8s.enterprisedb.io/fencedInstances",
};

/// The label of operators before 1.21, still written.
const LEGACY_ROLE_LABEL: &str = "role";
const PORT: u16 = 5432;
const SUPERUSER: &str = "postgres";

#[derive(Debug)]
pub(super) struct Cnpg {
    system: &'static str,
    group: &'static str,
    cluster_label: &'static str,
    pod_selector: &'static str,
    role_label: &'static str,
    hibernation: &'static str,
    fenced: &'static str,
}

/// The ways to begin a cluster, in the order in which the operator looks for the application's Secret.
const BOOTSTRAPS: [&str; 3] = ["recovery", "pg_basebackup", "initdb"];

impl Operator for Cnpg {
    fn system(&self) -> &'static str {
        self.system
    }

    fn resource(&self) -> Resource {
        Resource { group: self.group, version: "v1", plural: "clusters" }
    }

    fn cluster_label(&self) -> &'static str {
        self.cluster_label
    }

    fn pod_selector(&self) -> &'static str {
        self.pod_selector
    }

    fn read(&self, cluster: &Custom) -> Facts {
        let meta = &cluster.metadata;
        let (namespace, name) = (meta.namespace.clone(), meta.name.clone());
        let bootstrap = |field: &str| {
            BOOTSTRAPS.iter().find_map(|way| cluster.spec(&format!("/bootstrap/{way}/{field}"))).map(str::to_owned)
        };
        let (database, owner) = (bootstrap("database"), bootstrap("owner"));
        let hibernated = meta.annotation(self.hibernation) == Some("on");
        let ca = cluster.status("/certificates/serverCASecret").map_or_else(|| format!("{name}-ca"), str::to_owned);
        Facts {
            port: PORT,
            leader: leader(cluster),
            halt: hibernated.then(|| self.hibernated(&namespace, &name)),
            fenced: meta.annotation(self.fenced).map(fenced).unwrap_or_default(),
            fence_hint: self.unfence(&namespace, &name),
            standby: is_replica_cluster(&cluster.spec),
            phase: cluster.status("/phase").unwrap_or_default().to_owned(),
            tls: TlsMode::Allow,
            server_name: Some(format!("{name}-rw")),
            ca: Some(CaSource { secret: ca, key: "ca.crt" }),
            logins: logins(cluster, &name, database.as_deref(), owner.as_deref()),
            databases: database.into_iter().collect(),
            instances: cluster.spec.pointer("/instances").and_then(Value::as_u64).unwrap_or(1).try_into().unwrap_or(1),
            applications: argo_applications(cluster),
            namespace,
            name,
        }
    }

    fn guess(&self, namespace: &str, name: &str) -> Facts {
        Facts {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            port: PORT,
            leader: Leader::Unsaid,
            halt: None,
            fenced: Vec::new(),
            fence_hint: self.unfence(namespace, name),
            standby: false,
            phase: String::new(),
            tls: TlsMode::Allow,
            server_name: Some(format!("{name}-rw")),
            ca: Some(CaSource { secret: format!("{name}-ca"), key: "ca.crt" }),
            logins: vec![
                login(LoginKind::Application, None, format!("{name}-app"), "app"),
                login(LoginKind::Superuser, Some(SUPERUSER), format!("{name}-superuser"), SUPERUSER),
            ],
            databases: Vec::new(),
            instances: 0,
            applications: Vec::new(),
        }
    }

    fn member(&self, facts: &Facts, pod: &Pod) -> Member {
        if facts.is_fenced(&pod.metadata.name) {
            return Member::Fenced;
        }
        match pod.metadata.label(self.role_label).or_else(|| pod.metadata.label(LEGACY_ROLE_LABEL)) {
            Some("primary") => Member::Primary,
            Some("replica") => Member::Replica,
            _ => Member::Other,
        }
    }

    fn more_logins(&self) -> Option<Resource> {
        Some(Resource { group: self.group, version: "v1", plural: "databaseroles" })
    }

    /// A `DatabaseRole` (operator 1.30 and later).
    fn more_login(&self, facts: &Facts, object: &Custom) -> Option<LoginSource> {
        if object.spec("/cluster/name") != Some(&facts.name) {
            return None;
        }
        managed_login(&object.spec, facts.databases.first().map_or(SUPERUSER, String::as_str))
    }
}

impl Cnpg {
    fn hibernated(&self, namespace: &str, name: &str) -> Halt {
        Halt {
            state: "hibernated",
            hint: format!(
                "Wake it with: kubectl annotate clusters.{} {name} -n {namespace} {}=off --overwrite",
                self.group, self.hibernation
            ),
        }
    }

    fn unfence(&self, namespace: &str, name: &str) -> String {
        format!("Lift the fence with: kubectl annotate clusters.{} {name} -n {namespace} {}-", self.group, self.fenced)
    }
}

/// The status is right earlier than the labels, and says so when the role is on its way.
fn leader(cluster: &Custom) -> Leader {
    match (cluster.status("/currentPrimary"), cluster.status("/targetPrimary")) {
        (Some(current), Some(target)) if current == target => Leader::Pod(current.to_owned()),
        (None, None) => Leader::Unsaid,
        _ => Leader::Moving,
    }
}

/// A JSON list of pods, or of the one entry `*`.
fn fenced(annotation: &str) -> Vec<String> {
    serde_json::from_str(annotation).unwrap_or_default()
}

fn is_replica_cluster(spec: &Value) -> bool {
    let enabled = spec.pointer("/replica/enabled").and_then(Value::as_bool);
    let primary = spec.pointer("/replica/primary").and_then(Value::as_str);
    let own = spec.pointer("/replica/self").and_then(Value::as_str);
    enabled.unwrap_or_else(|| primary.is_some() && primary != own)
}

fn login(kind: LoginKind, role: Option<&str>, secret: String, database: &str) -> LoginSource {
    LoginSource {
        kind,
        role: role.map(str::to_owned),
        secret,
        user_key: "username",
        password_key: "password",
        database_key: "dbname",
        database: database.to_owned(),
    }
}

fn logins(cluster: &Custom, name: &str, database: Option<&str>, owner: Option<&str>) -> Vec<LoginSource> {
    let mut all = Vec::new();
    let custom = BOOTSTRAPS.iter().find_map(|way| cluster.spec(&format!("/bootstrap/{way}/secret/name")));
    // Without a database there is no application: an import, a bare recovery, or a replica cluster. The last may
    // have its source's Secret under the usual name all the same.
    if custom.is_some() || database.is_some() || is_replica_cluster(&cluster.spec) {
        let secret = custom.map_or_else(|| format!("{name}-app"), str::to_owned);
        all.push(login(LoginKind::Application, owner, secret, database.unwrap_or("app")));
    }
    let database = database.unwrap_or(SUPERUSER);
    let roles = cluster.spec.pointer("/managed/roles").and_then(Value::as_array);
    all.extend(roles.into_iter().flatten().filter_map(|role| managed_login(role, database)));
    if cluster.spec.pointer("/enableSuperuserAccess").and_then(Value::as_bool).unwrap_or_default() {
        let secret = cluster.spec("/superuserSecret/name").map_or_else(|| format!("{name}-superuser"), str::to_owned);
        all.push(login(LoginKind::Superuser, Some(SUPERUSER), secret, database));
    }
    all
}

/// A role that may log in with a password that a Secret holds.
fn managed_login(role: &Value, database: &str) -> Option<LoginSource> {
    let flag = |name: &str| role.get(name).and_then(Value::as_bool).unwrap_or_default();
    let absent = role.get("ensure").and_then(Value::as_str) == Some("absent");
    if !flag("login") || flag("disablePassword") || absent {
        return None;
    }
    let name = role.get("name").and_then(Value::as_str)?;
    let secret = role.pointer("/passwordSecret/name").and_then(Value::as_str)?;
    let kind = if flag("superuser") { LoginKind::Superuser } else { LoginKind::Managed };
    Some(login(kind, Some(name), secret.to_owned(), database))
}

#[cfg(test)]
#[path = "cnpg_tests.rs"]
mod tests;
