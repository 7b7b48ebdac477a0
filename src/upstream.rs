//! The seam between PostgreSQL and Kubernetes.
//!
//! `session` asks through these traits, `k8s` answers; neither knows the other. Every call carries an [`Ask`].
//! The order of calls for one connection: [`Directory::resolve`] (which pod), then [`Credentials::login`] and
//! [`Dial::dial`] concurrently (who we are there, and a byte stream to it).

use std::{fmt, io, ops::RangeInclusive, sync::Arc};

use async_trait::async_trait;
use secrecy::SecretString;
use tokio::{
    io::{AsyncBufRead, AsyncWrite},
    sync::watch,
    time::Instant,
};

use crate::error::Report;

/// On whose behalf Kubernetes is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The person who runs pgferry: the kubeconfig's own user.
    Local,
    /// A reviewed Kubernetes user, impersonated in every request (bastion mode).
    Impersonated {
        /// The user's name, as TokenReview gave it.
        user: String,
        /// The user's groups.
        groups: Vec<String>,
    },
}

/// Which server of a cluster is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The primary.
    #[default]
    Rw,
    /// A replica.
    Ro,
    /// Any server that answers.
    Any,
}

impl Mode {
    /// As it is written behind the colon of a target.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rw => "rw",
            Self::Ro => "ro",
            Self::Any => "any",
        }
    }
}

/// `cluster["."namespace]["@"context][":"mode]`, taken apart as far as that needs no look at Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// `cluster` or `cluster.namespace`, undivided: both may hold dots as written, so only the directory, which
    /// knows what exists, can divide it (the longest known reading wins).
    pub name: String,
    /// The context, where one was named.
    pub context: Option<String>,
    /// The server that is wanted.
    pub mode: Mode,
    /// The system whose cluster is meant, where the configuration says: a name means the highest reading otherwise.
    pub system: Option<String>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(context) = &self.context {
            write!(f, "@{context}")?;
        }
        if self.mode != Mode::Rw {
            write!(f, ":{}", self.mode.as_str())?;
        }
        Ok(())
    }
}

/// Which login is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The cluster's default application login.
    Default,
    /// This role; its credential must be in the cluster's Secrets.
    Named(String),
}

/// Says what a connection is waiting for; the session turns it into a NOTICE when it takes long.
#[derive(Clone, Debug)]
pub struct Progress(Arc<watch::Sender<String>>);

impl Progress {
    /// A new line of progress, and where to read it.
    #[must_use]
    pub fn new() -> (Self, watch::Receiver<String>) {
        let (sender, receiver) = watch::channel(String::new());
        (Self(Arc::new(sender)), receiver)
    }

    /// States what is waited for now, such as `waiting for a primary of shop.prod`.
    pub fn waiting_for(&self, what: impl Into<String>) {
        let what = what.into();
        // Whoever looks again and again waits for the same thing; it is told once.
        self.0.send_if_modified(|known| {
            *known != what && {
                known.clone_from(&what);
                true
            }
        });
    }
}

/// One question, as every call across the seam carries it.
#[derive(Clone, Debug)]
pub struct Ask {
    /// On whose behalf.
    pub identity: Identity,
    /// Where to.
    pub target: Target,
    /// As whom.
    pub role: Role,
    /// Into which database; `None` is the login's default.
    pub database: Option<String>,
    /// All work for this question must have ended by then.
    pub deadline: Instant,
    /// Until when a missing primary may be waited for; never later than `deadline`.
    pub wait_until: Instant,
    /// Where to say what takes long.
    pub progress: Progress,
}

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

/// What is known about TLS on a server, before it is asked.
#[derive(Clone, Debug, Default)]
pub struct TlsFacts {
    /// How TLS is to be used.
    pub mode: TlsMode,
    /// The name that the server's certificate really carries, for `verify-full`.
    pub server_name: Option<String>,
    /// PEM certificates that the server's certificate must chain to, for `verify-ca` and `verify-full`.
    pub ca_pem: Option<Arc<[u8]>>,
    /// Who says that this CA is the right one.
    pub ca_by: CaBy,
    /// A PEM certificate chain and its private key, where the server wants a client certificate.
    pub client_identity: Option<ClientIdentity>,
}

