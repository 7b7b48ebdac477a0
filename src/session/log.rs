//! What the log says about a session: a line where it opens, one where it ends, or one where it is refused. One thing has
//! one name in all of them.

use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use super::{client::Peer, connect::Wanted, record::Record, refusal::Refusal, registry::SessionId};
use crate::{
    auth::Authenticated,
    error::printable,
    pg::startup::Startup,
    upstream::{Login, Upstream},
};

/// What is known of a session before its server is.
pub(super) struct About {
    pub(super) id: SessionId,
    pub(super) peer: Peer,
    pub(super) who: Authenticated,
    pub(super) startup: Startup,
    pub(super) wanted: Wanted,
    pub(super) started: Instant,
    pub(super) record: Record,
}

impl About {
    /// The client's own name for itself.
    fn application(&self) -> String {
        escaped(self.startup.get("application_name").unwrap_or_default())
    }
}

/// Who is logged in where.
pub(super) struct LoggedIn<'a> {
    about: &'a About,
    upstream: &'a Upstream,
    role: String,
    database: String,
}

impl<'a> LoggedIn<'a> {
    pub(super) fn new(about: &'a About, upstream: &'a Upstream, login: &Login) -> Self {
        let database = about.wanted.database.as_deref().unwrap_or(login.database.as_bytes());
        Self { about, upstream, role: login.user.clone(), database: escaped(database) }
    }

    pub(super) fn opened(&self, encrypted: bool) {
        let Self { about, upstream, role, database } = self;
        info!(
            session = %about.id, peer = %about.peer, who = about.who.who(), context = upstream.cluster.context,
            target = %about.wanted.ask.target, pod = %upstream.server.name(), namespace = %upstream.server.namespace(),
            role, database, application = about.application(), tls = encrypted, seconds = seconds(about.started.elapsed()),
            "session opened"
        );
    }

    pub(super) fn ended(&self, bytes: (u64, u64), why: &str) {
        let Self { about, upstream, role, database } = self;
        info!(
            session = %about.id, peer = %about.peer, context = upstream.cluster.context,
            target = %about.wanted.ask.target, pod = %upstream.server.name(), namespace = %upstream.server.namespace(),
            role, database, application = about.application(), bytes_up = bytes.0, bytes_down = bytes.1,
            seconds = seconds(about.started.elapsed()), why, "session ended"
        );
    }
}

pub(super) fn refused(id: SessionId, peer: &Peer, refusal: &Refusal) {
    match refusal {
        Refusal::Server { fields, .. } => {
            let said = printable(&fields.message);
            info!(session = %id, %peer, sqlstate = fields.sqlstate, "the server refused: {said}");
        }
        Refusal::Report(report) | Refusal::Denied { report, .. } => {
            info!(session = %id, %peer, sqlstate = %report.sqlstate, "connection refused: {}", report.message);
        }
    }
}

/// With three decimals: a person reads it, and a microsecond more is noise.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// A client's bytes, for a line of text.
pub(super) fn escaped(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_three_decimals() {
        for (micros, shown) in [(0, "0.0"), (123_456, "0.123"), (1_999_999, "2.0"), (4_350_400_000, "4350.4")] {
            assert_eq!(format!("{:?}", seconds(Duration::from_micros(micros))), shown);
        }
        let month = Duration::from_hours(24 * 31) + Duration::from_micros(78_900);
        assert_eq!(format!("{:?}", seconds(month)), "2678400.079");
    }
}
