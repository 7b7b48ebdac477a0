//! Counters, for Prometheus. No label holds a person, a database or anything else that a client or a server can choose:
//! each value of a label is a time series that whoever scrapes keeps for weeks.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::prometheus_text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Metric, Registry},
};
use tokio::time::Instant;

/// What [`Metrics::encode`] gives: the text format that every scraper reads.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// From a warm connection inside a cluster to a primary that had to be waited for, in seconds.
const BUCKETS: [f64; 13] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// A server may send any five characters; of these each is worth a series.
const SQLSTATES: [&str; 24] = [
    "08001", "08004", "08006", "08P01", "0A000", "22023", "28000", "28P01", "3D000", "42501", "42704", "53000",
    "53100", "53200", "53300", "53400", "55000", "57014", "57P01", "57P02", "57P03", "58000", "F0000", "XX000",
];

/// Rules have numbers; whoever has more than so many of them reads the audit log.
const RULES: usize = 200;

type One = [(&'static str, &'static str); 1];
type Two = [(&'static str, &'static str); 2];

/// What a session is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The client has not said what it wants.
    Startup,
    /// The server is looked for and logged in to.
    Connecting,
    /// Bytes go both ways.
    Open,
}

impl State {
    const ALL: [Self; 3] = [Self::Startup, Self::Connecting, Self::Open];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Connecting => "connecting",
            Self::Open => "open",
        }
    }
}

/// A part of what a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Who it is: with what its driver takes for its answers.
    Authenticate,
    /// Whether it may.
    Review,
    /// From a name to a server.
    Resolve,
    /// To the server.
    Dial,
    /// The login's Secret.
    Credentials,
    /// The server's own login.
    Login,
    /// Writing the audit log's line.
    Audit,
    /// From the startup packet to the first ReadyForQuery.
    All,
}

impl Phase {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Authenticate => "authenticate",
            Self::Review => "review",
            Self::Resolve => "resolve",
            Self::Dial => "dial",
            Self::Credentials => "credentials",
            Self::Login => "login",
            Self::Audit => "audit",
            Self::All => "all",
        }
    }
}

/// What came of a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It is who it says.
    Accepted,
    /// It is not, or does not say.
    Refused,
    /// Nobody could tell.
    Unavailable,
}

impl Proof {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
        }
    }
}