/// Who says which CA a server's certificate chains to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CaBy {
    /// An object of the cluster: whoever runs the server may have written it, so that it proves nothing to a password.
    #[default]
    Cluster,
    /// The Secret that holds this CA, by [`Login::source`]: it speaks for its own login, and for no other.
    Secret(String),
    /// The configuration.
    Configuration,
}

/// The weakest way in which a server may ask for a password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuthMethod {
    /// SCRAM-SHA-256, with channel binding or without: the server learns nothing that logs anybody in.
    #[default]
    ScramSha256,
    /// MD5: what the server learns is enough to log in where the same password is stored as MD5.
    Md5,
    /// The password itself, inside TLS.
    Password,
    /// Nothing at all, even for a superuser whose login is written in another namespace.
    Trust,
}

/// What a server may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthFacts {
    /// The weakest way that is answered. Cleartext is also given to a server that is verified by a CA that
    /// [`CaBy`] speaks for.
    pub weakest: AuthMethod,
    /// The most rounds of SCRAM that a server may ask for.
    pub scram_iterations: u32,
}

impl AuthFacts {
    /// What is bearable: a server that means well asks for 4,096 (`scram_iterations`), and OWASP's advice of 600,000 is
    /// for hashes that nobody waits for.
    pub const MOST_ITERATIONS: u32 = 100_000;
    /// What PostgreSQL asks for, and RFC 7677 at the least: who asks for less learns what is as easily guessed as MD5.
    const LEAST_ITERATIONS: u32 = 4096;

    /// How many rounds of SCRAM a server may ask for. Where the configuration says fewer than is usual, so many.
    #[must_use]
    pub fn iterations(&self) -> RangeInclusive<u32> {
        Self::LEAST_ITERATIONS.min(self.scram_iterations)..=self.scram_iterations
    }
}

impl Default for AuthFacts {
    fn default() -> Self {
        Self { weakest: AuthMethod::default(), scram_iterations: Self::MOST_ITERATIONS }
    }
}

/// A client certificate for the server in the pod.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// PEM certificates, leaf first.
    pub certificate_pem: Arc<[u8]>,
    /// The PEM private key.
    pub key_pem: SecretString,
}

/// How TLS is used towards the server in the pod; libpq's `sslmode`, where the stream is already encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Never TLS.
    Disable,
    /// Plaintext first, TLS where the server demands it (28000 "no encryption", or a cleartext password).
    #[default]
    Allow,
    /// TLS where the server has it, plaintext otherwise: for streams that nothing else encrypts.
    Prefer,
    /// TLS only, unverified.
    Require,
    /// TLS only; the certificate chains to the CA.
    VerifyCa,
    /// TLS only; the certificate chains to the CA and carries the server's name.
    VerifyFull,
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

/// A login for a server.
#[derive(Clone, Debug)]
pub struct Login {
    /// The role's name, as the Secret's key gives it.
    pub user: String,
    /// The password, where there is one.
    pub password: Option<SecretString>,
    /// The database to use where the client named none.
    pub database: String,
    /// The role is a superuser.
    pub superuser: bool,
    /// Where it comes from: `Secret prod/shop-app`. Never a value.
    pub source: String,
    /// Changes whenever the credential may have changed (a Secret's resourceVersion).
    pub version: String,
}

/// The peer is gone. Whether a close is seen as a reset is the kernel's to say: it is one where bytes were not read.
#[must_use]
pub fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// What the caller of a failed call may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Nothing: the report is final.
    No,
    /// What was resolved is stale (pod gone, connection refused): resolve again, then once more.
    Resolve,
}

/// A failed call across the seam: what the client is told, and whether a second try may help.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{report}")]
pub struct Failure {
    /// What the client is told.
    pub report: Report,
    /// What the caller may do about it.
    pub retry: Retry,
}

impl From<Report> for Failure {
    fn from(report: Report) -> Self {
        Self { report, retry: Retry::No }
    }
}

impl crate::error::ClientFacing for Failure {
    fn report(&self) -> Report {
        self.report.clone()
    }
}

