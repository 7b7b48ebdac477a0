//! How each system lays out a cluster. One file a system: data first, code only where systems differ; no I/O.
//!
//! To add one: write its file, and add it to `Systems::new`.

use std::{borrow::Cow, fmt, sync::Arc};

use crate::k8s::api::{
    names::{Namespace, ObjectName, Reference},
    objects::{Meta, Object, Pod},
    resource::{CONFIG_MAPS, DEPLOYMENTS, ENDPOINTS, Resource, SECRETS, SERVICES, STATEFUL_SETS},
};

mod access_secrets;
mod cnpg;
mod configured;
pub(super) mod connection;
mod connection_secrets;
mod crunchy;
mod facts;
mod kubeblocks;
mod kubedb;
mod kubegres;
mod leader;
mod login;
pub(super) mod marked;
mod patroni;
mod stackgres;
mod tembo;
mod workloads;
mod zalando;

pub use configured::Layout;
pub use zalando::ZalandoParams;

pub(super) use facts::{CaSource, CertificateName, Evidence, Facts, Halt, Kin, Members, Port, Tls};
pub(super) use leader::{Leader, LeaderSource, Word};
pub(super) use login::{Consent, Hidden, KeyOf, Keys, LoginKind, LoginSource, Part};

use configured::Configured;
use zalando::Zalando;

pub(super) use patroni::leads_a_standby;

/// A system that is shared by all who look at its clusters.
pub(super) type System = Arc<dyn Operator>;

/// The port where nothing says another.
pub(super) const PORT: u16 = 5432;
/// The superuser's usual name, and the database that is always there.
pub(super) const POSTGRES: &str = "postgres";

/// What the configuration says about systems.
#[derive(Clone, Debug, Default)]
pub struct SystemsParams {
    /// Zalando's operator can be configured.
    pub zalando: ZalandoParams,
    /// Systems that only the configuration knows.
    pub configured: Vec<Layout>,
    /// Services of type `ExternalName` that are followed, as `service.namespace`.
    pub external_names: Vec<String>,
}

/// Every system that pgferry knows.
#[derive(Clone, Debug)]
pub struct Systems {
    /// Those with a custom resource, in the order in which names are looked up.
    pub(super) operators: Vec<System>,
    /// Those that built-in objects make up; looked at where no operator knows a name.
    pub(super) plain: Vec<System>,
    /// Services of type `ExternalName` that are followed.
    external_names: Vec<String>,
}

impl Systems {
    /// All of them.
    #[must_use]
    pub fn new(params: &SystemsParams) -> Self {
        let mut operators: Vec<System> =
            params.configured.iter().map(|layout| Arc::new(Configured::new(layout.clone())) as System).collect();
        operators.extend([
            Arc::new(cnpg::CLOUDNATIVE_PG) as System,
            Arc::new(cnpg::EDB),
            Arc::new(Zalando::new(params.zalando.clone())),
            Arc::new(crunchy::PERCONA),
            Arc::new(crunchy::CRUNCHY),
            Arc::new(stackgres::StackGres),
            Arc::new(kubedb::KubeDb),
            Arc::new(kubeblocks::KubeBlocks),
            Arc::new(kubegres::Kubegres),
            Arc::new(tembo::Tembo),
        ]);
        let plain: Vec<System> = vec![
            Arc::new(workloads::stateful_sets()),
            Arc::new(workloads::deployments()),
            Arc::new(marked::Marked),
            Arc::new(access_secrets::AccessSecrets),
            Arc::new(connection_secrets::ConnectionSecrets),
        ];
        Self { operators, plain, external_names: params.external_names.clone() }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &System> {
        self.operators.iter().chain(&self.plain)
    }

    /// The system of this name.
    pub(super) fn named(&self, name: &str) -> Option<&System> {
        self.all().find(|system| system.system() == name)
    }

    /// Whether the configuration says to go where this Service of type `ExternalName` points.
    pub(super) fn follows(&self, service: &Meta) -> bool {
        let full = format!("{}.{}", service.name, service.namespace);
        self.external_names.contains(&full)
    }

    /// The operator whose database pods carry such labels, and the cluster's name.
    pub(super) fn claiming(&self, meta: &Meta) -> Option<(&System, ObjectName)> {
        self.operators.iter().find_map(|system| {
            let labels = system.pod_labels()?;
            let cluster = meta.label(&labels.cluster).filter(|_| labels.matches(meta))?;
            Some((system, ObjectName::parse(cluster).ok()?))
        })
    }
}

/// What all database pods of a system carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodLabels {
    /// The label that holds the cluster's name.
    pub(super) cluster: Cow<'static, str>,
    /// What else tells them from poolers and jobs: a label, and its value where that matters.
    pub(super) others: Vec<(Cow<'static, str>, Option<Cow<'static, str>>)>,
    /// Labels that only others carry.
    pub(super) without: &'static [&'static str],
}

impl PodLabels {
    fn of(cluster: &'static str, others: &[(&'static str, &'static str)]) -> Self {
        let others = others.iter().map(|(name, value)| {
            (Cow::Borrowed(*name), Some(*value).filter(|value| !value.is_empty()).map(Cow::Borrowed))
        });
        Self { cluster: Cow::Borrowed(cluster), others: others.collect(), without: &[] }
    }

    /// The label selector of the pods of all clusters.
    pub(super) fn selector(&self) -> String {
        format!("{}{}", self.rest(), self.cluster)
    }

    /// The label selector of some clusters' pods.
    pub(super) fn selector_of<'a>(&self, clusters: impl IntoIterator<Item = &'a ObjectName>) -> String {
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

    /// Whether an object carries them.
    pub(super) fn matches(&self, meta: &Meta) -> bool {
        let fits = |(name, value): &(Cow<'_, str>, Option<Cow<'_, str>>)| match value {
            Some(value) => meta.label(name) == Some(value),
            None => meta.label(name).is_some(),
        };
        meta.label(&self.cluster).is_some_and(|name| !name.is_empty())
            && self.others.iter().all(fits)
            && self.without.iter().all(|name| meta.label(name).is_none())
    }
}

/// A system.
pub(super) trait Operator: Send + Sync + fmt::Debug {
    /// As `pgferry list` prints it.
    fn system(&self) -> &str;

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

    /// What the cluster's object says; `None` where it is no cluster of this system.
    fn read(&self, object: &Object) -> Option<Facts>;

    /// What is true of a cluster of this name whose object the caller may not read.
    fn guess(&self, _namespace: &Namespace, _name: &ObjectName) -> Option<Facts> {
        None
    }

    /// What a pod is to its cluster.
    fn member(&self, facts: &Facts, pod: &Pod) -> Member;

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
}

/// Readings of a name within a namespace, the highest first: who may write a lower one cannot take the name of a higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
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
pub(super) enum Member {
    /// The primary.
    Primary,
    /// A replica.
    Replica,
    /// Neither, or it does not say (a new pod, an unhealthy one).
    Other,
    /// Stopped on purpose.
    Fenced,
}

/// A cluster that should have no instances.
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
fn keeps_md5(version: &str) -> bool {
    const SCRAM: u32 = 14;
    let digits =
        version.find(|c: char| !c.is_ascii_digit()).map_or(version, |end| version.get(..end).unwrap_or_default());
    digits.parse::<u32>().is_ok_and(|major| major < SCRAM)
}

/// A member by the value of a role label.
fn by_role(role: Option<&str>) -> Member {
    match role {
        Some("primary" | "master") => Member::Primary,
        Some("replica" | "standby" | "secondary") => Member::Replica,
        _ => Member::Other,
    }
}
