//! How each system lays out a cluster. One file a system: data first, code only where systems differ; no I/O.
//!
//! To add one: write its file, and add it to [`Systems::new`].

use std::{borrow::Cow, fmt, sync::Arc};

use super::objects::{LeaderObject, Meta, Object, Owner, Pod};
use crate::upstream::{Lost, TlsMode};

mod access_secrets;
mod cnpg;
mod configured;
pub(super) mod connection;
mod connection_secrets;
mod crunchy;
mod kubeblocks;
mod kubedb;
mod kubegres;
pub(super) mod marked;
mod patroni;
mod stackgres;
mod tembo;
mod workloads;
mod zalando;

pub use configured::Layout;
pub use zalando::ZalandoParams;

use configured::Configured;
use zalando::Zalando;

pub(super) use patroni::leads_a_standby;

/// A system that is shared by all who look at its clusters.
pub(super) type System = Arc<dyn Operator>;

/// The port where nothing says another.
const PORT: u16 = 5432;
/// The superuser's usual name, and the database that is always there.
const POSTGRES: &str = "postgres";

/// What the configuration says about systems.
#[derive(Clone, Debug, Default)]
pub struct SystemsParams {
    /// Zalando's operator can be configured.
    pub zalando: ZalandoParams,
    /// Systems that only the configuration knows.
    pub configured: Vec<Layout>,
}

/// Every system that pgferry knows.
#[derive(Clone, Debug)]
pub(super) struct Systems {
    /// Those with a custom resource, in the order in which names are looked up.
    pub(super) operators: Vec<System>,
    /// Those that built-in objects make up; looked at where no operator knows a name.
    pub(super) plain: Vec<System>,
}

impl Systems {
    pub(super) fn new(params: &SystemsParams) -> Self {
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
            Arc::new(marked::Marked),
            Arc::new(workloads::stateful_sets()),
            Arc::new(workloads::deployments()),
            Arc::new(access_secrets::AccessSecrets),
            Arc::new(connection_secrets::ConnectionSecrets),
        ];
        Self { operators, plain }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &System> {
        self.operators.iter().chain(&self.plain)
    }

    /// The system of this name.
    pub(super) fn named(&self, name: &str) -> Option<&System> {
        self.all().find(|system| system.system() == name)
    }

    /// The operator whose database pods carry such labels, and the cluster's name.
    pub(super) fn claiming(&self, meta: &Meta) -> Option<(&System, String)> {
        self.operators.iter().find_map(|system| {
            let labels = system.pod_labels()?;
            labels.matches(meta).then(|| (system, meta.label(&labels.cluster).unwrap_or_default().to_owned()))
        })
    }
}

/// A kind of object in the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) group: Cow<'static, str>,
    /// The version that is asked for where the server has it.
    pub(super) version: Cow<'static, str>,
    /// Versions that do as well, where it has not.
    pub(super) others: &'static [&'static str],
    pub(super) plural: Cow<'static, str>,
}

impl Resource {
    pub(super) const fn new(group: &'static str, version: &'static str, plural: &'static str) -> Self {
        Self::with_versions(group, version, &[], plural)
    }

    pub(super) const fn with_versions(
        group: &'static str,
        version: &'static str,
        others: &'static [&'static str],
        plural: &'static str,
    ) -> Self {
        Self { group: Cow::Borrowed(group), version: Cow::Borrowed(version), others, plural: Cow::Borrowed(plural) }
    }

    /// `clusters.postgresql.cnpg.io`, as kubectl takes it.
    pub(super) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_string() } else { format!("{}.{}", self.plural, self.group) }
    }
}

