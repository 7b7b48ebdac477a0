//! The listener for probes and scrapes: what its answers are made of.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
};

use anyhow::Context as _;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::{
    admin::http::{Check, Endpoints, Phase, serve},
    audit::Audit,
    metrics::Metrics,
    session::{Sessions, phase},
};

/// A listener that nobody answers on yet.
pub(super) struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

impl Bound {
    /// Listens on this address.
    ///
    /// # Errors
    /// Where that is taken, or none of the machine's.
    pub(super) fn new(address: SocketAddr) -> anyhow::Result<Self> {
        let bind = || -> io::Result<Self> {
            let listener = StdListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            Ok(Self { address: listener.local_addr()?, listener })
        };
        bind().with_context(|| format!("http.listen: cannot listen on {address}"))
    }

    /// Answers from now on.
    pub(super) fn answer(self, endpoints: Endpoints) -> Answering {
        let mut task = JoinSet::new();
        task.spawn(serve(self.listener, Arc::new(endpoints)));
        Answering { address: self.address, _task: task }
    }
}

/// The same, answering until it is dropped: during the drain, too.
pub(super) struct Answering {
    address: SocketAddr,
    _task: JoinSet<()>,
}

impl Answering {
    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// What it answers. `accepts` is whether clients are served yet.
pub(super) fn endpoints(
    (accepts, phase): (watch::Receiver<bool>, watch::Receiver<phase::Phase>),
    audit: Audit,
    metrics: Metrics,
    sessions: Arc<Sessions>,
) -> Endpoints {
    let phase = move || match (*accepts.borrow(), *phase.borrow()) {
        (false, _) => Phase::Starting,
        (true, phase::Phase::Serving) => Phase::Serving,
        (true, phase::Phase::Draining { .. }) => Phase::Draining,
    };
    let audit: Check = Box::new(move || (!audit.healthy()).then(|| "the audit log cannot be written".to_owned()));
    let metrics = move || {
        sessions.measure();
        metrics.encode()
    };
    Endpoints { phase: Box::new(phase), checks: vec![audit], metrics: Box::new(metrics) }
}
