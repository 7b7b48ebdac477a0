//! The seam between PostgreSQL and Kubernetes.
//!
//! `session` asks through these traits, `k8s` answers; neither knows the other. Every call carries an [`Ask`].
//! The order of calls for one connection: [`Directory::resolve`] (which pod), then [`Credentials::login`] and
//! [`Dial::dial`] concurrently (who we are there, and a byte stream to it).

use std::{io, sync::Arc};

use async_trait::async_trait;
use secrecy::SecretString;
use tokio::{
    io::{AsyncBufRead, AsyncWrite},
    time::Instant,
};

use crate::error::Report;

mod ask;
mod conninfo;
mod login;
mod person;
mod server;

pub use ask::{Ask, Found, Identity, Mode, Progress, Role, Target};
pub use conninfo::{Conninfo, Form};
pub use login::{AuthFacts, AuthMethod, CaBy, ClientIdentity, Login, TlsFacts, TlsMode};
pub use person::{Answer, How, Person, Question, Verb};
pub use server::{ClusterId, Lost, PodId, Server, Upstream};

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

    /// The same, believing nothing that was found before `since`: the last answer, `stale`, has just been found wrong.
    /// Where a failure is [`Retry::Resolve`], it may be asked again.
    async fn resolve_again(&self, ask: &Ask, stale: &Upstream, since: Instant) -> Result<Upstream, Failure>;

    /// Whether the context's name means the same cluster as when this was resolved. Asks nobody: where that is not
    /// known yet, it does not.
    fn is_current(&self, upstream: &Upstream) -> bool;

    /// What can be reached.
    async fn list(&self, ask: &ListAsk) -> Result<Listing, Failure>;

    /// The server's rivals were asked, and none takes writes: it need not be asked again for a while.
    fn undisputed(&self, _upstream: &Upstream) {}

    /// Called when a client has connected and before it has said what it wants: a chance to warm up.
    fn warm(&self) {}
}

/// Finds logins.
#[async_trait]
pub trait Credentials: Send + Sync {
    /// The login that the ask means at this server.
    async fn login(&self, ask: &Ask, upstream: &Upstream) -> Result<Login, Failure>;

    /// As whom one would log in to this cluster, whose servers are not ready; `None` where that may come with them. Fails
    /// where the role that the ask names has no login.
    async fn check(&self, ask: &Ask, found: &Found) -> Result<Option<String>, Failure>;

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
    async fn dial(&self, upstream: &Upstream, deadline: Instant) -> Result<BoxedStream, Failure>;
}

/// Knows people: who a token belongs to, and what somebody may.
#[async_trait]
pub trait Review: Send + Sync {
    /// Whom the token belongs to; `None` where it is refused. An error where nobody can say.
    async fn person(&self, token: &SecretString, deadline: Instant) -> Result<Option<Person>, Failure>;

    /// Whether a person may do what is asked about.
    async fn may(&self, question: &Question, deadline: Instant) -> Result<Answer, Failure>;
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
