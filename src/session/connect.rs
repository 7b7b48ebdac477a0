//! From a route to a server that has said ReadyForQuery: resolve, dial and fetch the login at once, log in, and try
//! again where a second try can help.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};
use tokio::{io::AsyncReadExt, time::timeout_at};

use crate::{
    auth::upstream::{Attempt, Channel, Early, LoginError, Method, log_in},
    error::{ClientFacing, Report, SqlState},
    pg::{
        PacketError, TransactionStatus,
        backend::{self, ErrorFields},
        cancel::CancelKey,
        frame::{Frame, next_frame},
        startup::{ProtocolVersion, Startup},
    },
    session::{
        patience::Patience,
        registry::{Place, Registry},
    },
    tls,
    upstream::{
        Ask, BoxedStream, ClusterId, Credentials, Dial, Directory, Failure, Login, Mode, Retry, Role, Server, TlsMode,
        Upstream,
    },
};

/// What a server may say between AuthenticationOk and ReadyForQuery. A dozen ParameterStatus are 500 bytes; a login
/// trigger's notices are kept within reason.
const MAX_GREETING: usize = 256 * 1024;

/// A server's own refusal, or ours.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The server's ErrorResponse as it came, with a hint added where it had none.
    Server {
        /// The frame for the client.
        frame: Bytes,
        /// Its content.
        fields: ErrorFields,
    },
    /// A report of ours.
    Report(Report),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Report(failure.report)
    }
}

impl Refusal {
    /// PostgreSQL clients try their next host on 57P03, and only where it comes before AuthenticationOk.
    pub(super) fn is_cannot_connect_now(&self) -> bool {
        match self {
            Self::Server { fields, .. } => fields.sqlstate == SqlState::CANNOT_CONNECT_NOW.as_str(),
            Self::Report(report) => report.sqlstate == SqlState::CANNOT_CONNECT_NOW,
        }
    }
}

/// A server that waits for the client's first query.
pub(super) struct Connected {
    pub(super) stream: BoxedStream,
    pub(super) upstream: Upstream,
    pub(super) login: Login,
    pub(super) encrypted: bool,
    /// Everything from behind AuthenticationOk to ReadyForQuery, as it came.
    pub(super) greeting: Bytes,
    /// Where the server gave one.
    pub(super) key: Option<CancelKey>,
    /// Bytes behind ReadyForQuery.
    pub(super) rest: Bytes,
    /// Its place among the cluster's sessions.
    pub(super) place: Option<Place>,
}

/// The question of one client.
pub(super) struct Wanted {
    pub(super) ask: Ask,
    /// The client's own packet, our options taken out.
    pub(super) startup: Startup,
    /// `None` is the login's default.
    pub(super) database: Option<Bytes>,
}

/// What is known about how a server takes a login, from the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// SCRAM in plaintext: its first message may ride with the startup message.
    PlaintextScram,
    /// Plaintext is refused.
    NeedsTls,
}

type HabitKey = (ClusterId, String, Option<Bytes>);

/// Opens connections to servers.
pub(super) struct Connector {
    pub(super) directory: Arc<dyn Directory>,
    pub(super) credentials: Arc<dyn Credentials>,
    pub(super) dial: Arc<dyn Dial>,
    registry: Arc<Registry>,
    habits: Mutex<HashMap<HabitKey, Habit>>,
}

/// How one try failed.
enum Miss {
    /// For good.
    Final(Refusal),
    /// The server that was resolved does not serve: another look may find the one that does.
    Stale(Refusal),
    /// The login was refused.
    Login { refused: Box<Login>, refusal: Refusal },
    /// The server wants it said another way: on a fresh stream, with the habit that is now remembered.
    Again(Box<Login>),
}

impl From<Failure> for Miss {
    fn from(failure: Failure) -> Self {
        match failure.retry {
            Retry::Resolve => Self::Stale(failure.into()),
            Retry::No => Self::Final(failure.into()),
        }
    }
}

