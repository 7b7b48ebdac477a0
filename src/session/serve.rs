//! One client connection from its first byte to its last, one struct a state:
//! Greeted (said what it wants), Authenticated, Connected (the server has said ReadyForQuery), Piping.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tracing::{debug, warn};

use super::{
    Sessions,
    await_server::Waited,
    cancel,
    client::{Accepted, ClientStream, Peer},
    connect::Wanted,
    count::Counted,
    handshake::{Greeted, Greeting},
    log::About,
    meet::Welcome,
    phase::{Phase, draining},
    record::Record,
    refusal::Refusal,
    registry::SessionId,
    reply::Reply,
    route::{NoRoute, REASON_OPTION, Route, is_replication, only, route},
    spare::Likeness,
    target::parse_target,
};
use crate::{
    auth::Authenticated,
    error::Report,
    pg::{cancel::CancelKey, options::Own, startup::Startup},
    upstream::{Ask, Identity, ListAsk, Progress, Target},
};

impl Sessions {
    /// Serves one connection to its end. `place` is dropped when the client has said what it wants, and who it is: it is one
    /// among the connections that have not.
    pub async fn serve<P: Send>(&self, id: SessionId, welcome: Welcome, place: P) {
        let deadline = Instant::now() + self.params.startup_deadline;
        let Some(welcome) = self.announced(id, welcome, deadline).await else { return };
        let Welcome { accepted: Accepted { socket, peer, bound }, who, one_of } = welcome;
        let place = (place, one_of);
        if who.is_some() {
            // For nobody who may be anybody.
            self.connector.directory.warm();
        }
        let mut counted = Counted::new(&self.metrics);
        match self.greeted(id, socket, &peer, deadline).await {
            // Whoever holds the key may cancel, of those who may connect at all.
            Some(Greeting::Cancel(client, key)) => {
                drop(counted);
                // Who has proved nothing keeps its place: a wrong key's answer comes late, to as many at a time.
                let place = who.is_none().then_some(place);
                let who = who.map_or_else(|| peer.counted(), |who| who.who().to_owned());
                self.cancel((id, &peer), client, &key, &who).await;
                drop(place);
            }
            Some(Greeting::Startup(greeted)) => {
                let mut greeted = Box::new(greeted);
                counted.greeted();
                let who = match (who, &self.methods) {
                    (Some(who), _) => Some(who),
                    (None, Some(methods)) => {
                        let methods = Arc::clone(&methods.borrow());
                        Box::pin(self.proved(id, &methods, &mut greeted, &peer)).await
                    }
                    (None, None) => None,
                };
                drop(place);
                if let Some(who) = who {
                    counted.connecting();
                    Box::pin(self.session((id, counted), greeted, peer, bound, who)).await;
                }
            }
            None => {}
        }
    }

    /// `who` is whose guesses are counted.
    pub(super) async fn cancel(
        &self,
        (id, peer): (SessionId, &Peer),
        mut client: ClientStream,
        key: &CancelKey,
        who: &str,
    ) {
        match self.registry.find(key) {
            None => {
                debug!(session = %id, who, "a cancel request for no session of ours");
                sleep(self.misses.note(who)).await;
            }
            Some(live) => {
                live.record.cancelled_by(&client, peer);
                if let Err(failure) = cancel::forward(self.connector.dial.as_ref(), &live).await {
                    warn!(session = %id, pod = live.upstream.server.name(), %failure, "a cancel request did not get through");
                }
            }
        }
        // The close is the answer; the client may be gone already.
        let _ = client.shutdown().await;
    }

