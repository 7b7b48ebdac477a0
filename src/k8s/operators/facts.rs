//! What is known of a cluster, apart from its pods.

use std::sync::Arc;

use super::{leader::Leader, login::LoginSource};
use crate::{
    k8s::api::{
        names::{Namespace, ObjectName, Place, Reference},
        objects::{Object, Owner},
        resource::Resource,
    },
    upstream::{Mode, TlsMode},
};

/// The port where nothing says another.
pub(in crate::k8s) const PORT: u16 = 5432;
/// The superuser's usual name, and the database that is always there.
pub(in crate::k8s) const POSTGRES: &str = "postgres";

/// Where something that is no secret can be read: a CA, a client's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::k8s) enum CaSource {
    /// A key of a Secret in the cluster's namespace.
    Secret(Reference, String),
    /// A key of a ConfigMap there.
    ConfigMap(Reference, String),
    /// Base64 inside another object, by JSON pointer.
    Object(Resource, ObjectName, &'static str),
    /// PEM out of the Secret that holds the login, as [`crate::upstream::Login::source`] names it.
    Own { pem: Arc<[u8]>, source: String },
}

/// The name that a server's certificate carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::k8s) enum CertificateName {
    /// The same for all servers of the cluster.
    Cluster(String),
    /// The pod's name, and this behind it.
    Pod(String),
}

/// How a cluster's servers do TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::k8s) struct Tls {
    pub(in crate::k8s) mode: TlsMode,
    /// `None` where no name can be relied on.
    pub(in crate::k8s) name: Option<CertificateName>,
    /// Looked at in this order.
    pub(in crate::k8s) ca: Vec<CaSource>,
    /// What asks for this mode, where it is not the system.
    pub(in crate::k8s) asked: Option<String>,
    /// The Secret (`tls.crt`, `tls.key`) that servers want clients to identify with.
    pub(in crate::k8s) client: Option<Reference>,
}

/// PostgreSQL's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::k8s) enum Port {
    Number(u16),
    /// As the pod's containers call it.
    Named(String),
}

/// Which pods are a cluster's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::k8s) enum Members {
    /// Those with the system's labels and the cluster's name.
    Labelled,
    /// Those with these labels, in the cluster's namespace.
    Selected(String),
    /// Those that a Service leads to.
    Service {
        /// The first that exists.
        places: Vec<Place>,
        /// The Service's port.
        port: u16,
        /// The host that is meant where no such Service exists.
        outside: Option<String>,
        /// What else is known of it.
        kin: Kin,
    },
    /// One pod; in another namespace than the cluster's only if it is behind this Service.
    Pod { namespace: Namespace, pod: ObjectName, service: Option<ObjectName> },
    /// None: servers outside Kubernetes, hosts and ports.
    External(Vec<(String, u16)>),
    /// Those of all of these: a Secret may name several hosts.
    Several(Vec<Members>),
}

impl Members {
    /// Whether both are Services that lead to their own pods alone, and not to the same.
    fn is_beside(&self, other: &Self) -> bool {
        let alone = |members: &Self| matches!(members, Self::Service { kin: Kin::Alone, .. });
        alone(self) && alone(other) && self != other
    }
}

/// Whose pods those of a Service may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::k8s) enum Kin {
    /// Those of the operator whose labels the Service carries, where the Service has none of its own.
    #[default]
    Operator,
    /// Its own alone: labels are easily written.
    Alone,
}

/// Which server whoever wrote the object wants, where the client does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::k8s) enum Wants {
    Only(Mode),
    /// A replica where there is one, else the primary.
    ReplicaFirst,
}

/// Why a cluster does not serve, where that is on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::k8s) struct Halt {
    /// `hibernated`: for "cluster NAME is ..." and for lists.
    pub(in crate::k8s) state: &'static str,
    /// How to start it.
    pub(in crate::k8s) hint: String,
}

/// A database, and the role that owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::k8s) struct OwnedDatabase {
    pub(in crate::k8s) database: String,
    pub(in crate::k8s) owner: String,
}

/// How far facts are to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::k8s) enum Evidence {
    /// The cluster's object says so.
    Read,
    /// The object could not be read; this is what is usual.
    Guessed,
    /// The object may be about something else; it is believed only where somebody names it.
    Doubtful,
}

