//! A client that nobody else vouches for proves who it is, before anything is done for it.

use std::time::Duration;

use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, sleep, timeout_at},
};
use tracing::{debug, info};

use super::{Sessions, client::Peer, handshake::Greeted, log::escaped, registry::SessionId, reply::tell};
use crate::{
    auth::{
        Authenticated,
        client::{Claim, ClientError, Methods, ProveError},
    },
    error::ClientFacing as _,
    metrics::{Phase, Proof},
    upstream::How,
};

/// Whoever guesses gets so many tries a minute for nothing...
pub(super) const FREE: usize = 5;
/// ...and then hears each answer so much later. A proof that holds is never late.
pub(super) const COSTS: Duration = Duration::from_secs(1);

impl Sessions {
    /// Who the client is. Where it does not prove it in time, it hears so, and `None` is left.
    pub(super) async fn proved(
        &self,
        id: SessionId,
        methods: &Methods,
        greeted: &mut Greeted,
        peer: &Peer,
    ) -> Option<Authenticated> {
        let user = String::from_utf8_lossy(greeted.startup.get("user").unwrap_or_default()).into_owned();
        let method = methods.asks(&user, greeted.client.certificate().is_some()).map_or("none", How::as_str);
        let deadline = Instant::now() + self.params.startup_deadline;
        let proving = self.metrics.timed(Phase::Authenticate, prove(methods, greeted, (&user, deadline)));
        let error = match timeout_at(deadline, proving).await {
            Ok(Ok(who)) => {
                self.metrics.proof(method, Proof::Accepted);
                return Some(who);
            }
            Ok(Err(error)) => error,
            Err(_) => {
                self.metrics.gave_up();
                debug!(session = %id, %peer, "no proof within the deadline");
                return None;
            }
        };
        if let ProveError::Client(error) = &error
            && error.is_end()
        {
            self.metrics.gave_up();
            debug!(session = %id, %peer, "{error}");
            return None;
        }
        let cause = match &error {
            ProveError::NoAnswer(failure) => failure.to_string(),
            _ => String::new(),
        };
        let report = error.report();
        let unavailable = matches!(error, ProveError::NoAnswer(_));
        self.metrics.proof(method, if unavailable { Proof::Unavailable } else { Proof::Refused });
        self.metrics.refused(report.sqlstate.as_str());
        let user = escaped(user.as_bytes());
        info!(session = %id, %peer, user, cause, sqlstate = %report.sqlstate, "login refused: {error}");
        if error.is_guess() {
            if let Some(client) = peer.client() {
                self.audit.login_failed(client.ip(), method, Some(&user));
            }
            let by_address = self.failures.note(&peer.counted());
            let by_name = self.failures.note(&format!("user {user}"));
            sleep(by_address.max(by_name)).await;
        }
        tell(&mut greeted.client, &report).await;
        None
    }
}

async fn prove(
    methods: &Methods,
    greeted: &mut Greeted,
    (user, deadline): (&str, Instant),
) -> Result<Authenticated, ProveError> {
    let Greeted { client, startup, early } = greeted;
    // It stands before the first question.
    if let Some(negotiation) = startup.negotiation() {
        client.write_all(&negotiation).await.map_err(ClientError::from)?;
    }
    let (certificate, end_point) = (client.certificate(), client.end_point());
    let claim = Claim { user, encrypted: client.is_encrypted(), certificate, end_point, deadline };
    let proof = methods.prove(client, early, claim).await?;
    if let Some(meant) = proof.user {
        // What libpq sends where nobody named a database.
        if startup.get("database") == Some(user.as_bytes()) {
            startup.remove("database");
        }
        startup.set("user", meant);
    }
    Ok(proof.who)
}
