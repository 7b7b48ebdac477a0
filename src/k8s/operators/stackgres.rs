//! StackGres (<https://stackgres.io/doc/latest/reference/crd/sgcluster/>). Its pods listen on 5432 themselves; the
//! pooler beside PostgreSQL, on 6432, is passed by.

use super::{
    facts::POSTGRES,
    facts::{CaSource, Facts, Members, Tls},
    leader::{Leader, LeaderSource},
    login::{Keys, LoginKind, LoginSource, Part},
    system::{Labels, Member, PodLabels, System, by_role, keeps_md5, sized},
};
use crate::k8s::api::{
    names::{Namespace, ObjectName, Reference},
    objects::{Object, Pod, text},
    resource::Resource,
};

#[derive(Debug)]
pub(super) struct StackGres;

/// One Secret, called as the cluster; it holds the superuser and roles of the operator's own.
fn login(name: &ObjectName) -> LoginSource {
    let keys = Keys::Named {
        user: Part::keys(&["superuser-username", "PATRONI_SUPERUSER_USERNAME"]),
        password: Part::keys(&["superuser-password", "PATRONI_SUPERUSER_PASSWORD"]),
        database: Part::Absent,
    };
    LoginSource::new(LoginKind::Superuser, None, Some(Reference::computed(name)), keys, POSTGRES)
}

/// The server's certificate signs itself (`CN=stackgres`), so it is its own CA; or it is one that somebody brought.
fn tls(object: &Object, name: &ObjectName) -> Tls {
    let own = "/postgres/ssl/certificateSecretKeySelector";
    let secret = object.spec(&format!("{own}/name")).map_or_else(
        || Reference::computed(&format!("{name}-ssl")),
        |secret| Reference::new(secret, "spec.postgres.ssl.certificateSecretKeySelector.name"),
    );
    let key = object.spec(&format!("{own}/key")).unwrap_or("tls.crt");
    Tls { ca: vec![CaSource::Secret(secret, key.to_owned())], ..Tls::default() }
}

/// The status follows the leader a little late: it is asked only where labels leave a doubt, and the Endpoints object,
/// which knows better, overrides it.
fn leader(object: &Object) -> Leader {
    let pods = object.status.pointer("/podStatuses").and_then(serde_json::Value::as_array);
    let primary = |pod: &&serde_json::Value| pod.get("primary").and_then(serde_json::Value::as_bool) == Some(true);
    let mut primaries = pods.into_iter().flatten().filter(primary).filter_map(|pod| text(pod, "/name"));
    match (primaries.next(), primaries.next()) {
        (Some(pod), None) => Leader::Perhaps(pod.to_owned()),
        _ => Leader::Unsaid,
    }
}

fn services(name: &str) -> Vec<String> {
    ["", "-primary", "-replicas", "-rest"].iter().map(|suffix| format!("{name}{suffix}")).collect()
}

impl System for StackGres {
    fn name(&self) -> &'static str {
        "stackgres"
    }

    fn resource(&self) -> Resource {
        Resource::new("stackgres.io", "v1", "sgclusters")
    }

    fn pod_labels(&self) -> Option<PodLabels> {
        Some(PodLabels::of("stackgres.io/cluster-name", &[("app", "StackGresCluster")]))
    }

    /// Whatever belongs to a cluster carries its label: backups' jobs, too.
    fn tends(&self, labels: &Labels) -> bool {
        labels.contains_key("stackgres.io/cluster-name")
    }

    fn read(&self, object: &Object) -> Option<Facts> {
        let meta = &object.metadata;
        let name = &meta.name;
        let facts = sized(Facts::of(object, name, Members::Labelled), &self.resource(), object, "instances");
        Some(Facts {
            leader: leader(object),
            standby: object.spec.pointer("/replicateFrom").is_some_and(|from| !from.is_null()),
            tls: tls(object, name),
            md5: object.spec("/postgres/version").is_some_and(keeps_md5),
            logins: vec![login(name)],
            services: services(name),
            ..facts
        })
    }

    fn guess(&self, namespace: &Namespace, name: &ObjectName) -> Option<Facts> {
        Some(Facts {
            tls: tls(&Object::unread(namespace, name), name),
            logins: vec![login(name)],
            services: services(name),
            ..Facts::new(namespace, name, Members::Labelled)
        })
    }

    fn member(&self, _facts: &Facts, pod: &Pod) -> Member {
        match by_role(pod.metadata.label("role")) {
            // Taken out of the read service on purpose.
            Member::Replica if pod.metadata.label("noloadbalance") == Some("true") => Member::Other,
            member => member,
        }
    }

    fn leader_sources(&self, name: &ObjectName) -> Vec<LeaderSource> {
        vec![LeaderSource::Endpoints(name.clone())]
    }
}