impl Connector {
    pub(super) fn new(
        directory: Arc<dyn Directory>,
        credentials: Arc<dyn Credentials>,
        dial: Arc<dyn Dial>,
        registry: Arc<Registry>,
    ) -> Self {
        Self { directory, credentials, dial, registry, habits: Mutex::default() }
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

    async fn connect_patiently(&self, wanted: &Wanted) -> Result<Connected, Refusal> {
        let ask = &wanted.ask;
        let mut upstream = self.directory.resolve(ask).await?;
        let place = self.registry.place(&upstream.cluster).map_err(Refusal::Report)?;
        let mut known: Option<Login> = None;
        let mut refreshed = false;
        let mut patience = Patience::until(ask.wait_until);
        // A server may refuse an early SCRAM message, then plaintext; a third other way there is not.
        let mut other_ways = 2;
        loop {
            match self.try_once(wanted, &upstream, known.as_ref()).await {
                Ok(connected) => {
                    self.credentials.accepted(ask, &upstream, &connected.login);
                    return Ok(Connected { place: Some(place), ..connected });
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
                    if !patience.next().await {
                        return Err(refusal);
                    }
                    upstream = self.directory.resolve_again(ask, &upstream).await?;
                }
            }
        }
    }

    /// The login and the stream are fetched at the same time; neither needs the other.
    async fn try_once(&self, wanted: &Wanted, upstream: &Upstream, known: Option<&Login>) -> Result<Connected, Miss> {
        let ask = &wanted.ask;
        let key = habit_key(wanted, upstream);
        let habit = self.habit(&key);
        let login = async {
            match known {
                Some(login) => Ok(login.clone()),
                None => self.credentials.login(ask, upstream).await.map_err(Miss::from),
            }
        };
        let (login, stream) = tokio::try_join!(login, self.open(ask, upstream, habit))?;
        let (mut stream, channel) = stream;
        let startup = rewritten(wanted, &login);
        let early = match (habit, &channel) {
            (Some(Habit::PlaintextScram), Channel::Plaintext) if !upstream.pooled => Early::Sasl,
            _ => Early::Wait,
        };
        let version = if upstream.pooled { ProtocolVersion::V3_0 } else { wanted.startup.spoken() };
        let attempt = Attempt { startup: &startup, version, login: &login, channel: &channel, early };
        let mut buf = BytesMut::new();
        match log_in(&mut stream, &mut buf, attempt).await {
            Ok(method) => self.learn(&key, &channel, method),
            Err(error) => return Err(self.missed(&key, upstream, login, &channel, error)),
        }
        let connected = greeting(stream, buf, &channel, (upstream.clone(), login)).await?;
        refuse_the_wrong_one(ask, connected)
    }

    /// A stream to the server, inside TLS where it is known to be wanted.
    async fn open(&self, ask: &Ask, upstream: &Upstream, habit: Option<Habit>) -> Result<(BoxedStream, Channel), Miss> {
        let stream = self.dial.dial(&ask.identity, upstream, ask.deadline).await?;
        let mut facts = upstream.tls.clone();
        if facts.mode == TlsMode::Allow && habit == Some(Habit::NeedsTls) {
            facts.mode = TlsMode::Require;
        }
        if matches!(facts.mode, TlsMode::Disable | TlsMode::Allow) {
            return Ok((stream, Channel::Plaintext));
        }
        match tls::connect::connect(stream, &facts).await {
            Ok(encrypted) => Ok((Box::new(encrypted.stream), Channel::Tls { end_point: encrypted.end_point })),
            // The stream is spent on the question.
            Err(tls::TlsError::Refused) if facts.mode == TlsMode::Prefer => {
                Ok((self.dial.dial(&ask.identity, upstream, ask.deadline).await?, Channel::Plaintext))
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
            self.remember(key, Habit::NeedsTls);
            return Miss::Again(Box::new(login));
        }
        match error {
            LoginError::EarlyMissed => {
                self.forget(key);
                Miss::Again(Box::new(login))
            }
            LoginError::Refused { frame, fields } => {
                self.forget(key);
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

    fn habit(&self, key: &HabitKey) -> Option<Habit> {
        self.habits.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }

    fn learn(&self, key: &HabitKey, channel: &Channel, method: Method) {
        match (channel, method) {
            (Channel::Plaintext, Method::ScramSha256) => self.remember(key, Habit::PlaintextScram),
            (Channel::Plaintext, _) => self.forget(key),
            (Channel::Tls { .. }, _) => {}
        }
    }

    fn remember(&self, key: &HabitKey, habit: Habit) {
        /// Whoever asks for databases that do not exist is not remembered for ever.
        const MOST: usize = 4096;
        let mut habits = self.habits.lock().unwrap_or_else(PoisonError::into_inner);
        if habits.len() >= MOST {
            habits.clear();
        }
        habits.insert(key.clone(), habit);
    }

    fn forget(&self, key: &HabitKey) {
        self.habits.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

fn habit_key(wanted: &Wanted, upstream: &Upstream) -> HabitKey {
    let role = match &wanted.ask.role {
        Role::Default => String::new(),
        Role::Named(role) => role.clone(),
    };
    (upstream.cluster.clone(), role, wanted.database.clone())
}

/// The client's packet with the user and the database that the login means; all else byte for byte.
fn rewritten(wanted: &Wanted, login: &Login) -> Startup {
    let mut startup = wanted.startup.clone();
    startup.set("user", Bytes::copy_from_slice(login.user.as_bytes()));
    let database = wanted.database.clone().unwrap_or_else(|| Bytes::copy_from_slice(login.database.as_bytes()));
    startup.set("database", database);
    startup
}

/// A [`Failure`] that a stream's `io::Error` carries, however deep.
pub(super) fn failure_inside(error: &(dyn std::error::Error + 'static)) -> Option<Failure> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(failure) = error.downcast_ref::<Failure>() {
            return Some(failure.clone());
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    None
}

/// The server's refusal of a password, with where the password comes from.
fn explained(refusal: Refusal, login: &Login) -> Refusal {
    let Refusal::Server { frame, fields } = refusal else {
        return refusal;
    };
    let hint = format!(
        "pgferry logged in as {} with the password in {}, and read it again after the refusal. If the role's password \
         was changed in the database, change it in the Secret too",
        login.user, login.source
    );
    Refusal::Server { frame: backend::append_hint(&Frame { tag: b'E', raw: frame }, &hint), fields }
}

/// What failed, and at which server: a message must suffice alone.
fn placed(upstream: &Upstream, report: Report) -> Report {
    Report { message: format!("{}: {}", upstream.server, report.message), ..report }
}

fn undecided(upstream: &Upstream) -> Report {
    Report::fatal(
        SqlState::CONNECTION_FAILURE,
        format!("the server in {} keeps asking for another way to log in", upstream.server),
    )
    .hint("Say which with clusters.\"NAME\".sslmode in the configuration")
}

fn closed(upstream: &Upstream) -> Report {
    Report::fatal(
        SqlState::UNABLE_TO_CONNECT,
        format!("the server in {} closed the connection before it answered", upstream.server),
    )
    .hint(format!("See what it logged: {}", upstream.server.logs()))
}

/// PostgreSQL 14 and later say at login whether they are a standby. A write must never reach one; and who asks for a
/// replica is not to burden the primary.
fn refuse_the_wrong_one(ask: &Ask, greeted: Greeted) -> Result<Connected, Miss> {
    let Greeted { connected, in_hot_standby } = greeted;
    let server = &connected.upstream.server;
    let (what, hint) = match (ask.target.mode, in_hot_standby) {
        (Mode::Rw, Some(true)) if !connected.upstream.standby_cluster => (
            "a standby, not the primary",
            format!("Try again in a moment; to read from a replica write {}:ro", ask.target.name),
        ),
        (Mode::Ro, Some(false)) if matches!(server, Server::Pod(_)) => {
            ("the primary, not a replica", format!("Its primary takes reads too: {}", ask.target.name))
        }
        _ => return Ok(connected),
    };
    let message = format!("{server} of {} is {what}", ask.target);
    Err(Miss::Stale(Refusal::Report(Report::fatal(SqlState::CANNOT_CONNECT_NOW, message).hint(hint))))
}

struct Greeted {
    connected: Connected,
    /// `None` where the server did not say.
    in_hot_standby: Option<bool>,
}

/// Reads on to ReadyForQuery, keeping every message as it came.
async fn greeting(
    mut stream: BoxedStream,
    mut buf: BytesMut,
    channel: &Channel,
    (upstream, login): (Upstream, Login),
) -> Result<Greeted, Miss> {
    let mut greeting = BytesMut::new();
    let broken = |error| protocol(&upstream, error);
    let mut key = None;
    let mut in_hot_standby = None;
    loop {
        while let Some(frame) = next_frame(&mut buf, MAX_GREETING).map_err(broken)? {
            match frame.tag {
                b'E' => {
                    let fields = backend::error_fields(&frame).map_err(broken)?;
                    let starting = fields.sqlstate == SqlState::CANNOT_CONNECT_NOW.as_str();
                    let refusal = Refusal::Server { frame: frame.raw, fields };
                    return Err(if starting { Miss::Stale(refusal) } else { Miss::Final(refusal) });
                }
                b'K' => key = Some(backend::backend_key_data(&frame).map_err(broken)?),
                b'S' => {
                    let (name, value) = backend::parameter_status(&frame).map_err(broken)?;
                    if name == b"in_hot_standby" {
                        in_hot_standby = Some(value == b"on");
                    }
                }
                _ => {}
            }
            greeting.extend_from_slice(&frame.raw);
            if frame.tag == b'Z' {
                let _: TransactionStatus = backend::ready_for_query(&frame).map_err(broken)?;
                let encrypted = matches!(channel, Channel::Tls { .. });
                let (greeting, rest) = (greeting.freeze(), buf.freeze());
                let connected = Connected { stream, upstream, login, encrypted, greeting, key, rest, place: None };
                return Ok(Greeted { connected, in_hot_standby });
            }
            if greeting.len() > MAX_GREETING {
                return Err(broken(PacketError::TooLong { length: greeting.len(), limit: MAX_GREETING }));
            }
        }
        match stream.read_buf(&mut buf).await {
            Ok(0) => return Err(Miss::Stale(Refusal::Report(closed(&upstream)))),
            Ok(_) => {}
            Err(error) => {
                return Err(match failure_inside(&error) {
                    Some(failure) => failure.into(),
                    None => Miss::Stale(Refusal::Report(closed(&upstream))),
                });
            }
        }
    }
}

fn protocol(upstream: &Upstream, error: PacketError) -> Miss {
    Miss::Final(Refusal::Report(placed(upstream, LoginError::Protocol(error).report())))
}
