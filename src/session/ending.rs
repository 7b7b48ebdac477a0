//! What ends a session that neither side has ended: the process stops, the server is lost, the right is taken away, or a
//! time is over.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    permit::{Grant, Revoked},
    phase::{Phase, drained, until_given},
    pipe::Pipe,
};
use crate::{
    error::{Report, SqlState},
    upstream::{Lost, Upstream},
};

/// How long somebody who may not be there any more has for what is cancelled meanwhile.
const LEAVE: Duration = Duration::from_secs(30);

/// A reason to end that is ours.
pub(super) struct Ending {
    pub(super) report: Report,
    pub(super) why: &'static str,
    /// When it is over, whatever the session is at.
    pub(super) deadline: Instant,
    /// Whether what the session is at is cancelled at once.
    pub(super) cancels: bool,
}

/// Whatever may end one session.
pub(super) struct Endings {
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) drains: Option<Instant>,
    /// The server, where the session follows the primary.
    pub(super) lost: Option<watch::Receiver<Option<Lost>>>,
    pub(super) failover_grace: Duration,
    pub(super) revoked: Option<watch::Receiver<Option<Revoked>>>,
    /// When a session has lasted long enough.
    pub(super) ends: Option<Instant>,
    pub(super) idle: Option<Idle>,
}

impl Endings {
    /// Of a session that follows nothing yet.
    pub(super) fn new(phase: watch::Receiver<Phase>, failover_grace: Duration) -> Self {
        Self { phase, drains: None, lost: None, failover_grace, revoked: None, ends: None, idle: None }
    }

    /// The next reason. Where the session is to end already, only a drain may bring its end forward.
    pub(super) async fn next(&mut self, ending: bool, upstream: &Upstream) -> Ending {
        let ends = self.ends;
        tokio::select! {
            biased;
            until = drained(&mut self.phase, self.drains) => {
                self.drains = Some(until);
                let message = "terminating connection because pgferry is shutting down";
                let report = Report::fatal(SqlState::ADMIN_SHUTDOWN, message);
                Ending { report, why: "drained", deadline: until, cancels: false }
            }
            why = until_given(&mut self.revoked), if !ending => {
                let message = format!("terminating connection because {}", why.as_str());
                let report = Report::fatal(SqlState::ADMIN_SHUTDOWN, message);
                Ending { report, why: "revoked", deadline: Instant::now() + LEAVE, cancels: true }
            }
            () = sleep_until(ends.unwrap_or_else(Instant::now)), if ends.is_some() && !ending => {
                let message = "terminating connection because it has lasted as long as it may";
                let report = Report::fatal(SqlState::ADMIN_SHUTDOWN, message).hint("Connect again");
                Ending { report, why: "session limit", deadline: Instant::now() + LEAVE, cancels: true }
            }
            why = until_given(&mut self.lost), if !ending => {
                let deadline = Instant::now() + self.failover_grace;
                Ending { report: lost_report(upstream, why), why: "failover", deadline, cancels: false }
            }
        }
    }
}

fn lost_report(upstream: &Upstream, reason: Lost) -> Report {
    Report::fatal(
        SqlState::ADMIN_SHUTDOWN,
        format!("terminating connection because {} {}", upstream.server, reason.as_str()),
    )
    .hint("Connect again to reach the server that takes over")
}

/// How long a session has been idle: looked at now and then, so that a busy one pays nothing for it.
pub(super) struct Idle {
    limit: Duration,
    since: Instant,
    passed: (u64, u64),
    next: Instant,
}

impl Idle {
    /// Looks within the limit: a session is ended an eighth of it late at the most.
    const LOOKS: u32 = 8;

    pub(super) fn of(grant: &Grant) -> Option<Self> {
        let limit = grant.bounds.idle?;
        let now = Instant::now();
        Some(Self { limit, since: now, passed: (0, 0), next: now + limit / Self::LOOKS })
    }

    /// When it is to be looked at.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// The reason to end, where it has been idle for too long.
    pub(super) fn look(&mut self, pipe: &Pipe) -> Option<Ending> {
        let now = Instant::now();
        let passed = (pipe.bytes_up, pipe.bytes_down);
        if passed != self.passed || !pipe.idle() {
            (self.passed, self.since) = (passed, now);
        }
        self.next = now + self.limit / Self::LOOKS;
        (now.duration_since(self.since) >= self.limit).then(|| {
            let message = "terminating connection due to idle-session timeout";
            let report = Report::fatal(SqlState::IDLE_SESSION_TIMEOUT, message).hint("Connect again");
            Ending { report, why: "idle limit", deadline: now, cancels: false }
        })
    }
}
