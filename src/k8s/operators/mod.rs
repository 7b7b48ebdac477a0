//! How each system lays out a cluster. One file a system: data first, code only where systems differ; no I/O.
//!
//! To add one: write its file, and add it to `all`.

use std::fmt;

use super::objects::{Custom, Pod};
use crate::upstream::{Lost, TlsMode};

mod cnpg;

/// Every system that pgferry knows, in the order in which names are looked up.
pub(super) fn all() -> Vec<&'static dyn Operator> {
    vec![&cnpg::CLOUDNATIVE_PG, &cnpg::EDB]
}

/// A custom resource definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) plural: &'static str,
}

/// A system.
pub(super) trait Operator: Send + Sync + fmt::Debug {
    /// As `pgferry list` prints it.
    fn system(&self) -> &'static str;

    /// The resource that stands for a cluster.
    fn resource(&self) -> Resource;

    /// The pods' label that holds the cluster's name.
    fn cluster_label(&self) -> &'static str;

    /// What else selects database pods; no pooler, no job.
    fn pod_selector(&self) -> &'static str;

    /// Whether a cluster's name may hold dots.
    fn dotted_names(&self) -> bool {
        false
    }

    /// What the cluster's own resource says.
    fn read(&self, resource: &Custom) -> Facts;

    /// What is true of a cluster of this name whose resource the caller may not read.
    fn guess(&self, namespace: &str, name: &str) -> Facts;

    /// What a pod is to its cluster.
    fn member(&self, facts: &Facts, pod: &Pod) -> Member;

    /// Where more roles may have logins; read only when a role is asked for that the facts do not name.
    fn more_logins(&self) -> Option<Resource> {
        None
    }

    /// A login from one of [`Self::more_logins`]' objects, where it belongs to the cluster.
    fn more_login(&self, _facts: &Facts, _object: &Custom) -> Option<LoginSource> {
        None
    }
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

/// Who the leader object says is the primary. It decides; labels only propose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Leader {
    /// This pod.
    Pod(String),
    /// The role is being handed over.
    Moving,
    /// It does not say, or may not be read: the labels decide.
    Unsaid,
}

/// Which logins exist for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LoginKind {
    /// The cluster's own application.
    Application,
    /// A further role.
    Managed,
    /// A superuser.
    Superuser,
}

/// A Secret that holds a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LoginSource {
    pub(super) kind: LoginKind,
    /// The role, where that is known without the Secret.
    pub(super) role: Option<String>,
    /// The Secret's name, in the cluster's namespace.
    pub(super) secret: String,
    pub(super) user_key: &'static str,
    pub(super) password_key: &'static str,
    pub(super) database_key: &'static str,
    /// The database where the Secret names none.
    pub(super) database: String,
}

/// Where a CA can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CaSource {
    pub(super) secret: String,
    pub(super) key: &'static str,
}

/// Why a cluster does not serve, where that is on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Halt {
    /// `hibernated`: for "cluster NAME is ..." and for lists.
    pub(super) state: &'static str,
    /// How to start it.
    pub(super) hint: String,
}

/// What is known of one cluster, apart from its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) leader: Leader,
    pub(super) halt: Option<Halt>,
    /// Pods that are fenced; `*` is all.
    pub(super) fenced: Vec<String>,
    /// How to lift the fence.
    pub(super) fence_hint: String,
    /// A standby of another cluster.
    pub(super) standby: bool,
    /// The system's own words about what it is doing.
    pub(super) phase: String,
    pub(super) tls: TlsMode,
    pub(super) server_name: Option<String>,
    pub(super) ca: Option<CaSource>,
    /// The default one first.
    pub(super) logins: Vec<LoginSource>,
    pub(super) databases: Vec<String>,
    /// Instances that the cluster should have.
    pub(super) instances: usize,
    /// Applications of Argo CD that it belongs to.
    pub(super) applications: Vec<String>,
}

impl Facts {
    pub(super) fn is_fenced(&self, pod: &str) -> bool {
        self.fenced.iter().any(|fenced| fenced == "*" || fenced == pod)
    }

    /// Why a pod that was the primary is not any more; `None` while that is not certain.
    pub(super) fn lost(&self, operator: &dyn Operator, pod: &Pod) -> Option<Lost> {
        if self.is_fenced(&pod.metadata.name) {
            return Some(Lost::Fenced);
        }
        match (&self.leader, operator.member(self, pod)) {
            (Leader::Pod(leader), _) if *leader != pod.metadata.name => Some(Lost::Demoted),
            (Leader::Unsaid, Member::Replica) => Some(Lost::Demoted),
            _ => None,
        }
    }
}

/// Argo CD's marks on an object: the application's name.
fn argo_applications(object: &Custom) -> Vec<String> {
    let label = object.metadata.label("argocd.argoproj.io/instance");
    // "app:group/kind:namespace/name"; an application in another namespace is "namespace_app".
    let tracking = object.metadata.annotation("argocd.argoproj.io/tracking-id");
    let tracked = tracking.and_then(|id| id.split(':').next()).map(|app| app.rsplit('_').next().unwrap_or(app));
    let mut all: Vec<String> = label.into_iter().chain(tracked).map(str::to_owned).collect();
    all.dedup();
    all
}
