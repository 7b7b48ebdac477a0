//! A cluster's server, resolved.

use std::{fmt, sync::Arc};

use tokio::sync::watch;

use super::{
    ask::Mode,
    login::{AuthFacts, TlsFacts},
};

/// A cluster's full name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId {
    /// The context's name (its short name, where the configuration gives one).
    pub context: String,
    /// The namespace.
    pub namespace: String,
    /// The cluster's own name.
    pub name: String,
    /// The system that runs it: two may have clusters of one name in a namespace.
    pub system: Arc<str>,
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@{}", self.name, self.namespace, self.context)
    }
}

/// A pod, exactly: names come back after a failover, uids do not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodId {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Server {
    /// In a pod.
    Pod(PodId),
    /// Outside Kubernetes.
    External {
        /// A name or an address.
        host: String,
        /// Whether there are others, one of which may do.
        others: bool,
    },
}

impl Server {
    /// The pod's name, or the host.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Pod(pod) => &pod.name,
            Self::External { host, .. } => host,
        }
    }

    /// The pod's namespace; empty outside.
    #[must_use]
    pub fn namespace(&self) -> &str {
        match self {
            Self::Pod(pod) => &pod.namespace,
            Self::External { .. } => "",
        }
    }

    /// How to read what it logged.
    #[must_use]
    pub fn logs(&self) -> String {
        match self {
            Self::Pod(pod) => format!("kubectl logs -n {} {}", pod.namespace, pod.name),
            Self::External { host, .. } => format!("the log of {host}"),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) => write!(f, "pod {}", pod.name),
            Self::External { host, .. } => write!(f, "host {host}"),
        }
    }
}

/// Why a server is no longer the one that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The pod is being deleted, or is gone.
    Deleted,
    /// The pod is no longer the primary.
    Demoted,
    /// The pod is fenced: its server is stopped on purpose.
    Fenced,
}

impl Lost {
    /// For a log line, and for the sentence "pod NAME ...".
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "is being deleted",
            Self::Demoted => "is no longer the primary",
            Self::Fenced => "is fenced",
        }
    }
}

/// One server of a cluster, resolved.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The cluster.
    pub cluster: ClusterId,
    /// What owns the server besides, where the name means an object that leads into another's pods: who may use that
    /// object may not therefore use the server.
    pub owners: Vec<ClusterId>,
    /// Which of the clusters that the context's name has meant it is in: a kubeconfig may be replaced.
    pub meaning: u64,
    /// Which of the Kubernetes credentials that the context has had it was found with: what one may see another may not.
    pub credential: u64,
    /// The system that runs it, as `pgferry list` prints it (`cloudnative-pg`, ...).
    pub system: Arc<str>,
    /// Where it is.
    pub server: Server,
    /// PostgreSQL's port there.
    pub port: u16,
    /// What was asked for.
    pub mode: Mode,
    /// A standby cluster: its primary is read-only, and that is no mistake.
    pub standby_cluster: bool,
    /// A pooler answers there, not PostgreSQL itself.
    pub pooled: bool,
    /// Servers beside it of which nothing says that they are not the primary, too: they are asked.
    pub rivals: Vec<Server>,
    /// What is known about TLS.
    pub tls: TlsFacts,
    /// How it may ask for a password.
    pub auth: AuthFacts,
    /// Says when this server is lost to sessions that asked for it. Confirmed, never a flapping label.
    pub lost: watch::Receiver<Option<Lost>>,
}

#[cfg(test)]
impl Upstream {
    /// The cluster `shop` in namespace `prod`, for tests that ask about something else.
    pub(crate) fn example(server: Server) -> Self {
        let cluster = ClusterId {
            context: "fake".to_owned(),
            namespace: "prod".to_owned(),
            name: "shop".to_owned(),
            system: "cloudnative-pg".into(),
        };
        Self {
            system: Arc::clone(&cluster.system),
            cluster,
            owners: Vec::new(),
            meaning: 1,
            credential: 1,
            server,
            port: 5432,
            mode: Mode::Rw,
            standby_cluster: false,
            pooled: false,
            rivals: Vec::new(),
            tls: TlsFacts::default(),
            auth: AuthFacts::default(),
            lost: watch::channel(None).1,
        }
    }
}
