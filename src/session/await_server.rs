//! The wait for a server, no longer than the client stays; what it hears meanwhile.

use std::time::Duration;

use bytes::BytesMut;
use tokio::{io::AsyncReadExt, sync::watch, time::sleep};
use tracing::debug;

use super::{
    Sessions,
    connect::{Connected, Wanted},
    phase::{Phase, draining},
    refusal::Refusal,
    registry::SessionId,
    reply::Reply,
};
use crate::{error::Report, upstream::Identity};

/// How long AuthenticationOk is held back. Errors read best before it; a person who sees nothing for longer thinks
/// that it hangs.
const HOLD: Duration = Duration::from_secs(2);

/// What a client may send before the server is ready. A well-behaved one sends nothing; a pipelining one its first
/// queries.
const MAX_EARLY: usize = 64 * 1024;

/// How the wait for a server ended.
pub(super) enum Waited {
    Connected(Box<Connected>),
    Refused(Refusal),
    ClientGone,
}

impl Sessions {
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
                // What is waited for is nothing for a person who may not even know that it is there.
                let told = !waiting.is_empty() && wanted.ask.identity == Identity::Local;
                let what = if told { waiting } else { format!("{} to answer", wanted.ask.target) };
                debug!(session = %id, target = %wanted.ask.target, "waiting for {what}");
                if reply.open(&[Report::notice(format!("pgferry is waiting for {what}"))]).await.is_err() {
                    return Waited::ClientGone;
                }
            }
        }
    }
}
