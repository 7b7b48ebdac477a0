//! What a system is: the labels of its pods, the objects that it is read from, and what they say.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use super::{
    facts::{Facts, Halt, OwnedDatabase},
    leader::LeaderSource,
    login::LoginSource,
    patroni,
};
use crate::k8s::api::{
    access::ListQuery,
    names::{Namespace, ObjectName, is_label_value},
    objects::{Object, Pod},
    resource::Resource,
};

/// Of an object or of the pods that a workload makes.
pub(in crate::k8s) type Labels = BTreeMap<String, String>;

/// A system that is shared by all who look at its clusters.
pub(in crate::k8s) type SystemRef = Arc<dyn System>;

/// What all database pods of a system carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::k8s) struct PodLabels {
    /// The label that holds the cluster's name.
    pub(in crate::k8s) cluster: Cow<'static, str>,
    /// What else tells them from poolers and jobs: a label, and its value where that matters.
    pub(in crate::k8s) others: Vec<(Cow<'static, str>, Option<Cow<'static, str>>)>,
    /// Labels that only others carry.
    pub(in crate::k8s) without: &'static [&'static str],
}

impl PodLabels {
    pub(super) fn of(cluster: &'static str, others: &[(&'static str, &'static str)]) -> Self {
        let others = others.iter().map(|(name, value)| {
            (Cow::Borrowed(*name), Some(*value).filter(|value| !value.is_empty()).map(Cow::Borrowed))
        });
        Self { cluster: Cow::Borrowed(cluster), others: others.collect(), without: &[] }
    }

    /// The label selector of the pods of all clusters.
    pub(in crate::k8s) fn selector(&self) -> String {
        format!("{}{}", self.rest(), self.cluster)
    }

    /// The label selector of some clusters' pods.
    pub(in crate::k8s) fn selector_of<'a>(&self, clusters: impl IntoIterator<Item = &'a ObjectName>) -> String {
        let names: Vec<&str> = clusters.into_iter().map(|name| &**name).collect();
        format!("{}{} in ({})", self.rest(), self.cluster, names.join(","))
    }

    fn rest(&self) -> String {
        let others = self.others.iter().map(|(name, value)| match value {
            Some(value) => format!("{name}={value},"),
            None => format!("{name},"),
        });
        others.chain(self.without.iter().map(|name| format!("!{name},"))).collect()
    }

    /// Whether these labels are of such a pod.
    pub(in crate::k8s) fn matches(&self, labels: &Labels) -> bool {
        let fits = |(name, value): &(Cow<'_, str>, Option<Cow<'_, str>>)| match value {
            Some(value) => labels.get(&**name).is_some_and(|found| found == value),
            None => labels.contains_key(&**name),
        };
        labels.get(&*self.cluster).is_some_and(|name| !name.is_empty())
            && self.others.iter().all(fits)
            && !self.without.iter().any(|name| labels.contains_key(*name))
    }
}

/// A system.
pub(in crate::k8s) trait System: Send + Sync + fmt::Debug {
    /// As `pgferry list` prints it.
    fn name(&self) -> &str;

    /// Names of its own for some of its clusters.
    fn flavors(&self) -> &'static [&'static str] {
        &[]
    }

    /// Which of several readings of a name comes first.
    fn rank(&self) -> Rank {
        Rank::Operator
    }

    /// The resource that stands for a cluster.
    fn resource(&self) -> Resource;

    /// What database pods carry; `None` where each cluster has labels of its own, which its object tells.
    fn pod_labels(&self) -> Option<PodLabels>;

    /// The names that the object of a cluster of this name may have.
    fn object_names(&self, name: &ObjectName) -> Vec<ObjectName> {
        vec![name.clone()]
    }

    /// The label by which objects may name their cluster, whatever they are called themselves.
    fn name_label(&self) -> Option<&'static str> {
        None
    }

    /// What of its resource is worth reading where all clusters are looked for.
    fn list_query(&self) -> ListQuery {
        ListQuery::default()
    }

    /// The list that holds the objects whose label says they are this cluster's.
    fn labelled_query(&self, name: &ObjectName) -> Option<ListQuery> {
        // A name that is no label's value is on no object.
        let label = self.name_label().filter(|_| is_label_value(name))?;
        Some(ListQuery::labels(format!("{label}={name}")))
    }

    /// What the cluster's object says; `None` where it is no cluster of this system.
    fn read(&self, object: &Object) -> Option<Facts>;

    /// What is true of a cluster of this name whose object the caller may not read.
    fn guess(&self, _namespace: &Namespace, _name: &ObjectName) -> Option<Facts> {
        None
    }

    /// What a pod is to its cluster.
    fn member(&self, facts: &Facts, pod: &Pod) -> Member;

    /// Whether pods of these labels are poolers beside the servers.
    fn is_pooler(&self, _labels: &Labels) -> bool {
        false
    }

    /// Whether a workload that makes pods of these labels is the system's own: servers, poolers, or what else it needs.
    fn tends(&self, labels: &Labels) -> bool {
        self.is_pooler(labels) || self.pod_labels().is_some_and(|own| own.matches(labels))
    }

    /// Whether a primary is read-only on purpose, because its cluster follows another. Patroni says so everywhere alike.
    fn is_standby(&self, primary: &Pod) -> bool {
        patroni::leads_a_standby(primary)
    }

    /// Objects that say who leads, besides the cluster's own; the one that was written last is believed.
    fn leader_sources(&self, _name: &ObjectName) -> Vec<LeaderSource> {
        Vec::new()
    }

    /// The Secret that would hold this role's login, where its name can be computed.
    fn login_of(&self, _facts: &Facts, _role: &str) -> Option<LoginSource> {
        None
    }

    /// The labels of all Secrets with logins, and how they are read; used where no computed name leads anywhere.
    fn login_secrets(&self, _facts: &Facts) -> Option<(String, LoginSource)> {
        None
    }

    /// Whether a role is the operator's own, which nobody is to log in as unasked.
    fn is_own_role(&self, _role: &str) -> bool {
        false
    }

    /// Where more roles may have logins; read only when a role is asked for that the facts do not name.
    fn more_logins(&self) -> Option<Resource> {
        None
    }

    /// A login from one of [`Self::more_logins`]' objects, where it belongs to the cluster.
    fn more_login(&self, _facts: &Facts, _object: &Object) -> Option<LoginSource> {
        None
    }

    /// Where more databases may have owners; read only when a database is named that the facts do not know.
    fn more_databases(&self) -> Option<Resource> {
        None
    }

    /// A database from one of [`Self::more_databases`]' objects, where it belongs to the cluster.
    fn more_database(&self, _facts: &Facts, _object: &Object) -> Option<OwnedDatabase> {
        None
    }
}

