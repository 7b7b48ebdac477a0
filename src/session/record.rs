//! What the audit log and the metrics say of a session: that it is to begin before the client hears so, that its server is
//! there or why not, and that it has ended.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    client::{ClientStream, Peer},
    connect::Connected,
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
    session: Session,
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
        let mut session = Session::new(id.number(), place(peer, client));
        session.identity = Some(match who.identity() {
            Identity::Local => Who::local(who.who()),
            Identity::Person(person) => Who::from(person.as_ref()),
        });
        session.database = startup.get("database").map(Text::from_bytes);
        session.application_name = startup.get("application_name").map(Text::from_bytes);
        Self { audit: audit.clone(), session, counted }
    }

    /// What the client wants, as it said it.
    pub(super) fn wants(&mut self, target: &str, reason: Option<&str>) {
        self.session.asked = Some(Text::from_bytes(target.as_bytes()));
        self.session.reason = reason.map(|reason| Text::from_bytes(reason.as_bytes()));
    }

    /// Before the client hears AuthenticationOk.
    ///
    /// # Errors
    /// Where it cannot be written, and then nobody is let in.
    pub(super) async fn start(&self, on_failure: OnFailure) -> Result<(), Report> {
        if !self.audit.is_on() {
            return Ok(());
        }
        let began = Instant::now();
        let Err(blocked) = self.audit.record(Event::Start(Arc::new(self.session.clone()))).await else {
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
        if self.audit.is_on() {
            let (sqlstate, message) = refusal.words();
            let mut session = self.session.clone();
            if let Refusal::Denied { rule: Some(rule), .. } = refusal {
                session.rule = Some(Text::from_bytes(rule.to_string().as_bytes()));
            }
            self.audit.note(Event::Denied {
                session: Arc::new(session),
                sqlstate: sqlstate.to_owned(),
                message: Some(Text::from_bytes(message.as_bytes())),
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
        let mut session = self.session.clone();
        session.target = Some(Target::from(&connected.upstream));
        session.role = Some(Text::from_bytes(connected.login.user.as_bytes()));
        session.database = Some(Text::from_bytes(database));
        session.rule = connected.grant.rule.map(|rule| Text::from_bytes(rule.to_string().as_bytes()));
        let backend_pid = connected.key.as_ref().map(|key| key.pid);
        let (audit, metrics) = (self.audit.clone(), self.counted.metrics.clone());
        let opened = Opened { audit, metrics, session: Arc::new(session), backend_pid };
        opened.audit.note(Event::Ready { session: Arc::clone(&opened.session), backend_pid });
        opened
    }
}

/// A session that has its server.
#[derive(Clone)]
pub(super) struct Opened {
    audit: Audit,
    metrics: Metrics,
    session: Arc<Session>,
    backend_pid: Option<i32>,
}

impl Opened {
    /// Somebody who has its key wants its query cancelled.
    pub(super) fn cancelled_by(&self, client: &ClientStream, peer: &Peer) {
        self.audit.note(Event::Cancel {
            session: Arc::clone(&self.session),
            backend_pid: self.backend_pid.unwrap_or_default(),
            client: place(peer, client),
        });
    }

    /// `said` is the code that the client was sent, where we have ended it.
    pub(super) fn ended(&self, bytes: (u64, u64), end: &'static str, said: Option<SqlState>) {
        self.metrics.bytes(bytes.0, bytes.1);
        let (session, backend_pid) = (Arc::clone(&self.session), self.backend_pid);
        let sqlstate = said.map(|code| code.to_string());
        self.audit.note(Event::End { session, backend_pid, bytes, end, sqlstate });
    }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("session", &self.session.id).finish_non_exhaustive()
    }
}

/// Where a client is.
fn place(peer: &Peer, client: &ClientStream) -> Client {
    let mut place = peer.client().map_or_else(Client::unix, Client::tcp);
    place.via = peer.via();
    place.tls = client.tls_version();
    place
}