pub(super) static PODS: Resource = Resource::new("", "v1", "pods");
pub(super) static SECRETS: Resource = Resource::new("", "v1", "secrets");
pub(super) static SERVICES: Resource = Resource::new("", "v1", "services");
pub(super) static ENDPOINTS: Resource = Resource::new("", "v1", "endpoints");
pub(super) static CONFIG_MAPS: Resource = Resource::new("", "v1", "configmaps");
pub(super) static ENDPOINT_SLICES: Resource = Resource::new("discovery.k8s.io", "v1", "endpointslices");
pub(super) static STATEFUL_SETS: Resource = Resource::new("apps", "v1", "statefulsets");
pub(super) static DEPLOYMENTS: Resource = Resource::new("apps", "v1", "deployments");

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
    pub(super) fn selector_of<'a>(&self, clusters: impl IntoIterator<Item = &'a str>) -> String {
        let names: Vec<&str> = clusters.into_iter().collect();
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

    /// The resource that stands for a cluster.
    fn resource(&self) -> Resource;

    /// What database pods carry; `None` where each cluster has labels of its own, which its object tells.
    fn pod_labels(&self) -> Option<PodLabels>;

    /// The names that the object of a cluster of this name may have.
    fn object_names(&self, name: &str) -> Vec<String> {
        vec![name.to_owned()]
    }

    /// The label by which objects may name their cluster, whatever they are called themselves.
    fn name_label(&self) -> Option<&'static str> {
        None
    }

    /// Whether a cluster's name may hold dots.
    fn dotted_names(&self) -> bool {
        false
    }

    /// What the cluster's object says; `None` where it is no cluster of this system.
    fn read(&self, object: &Object) -> Option<Facts>;

    /// What is true of a cluster of this name whose object the caller may not read.
    fn guess(&self, _namespace: &str, _name: &str) -> Option<Facts> {
        None
    }

    /// What a pod is to its cluster.
    fn member(&self, facts: &Facts, pod: &Pod) -> Member;

    /// Objects that say who leads, besides the cluster's own; the first that says so is believed.
    fn leader_sources(&self, _name: &str) -> Vec<LeaderSource> {
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Leader {
    /// This pod.
    Pod(String),
    /// The role is being handed over.
    Moving,
    /// It does not say, or may not be read: the labels decide.
    #[default]
    Unsaid,
    /// This pod, where the labels leave a doubt.
    Perhaps(String),
    /// Nothing but the servers themselves knows: they are asked in turn.
    Ask,
}

/// What a leader object says, and when it was written: Patroni leaves the objects of a mode that it no longer uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) leader: Leader,
    /// RFC 3339, always in UTC.
    pub(super) renewed: String,
}

/// An object that says who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LeaderSource {
    /// Patroni's Endpoints of this name, or the EndpointSlice that follows it.
    Endpoints(String),
    /// Patroni's ConfigMap of this name.
    ConfigMap(String),
    /// The cluster's twin in another system.
    Twin(&'static cnpg::Cnpg, String),
}

impl LeaderSource {
    pub(super) fn resource(&self) -> Resource {
        match self {
            Self::Endpoints(_) => ENDPOINTS.clone(),
            Self::ConfigMap(_) => CONFIG_MAPS.clone(),
            Self::Twin(operator, _) => operator.resource(),
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Endpoints(name) | Self::ConfigMap(name) | Self::Twin(_, name) => name,
        }
    }

    /// What the object says.
    pub(super) fn word(&self, object: serde_json::Value) -> Word {
        match self {
            Self::Twin(operator, _) => {
                let twin = serde_json::from_value::<Object>(object).ok().and_then(|twin| operator.read(&twin));
                Word { leader: twin.map_or(Leader::Unsaid, |facts| facts.leader), renewed: String::new() }
            }
            Self::Endpoints(_) | Self::ConfigMap(_) => {
                serde_json::from_value::<LeaderObject>(object).map(|object| patroni::word(&object)).unwrap_or_default()
            }
        }
    }
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

/// Where a login is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LoginSource {
    pub(super) kind: LoginKind,
    /// The role, where that is known without the Secret.
    pub(super) role: Option<String>,
    /// The Secret's namespace, where that is not the cluster's.
    pub(super) namespace: Option<String>,
    /// The Secret's name; empty where no Secret is needed.
    pub(super) secret: String,
    pub(super) keys: Keys,
    /// The database where the Secret names none.
    pub(super) database: String,
    /// Whether the operator may have put six digits behind the role's name when it rotated the password.
    pub(super) rotates: bool,
}

/// How a Secret holds a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// In keys of their own.
    Named {
        /// The user's name.
        user: Part,
        /// The password.
        password: Part,
        /// The database, where a key names one.
        database: Part,
    },
    /// In any of the shapes that connection Secrets have.
    Connection,
}

/// One part of a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The first of these keys that the Secret has.
    Keys(Vec<Cow<'static, str>>),
    /// This, whatever the Secret says.
    Fixed(String),
    /// Nowhere.
    Absent,
    /// In the first of these places that has the key, else this.
    In(Vec<Place>, Option<String>),
    /// Where the object itself holds a password.
    Plain(Hidden),
}

