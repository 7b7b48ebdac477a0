//! CloudNativePG (<https://cloudnative-pg.io/documentation/>, `api/v1/cluster_types.go`), and EDB Postgres for
//! Kubernetes, which is the same under another group.

use std::borrow::Cow;

use serde_json::Value;

use super::{
    facts::{CaSource, CertificateName, Facts, Halt, Members, OwnedDatabase, Tls},
    leader::Leader,
    login::{LoginKind, LoginSource},
    system::{Labels, Member, PodLabels, System, keeps_md5, tag},
};
use crate::k8s::api::{
    names::{Namespace, ObjectName, Reference},
    objects::{Object, Pod, text},
    resource::Resource,
};

/// CloudNativePG.
pub(super) const CLOUDNATIVE_PG: Cnpg = Cnpg {
    system: "cloudnative-pg",
    group: "postgresql.cnpg.io",
    cluster_label: "cnpg.io/cluster",
    // A pooler's pods carry the cluster's label too, and a major upgrade's job even the primary's.
    pod_role: "cnpg.io/podRole",
    role_label: "cnpg.io/instanceRole",
    hibernation: "cnpg.io/hibernation",
    fenced: "cnpg.io/fencedInstances",
};

/// EDB Postgres for Kubernetes.
pub(super) const EDB: Cnpg = Cnpg {
    system: "edb-postgres",
    group: "postgresql.k8s.enterprisedb.io",
    cluster_label: "k8s.enterprisedb.io/cluster",
    pod_role: "k8s.enterprisedb.io/podRole",
    role_label: "k8s.enterprisedb.io/instanceRole",
    hibernation: "k8s.enterprisedb.io/hibernation",
    fenced: "k8s.enterprisedb.io/fencedInstances",
};

/// The label of operators before 1.21, still written.
const LEGACY_ROLE_LABEL: &str = "role";
const SUPERUSER: &str = super::facts::POSTGRES;

#[derive(Debug, PartialEq, Eq)]
pub(in crate::k8s) struct Cnpg {
    system: &'static str,
    group: &'static str,
    cluster_label: &'static str,
    pod_role: &'static str,
    role_label: &'static str,
    hibernation: &'static str,
    fenced: &'static str,
}

/// The ways to begin a cluster, in the order in which the operator looks for the application's Secret.
const BOOTSTRAPS: [&str; 3] = ["recovery", "pg_basebackup", "initdb"];

impl System for Cnpg {
    fn name(&self) -> &'static str {
        self.system
    }

    fn resource(&self) -> Resource {
        Resource::new(self.group, "v1", "clusters")
    }

    fn pod_labels(&self) -> Option<PodLabels> {
        Some(PodLabels::of(self.cluster_label, &[(self.pod_role, "instance")]))
    }

    fn is_pooler(&self, labels: &Labels) -> bool {
        labels.get(self.pod_role).is_some_and(|role| role == "pooler")
    }

    /// Whatever belongs to a cluster carries its label: an import's job, too.
    fn tends(&self, labels: &Labels) -> bool {
        labels.contains_key(self.cluster_label)
    }

    fn read(&self, cluster: &Object) -> Option<Facts> {
        let meta = &cluster.metadata;
        let (namespace, name) = (&meta.namespace, &meta.name);
        let bootstrap =
            |field: &str| BOOTSTRAPS.iter().find_map(|way| cluster.spec(&format!("/bootstrap/{way}/{field}")));
        let (database, owner) = (bootstrap("database"), bootstrap("owner"));
        let hibernated = meta.annotation(self.hibernation) == Some("on");
        let ca = cluster.status("/certificates/serverCASecret").map_or_else(
            || Reference::computed(&format!("{name}-ca")),
            |secret| Reference::new(secret, "status.certificates.serverCASecret"),
        );
        let facts = Facts::of(cluster, name, Members::Labelled);
        Some(Facts {
            leader: leader(cluster),
            halt: facts.halt.clone().or_else(|| hibernated.then(|| self.hibernated(namespace, name))),
            fenced: meta.annotation(self.fenced).map(fenced).unwrap_or_default(),
            fence_hint: self.unfence(namespace, name),
            standby: is_replica_cluster(&cluster.spec),
            phase: cluster.status("/phase").unwrap_or_default().to_owned(),
            tls: tls(name, ca),
            md5: cluster.spec("/imageName").is_some_and(|image| keeps_md5(tag(image))),
            logins: logins(cluster, name, database, owner),
            databases: database.map(str::to_owned).into_iter().collect(),
            owned: database.zip(owner).map(|(database, owner)| owned(database, owner)).into_iter().collect(),
            instances: cluster.number("/instances").unwrap_or(1).try_into().unwrap_or(1),
            services: services(cluster, name),
            ..facts
        })
    }

    fn guess(&self, namespace: &Namespace, name: &ObjectName) -> Option<Facts> {
        Some(Facts {
            fence_hint: self.unfence(namespace, name),
            tls: tls(name, Reference::computed(&format!("{name}-ca"))),
            logins: vec![
                login(LoginKind::Application, None, Reference::computed(&format!("{name}-app")), "app"),
                login(
                    LoginKind::Superuser,
                    Some(SUPERUSER),
                    Reference::computed(&format!("{name}-superuser")),
                    SUPERUSER,
                ),
            ],
            services: services(&Object::unread(namespace, name), name),
            ..Facts::new(namespace, name, Members::Labelled)
        })
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
        Some(Resource::new(self.group, "v1", "databaseroles"))
    }

    /// A `DatabaseRole` (operator 1.30 and later).
    fn more_login(&self, facts: &Facts, object: &Object) -> Option<LoginSource> {
        if object.spec("/cluster/name") != Some(&*facts.name) {
            return None;
        }
        let field =
            format!("spec.passwordSecret.name of DatabaseRole {}/{}", object.metadata.namespace, object.metadata.name);
        managed_login(&object.spec, field.into(), facts.databases.first().map_or(SUPERUSER, String::as_str))
    }

    fn more_databases(&self) -> Option<Resource> {
        Some(Resource::new(self.group, "v1", "databases"))
    }

    /// A `Database`. The operator says `applied: false` of one that it did not make, such as a second of the same name.
    fn more_database(&self, facts: &Facts, object: &Object) -> Option<OwnedDatabase> {
        let refused = object.status.pointer("/applied").and_then(Value::as_bool) == Some(false);
        if object.spec("/cluster/name") != Some(&*facts.name) || object.spec("/ensure") == Some("absent") || refused {
            return None;
        }
        Some(owned(object.spec("/name")?, object.spec("/owner")?))
    }
}