/// All of them. Cheap to clone; each call is a lookup and an addition.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    sessions: Family<One, Gauge>,
    connects: Family<Two, Counter>,
    seconds: Family<One, Histogram>,
    received: Counter,
    sent: Counter,
    proofs: Family<Two, Counter>,
    denied: Family<[(&'static str, String); 1], Counter>,
    rules: AtomicUsize,
    audit_failures: Counter,
    limits: Family<One, Gauge>,
    expiry: Family<One, Gauge>,
    /// What `expiry` is counted from: seconds pass without anybody saying so.
    certificates: Mutex<BTreeMap<&'static str, SystemTime>>,
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new(version: &'static str) -> Self {
        let mut all = Registry::with_prefix("pgferry");
        let sessions: Family<One, Gauge> = kept(
            &mut all,
            (
                "sessions",
                "Clients now: startup (have not said what they want, or not proved who they are), connecting, open",
            ),
        );
        let connects = kept(
            &mut all,
            (
                "connects",
                "Clients that wanted a session: connected, refused with this SQLSTATE (other: a rare one), or gave up waiting",
            ),
        );
        let seconds = Family::<One, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let how_long =
            "How long each part of connecting took, where it succeeded; all is from the startup packet to the greeting";
        all.register("connect_seconds", how_long, seconds.clone());
        let bytes: Family<One, Counter> =
            kept(&mut all, ("bytes", "Bytes from clients (in) and to them (out), counted when their sessions end"));
        let proofs = kept(
            &mut all,
            ("auth", "Proofs of who a client is: accepted, refused, or unavailable, where nobody could tell"),
        );
        let denied =
            kept(&mut all, ("denied", "Clients denied by this rule of the configuration; none: where no rule fits"));
        let audit_failures =
            kept(&mut all, ("audit_failures", "Sessions whose first line in the audit log was not written in time"));
        let limits = kept(
            &mut all,
            ("limit_remaining", "What is left of a limit of the configuration; sessions that are kept ready count"),
        );
        let expiry = kept(
            &mut all,
            (
                "certificate_expiry_seconds",
                "Until the certificate expires that clients see, where it is from a file; negative afterwards",
            ),
        );
        all.register("build", "Which pgferry this is; always 1", Info::new([("version", version)]));
        for state in State::ALL {
            // Zero is worth saying: an alert on a series that is not there never fires.
            let _ = sessions.get_or_create(&[("state", state.as_str())]);
        }
        let (received, sent) = (bytes.get_or_create_owned(&IN), bytes.get_or_create_owned(&OUT));
        Self(Arc::new(Inner {
            registry: all,
            sessions,
            connects,
            seconds,
            received,
            sent,
            proofs,
            denied,
            rules: AtomicUsize::new(0),
            audit_failures,
            limits,
            expiry,
            certificates: Mutex::default(),
        }))
    }

    /// A session begins, at this; it ends where the value is dropped.
    #[must_use]
    pub fn session(&self, state: State) -> InState {
        let gauge = self.0.gauge(state);
        gauge.inc();
        InState { inner: Arc::clone(&self.0), gauge }
    }

    /// A client was connected.
    pub fn connected(&self) {
        self.0.connects.get_or_create(&[("result", "connected"), ("sqlstate", "00000")]).inc();
    }

    /// A client was refused, by the server or by us.
    pub fn refused(&self, sqlstate: &str) {
        let known = SQLSTATES.into_iter().find(|known| *known == sqlstate).unwrap_or("other");
        self.0.connects.get_or_create(&[("result", "refused"), ("sqlstate", known)]).inc();
    }

    /// A client did not wait for an answer.
    pub fn gave_up(&self) {
        self.0.connects.get_or_create(&[("result", "gave up"), ("sqlstate", "")]).inc();
    }

    /// A part of connecting took so long.
    pub fn took(&self, phase: Phase, time: Duration) {
        self.0.seconds.get_or_create(&[("phase", phase.as_str())]).observe(time.as_secs_f64());
    }

    /// Waits for a part of connecting. It counts where it succeeds: how long a failure takes, a deadline says.
    ///
    /// # Errors
    /// What it gives.
    pub async fn timed<T, E>(&self, phase: Phase, part: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let began = Instant::now();
        let done = part.await;
        if done.is_ok() {
            self.took(phase, began.elapsed());
        }
        done
    }

    /// Bytes went from a client, and to one.
    pub fn bytes(&self, received: u64, sent: u64) {
        self.0.received.inc_by(received);
        self.0.sent.inc_by(sent);
    }

    /// A client's proof was looked at. `method` is one of a few that the caller knows.
    pub fn proof(&self, method: &'static str, proof: Proof) {
        self.0.proofs.get_or_create(&[("method", method), ("result", proof.as_str())]).inc();
    }

    /// A session was denied by this rule of the configuration.
    pub fn denied(&self, rule: &str) {
        let mut labels = [("rule", rule.to_owned())];
        let known = self.0.denied.get(&labels).is_some();
        if !known && self.0.rules.fetch_add(1, Ordering::Relaxed) >= RULES {
            labels = [("rule", "other".to_owned())];
        }
        self.0.denied.get_or_create(&labels).inc();
    }

    /// An audit event was not written in time.
    pub fn audit_failed(&self) {
        self.0.audit_failures.inc();
    }

    /// So much is left of a limit of the configuration.
    pub fn limit(&self, limit: &'static str, remaining: usize) {
        self.0.limits.get_or_create(&[("limit", limit)]).set(i64::try_from(remaining).unwrap_or(i64::MAX));
    }

    /// A certificate, called so, is good until then.
    pub fn certificate(&self, name: &'static str, until: SystemTime) {
        self.0.certificates.lock().unwrap_or_else(PoisonError::into_inner).insert(name, until);
    }

    /// As [`CONTENT_TYPE`] says.
    #[must_use]
    pub fn encode(&self) -> String {
        let (inner, now) = (&self.0, SystemTime::now());
        for (name, until) in &*inner.certificates.lock().unwrap_or_else(PoisonError::into_inner) {
            inner.expiry.get_or_create(&[("certificate", *name)]).set(seconds_until(*until, now));
        }
        let mut text = String::new();
        // A string takes whatever it is given.
        let _ = prometheus_text::encode(&mut text, &inner.registry);
        text
    }
}

/// A metric that is registered under a name, with what it means.
fn kept<M: Metric + Clone + Default>(all: &mut Registry, (name, means): (&str, &str)) -> M {
    let metric = M::default();
    all.register(name, means, metric.clone());
    metric
}

const IN: One = [("direction", "in")];
const OUT: One = [("direction", "out")];

impl Inner {
    fn gauge(&self, state: State) -> Gauge {
        self.sessions.get_or_create_owned(&[("state", state.as_str())])
    }
}

/// Negative, once it is over.
fn seconds_until(until: SystemTime, now: SystemTime) -> i64 {
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    until.duration_since(now).map_or_else(|over| -seconds(over.duration()), seconds)
}

/// A session that is counted among those of its state.
pub struct InState {
    inner: Arc<Inner>,
    gauge: Gauge,
}

impl InState {
    /// It is at something else now.
    pub fn becomes(&mut self, state: State) {
        let gauge = self.inner.gauge(state);
        gauge.inc();
        std::mem::replace(&mut self.gauge, gauge).dec();
    }
}

impl Drop for InState {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
