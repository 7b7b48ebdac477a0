//! What is kept about who did what: a JSON object a line, to standard output or a file. `docs/audit.md` says what is in it.
//!
//! Three ways lead in. [`Audit::record`] waits until the line is written, for what must not happen unseen; [`Audit::note`]
//! does not wait and counts what it loses; [`Audit::login_failed`] counts what anybody can cause as often as they like.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    runtime::Handle,
    sync::{Mutex, watch},
    time::{Instant, sleep, timeout},
};
use tracing::warn;

use crate::error::{ClientFacing, Report, SqlState};

mod event;
mod failed_logins;
mod health;
mod line;
#[cfg(test)]
mod schema_tests;
mod sink;
#[cfg(test)]
mod tests;

pub use event::{Client, Event, Identity, LONGEST_TEXT, Method, Session, Target, Text};
pub use sink::Sink;

use failed_logins::{FailedLogins, MINUTE};
use health::Health;
use line::Noted;
use sink::Lane;

/// How long a session waits for its line. A disk that is busy is back by then, and a driver whose connect timeout is a few
/// seconds still hears why it was refused and tries the next replica.
const PATIENCE: Duration = Duration::from_secs(2);
/// Lines that wait for one sink: half a minute of a busy bastion's, and a few megabytes.
const ROOM: usize = 4096;

/// How patient it is.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// How long [`Audit::record`] and [`Audit::drain`] wait.
    pub patience: Duration,
    /// Lines that wait for one sink at most.
    pub room: usize,
}

impl Default for Params {
    fn default() -> Self {
        Self { patience: PATIENCE, room: ROOM }
    }
}

/// A sink that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("audit events cannot be written to {sink}")]
pub struct OpenError {
    sink: String,
    source: io::Error,
}

/// An event was not written in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log cannot be written")]
pub struct Blocked;

impl ClientFacing for Blocked {
    fn report(&self) -> Report {
        Report::fatal(
            SqlState::CANNOT_CONNECT_NOW,
            "pgferry cannot write its audit log, and lets nobody in without; try again later",
        )
    }
}

/// Where events are kept. Cheap to clone.
#[derive(Clone)]
pub struct Audit(Option<Arc<Inner>>);

struct Inner {
    lanes: Vec<Lane>,
    patience: Duration,
    health: Health,
    failed: FailedLogins,
    /// Held while failed logins are written, so that who drains knows when they are.
    writing_failed: Mutex<()>,
}

impl Audit {
    /// Keeps nothing.
    #[must_use]
    pub const fn off() -> Self {
        Self(None)
    }

    /// Opens the sinks and starts a thread for each.
    ///
    /// # Errors
    /// Where one of them cannot be opened.
    pub fn new(params: Params, sinks: Vec<Sink>) -> Result<Self, OpenError> {
        let (health, process) = (Health::new(), process());
        let mut lanes = Vec::with_capacity(sinks.len());
        for sink in sinks {
            let name = format!("{sink:?}");
            let lane = Lane::start(sink, params.room, &process, &health);
            lanes.push(lane.map_err(|source| OpenError { sink: name, source })?);
        }
        let (patience, failed) = (params.patience, FailedLogins::default());
        Ok(Self(Some(Arc::new(Inner { lanes, patience, health, failed, writing_failed: Mutex::new(()) }))))
    }

    /// Whether anything is kept: whoever has an event that is costly to put together asks first.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Waits until every sink has the event: handed to the operating system, which may still lose it with the machine's
    /// power. Dropping the future does not take it back.
    ///
    /// # Errors
    /// Where that takes too long, or a sink is known not to take any. It may be written later, all the same.
    pub async fn record(&self, event: Event) -> Result<(), Blocked> {
        let Some(inner) = &self.0 else { return Ok(()) };
        let (noted, deadline) = (Arc::new(Noted::now(event)), Instant::now() + inner.patience);
        let written = join_all(inner.lanes.iter().map(|lane| lane.record(&noted, deadline))).await;
        if written.into_iter().all(|written| written) { Ok(()) } else { Err(Blocked) }
    }

    /// Keeps the event if there is room; else an `audit.lost` says how many are missing.
    pub fn note(&self, event: Event) {
        let Some(inner) = &self.0 else { return };
        let noted = Arc::new(Noted::now(event));
        for lane in &inner.lanes {
            lane.note(&noted);
        }
    }

    /// Counts a login that failed, by address and minute. `name` is the one that was claimed, which nobody has proved.
    pub fn login_failed(&self, address: IpAddr, method: &str, name: Option<&str>) {
        let Some(inner) = &self.0 else { return };
        if inner.failed.add(address, method, name)
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(write_failed_logins(Arc::downgrade(inner)));
        }
    }

    /// Opens files anew, by their names, as whoever rotates them wants.
    pub fn reopen(&self) {
        for lane in self.0.iter().flat_map(|inner| &inner.lanes) {
            lane.reopen();
        }
    }

    /// Whether every sink takes lines.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.0.as_ref().is_none_or(|inner| *inner.health.watch().borrow())
    }

    /// The same, for whoever waits for it to change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.0.as_ref().map_or_else(|| watch::channel(true).1, |inner| inner.health.watch())
    }

    /// Waits a moment for all that was noted before to be written, failed logins too. The last thing that a process does.
    pub async fn drain(&self) {
        let Some(inner) = &self.0 else { return };
        let all = async {
            inner.write_failed_logins().await;
            join_all(inner.lanes.iter().map(|lane| lane.deliver(None))).await;
        };
        if timeout(inner.patience, all).await.is_err() {
            warn!("some audit events were not written before the end");
        }
    }
}

impl Inner {
    /// One at a time, each when the one before it is written: so they take no more than one place in a queue.
    async fn write_failed_logins(&self) {
        let _writing = self.writing_failed.lock().await;
        for event in self.failed.take() {
            let noted = Arc::new(Noted::now(event));
            join_all(self.lanes.iter().map(|lane| lane.deliver(Some(Arc::clone(&noted))))).await;
        }
    }
}

/// Writes them each minute while there are any. While a sink blocks there is one of these, and what it has not written yet.
async fn write_failed_logins(audit: Weak<Inner>) {
    loop {
        sleep(MINUTE).await;
        let Some(inner) = audit.upgrade() else { return };
        inner.write_failed_logins().await;
        if !inner.failed.go_on() {
            return;
        }
    }
}

/// What tells this process's numbers (sessions, lines) from those of others and of its own last run.
fn process() -> String {
    let mut bytes = [0; 8];
    // Without any randomness the process's number has to do.
    if getrandom::fill(&mut bytes).is_err() {
        bytes = u64::from(std::process::id()).to_be_bytes();
    }
    format!("{:016x}", u64::from_be_bytes(bytes))
}