/// A key of an object in the cluster's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Secret(String, String),
    ConfigMap(String, String),
}

/// A password that stands in an object that is no Secret. Not shown.
#[derive(Clone)]
pub(super) struct Hidden(pub(super) secrecy::SecretString);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden")
    }
}

impl PartialEq for Hidden {
    fn eq(&self, other: &Self) -> bool {
        use secrecy::ExposeSecret as _;
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl Eq for Hidden {}

impl Part {
    fn keys(keys: &[&'static str]) -> Self {
        Self::Keys(keys.iter().copied().map(Cow::Borrowed).collect())
    }

    fn key(key: &str) -> Self {
        Self::Keys(vec![Cow::Owned(key.to_owned())])
    }
}

impl LoginSource {
    /// In keys of their own.
    fn new(kind: LoginKind, role: Option<&str>, secret: impl Into<String>, keys: Keys, database: &str) -> Self {
        Self {
            kind,
            role: role.map(str::to_owned),
            namespace: None,
            secret: secret.into(),
            keys,
            database: database.to_owned(),
            rotates: false,
        }
    }

    /// The keys of type basic-auth.
    fn basic_auth() -> Keys {
        Keys::Named {
            user: Part::keys(&["username", "user"]),
            password: Part::keys(&["password"]),
            database: Part::keys(&["dbname", "database"]),
        }
    }
}

/// Where something that is no secret can be read: a CA, a client's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CaSource {
    /// A key of a Secret in the cluster's namespace.
    Secret(String, String),
    /// A key of a ConfigMap there.
    ConfigMap(String, String),
    /// Base64 inside another object, by JSON pointer.
    Object(Resource, String, &'static str),
    /// PEM, known already.
    Pem(Arc<[u8]>),
}

/// The name that a server's certificate carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CertificateName {
    /// The same for all servers of the cluster.
    Cluster(String),
    /// The pod's name, and this behind it.
    Pod(String),
}

/// How a cluster's servers do TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) mode: TlsMode,
    /// `None` where no name can be relied on.
    pub(super) name: Option<CertificateName>,
    /// Looked at in this order.
    pub(super) ca: Vec<CaSource>,
    /// The Secret (`tls.crt`, `tls.key`) that servers want clients to identify with.
    pub(super) client: Option<String>,
}

/// PostgreSQL's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Port {
    Number(u16),
    /// As the pod's containers call it.
    Named(String),
}

/// Which pods are a cluster's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Members {
    /// Those with the system's labels and the cluster's name.
    Labelled,
    /// Those with these labels, in the cluster's namespace.
    Selected(String),
    /// Those that a Service leads to.
    Service {
        /// As (namespace, name); the first that exists.
        places: Vec<(String, String)>,
        /// The Service's port.
        port: u16,
        /// The host that is meant where no such Service exists.
        outside: Option<String>,
    },
    /// One pod.
    Pod(String, String),
    /// None: a server outside Kubernetes.
    External { host: String, port: u16 },
}

/// Why a cluster does not serve, where that is on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Halt {
    /// `hibernated`: for "cluster NAME is ..." and for lists.
    pub(super) state: &'static str,
    /// How to start it.
    pub(super) hint: String,
}

/// How far facts are to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// The cluster's object says so.
    Read,
    /// The object could not be read; this is what is usual.
    Guessed,
    /// The object may be about something else; it is believed only where somebody names it.
    Doubtful,
}

