//! From a route to a server that has said ReadyForQuery: resolve, dial and fetch the login at once, log in, and try
//! again where a second try can help.

use std::{future::pending, sync::Arc};

use bytes::BytesMut;
use tokio::{sync::watch, time::timeout_at};

use super::{backoff::Backoff, permit::Permits, refusal::Refusal, registry::Registry};
use crate::{
    auth::{
        memory::Memory,
        upstream::{Attempt, Channel, Early, LoginError, log_in},
    },
    error::{ClientFacing, Report, SqlState},
    metrics::{Metrics, Phase},
    pg::{backend::ErrorFields, startup::ProtocolVersion},
    tls,
    upstream::{
        Ask, BoxedStream, CaBy, Credentials, Dial, Directory, Failure, Identity, Login, Retry, Server, TlsFacts,
        TlsMode, Upstream,
    },
};

mod entitled;
mod first_ready;
mod habits;
mod miss;
mod reports;
mod rivals;
mod turns;
mod wanted;

use first_ready::{refuse_the_wrong_one, until_ready};
use habits::{Habit, HabitKey, Habits, Untold};
use miss::Miss;
use reports::{closed, explained, placed, redirected, undecided};
use turns::{Client, Turn, Turns};

pub(super) use first_ready::Connected;
pub(super) use miss::failure_inside;
pub(super) use wanted::Wanted;

/// Opens connections to servers.
pub(super) struct Connector {
    pub(super) directory: Arc<dyn Directory>,
    pub(super) credentials: Arc<dyn Credentials>,
    pub(super) dial: Arc<dyn Dial>,
    registry: Arc<Registry>,
    pub(super) permits: Arc<Permits>,
    habits: Habits,
    untold: Untold,
    memory: Memory,
    turns: Turns,
    metrics: Metrics,
}

impl Connector {
    pub(super) fn new(
        directory: Arc<dyn Directory>,
        credentials: Arc<dyn Credentials>,
        dial: Arc<dyn Dial>,
        (registry, permits): (Arc<Registry>, Arc<Permits>),
        metrics: Metrics,
    ) -> Self {
        Self {
            directory,
            credentials,
            dial,
            registry,
            permits,
            habits: Habits::default(),
            untold: Untold::default(),
            memory: Memory::default(),
            turns: Turns::default(),
            metrics,
        }
    }

    /// Connects, within the ask's deadline.
    pub(super) async fn connect(&self, wanted: &Wanted) -> Result<Connected, Refusal> {
        match timeout_at(wanted.ask.deadline, self.connect_patiently(wanted)).await {
            Ok(result) => result,
            Err(_) => Err(Refusal::Report(
                Report::fatal(
                    SqlState::CONNECTION_FAILURE,
                    format!("connecting to {} took longer than the limit", wanted.ask.target),
                )
                .hint("Raise sessions.connect_timeout (PGFERRY__SESSIONS__CONNECT_TIMEOUT), or type: pgferry list"),
            )),
        }
    }

    /// The server; where there is no such cluster, and the user string has another reading, that one's error.
    async fn resolve_for_all(&self, wanted: &Wanted) -> Result<Upstream, Failure> {
        let resolved = tokio::select! {
            resolved = self.directory.resolve(&wanted.ask) => resolved,
            unknown = self.unknown_role(&wanted.ask) => return Err(unknown),
        };
        if let (Err(failure), Some(target)) = (&resolved, &wanted.otherwise)
            && failure.report.sqlstate == SqlState::UNKNOWN_TARGET
        {
            let other = Ask { target: target.clone(), ..wanted.ask.clone() };
            self.directory.resolve(&other).await?;
        }
        resolved
    }

    /// Why the role has no login, where a server is waited for: no server will change that.
    async fn unknown_role(&self, ask: &Ask) -> Failure {
        let found = ask.progress.until_found().await;
        match self.credentials.check(ask, &found).await {
            Err(failure) if failure.report.sqlstate == SqlState::INVALID_AUTHORIZATION => failure,
            // Whatever else is wrong may be right when there is a server.
            _ => pending().await,
        }
    }

