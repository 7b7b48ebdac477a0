//! What the log says about a session: a line where it opens, one where it ends, or one where it is refused.

use tokio::time::Instant;
use tracing::info;

use super::{client::Peer, connect::Wanted, refusal::Refusal, registry::SessionId};
use crate::{auth::Authenticated, error::printable, pg::startup::Startup, upstream::Upstream};

/// What is known of a session before its server is.
pub(super) struct About {
    pub(super) id: SessionId,
    pub(super) peer: Peer,
    pub(super) who: Authenticated,
    pub(super) startup: Startup,
    pub(super) wanted: Wanted,
    pub(super) started: Instant,
}

impl About {
    /// The client's own name for itself, for a log line: control characters are escaped.
    fn application(&self) -> String {
        let name = self.startup.get("application_name").unwrap_or_default();
        String::from_utf8_lossy(name).escape_debug().to_string()
    }
}

pub(super) fn opened(about: &About, upstream: &Upstream, role: &str, encrypted: bool) {
    info!(
        session = %about.id, client = %about.peer, who = about.who.who(), context = upstream.cluster.context,
        target = %about.wanted.ask.target, pod = %upstream.server.name(), namespace = %upstream.server.namespace(), role,
        application = about.application(), tls = encrypted,
        seconds = about.started.elapsed().as_secs_f32(), "session opened"
    );
}

pub(super) fn ended(about: &About, upstream: &Upstream, role: &str, bytes: (u64, u64), why: &str) {
    info!(
        session = %about.id, context = upstream.cluster.context, target = %about.wanted.ask.target,
        pod = %upstream.server.name(), namespace = %upstream.server.namespace(), role, application = about.application(),
        bytes_up = bytes.0, bytes_down = bytes.1, seconds = about.started.elapsed().as_secs_f32(), why, "session ended"
    );
}

pub(super) fn refused(id: SessionId, peer: &Peer, refusal: &Refusal) {
    match refusal {
        Refusal::Server { fields, .. } => {
            let said = printable(&fields.message);
            info!(session = %id, %peer, sqlstate = fields.sqlstate, "the server refused: {said}");
        }
        Refusal::Report(report) => {
            info!(session = %id, %peer, sqlstate = %report.sqlstate, "connection refused: {}", report.message);
        }
    }
}
