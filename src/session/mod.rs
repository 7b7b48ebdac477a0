//! One client connection from its first byte to its last, one struct a state:
//! Greeted (said what it wants), Authenticated, Connected (the server has said ReadyForQuery), Piping.

use std::{fmt, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    auth::{Authenticated, peer::AllowedUids},
    error::{ClientFacing, Report, SqlState},
    pg::{options, startup::Startup},
    tls::accept::Acceptor,
    upstream::{Ask, Credentials, Dial, Directory, Mode, Progress, Target},
};

mod admit;
mod cancel;
pub mod client;
mod connect;
mod converse;
mod greet;
pub mod meet;
mod patience;
mod pipe;
pub mod registry;
mod reply;
pub mod route;
mod spare;
mod turns;

use client::{ClientStream, Peer, Socket};
use connect::{Connected, Connector, Refusal, Wanted};
use greet::{GreetError, Greeted, Greeting, greet};
use meet::Welcome;
use registry::{Registry, SessionId};
use reply::{Reply, tell};
use route::{Names, Route, is_replication, route};
use spare::{Likeness, Spares};

/// How long AuthenticationOk is held back. Errors read best before it; a person who sees nothing for longer thinks
/// that it hangs.
const HOLD: Duration = Duration::from_secs(2);

/// What a client may send before the server is ready. A well-behaved one sends nothing; a pipelining one its first
/// queries.
const MAX_EARLY: usize = 64 * 1024;

/// The settings of sessions.
#[derive(Clone, Debug)]
pub struct Params {
    /// From accept to a complete startup packet, TLS included.
    pub startup_deadline: Duration,
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
}

/// Whether the process serves, as every session sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// New sessions are welcome.
    Serving,
    /// New ones are refused, idle ones end, busy ones have until then.
    Draining {
        /// When those that are left are ended.
        until: Instant,
    },
}

