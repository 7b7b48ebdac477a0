//! May they: what a person may do in a cluster, as [`Review`] and the list of rules say, before anything is sent to a
//! server, and as long as a session lasts.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::Instant};

use super::{
    connect::Wanted,
    refusal::Refusal,
    tally::{Place, Tally},
};
use crate::{
    error::{Report, SqlState},
    upstream::{Answer, ClusterId, Failure, Identity, Mode, Person, Question, Review, Upstream, Verb},
};

mod follow;
mod refused;
pub mod rules;

use follow::Followed;
pub(super) use follow::Revoked;
pub(super) use refused::refused;
use rules::{Bounds, Number, Rule, Rules, Visit};

/// Whose word opens a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Authority {
    /// The review's; rules narrow it.
    #[default]
    Review,
    /// The rules' alone.
    Rules,
}

/// The settings of permits.
#[derive(Clone, Debug)]
pub struct PermitParams {
    /// Whose word opens a cluster to a person.
    pub authority: Authority,
    /// The list of rules.
    pub rules: Rules,
    /// How often it is asked again.
    pub recheck: Duration,
    /// How long a session stays open while nobody can say.
    pub recheck_grace: Duration,
    /// How long a person's session may last.
    pub session_max: Duration,
}

/// Says who may.
pub(super) struct Permits {
    review: Arc<dyn Review>,
    params: watch::Sender<Arc<PermitParams>>,
    /// Sessions by person and rule, where the rule limits them.
    open: Tally<Holder>,
    followed: Followed,
}

/// Whose sessions a rule counts.
type Holder = (Identity, Number);

impl fmt::Debug for Permits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permits").field("params", &*self.params.borrow()).finish_non_exhaustive()
    }
}

/// What a session is permitted: asked again as long as it lasts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Subject {
    pub(super) identity: Identity,
    /// The cluster that was named, and whatever else owns the server.
    pub(super) clusters: Vec<ClusterId>,
    pub(super) mode: Mode,
    pub(super) role: String,
    /// The server has said that the role is a superuser.
    pub(super) superuser: bool,
}

impl Subject {
    fn of(wanted: &Wanted, upstream: &Upstream, role: &str) -> Self {
        Self {
            identity: wanted.ask.identity.clone(),
            clusters: [&upstream.cluster].into_iter().chain(&upstream.owners).cloned().collect(),
            mode: upstream.mode,
            role: role.to_owned(),
            superuser: false,
        }
    }
}

/// A session that may be opened.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) subject: Subject,
    /// The rule that let it in.
    pub(super) rule: Option<Number>,
    pub(super) bounds: Bounds,
    held: Option<Place<Holder>>,
}

#[cfg(test)]
impl Grant {
    /// Of whoever runs pgferry, for tests that ask about something else.
    pub(super) fn example() -> Self {
        let subject = Subject {
            identity: Identity::Local,
            clusters: Vec::new(),
            mode: Mode::Rw,
            role: String::new(),
            superuser: false,
        };
        Self { subject, rule: None, bounds: Bounds::default(), held: None }
    }
}

/// Why a session may not be opened.
#[derive(Debug)]
pub(super) enum Denied {
    /// It is not permitted, or there is no such thing: nobody hears which.
    Refused,
    /// No rule lets it.
    NoRule,
    /// The rule that fits permits it, but for this.
    But(Number, Report),
    /// Nobody can say.
    NoAnswer(Failure),
}

impl Denied {
    pub(super) fn refusal(self, wanted: &Wanted) -> Refusal {
        match self {
            Self::Refused => Refusal::Report(refused(wanted)),
            Self::NoRule => Refusal::Denied { rule: None, report: refused(wanted) },
            Self::But(rule, report) => Refusal::Denied { rule: Some(rule), report },
            Self::NoAnswer(failure) => failure.into(),
        }
    }
}

impl Permits {
    pub(super) fn new(review: Arc<dyn Review>, params: PermitParams) -> Arc<Self> {
        let params = watch::Sender::new(Arc::new(params));
        Arc::new(Self { review, params, open: Tally::default(), followed: Followed::default() })
    }

    /// Other settings, for open sessions too: they are asked about at once.
    pub(super) fn replace(&self, params: PermitParams) {
        self.params.send_replace(Arc::new(params));
    }

    fn params(&self) -> Arc<PermitParams> {
        Arc::clone(&self.params.borrow())
    }

    /// Whether somebody may log in to this server as this role.
    pub(super) async fn permit(&self, wanted: &Wanted, upstream: &Upstream, role: &str) -> Result<Grant, Denied> {
        let subject = Subject::of(wanted, upstream, role);
        let Some((number, fitting)) = self.allowed(&subject, wanted.ask.deadline).await? else {
            return Ok(Grant { subject, rule: None, bounds: Bounds::default(), held: None });
        };
        if fitting.reason_required && wanted.reason.is_none() {
            return Err(Denied::But(number, reason_missing(wanted)));
        }
        Ok(Grant { bounds: fitting.bounds, rule: Some(number), subject, held: None })
    }

