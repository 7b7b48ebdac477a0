//! The limits on sessions, and that spare ones keep nobody out.

use bytes::BytesMut;
use tokio::sync::watch;
use tracing::debug;

use super::{
    Sessions, Waited,
    connect::{Connected, Refusal, Wanted},
    registry::{Permit, SessionId},
    reply::Reply,
    spare::{Likeness, Yielded},
};
use crate::error::{Report, SqlState};

impl Sessions {
    /// A place among the sessions, and perhaps the session itself. A spare one never keeps a client out: it goes to who
    /// is like it, or ends for who is not.
    pub(super) async fn admit(&self, likeness: Option<&Likeness>) -> Result<(Permit, Option<Box<Connected>>), Report> {
        let Some(spares) = &self.spares else {
            return Ok((self.registry.admit()?, None));
        };
        if let Some(likeness) = likeness
            && let Some(given) = spares.take(likeness).await
        {
            return Ok(given.parts());
        }
        loop {
            let full = match self.registry.admit() {
                Ok(permit) => return Ok((permit, None)),
                Err(full) => full,
            };
            match spares.yield_one(likeness).await {
                Yielded::Given(given) => return Ok(given.parts()),
                Yielded::Ended => {}
                Yielded::None => return Err(full),
            }
        }
    }

    /// Waits for the server; once more where spare sessions have taken its last place.
    pub(super) async fn connected(
        &self,
        id: SessionId,
        wanted: &Wanted,
        progress: watch::Receiver<String>,
        reply: &mut Reply,
        early: &mut BytesMut,
    ) -> Waited {
        let outcome = self.await_server(id, wanted, progress.clone(), reply, early).await;
        if let Waited::Refused(refusal) = &outcome
            && refusal.is_too_many()
            && let Some(spares) = &self.spares
            && spares.end_all().await > 0
        {
            debug!(session = %id, "spare sessions ended for a client");
            return self.await_server(id, wanted, progress, reply, early).await;
        }
        outcome
    }
}

impl Refusal {
    /// A limit on connections is reached: a server's, or ours on one cluster.
    fn is_too_many(&self) -> bool {
        match self {
            Self::Server { fields, .. } => fields.sqlstate == SqlState::TOO_MANY_CONNECTIONS.as_str(),
            Self::Report(report) => report.sqlstate == SqlState::TOO_MANY_CONNECTIONS,
        }
    }
}