/// What is known of one cluster, apart from its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) port: Port,
    pub(super) members: Members,
    /// Where replicas are, if they are not among the members.
    pub(super) replicas: Option<Members>,
    pub(super) leader: Leader,
    /// What is wrong with the object, so that it cannot be used.
    pub(super) broken: Option<String>,
    pub(super) evidence: Evidence,
    /// A system's own name for clusters that it shares with others.
    pub(super) flavor: Option<&'static str>,
    pub(super) halt: Option<Halt>,
    /// Pods that are fenced; `*` is all.
    pub(super) fenced: Vec<String>,
    /// How to lift the fence.
    pub(super) fence_hint: String,
    /// A standby of another cluster.
    pub(super) standby: bool,
    /// A pooler answers, not PostgreSQL itself.
    pub(super) pooled: bool,
    /// The system's own words about what it is doing.
    pub(super) phase: String,
    pub(super) tls: Tls,
    /// The default one first.
    pub(super) logins: Vec<LoginSource>,
    pub(super) databases: Vec<String>,
    /// Instances that the cluster should have; 0 where that is not known.
    pub(super) instances: usize,
    /// Instances that are ready, where the object itself tells and pods need not be read for a list.
    pub(super) ready: Option<usize>,
    /// The pod that is the primary, where its name is fixed.
    pub(super) first_pod: Option<String>,
    /// How the names of a StatefulSet's pods begin.
    pub(super) pod_prefix: Option<String>,
    /// Other names that lead here if they lead to nothing else: Argo CD's applications, Helm's releases.
    pub(super) aliases: Vec<String>,
    /// What the object belongs to.
    pub(super) owners: Vec<Owner>,
    /// The Services that lead here.
    pub(super) services: Vec<String>,
}

impl Facts {
    fn new(namespace: &str, name: &str, members: Members) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            port: Port::Number(PORT),
            members,
            replicas: None,
            broken: None,
            evidence: Evidence::Read,
            flavor: None,
            leader: Leader::Unsaid,
            halt: None,
            fenced: Vec::new(),
            fence_hint: String::new(),
            standby: false,
            pooled: false,
            phase: String::new(),
            tls: Tls::default(),
            logins: Vec::new(),
            databases: Vec::new(),
            instances: 0,
            ready: None,
            first_pod: None,
            pod_prefix: None,
            aliases: Vec::new(),
            owners: Vec::new(),
            services: Vec::new(),
        }
    }

    /// With what the metadata of any object tells.
    fn of(object: &Object, name: &str, members: Members) -> Self {
        let meta = &object.metadata;
        let going = Halt {
            state: "being deleted",
            hint: format!("See what holds it up: kubectl get {} -n {} -o yaml", meta.name, meta.namespace),
        };
        Self {
            halt: meta.deleting().then_some(going),
            aliases: argo_applications(object),
            owners: meta.owner_references.clone(),
            ..Self::new(&meta.namespace, name, members)
        }
    }

    /// The facts of one cluster that several objects tell.
    pub(super) fn merge(self, other: Self) -> Self {
        let (first, second) =
            if self.members == Members::Labelled && self.replicas.is_some() { (other, self) } else { (self, other) };
        let mut logins = first.logins;
        logins.extend(second.logins.into_iter().filter(|login| !logins.contains(login)).collect::<Vec<_>>());
        let mut services = first.services;
        services.extend(second.services);
        Self {
            replicas: first.replicas.or(second.replicas),
            instances: first.instances + second.instances,
            first_pod: first.first_pod.or(second.first_pod),
            ready: first.ready.zip(second.ready).map(|(one, two)| one + two).or(first.ready),
            broken: first.broken.or(second.broken),
            logins,
            services,
            ..first
        }
    }

    /// The cluster's object could not be read.
    pub(super) fn is_guessed(&self) -> bool {
        self.evidence == Evidence::Guessed
    }

    /// `cluster.namespace`.
    pub(super) fn full(&self) -> String {
        format!("{}.{}", self.name, self.namespace)
    }

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
            (Leader::Unsaid | Leader::Perhaps(_), Member::Replica) => Some(Lost::Demoted),
            _ => None,
        }
    }
}

/// Argo CD's marks on an object: the application's name.
fn argo_applications(object: &Object) -> Vec<String> {
    let label = object.metadata.label("argocd.argoproj.io/instance");
    // "app:group/kind:namespace/name"; an application in another namespace is "namespace_app".
    let tracking = object.metadata.annotation("argocd.argoproj.io/tracking-id");
    let tracked = tracking.and_then(|id| id.split(':').next()).map(|app| app.rsplit('_').next().unwrap_or(app));
    let mut all: Vec<String> = label.into_iter().chain(tracked).map(str::to_owned).collect();
    all.dedup();
    all
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

/// A member by the value of a role label.
fn by_role(role: Option<&str>) -> Member {
    match role {
        Some("primary" | "master") => Member::Primary,
        Some("replica" | "standby" | "secondary") => Member::Replica,
        _ => Member::Other,
    }
}
