//! What ends sessions from outside: the process that stops serving, the server that is lost.

use tokio::{sync::watch, time::Instant};

use crate::error::{Report, SqlState};

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

/// What a client hears that comes too late.
pub(super) fn draining() -> Report {
    Report::fatal(SqlState::CANNOT_CONNECT_NOW, "pgferry is shutting down").hint("Start it again with: pgferry serve")
}

/// Waits for a drain whose end is not the `known` one: a second signal brings it forward.
pub(super) async fn drained(phase: &mut watch::Receiver<Phase>, known: Option<Instant>) -> Instant {
    loop {
        if let Phase::Draining { until } = *phase.borrow_and_update()
            && Some(until) != known
        {
            return until;
        }
        if phase.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Waits until somebody gives a reason to end, such as that the server is lost; for ever where nobody watches.
pub(super) async fn until_given<T: Copy>(given: &mut Option<watch::Receiver<Option<T>>>) -> T {
    if let Some(given) = given
        && let Ok(reason) = given.wait_for(Option::is_some).await
        && let Some(reason) = *reason
    {
        return reason;
    }
    std::future::pending().await
}