    async fn session(
        &self,
        (id, counted): (SessionId, Counted),
        greeted: Box<Greeted>,
        peer: Peer,
        bound: Option<Target>,
        who: Authenticated,
    ) {
        let Greeted { client, mut startup, mut early } = *greeted;
        // Who had to prove something has it already.
        let negotiation = if matches!(who.identity(), Identity::Local) { startup.negotiation() } else { None };
        let mut record = Record::new(&self.audit, counted, id, (&client, &peer), &who, &startup);
        let mut reply = Reply { client, negotiation, opened: false };
        let own = startup.take_own();
        let route = match self.route((&startup, &own), bound.as_ref(), (&peer, &who)).await {
            Ok(route) => route,
            Err(report) => return refuse(reply, (id, &peer), &record, &Refusal::Report(report)).await,
        };
        let started = Instant::now();
        let (wanted, progress) = self.wanted((&peer, &who), (&startup, &own), route);
        record.wants(&wanted);
        if let Err(report) = record.start(self.params.audit_failure).await {
            return reply.refuse(id, &peer, &Refusal::Report(report)).await;
        }
        // A replication connection is one of a kind.
        let likeness = (!is_replication(&startup)).then(|| Likeness::of(&wanted));
        let (permit, spare) = match self.admit(likeness.as_ref()).await {
            Ok(admitted) => admitted,
            Err(report) => return refuse(reply, (id, &peer), &record, &Refusal::Report(report)).await,
        };
        let outcome = match spare {
            Some(connected) => {
                debug!(session = %id, "a session that was logged in ahead is taken");
                Waited::Connected(connected)
            }
            None => self.connected(id, &wanted, progress, &mut reply, &mut early).await,
        };
        let connected = match outcome {
            Waited::Connected(connected) => connected,
            Waited::Refused(refusal) => return refuse(reply, (id, &peer), &record, &refusal).await,
            Waited::ClientGone => {
                record.gave_up();
                return debug!(session = %id, %peer, "the client left while connecting");
            }
        };
        if let (Some(spares), Some(likeness)) = (&self.spares, likeness) {
            spares.prepare(likeness, &wanted, &self.connector, &self.registry);
        }
        let about = About { id, peer, who, startup, wanted, started, record };
        self.run_established(about, reply, connected, early).await;
        drop(permit);
    }

    /// Where to go.
    async fn route(
        &self,
        (startup, own): (&Startup, &Own),
        bound: Option<&Target>,
        (peer, who): (&Peer, &Authenticated),
    ) -> Result<Route, Report> {
        if let Phase::Draining { .. } = *self.phase.borrow() {
            return Err(draining());
        }
        let (directory, names) = (&self.connector.directory, &self.params.names);
        let NoRoute { error, form } = match route(startup, own, bound, names, &|name| directory.knows_context(name)) {
            Ok(route) => return Ok(route),
            Err(no) => no,
        };
        // What there is, a person hears of what that person may have alone.
        let clusters = match who.identity() {
            Identity::Local if error.wants_clusters() => self.clusters(who).await,
            _ => Vec::new(),
        };
        if let [cluster] = clusters.as_slice()
            && names.single
            && let Ok(target) = parse_target(cluster)
        {
            return Ok(only(startup, target, names));
        }
        Err(error.report(&peer.conninfo(form), &clusters))
    }

    /// The clusters that a client who named none can be told; none where they cannot be had in time.
    async fn clusters(&self, who: &Authenticated) -> Vec<String> {
        /// Tools open `postgres` first and ask what to do later: nobody waits long for a better error.
        const PATIENCE: Duration = Duration::from_secs(5);
        let deadline = Instant::now() + PATIENCE.min(self.params.connect_timeout);
        let ask = ListAsk { identity: who.identity().clone(), context: None, namespace: None, deadline };
        let listing = timeout_at(deadline, self.connector.directory.list(&ask)).await;
        let clusters = listing.ok().and_then(Result::ok).unwrap_or_default().clusters;
        clusters.iter().map(|cluster| format!("{}.{}", cluster.id.name, cluster.id.namespace)).collect()
    }

    fn wanted(
        &self,
        (peer, who): (&Peer, &Authenticated),
        (startup, own): (&Startup, &Own),
        route: Route,
    ) -> (Wanted, watch::Receiver<String>) {
        let (progress, waiting) = Progress::new();
        let now = Instant::now();
        let ask = Ask {
            identity: who.identity().clone(),
            target: route.target,
            role: route.role,
            database: route.database.as_ref().map(|name| String::from_utf8_lossy(name).into_owned()),
            deadline: now + self.params.connect_timeout,
            wait_until: now + self.params.primary_wait.min(self.params.connect_timeout),
            progress,
            conninfo: peer.conninfo(route.form),
        };
        let startup = startup.clone();
        let reason = own.get(REASON_OPTION).map(|reason| String::from_utf8_lossy(reason).into_owned());
        let reason = reason.filter(|reason| !reason.trim().is_empty());
        (Wanted { ask, startup, database: route.database, otherwise: route.otherwise, reason }, waiting)
    }
}

/// Ends a connection that never got its server, for the client, the audit log and the metrics.
async fn refuse(reply: Reply, (id, peer): (SessionId, &Peer), record: &Record, refusal: &Refusal) {
    record.denied(refusal);
    reply.refuse(id, peer, refusal).await;
}