    /// Counts a session in that is to be opened.
    pub(super) fn hold(&self, grant: &mut Grant) -> Result<(), Denied> {
        let (Some(limit), Some(number)) = (grant.bounds.connections, grant.rule) else { return Ok(()) };
        let holder = (grant.subject.identity.clone(), number);
        grant.held = self.open.enter(holder, Some(limit));
        if grant.held.is_none() {
            let message = format!("{limit} connections are open already, the limit of rule {number}");
            let report = Report::fatal(SqlState::TOO_MANY_CONNECTIONS, message).hint("Close some");
            return Err(Denied::But(number, report));
        }
        Ok(())
    }

    /// The same of a cluster that has no server yet.
    pub(super) async fn may_know(&self, wanted: &Wanted, cluster: &ClusterId, role: &str) -> Result<(), Denied> {
        let (identity, clusters) = (wanted.ask.identity.clone(), vec![cluster.clone()]);
        let mode = wanted.ask.target.mode;
        let subject = Subject { identity, clusters, mode, role: role.to_owned(), superuser: false };
        self.allowed(&subject, wanted.ask.deadline).await.map(drop)
    }

    /// Whether a session may go on, whose server says that the role is a superuser.
    pub(super) async fn permit_superuser(&self, wanted: &Wanted, grant: &mut Grant) -> Result<(), Denied> {
        grant.subject.superuser = true;
        self.allowed(&grant.subject, wanted.ask.deadline).await.map(drop)
    }

    /// The rule that fits, where there are rules; and nobody refuses.
    async fn allowed(&self, subject: &Subject, deadline: Instant) -> Result<Option<(Number, Rule)>, Denied> {
        let params = self.params();
        let Subject { identity, clusters, mode, role, superuser } = subject;
        let mut fitting = None;
        if !params.rules.0.is_empty() {
            // Each of them; the one that was named sets the limits.
            for cluster in clusters.iter().rev() {
                let visit = Visit { identity, cluster, mode: *mode, role };
                let (number, rule) = params.rules.decide(visit, SystemTime::now()).ok_or(Denied::NoRule)?;
                fitting = Some((number, rule.clone()));
            }
        }
        if let Identity::Person(person) = identity {
            let by_rules = params.authority == Authority::Rules;
            self.person_may(person, (subject, by_rules), deadline).await?;
            // Where nobody else is asked, a superuser is not one among any.
            if by_rules && *superuser && !fitting.as_ref().is_some_and(|(_, rule)| rule.names(role)) {
                return Err(Denied::NoRule);
            }
        }
        Ok(fitting)
    }

    async fn person_may(
        &self,
        person: &Arc<Person>,
        (subject, by_rules): (&Subject, bool),
        deadline: Instant,
    ) -> Result<(), Denied> {
        let elsewhere =
            |cluster: &ClusterId| person.context.as_ref().is_some_and(|context| *context != cluster.context);
        if subject.clusters.iter().any(elsewhere) {
            return Err(Denied::Refused);
        }
        if by_rules {
            return Ok(());
        }
        let verbs: &[Verb] =
            if subject.superuser { &[Verb::Connect, Verb::ConnectSuperuser] } else { &[Verb::Connect] };
        let questions = subject.clusters.iter().flat_map(|cluster| verbs.iter().map(move |verb| (cluster, *verb)));
        let asked = questions.map(|(cluster, verb)| {
            let question =
                Question { person: Arc::clone(person), verb, role: subject.role.clone(), cluster: cluster.clone() };
            async move { self.review.may(&question, deadline).await }
        });
        let answers = futures_util::future::join_all(asked).await;
        // Whoever is refused anywhere is refused, also where another question had no answer.
        if answers.iter().any(|answer| matches!(answer, Ok(Answer::Refused))) {
            return Err(Denied::Refused);
        }
        answers.into_iter().try_for_each(|answer| answer.map(drop)).map_err(Denied::NoAnswer)
    }

    /// When a session must end, whatever it does.
    pub(super) fn ends(&self, grant: &Grant, started: Instant) -> Option<Instant> {
        let Identity::Person(person) = &grant.subject.identity else {
            return grant.bounds.session.map(|session| started + session);
        };
        let session_max = self.params().session_max;
        let longest = grant.bounds.session.map_or(session_max, |session| session.min(session_max));
        let proven = person.until.map(|until| until.duration_since(SystemTime::now()).unwrap_or_default());
        let by_proof = proven.map(|left| Instant::now() + left);
        Some(by_proof.map_or(started + longest, |by_proof| by_proof.min(started + longest)))
    }
}

fn reason_missing(wanted: &Wanted) -> Report {
    Report::fatal(SqlState::INSUFFICIENT_PRIVILEGE, format!("{} is opened only with a reason", wanted.ask.target))
        .hint("Say why in the connection's options, such as: PGOPTIONS='-c pgferry.reason=TICKET-1'")
}