/// A byte stream to a server. `AsyncBufRead` so that what has arrived can be passed on without a copy.
///
/// An end that is not the server's own (tunnel lost) is an `io::Error` that carries a [`Failure`] inside; a clean
/// EOF is the server's EOF. `poll_shutdown` ends the stream as a whole: a port-forward has no half-close. One task polls
/// it; who does not read, since its own reader takes nothing, calls `poll_flush` instead, which looks after the link.
pub trait ByteStream: AsyncBufRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncBufRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A boxed [`ByteStream`].
pub type BoxedStream = Box<dyn ByteStream>;

/// Finds clusters.
#[async_trait]
pub trait Directory: Send + Sync {
    /// Whether a context of this name (or short name) is known. Decides where `role@target` is divided.
    fn knows_context(&self, name: &str) -> bool;

    /// The server that the ask means now. Waits for a missing primary until `ask.wait_until`.
    async fn resolve(&self, ask: &Ask) -> Result<Upstream, Failure>;

    /// The same, believing nothing that is remembered: the last answer, `stale`, has just been found wrong.
    async fn resolve_again(&self, ask: &Ask, stale: &Upstream) -> Result<Upstream, Failure>;

    /// Whether the context's name means the same cluster as when this was resolved. Asks nobody: where that is not
    /// known yet, it does not.
    fn is_current(&self, upstream: &Upstream) -> bool;

    /// What can be reached.
    async fn list(&self, ask: &ListAsk) -> Result<Listing, Failure>;

    /// The server's rivals were asked, and none takes writes: it need not be asked again for a while.
    fn undisputed(&self, _ask: &Ask, _upstream: &Upstream) {}

    /// Called when a client has connected and before it has said what it wants: a chance to warm up.
    fn warm(&self) {}
}

/// Finds logins.
#[async_trait]
pub trait Credentials: Send + Sync {
    /// The login that the ask means at this server.
    async fn login(&self, ask: &Ask, upstream: &Upstream) -> Result<Login, Failure>;

    /// After the server refused `refused`: the login as it is now; where it has not changed, the one that worked
    /// before, for a new Secret reaches the server a moment later; else `None`.
    async fn fresh_login(&self, ask: &Ask, upstream: &Upstream, refused: &Login) -> Result<Option<Login>, Failure>;

    /// Called when the server has taken a login.
    fn accepted(&self, _ask: &Ask, _upstream: &Upstream, _login: &Login) {}

    /// Called when the server has refused the second login as well.
    fn refused(&self, _ask: &Ask, _upstream: &Upstream, _login: &Login) {}
}

/// Opens byte streams.
#[async_trait]
pub trait Dial: Send + Sync {
    /// A new byte stream to the server.
    async fn dial(&self, identity: &Identity, upstream: &Upstream, deadline: Instant) -> Result<BoxedStream, Failure>;
}

/// The question behind `pgferry list`.
#[derive(Clone, Debug)]
pub struct ListAsk {
    /// On whose behalf.
    pub identity: Identity,
    /// The context; `None` is the default one.
    pub context: Option<String>,
    /// One namespace, or all that may be listed.
    pub namespace: Option<String>,
    /// All work must have ended by then.
    pub deadline: Instant,
}

/// What `list` found.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The clusters, sorted by namespace and name.
    pub clusters: Vec<ClusterInfo>,
    /// What could not be looked at, and the rule that is missing.
    pub warnings: Vec<Report>,
}

/// One cluster, as `pgferry list` shows it.
#[derive(Clone, Debug)]
pub struct ClusterInfo {
    /// Its full name.
    pub id: ClusterId,
    /// The system that runs it.
    pub system: Arc<str>,
    /// The primary pod, where there is one.
    pub primary: Option<String>,
    /// Replicas that answer, and all that should.
    pub replicas: (usize, usize),
    /// Whether a login would work now.
    pub ready: bool,
    /// Where it would not, why: `hibernated`, `fenced`, `no ready primary`, ...
    pub status: String,
    /// Databases that are known.
    pub databases: Vec<String>,
    /// Roles that have a login, the default one first.
    pub roles: Vec<String>,
    /// Further logins there, each by a name of its own.
    pub logins: Vec<NamedLogin>,
}

/// A login that has a name of its own, which may be typed for the cluster's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedLogin {
    /// What to type.
    pub name: String,
    /// Who one is then.
    pub role: String,
}