fn owned(database: &str, owner: &str) -> OwnedDatabase {
    OwnedDatabase { database: database.to_owned(), owner: owner.to_owned() }
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
fn leader(cluster: &Object) -> Leader {
    match (cluster.status("/currentPrimary"), cluster.status("/targetPrimary")) {
        (Some(current), Some(target)) if current == target => {
            Leader::named(current, &cluster.metadata, "status.currentPrimary")
        }
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

/// The certificate names the Services, no pod.
fn tls(name: &str, ca: Reference) -> Tls {
    Tls {
        name: Some(CertificateName::Cluster(format!("{name}-rw"))),
        ca: vec![CaSource::Secret(ca, "ca.crt".to_owned())],
        ..Tls::default()
    }
}

fn services(cluster: &Object, name: &str) -> Vec<String> {
    let own = ["rw", "ro", "r", "any"].iter().map(|suffix| format!("{name}-{suffix}"));
    let additional = cluster.items("/managed/services/additional");
    let additional =
        additional.filter_map(|service| text(service, "/serviceTemplate/metadata/name")).map(str::to_owned);
    own.chain(additional).collect()
}

fn login(kind: LoginKind, role: Option<&str>, secret: Reference, database: &str) -> LoginSource {
    LoginSource::new(kind, role, Some(secret), LoginSource::basic_auth(), database)
}

fn logins(cluster: &Object, name: &str, database: Option<&str>, owner: Option<&str>) -> Vec<LoginSource> {
    let mut all = Vec::new();
    let custom = BOOTSTRAPS.iter().find_map(|way| {
        let secret = cluster.spec(&format!("/bootstrap/{way}/secret/name"))?;
        Some(Reference::new(secret, format!("spec.bootstrap.{way}.secret.name")))
    });
    // Without a database there is no application: an import, a bare recovery, or a replica cluster. The last may
    // have its source's Secret under the usual name all the same.
    if custom.is_some() || database.is_some() || is_replica_cluster(&cluster.spec) {
        let secret = custom.unwrap_or_else(|| Reference::computed(&format!("{name}-app")));
        all.push(login(LoginKind::Application, owner, secret, database.unwrap_or("app")));
    }
    let database = database.unwrap_or(SUPERUSER);
    all.extend(
        cluster
            .items("/managed/roles")
            .filter_map(|role| managed_login(role, "spec.managed.roles[].passwordSecret.name".into(), database)),
    );
    if cluster.is_set("/enableSuperuserAccess") {
        let secret = cluster.spec("/superuserSecret/name").map_or_else(
            || Reference::computed(&format!("{name}-superuser")),
            |secret| Reference::new(secret, "spec.superuserSecret.name"),
        );
        all.push(login(LoginKind::Superuser, Some(SUPERUSER), secret, database));
    }
    all
}

/// A role that may log in with a password that a Secret holds, which `field` names.
fn managed_login(role: &Value, field: Cow<'static, str>, database: &str) -> Option<LoginSource> {
    let flag = |name: &str| role.get(name).and_then(Value::as_bool).unwrap_or_default();
    let absent = role.get("ensure").and_then(Value::as_str) == Some("absent");
    if !flag("login") || flag("disablePassword") || absent {
        return None;
    }
    let name = role.get("name").and_then(Value::as_str)?;
    let secret = role.pointer("/passwordSecret/name").and_then(Value::as_str)?;
    let kind = if flag("superuser") { LoginKind::Superuser } else { LoginKind::Managed };
    Some(login(kind, Some(name), Reference::new(secret, field), database))
}

#[cfg(test)]
#[path = "cnpg_tests.rs"]
mod tests;
