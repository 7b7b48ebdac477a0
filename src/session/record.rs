//! What the audit log and the metrics say of a session: that it is to begin before the client hears so, that its server is
//! there or why not, and that it has ended.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    client::{ClientStream, Peer},
    connect::{Connected, Wanted},
    count::Counted,
    refusal::Refusal,
    registry::SessionId,
};
use crate::{
    audit::{Audit, Client, Event, Identity as Who, Session, Target, Text},
    auth::Authenticated,
    error::{ClientFacing as _, Report, SqlState},
    metrics::{Metrics, Phase},
    pg::startup::Startup,
    upstream::Identity,
};

/// Whether somebody is let in of whom nothing can be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Nobody.
    #[default]
    Refuse,
    /// Anybody who may.
    Allow,
}

/// A session that has no server yet.
pub(super) struct Record {
    audit: Audit,
    /// Nothing where nothing is kept.
    session: Option<Session>,
    counted: Counted,
}

impl Record {
    pub(super) fn new(
        audit: &Audit,
        counted: Counted,
        id: SessionId,
        (client, peer): (&ClientStream, &Peer),
        who: &Authenticated,
        startup: &Startup,
    ) -> Self {
        let session = audit.is_on().then(|| Session {
            identity: Some(match who.identity() {
                Identity::Local => Who::local(who.who()),
                Identity::Person(person) => Who::from(person.as_ref()),
            }),
            database: startup.get("database").map(Text::from_bytes),
            application_name: startup.get("application_name").map(Text::from_bytes),
            ..Session::new(id.number(), place(peer, client))
        });
        Self { audit: audit.clone(), session, counted }
    }

    /// What the client wants, as it said it.
    pub(super) fn wants(&mut self, wanted: &Wanted) {
        if let Some(session) = &mut self.session {
            session.asked = Some(wanted.ask.target.to_string().into());
            session.reason = wanted.reason.as_deref().map(Text::from);
        }
    }

    /// Before the client hears AuthenticationOk.
    ///
    /// # Errors
    /// Where it cannot be written, and then nobody is let in.
    pub(super) async fn start(&self, on_failure: OnFailure) -> Result<(), Report> {
        let Some(session) = &self.session else { return Ok(()) };
        let began = Instant::now();
        let Err(blocked) = self.audit.record(Event::Start(Arc::new(session.clone()))).await else {
            self.counted.metrics.took(Phase::Audit, began.elapsed());
            return Ok(());
        };
        self.counted.metrics.audit_failed();
        match on_failure {
            OnFailure::Allow => Ok(()),
            OnFailure::Refuse => {
                let report = blocked.report();
                self.counted.metrics.refused(report.sqlstate.as_str());
                Err(report)
            }
        }
    }

    /// It gets no server.
    pub(super) fn denied(&self, refusal: &Refusal) {
        self.counted.refused(refusal);
        if let Some(mut session) = self.session.clone() {
            let (sqlstate, message) = refusal.words();
            if let Refusal::Denied { rule: Some(rule), .. } = refusal {
                session.rule = Some(rule.to_string().into());
            }
            self.audit.note(Event::Denied {
                session: Arc::new(session),
                sqlstate: sqlstate.to_owned(),
                message: Some(message.into()),
            });
        }
    }

    /// The client did not wait for it.
    pub(super) fn gave_up(&self) {
        self.counted.metrics.gave_up();
    }

    /// The client has the server's greeting.
    pub(super) fn connected(&self) {
        self.counted.connected();
    }

    /// The server is there.
    pub(super) fn ready(&mut self, connected: &Connected, database: &[u8]) -> Opened {
        self.counted.open();
        let session = self.session.clone().map(|session| {
            Arc::new(Session {
                target: Some(Target::from(&connected.upstream)),
                role: Some(connected.login.user.as_str().into()),
                database: Some(Text::from_bytes(database)),
                rule: connected.grant.rule.map(|rule| rule.to_string().into()),
                ..session
            })
        });
        let backend_pid = connected.key.as_ref().map(|key| key.pid);
        let (audit, metrics) = (self.audit.clone(), self.counted.metrics.clone());
        let opened = Opened { audit, metrics, session, backend_pid };
        opened.note(|session| Event::Ready { session, backend_pid });
        opened
    }
}

/// A session that has its server.
#[derive(Clone)]
pub(super) struct Opened {
    audit: Audit,
    metrics: Metrics,
    /// Nothing where nothing is kept.
    session: Option<Arc<Session>>,
    backend_pid: Option<i32>,
}

impl Opened {
    fn note(&self, event: impl FnOnce(Arc<Session>) -> Event) {
        if let Some(session) = &self.session {
            self.audit.note(event(Arc::clone(session)));
        }
    }

    /// Somebody who has its key wants its query cancelled.
    pub(super) fn cancelled_by(&self, client: &ClientStream, peer: &Peer) {
        let backend_pid = self.backend_pid.unwrap_or_default();
        self.note(|session| Event::Cancel { session, backend_pid, client: place(peer, client) });
    }

    /// `said` is the code that the client was sent, where we have ended it.
    pub(super) fn ended(&self, bytes: (u64, u64), end: &'static str, said: Option<SqlState>) {
        self.metrics.bytes(bytes.0, bytes.1);
        let (backend_pid, sqlstate) = (self.backend_pid, said.map(|code| code.to_string()));
        self.note(|session| Event::End { session, backend_pid, bytes, end, sqlstate });
    }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("backend_pid", &self.backend_pid).finish_non_exhaustive()
    }
}

/// Where a client is.
fn place(peer: &Peer, client: &ClientStream) -> Client {
    let mut place = peer.client().map_or_else(Client::unix, Client::tcp);
    place.via = peer.via();
    place.tls = client.tls_version();
    place
}
