//! Clients and their sessions, from the first byte to the last. This file holds what all of them share; `serve` leads
//! one through its states.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    audit::Audit,
    auth::{client::Methods, peer::AllowedUids},
    metrics::Metrics,
    tls::accept::Acceptor,
    upstream::{Credentials, Dial, Directory, Review},
};

mod activity;
mod admit;
mod announced;
mod await_server;
mod backoff;
mod cancel;
pub mod client;
mod connect;
mod count;
mod ending;
mod established;
mod goodbye;
mod handshake;
mod log;
pub mod meet;
mod misses;
pub mod network;
pub mod permit;
pub mod phase;
mod pipe;
mod prove;
pub mod proxy_header;
mod record;
mod refusal;
pub mod registry;
mod reply;
pub mod route;
mod route_error;
mod serve;
mod spare;
mod tally;
pub mod target;

use connect::Connector;
use misses::Misses;
use network::Network;
use permit::{PermitParams, Permits};
use phase::Phase;
pub use record::OnFailure;
use registry::{Registry, SessionId};
use route::Names;
use spare::Spares;
use tally::Tally;

/// The settings of sessions.
#[derive(Clone, Debug)]
pub struct Params {
    /// From accept to a complete startup packet, TLS included.
    pub startup_deadline: Duration,
    /// Where load balancers connect from, which say first where their client is; only where clients prove who they are.
    pub proxies: Vec<Network>,
    /// Connections at a time from one address that have not proved who they are yet, where they must.
    pub max_unproved: usize,
    /// From the startup packet to the server's first ReadyForQuery.
    pub connect_timeout: Duration,
    /// How long a missing primary is waited for, within `connect_timeout`.
    pub primary_wait: Duration,
    /// How long a busy session may keep a server that is lost.
    pub failover_grace: Duration,
    /// How long one session more waits for the next client that is like the last; nothing: there is none.
    pub spare: Duration,
    /// The configured part of naming.
    pub names: Names,
    /// Who may connect where.
    pub permits: PermitParams,
    /// Whether somebody is let in of whom nothing can be kept.
    pub audit_failure: OnFailure,
}

/// What sessions are made of.
pub struct Parts {
    /// Finds clusters.
    pub directory: Arc<dyn Directory>,
    /// Finds logins.
    pub credentials: Arc<dyn Credentials>,
    /// Opens streams.
    pub dial: Arc<dyn Dial>,
    /// Knows what people may.
    pub review: Arc<dyn Review>,
    /// Accepts TLS from clients, where it is on.
    pub acceptor: Option<Acceptor>,
    /// Who may connect over loopback and Unix sockets, where nobody has to prove anything.
    pub allowed: AllowedUids,
    /// What is kept of sessions.
    pub audit: Audit,
    /// What is counted of them.
    pub metrics: Metrics,
    /// How clients prove who they are; `None`: the system says it.
    pub methods: Option<Methods>,
    /// The settings.
    pub params: Params,
    /// The open sessions.
    pub registry: Arc<Registry>,
    /// Whether the process serves.
    pub phase: watch::Receiver<Phase>,
}

/// Serves clients. One value for all of them.
pub struct Sessions {
    connector: Arc<Connector>,
    spares: Option<Arc<Spares>>,
    misses: Misses,
    /// Who has not proved anything yet.
    unproved: Tally<String>,
    /// Proofs that did not hold.
    failures: Misses,
    methods: Option<watch::Sender<Arc<Methods>>>,
    audit: Audit,
    metrics: Metrics,
    acceptor: Option<Acceptor>,
    allowed: AllowedUids,
    params: Params,
    registry: Arc<Registry>,
    phase: watch::Receiver<Phase>,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("params", &self.params).finish_non_exhaustive()
    }
}

impl Sessions {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            connector: Arc::new(Connector::new(
                parts.directory,
                parts.credentials,
                parts.dial,
                (Arc::clone(&parts.registry), Permits::new(parts.review, parts.params.permits.clone())),
                parts.metrics.clone(),
            )),
            spares: Spares::new(parts.params.spare, parts.phase.clone()),
            misses: Misses::new(cancel::FREE, cancel::COSTS),
            failures: Misses::new(prove::FREE, prove::COSTS),
            unproved: Tally::default(),
            methods: parts.methods.map(|methods| watch::Sender::new(Arc::new(methods))),
            audit: parts.audit,
            metrics: parts.metrics,
            acceptor: parts.acceptor,
            allowed: parts.allowed,
            params: parts.params,
            registry: parts.registry,
            phase: parts.phase,
        })
    }

    /// Other ways to prove who one is, and other rules: for who comes from now on, and sessions that are no longer allowed end.
    /// Whether a proof is asked for at all stays as it was.
    pub fn replace(&self, methods: Option<Methods>, permits: PermitParams) {
        if let (Some(current), Some(mut methods)) = (&self.methods, methods) {
            current.send_modify(|current| {
                methods.resemble(current);
                *current = Arc::new(methods);
            });
        }
        self.connector.permits.replace(permits);
    }

    /// The number that the next session's log lines carry.
    #[must_use]
    pub fn next_id(&self) -> SessionId {
        self.registry.next_id()
    }

    /// Counts what is as it is whenever somebody looks: what is left of the limit, and how long the certificate is good.
    pub fn measure(&self) {
        self.metrics.limit("max_connections", self.registry.remaining());
        if let Some(until) = self.acceptor.as_ref().and_then(Acceptor::good_until) {
            self.metrics.certificate("listener", until);
        }
    }
}