/// What sessions are made of.
pub struct Parts {
    /// Finds clusters.
    pub directory: Arc<dyn Directory>,
    /// Finds logins.
    pub credentials: Arc<dyn Credentials>,
    /// Opens streams.
    pub dial: Arc<dyn Dial>,
    /// Accepts TLS from clients, where it is on.
    pub acceptor: Option<Acceptor>,
    /// Who may connect over loopback and Unix sockets.
    pub allowed: AllowedUids,
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

/// A connection as a listener accepted it.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub socket: Socket,
    /// Where it comes from.
    pub peer: Peer,
    /// The target that the listener is bound to, where it is.
    pub bound: Option<Target>,
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
                Arc::clone(&parts.registry),
            )),
            spares: Spares::new(parts.params.spare, parts.phase.clone()),
            acceptor: parts.acceptor,
            allowed: parts.allowed,
            params: parts.params,
            registry: parts.registry,
            phase: parts.phase,
        })
    }

    /// The number that the next session's log lines carry.
    #[must_use]
    pub fn next_id(&self) -> SessionId {
        self.registry.next_id()
    }

    /// Serves one connection to its end. `place` is dropped when the client has said what it wants: it is one among the
    /// connections that have not.
    pub async fn serve<P: Send>(&self, id: SessionId, welcome: Welcome, place: P) {
        let Welcome { accepted: Accepted { socket, peer, bound }, who } = welcome;
        self.connector.directory.warm();
        match self.greeted(id, socket, &peer, place).await {
            // Whoever holds the key may cancel, of those who may connect at all.
            Some(Greeting::Cancel(client, key)) => self.cancel(id, client, &key).await,
            Some(Greeting::Startup(greeted)) => {
                let greeted = Box::new(greeted);
                Box::pin(self.session(id, greeted, peer, bound, who)).await;
            }
            None => {}
        }
    }

    /// What the client wants, where it says so in time and properly. Then `place` is dropped.
    async fn greeted<P: Send>(&self, id: SessionId, socket: Socket, peer: &Peer, place: P) -> Option<Greeting> {
        let greeted = timeout(self.params.startup_deadline, greet(socket, peer, self.acceptor.as_ref())).await;
        drop(place);
        match greeted {
            Err(_) => debug!(session = %id, %peer, "no startup packet within the deadline"),
            Ok(Err(GreetError::Refused(mut client, report))) => {
                info!(session = %id, %peer, %report, "connection refused");
                tell(&mut client, &report).await;
            }
            Ok(Err(GreetError::Gone)) => debug!(session = %id, %peer, "{}", GreetError::Gone),
            Ok(Err(error)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                debug!(session = %id, %peer, %cause, "{error}");
            }
            Ok(Ok(greeting)) => return Some(greeting),
        }
        None
    }

    async fn cancel(&self, id: SessionId, mut client: ClientStream, key: &crate::pg::cancel::CancelKey) {
        match self.registry.find(key) {
            None => debug!(session = %id, "a cancel request for no session of ours"),
            Some(live) => {
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
        id: SessionId,
        greeted: Box<Greeted>,
        peer: Peer,
        bound: Option<Target>,
        who: Authenticated,
    ) {
        let Greeted { client, startup, mut early } = *greeted;
        let mut reply = Reply { client, negotiation: startup.negotiation(), opened: false };
        let route = match self.route(&startup, bound.as_ref()) {
            Ok(route) => route,
            Err(report) => return reply.refuse(id, &peer, &Refusal::Report(report)).await,
        };
        let started = Instant::now();
        let (wanted, progress) = self.wanted(&who, &startup, route);
        // A replication connection is one of a kind.
        let likeness = (!is_replication(&startup)).then(|| Likeness::of(&wanted));
        let (permit, spare) = match self.admit(likeness.as_ref()).await {
            Ok(admitted) => admitted,
            Err(report) => return reply.refuse(id, &peer, &Refusal::Report(report)).await,
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
            Waited::Refused(refusal) => return reply.refuse(id, &peer, &refusal).await,
            Waited::ClientGone => return debug!(session = %id, %peer, "the client left while connecting"),
        };
        if let (Some(spares), Some(likeness)) = (&self.spares, likeness) {
            spares.prepare(likeness, &wanted, &self.connector, &self.registry);
        }
        let about = About { id, peer, who, startup, wanted, started };
        self.converse(about, reply, connected, early).await;
        drop(permit);
    }

    /// Where to go.
    fn route(&self, startup: &Startup, bound: Option<&Target>) -> Result<Route, Report> {
        if let Phase::Draining { .. } = *self.phase.borrow() {
            return Err(draining());
        }
        let directory = &self.connector.directory;
        route(startup, bound, &self.params.names, &|name| directory.knows_context(name)).map_err(|error| error.report())
    }

    fn wanted(&self, who: &Authenticated, startup: &Startup, route: Route) -> (Wanted, watch::Receiver<String>) {
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
        };
        let mut startup = startup.clone();
        strip_own_options(&mut startup);
        (Wanted { ask, startup, database: route.database }, waiting)
    }

    /// Waits for the server, no longer than the client stays; says so when it takes long.
    async fn await_server(
        &self,
        id: SessionId,
        wanted: &Wanted,
        mut progress: watch::Receiver<String>,
        reply: &mut Reply,
        early: &mut BytesMut,
    ) -> Waited {
        let mut phase = self.phase.clone();
        let connecting = Box::pin(self.connector.connect(wanted));
        tokio::pin!(connecting);
        let hold = sleep(HOLD);
        tokio::pin!(hold);
        loop {
            let talk = tokio::select! {
                connected = &mut connecting => return match connected {
                    Ok(connected) => Waited::Connected(Box::new(connected)),
                    Err(refusal) => Waited::Refused(refusal),
                },
                () = &mut hold, if !reply.opened => true,
                changed = progress.changed(), if reply.opened => changed.is_ok(),
                read = reply.client.read_buf(early), if early.len() < MAX_EARLY => {
                    if !matches!(read, Ok(1..)) {
                        return Waited::ClientGone;
                    }
                    false
                }
                _ = phase.wait_for(|phase| *phase != Phase::Serving) => {
                    return Waited::Refused(Refusal::Report(draining()));
                }
            };
            if talk {
                let waiting = progress.borrow_and_update().clone();
                let what = if waiting.is_empty() { format!("{} to answer", wanted.ask.target) } else { waiting };
                debug!(session = %id, target = %wanted.ask.target, "waiting for {what}");
                if reply.open(&[Report::notice(format!("pgferry is waiting for {what}"))]).await.is_err() {
                    return Waited::ClientGone;
                }
            }
        }
    }
}

/// How the wait for a server ended.
enum Waited {
    Connected(Box<Connected>),
    Refused(Refusal),
    ClientGone,
}

/// What the log says about a session.
struct About {
    id: SessionId,
    peer: Peer,
    who: Authenticated,
    startup: Startup,
    wanted: Wanted,
    started: Instant,
}

impl About {
    /// The client's own name for itself, for a log line: control characters are escaped.
    fn application(&self) -> String {
        let name = self.startup.get("application_name").unwrap_or_default();
        String::from_utf8_lossy(name).escape_debug().to_string()
    }

    /// A failover ends the session: not one that streams WAL, nor one that did not care which server it got.
    fn follows_the_primary(&self) -> bool {
        self.wanted.ask.target.mode != Mode::Any && !is_replication(&self.startup)
    }
}

/// `pgferry.*` is ours alone: a server would refuse it, or keep it as a setting.
fn strip_own_options(startup: &mut Startup) {
    let Some(given) = startup.get("options") else { return };
    let (value, rest) = options::take_option(given, route::TARGET_OPTION);
    if value.is_none() {
        return;
    }
    if rest.iter().all(u8::is_ascii_whitespace) {
        startup.remove("options");
    } else {
        startup.set("options", Bytes::from(rest));
    }
}

fn draining() -> Report {
    Report::fatal(SqlState::CANNOT_CONNECT_NOW, "pgferry is shutting down").hint("Start it again with: pgferry serve")
}
