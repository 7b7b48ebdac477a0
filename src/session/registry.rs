//! The sessions that are open: for cancel requests, for the limit on connections, and for listing.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::watch;

use super::{
    record::Opened,
    tally::{Place, Tally},
};
use crate::{
    error::{Report, SqlState},
    pg::cancel::CancelKey,
    upstream::{ClusterId, Upstream},
};

/// Numbers a session within this process; shown in logs and in reports of our own bugs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(u64);

impl SessionId {
    /// The number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A session that a cancel request can be meant for.
#[derive(Debug)]
pub struct Live {
    /// The key that the server gave to the client.
    pub key: CancelKey,
    /// Where the server is.
    pub upstream: Upstream,
    /// What is kept of it.
    pub(super) record: Opened,
    /// Whether the session's own stream is TLS inside the tunnel; a cancel request goes the same way.
    pub encrypted: bool,
    /// Counts the 57014 errors that the session has shown.
    pub cancelled: Arc<watch::Sender<u64>>,
}

/// How many sessions there may be at a time; cancel requests do not count.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// In all.
    pub all: usize,
    /// To one cluster; `None` leaves that to its server.
    pub cluster: Option<usize>,
}

/// All open sessions.
#[derive(Debug)]
pub struct Registry {
    limits: Limits,
    /// Sessions of each cluster that has any, from the moment its server is dialled.
    clusters: Tally<ClusterId>,
    open: AtomicUsize,
    next: AtomicU64,
    live: Mutex<HashMap<SessionId, Arc<Live>>>,
}

impl Registry {
    /// With these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            clusters: Tally::default(),
            open: AtomicUsize::new(0),
            next: AtomicU64::new(1),
            live: Mutex::default(),
        })
    }

    /// The number of the next session.
    pub fn next_id(&self) -> SessionId {
        SessionId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Sessions that are admitted now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// How many more may be.
    pub fn remaining(&self) -> usize {
        self.limits.all.saturating_sub(self.open())
    }

    /// Counts a session in, until the permit is dropped.
    ///
    /// # Errors
    /// 53300 where the limit is reached.
    pub fn admit(self: &Arc<Self>) -> Result<Permit, Report> {
        // Never above the limit, not for a moment: who is refused must keep nobody else out.
        let next = |open: usize| (open < self.limits.all).then_some(open + 1);
        if self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_err() {
            return Err(Report::fatal(
                SqlState::TOO_MANY_CONNECTIONS,
                format!("pgferry serves {} connections already, its limit", self.limits.all),
            )
            .hint("Close some, or raise sessions.max_connections (PGFERRY__SESSIONS__MAX_CONNECTIONS)"));
        }
        Ok(Permit(Arc::clone(self)))
    }

    /// Counts a session of a cluster in, until the place is dropped.
    ///
    /// # Errors
    /// 53300 where the cluster's limit is reached.
    pub fn place(&self, cluster: &ClusterId) -> Result<Place<ClusterId>, Report> {
        let limit = self.limits.cluster;
        self.clusters.enter(cluster.clone(), limit).ok_or_else(|| {
            let limit = limit.unwrap_or_default();
            Report::fatal(
                SqlState::TOO_MANY_CONNECTIONS,
                format!("pgferry serves {limit} connections to {cluster} already, the limit of one cluster"),
            )
            .hint("Close some, or raise sessions.max_per_cluster (PGFERRY__SESSIONS__MAX_PER_CLUSTER)")
        })
    }

    /// Makes a session known to cancel requests, until the guard is dropped.
    pub fn register(self: &Arc<Self>, id: SessionId, live: Live) -> Registered {
        let live = Arc::new(live);
        self.lock().insert(id, Arc::clone(&live));
        Registered { registry: Arc::clone(self), id, live }
    }

    /// The session that the key belongs to. Every key is compared, and in constant time.
    pub fn find(&self, key: &CancelKey) -> Option<Arc<Live>> {
        self.lock().values().fold(None, |found, live| if live.key == *key { Some(Arc::clone(live)) } else { found })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Live>>> {
        // A panic while the map was held leaves it whole: every change is one insert or remove.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a session out when dropped.
#[derive(Debug)]
pub struct Permit(Arc<Registry>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps a session known to cancel requests.
#[derive(Debug)]
pub struct Registered {
    registry: Arc<Registry>,
    id: SessionId,
    live: Arc<Live>,
}

impl Registered {
    /// The session as cancel requests see it.
    #[must_use]
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.id);
    }
}