/// Readings of a name within a namespace, the highest first: who may write a lower one cannot take the name of a higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::k8s) enum Rank {
    /// A custom resource.
    Operator,
    /// A StatefulSet or a Deployment.
    Workload,
    /// A Service that somebody has marked.
    MarkedService,
    /// A Secret that a platform makes for its tenants.
    AccessSecret,
    /// Any Secret that says where a server is.
    ConnectionSecret,
}

/// A pod's part in its cluster, as its labels say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::k8s) enum Member {
    /// The primary.
    Primary,
    /// A replica.
    Replica,
    /// Neither, or it does not say (a new pod, an unhealthy one).
    Other,
    /// Stopped on purpose.
    Fenced,
}

/// The facts with as many instances as this field of the spec says; a cluster that should have none is halted.
pub(super) fn sized(facts: Facts, resource: &Resource, object: &Object, field: &str) -> Facts {
    let instances = object.number(&format!("/{field}")).unwrap_or(1);
    Facts {
        halt: facts.halt.or_else(|| scaled_to_zero(resource, object, instances, field)),
        instances: instances.try_into().unwrap_or(1),
        ..facts
    }
}

fn scaled_to_zero(resource: &Resource, object: &Object, instances: u64, field: &str) -> Option<Halt> {
    let meta = &object.metadata;
    (instances == 0).then(|| Halt {
        state: "scaled to zero",
        hint: format!(
            "Start it with: kubectl patch {} {} -n {} --type merge -p '{{\"spec\":{{\"{field}\":1}}}}'",
            resource.qualified(),
            meta.name,
            meta.namespace
        ),
    })
}

/// Whether servers of this version keep new passwords as MD5 unless told otherwise: PostgreSQL did before 14. A version is
/// what an image's tag or a resource says, such as `13.4-alpine`.
pub(super) fn keeps_md5(version: &str) -> bool {
    const SCRAM: u32 = 14;
    let digits =
        version.find(|c: char| !c.is_ascii_digit()).map_or(version, |end| version.get(..end).unwrap_or_default());
    digits.parse::<u32>().is_ok_and(|major| major < SCRAM)
}

/// The tag of an image; empty where its name has none.
pub(super) fn tag(image: &str) -> &str {
    // A registry may have a port, and a digest has a colon, too.
    let name = image.rsplit('/').next().unwrap_or_default();
    let tagged = name.split('@').next().and_then(|name| name.split_once(':'));
    tagged.map(|(_, tag)| tag).unwrap_or_default()
}

/// A member by the value of a role label.
pub(super) fn by_role(role: Option<&str>) -> Member {
    match role {
        Some("primary" | "master") => Member::Primary,
        Some("replica" | "standby" | "secondary") => Member::Replica,
        _ => Member::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last colon of an image is a digest's where it has one: a server of version 17 was taken for one that keeps MD5.
    #[test]
    fn a_tag_is_neither_a_digest_nor_a_port() {
        assert_eq!(tag("localhost:5000/team/postgres:17.2@sha256:0a1b"), "17.2");
        assert_eq!(tag("postgres:13-alpine"), "13-alpine");
        assert_eq!(["postgres@sha256:0a1b", "localhost:5000/postgres", ""].map(tag), [""; 3]);
        assert!(!keeps_md5(tag("postgres:17@sha256:0a1b")) && keeps_md5(tag("postgres:13-alpine")));
    }
}