/// What is known of one cluster, apart from its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::k8s) struct Facts {
    pub(in crate::k8s) namespace: Namespace,
    pub(in crate::k8s) name: ObjectName,
    /// What the object that says so is called itself.
    pub(in crate::k8s) object: ObjectName,
    pub(in crate::k8s) port: Port,
    pub(in crate::k8s) members: Members,
    /// Where replicas are, if they are not among the members.
    pub(in crate::k8s) replicas: Option<Members>,
    pub(in crate::k8s) leader: Leader,
    /// Which of them is meant by a bare name, where that is not the primary.
    pub(in crate::k8s) wants: Option<Wants>,
    /// What is wrong with the object, so that it cannot be used.
    pub(in crate::k8s) broken: Option<String>,
    pub(in crate::k8s) evidence: Evidence,
    /// A system's own name for clusters that it shares with others.
    pub(in crate::k8s) flavor: Option<&'static str>,
    pub(in crate::k8s) halt: Option<Halt>,
    /// Pods that are fenced; `*` is all.
    pub(in crate::k8s) fenced: Vec<String>,
    /// How to lift the fence.
    pub(in crate::k8s) fence_hint: String,
    /// A standby of another cluster.
    pub(in crate::k8s) standby: bool,
    /// A pooler answers, not PostgreSQL itself.
    pub(in crate::k8s) pooled: bool,
    /// The system's own words about what it is doing.
    pub(in crate::k8s) phase: String,
    pub(in crate::k8s) tls: Tls,
    /// Its servers may still keep passwords as MD5.
    pub(in crate::k8s) md5: bool,
    /// The default one first.
    pub(in crate::k8s) logins: Vec<LoginSource>,
    pub(in crate::k8s) databases: Vec<String>,
    /// Those of which the system knows who owns them.
    pub(in crate::k8s) owned: Vec<OwnedDatabase>,
    /// Instances that the cluster should have; 0 where that is not known.
    pub(in crate::k8s) instances: usize,
    /// Instances that are ready, where the object itself tells and pods need not be read for a list.
    pub(in crate::k8s) ready: Option<usize>,
    /// The pod that is the primary, where its name is fixed.
    pub(in crate::k8s) first_pod: Option<String>,
    /// How the names of its StatefulSets' pods begin.
    pub(in crate::k8s) pod_prefixes: Vec<String>,
    /// Other names that lead here: a Helm release's, a Secret's whole name.
    pub(in crate::k8s) aliases: Vec<String>,
    /// Argo CD's applications that it is a part of; they lead here if nothing is called so.
    pub(in crate::k8s) applications: Vec<String>,
    /// What the object belongs to.
    pub(in crate::k8s) owners: Vec<Owner>,
    /// The Services that lead here.
    pub(in crate::k8s) services: Vec<String>,
}

impl Facts {
    pub(in crate::k8s) fn new(namespace: &Namespace, name: &ObjectName, members: Members) -> Self {
        Self {
            namespace: namespace.clone(),
            name: name.clone(),
            object: name.clone(),
            port: Port::Number(PORT),
            members,
            replicas: None,
            broken: None,
            evidence: Evidence::Read,
            flavor: None,
            leader: Leader::Unsaid,
            wants: None,
            halt: None,
            fenced: Vec::new(),
            fence_hint: String::new(),
            standby: false,
            pooled: false,
            phase: String::new(),
            tls: Tls::default(),
            md5: false,
            logins: Vec::new(),
            databases: Vec::new(),
            owned: Vec::new(),
            instances: 0,
            ready: None,
            first_pod: None,
            pod_prefixes: Vec::new(),
            aliases: Vec::new(),
            applications: Vec::new(),
            owners: Vec::new(),
            services: Vec::new(),
        }
    }

    /// With what the metadata of any object tells.
    pub(in crate::k8s) fn of(object: &Object, name: &ObjectName, members: Members) -> Self {
        let meta = &object.metadata;
        let going = Halt {
            state: "being deleted",
            hint: format!("See what holds it up: kubectl get all,events -n {} | grep {}", meta.namespace, meta.name),
        };
        Self {
            halt: meta.deleting().then_some(going),
            applications: argo_applications(object),
            owners: meta.owner_references.clone(),
            object: meta.name.clone(),
            ..Self::new(&meta.namespace, name, members)
        }
    }

    /// The facts of one cluster that several objects tell.
    pub(in crate::k8s) fn merge(self, other: Self) -> Self {
        let (first, second) =
            if self.members == Members::Labelled && self.replicas.is_some() { (other, self) } else { (self, other) };
        let mut logins = first.logins;
        logins.extend(second.logins.into_iter().filter(|login| !logins.contains(login)).collect::<Vec<_>>());
        let two = first.members.is_beside(&second.members).then(|| {
            format!(
                "the Services {} and {} both claim to lead to its primary",
                first.services.join(", "),
                second.services.join(", ")
            )
        });
        let mut services = first.services;
        services.extend(second.services);
        let mut pod_prefixes = first.pod_prefixes;
        pod_prefixes.extend(second.pod_prefixes);
        Self {
            replicas: first.replicas.or(second.replicas),
            instances: first.instances + second.instances,
            first_pod: first.first_pod.or(second.first_pod),
            ready: first.ready.zip(second.ready).map(|(one, two)| one + two).or(first.ready),
            broken: first.broken.or(second.broken).or(two),
            logins,
            services,
            pod_prefixes,
            ..first
        }
    }

    /// The Services that it names.
    pub(in crate::k8s) fn places(&self) -> Vec<&Place> {
        match &self.members {
            Members::Service { places, .. } => places.iter().collect(),
            Members::Several(all) => all
                .iter()
                .flat_map(|one| if let Members::Service { places, .. } = one { places.as_slice() } else { &[] })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Named so, by its own name or an alias.
    pub(in crate::k8s) fn is_named(&self, name: &str) -> bool {
        self.name == *name || self.aliases.iter().any(|alias| alias == name)
    }

    /// The same, or a part of an application that is.
    pub(in crate::k8s) fn is_called(&self, name: &str) -> bool {
        self.is_named(name) || self.applications.iter().any(|application| application == name)
    }

    /// The cluster's object could not be read.
    pub(in crate::k8s) fn is_guessed(&self) -> bool {
        self.evidence == Evidence::Guessed
    }

    /// `cluster.namespace`.
    pub(in crate::k8s) fn full(&self) -> String {
        format!("{}.{}", self.name, self.namespace)
    }

    /// Who owns a database, where that is known.
    pub(in crate::k8s) fn owner_of(&self, database: &str) -> Option<&str> {
        self.owned.iter().find(|owned| owned.database == database).map(|owned| owned.owner.as_str())
    }

    pub(in crate::k8s) fn is_fenced(&self, pod: &str) -> bool {
        self.fenced.iter().any(|fenced| fenced == "*" || fenced == pod)
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