    async fn connect_patiently(&self, wanted: &Wanted) -> Result<Connected, Refusal> {
        let ask = &wanted.ask;
        let mut upstream = self.metrics.timed(Phase::Resolve, self.resolve(wanted)).await?;
        // That a cluster has reached its limit is heard by who may connect to it.
        let place = |upstream: &Upstream| self.registry.place(&upstream.cluster).map_err(Refusal::Report);
        let held = match ask.identity {
            Identity::Local => Some(place(&upstream)?),
            Identity::Person(_) => None,
        };
        let mut known: Option<Login> = None;
        let mut refreshed = false;
        let (mut backoff, client) = (Backoff::until(ask.wait_until), self.turns.client());
        let mut turn: Option<Turn> = None;
        // A server may refuse an early SCRAM message, plaintext, and options; a fourth other way there is not.
        let mut other_ways = 3;
        loop {
            match self.try_once(wanted, &upstream, known.as_ref()).await {
                Ok(mut connected) => {
                    self.settle(wanted, &mut connected).await.map_err(|denied| denied.refusal(wanted))?;
                    connected.place = match held {
                        Some(_) => held,
                        None => Some(place(&upstream)?),
                    };
                    let login = &connected.login;
                    self.served(wanted, &upstream, (login, connected.writable)).await?;
                    return Ok(connected);
                }
                Err(Miss::Final(refusal)) => return Err(refusal),
                Err(Miss::Again(login)) if other_ways > 0 => {
                    other_ways -= 1;
                    known = Some(*login);
                }
                Err(Miss::Again(_)) => return Err(Refusal::Report(undecided(&upstream))),
                Err(Miss::Login { refused, refusal }) if !refreshed => {
                    refreshed = true;
                    match self.credentials.fresh_login(ask, &upstream, &refused).await? {
                        Some(login) => known = Some(login),
                        None => return Err(explained(refusal, &refused)),
                    }
                }
                Err(Miss::Login { refused, refusal }) => {
                    self.credentials.refused(ask, &upstream, &refused);
                    return Err(explained(refusal, &refused));
                }
                Err(Miss::Stale(refusal)) => {
                    ask.progress.waiting_for(format!("a ready server of {}", upstream.cluster));
                    self.turns.missed(&upstream, client);
                    drop(turn);
                    let (found, its) = self.another(ask, &upstream, (&mut backoff, client), refusal).await?;
                    (upstream, turn) = (found, its);
                }
            }
        }
    }

    /// What is learnt of a server that serves. It may not be the only one.
    async fn served(
        &self,
        wanted: &Wanted,
        upstream: &Upstream,
        (login, writable): (&Login, bool),
    ) -> Result<(), Refusal> {
        // Rivals are there only where the primary is wanted, and only servers know which one it is.
        if writable && !upstream.rivals.is_empty() {
            self.refuse_rivals(wanted, (upstream, login)).await?;
        }
        self.turns.served(upstream);
        self.credentials.accepted(&wanted.ask, upstream, login);
        Ok(())
    }

