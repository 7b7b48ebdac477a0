//! What the metrics say of a session: what it is at, and what came of its connect.

use tokio::time::Instant;

use super::refusal::Refusal;
use crate::metrics::{InState, Metrics, Phase, State};

/// The label of who was denied because no rule fits.
const NO_RULE: &str = "none";

/// A connection, counted for as long as it lasts.
pub(super) struct Counted {
    pub(super) metrics: Metrics,
    state: InState,
    /// Since when the client waits for an answer.
    since: Instant,
}

impl Counted {
    /// A client that has said nothing.
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self { metrics: metrics.clone(), state: metrics.session(State::Startup), since: Instant::now() }
    }

    /// It has said what it wants.
    pub(super) fn greeted(&mut self) {
        self.since = Instant::now();
    }

    /// It has proved who it is, if it had to.
    pub(super) fn connecting(&mut self) {
        self.state.becomes(State::Connecting);
    }

    /// Its server is there.
    pub(super) fn open(&mut self) {
        self.state.becomes(State::Open);
    }

    /// It has heard so.
    pub(super) fn connected(&self) {
        self.metrics.connected();
        self.metrics.took(Phase::All, self.since.elapsed());
    }

    /// It gets no server.
    pub(super) fn refused(&self, refusal: &Refusal) {
        let (sqlstate, _) = refusal.words();
        self.metrics.refused(sqlstate);
        if let Refusal::Denied { rule, .. } = refusal {
            self.metrics.denied(&rule.map_or_else(|| NO_RULE.to_owned(), |rule| rule.to_string()));
        }
    }
}