    /// What the next look finds that succeeds, and the turn to try it; what was said last where the wait is over. A look
    /// that fails is taken again, and where another client tries the same server, its word is waited for.
    async fn another(
        &self,
        ask: &Ask,
        stale: &Upstream,
        (backoff, client): (&mut Backoff, Client),
        mut refusal: Refusal,
    ) -> Result<(Upstream, Option<Turn>), Refusal> {
        loop {
            let goes_on = tokio::select! {
                goes_on = backoff.next() => goes_on,
                () = self.turns.over(stale) => true,
            };
            if !goes_on {
                return Err(refusal);
            }
            match self.directory.resolve_again(ask, stale, backoff.since()).await {
                Ok(found) => match self.turns.take(&found, client) {
                    None if backoff.is_patient() => {}
                    turn => return Ok((found, turn)),
                },
                Err(failure) if failure.retry == Retry::Resolve => refusal = failure.into(),
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    /// The login and the stream are fetched at the same time; neither needs the other.
    async fn try_once(&self, wanted: &Wanted, upstream: &Upstream, known: Option<&Login>) -> Result<Connected, Miss> {
        let ask = &wanted.ask;
        let key = HabitKey::of(wanted, upstream);
        let habit = self.habits.get(&key);
        let (allow, allowed) = watch::channel(ask.identity == Identity::Local);
        let entitled = async {
            let entitled = self.entitled(wanted, upstream, known).await?;
            allow.send_replace(true);
            Ok(entitled)
        };
        let ((login, grant), (mut stream, channel)) =
            tokio::try_join!(entitled, self.open(ask, upstream, habit, allowed))?;
        let told = self.tells(&key, upstream);
        let startup = wanted
            .startup_for(&login, told.then_some(upstream))
            .map_err(|report| Miss::Final(Refusal::Report(report)))?;
        let early = match (habit, &channel) {
            (Some(Habit::PlaintextScram), Channel::Plaintext) if !upstream.pooled => Early::Sasl,
            _ => Early::Wait,
        };
        let version = if upstream.pooled { ProtocolVersion::V3_0 } else { wanted.startup.spoken() };
        let memory = &self.memory;
        let attempt = Attempt { startup: &startup, version, login: &login, channel: &channel, early, upstream, memory };
        let mut buf = BytesMut::new();
        match self.metrics.timed(Phase::Login, log_in(&mut stream, &mut buf, attempt)).await {
            Ok(method) => self.habits.learn(key.clone(), &channel, method),
            Err(LoginError::Refused { fields, .. }) if told && refuses_options(&fields) => {
                self.untold.remember(key);
                return Err(Miss::Again(Box::new(login)));
            }
            Err(error) => return Err(self.missed(&key, upstream, login, &channel, error)),
        }
        let greeted = until_ready(stream, buf, &channel, (upstream.clone(), login.clone(), grant)).await;
        let greeted = greeted.map_err(|miss| match miss {
            Miss::Final(Refusal::Server { fields, .. }) if told && refuses_options(&fields) => {
                self.untold.remember(key);
                Miss::Again(Box::new(login))
            }
            Miss::Final(refusal) => Miss::Final(redirected(refusal, &ask.conninfo, &login)),
            other => other,
        });
        refuse_the_wrong_one(ask, greeted?)
    }

    /// Whether a server is told where it is, so that a session can be asked: never a pooler, which has sessions of many
    /// clients and refuses what it does not know; outside Kubernetes nobody knows what answers.
    fn tells(&self, key: &HabitKey, upstream: &Upstream) -> bool {
        !upstream.pooled && matches!(upstream.server, Server::Pod(_)) && !self.untold.knows(key)
    }

    /// A stream to the server, inside TLS where it is known to be wanted. The server hears nothing, and the client nothing
    /// of it, before that is allowed.
    async fn open(
        &self,
        ask: &Ask,
        upstream: &Upstream,
        habit: Option<Habit>,
        mut allowed: watch::Receiver<bool>,
    ) -> Result<(BoxedStream, Channel), Miss> {
        let stream = self.metrics.timed(Phase::Dial, self.dial.dial(upstream, ask.deadline)).await;
        if allowed.wait_for(|allowed| *allowed).await.is_err() {
            // The other half has failed, and says why.
            return pending().await;
        }
        let stream = stream?;
        let facts = facts(upstream, habit);
        if matches!(facts.mode, TlsMode::Disable | TlsMode::Allow) {
            return Ok((stream, Channel::Plaintext));
        }
        match tls::connect::connect(stream, &facts).await {
            Ok(encrypted) => {
                let (end_point, verified_by) = (encrypted.end_point, encrypted.verified_by);
                Ok((Box::new(encrypted.stream), Channel::Tls { end_point, verified_by }))
            }
            // The stream is spent on the question.
            Err(tls::TlsError::Refused) if facts.mode == TlsMode::Prefer => {
                Ok((self.dial.dial(upstream, ask.deadline).await?, Channel::Plaintext))
            }
            Err(error) => Err(match failure_inside(&error) {
                Some(failure) => failure.into(),
                // As in plaintext: a server that goes down or is overloaded may serve in a moment.
                None if error.is_end() => Miss::Stale(Refusal::Report(closed(upstream))),
                None if matches!(error, tls::TlsError::Unwilling) => {
                    Miss::Stale(Refusal::Report(placed(upstream, error.report())))
                }
                None => Miss::Final(Refusal::Report(placed(upstream, error.report()))),
            }),
        }
    }

    fn missed(&self, key: &HabitKey, upstream: &Upstream, login: Login, channel: &Channel, error: LoginError) -> Miss {
        let plaintext = matches!(channel, Channel::Plaintext);
        if plaintext && error.needs_tls() && upstream.tls.mode == TlsMode::Allow {
            self.habits.remember(key.clone(), Habit::NeedsTls);
            return Miss::Again(Box::new(login));
        }
        match error {
            LoginError::EarlyMissed => {
                self.habits.forget(key);
                Miss::Again(Box::new(login))
            }
            LoginError::Refused { frame, fields } => {
                self.habits.forget(key);
                let password = fields.sqlstate == SqlState::INVALID_PASSWORD.as_str();
                let starting = fields.sqlstate == SqlState::CANNOT_CONNECT_NOW.as_str();
                let refusal = Refusal::Server { frame: frame.raw, fields };
                if password {
                    Miss::Login { refused: Box::new(login), refusal }
                } else if starting {
                    Miss::Stale(refusal)
                } else {
                    Miss::Final(refusal)
                }
            }
            error @ LoginError::Overloaded(_) => Miss::Stale(Refusal::Report(placed(upstream, error.report()))),
            error => match failure_inside(&error) {
                // A tunnel's own words tell more than that it ended.
                Some(failure) => failure.into(),
                None if error.is_end() => Miss::Stale(Refusal::Report(closed(upstream))),
                None => Miss::Final(Refusal::Report(placed(upstream, error.report()))),
            },
        }
    }
}

/// As PgBouncer does ("unsupported startup parameter"), or a server whose settings have no prefixes of ours.
fn refuses_options(fields: &ErrorFields) -> bool {
    let what = &fields.message;
    what.contains("pgferry.") || (what.contains("startup parameter") && what.contains("options"))
}

/// What is known about TLS there, and what the last login has shown. A server that takes no plaintext is verified where
/// anybody but the cluster itself says by which CA.
fn facts(upstream: &Upstream, habit: Option<Habit>) -> TlsFacts {
    let mut facts = upstream.tls.clone();
    if facts.mode == TlsMode::Allow && habit == Some(Habit::NeedsTls) {
        let vouched = facts.ca_pem.is_some() && facts.ca_by != CaBy::Cluster;
        facts.mode = if vouched { TlsMode::VerifyCa } else { TlsMode::Require };
    }
    facts
}

#[cfg(test)]
mod tests;
