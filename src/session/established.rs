//! A session whose server has answered, until its end: the pipe, and every way to end.

use std::{io, sync::Arc};

use bytes::BytesMut;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::warn;

use super::{
    Sessions, cancel,
    connect::{Connected, failure_inside},
    ending::{Ending, Endings, Idle},
    goodbye::{Goodbye, goodbye, last_words},
    log::{About, LoggedIn},
    pipe::{Pipe, Stopped, Until},
    registry::{Live, Registered},
    reply::Reply,
    route::is_replication,
};
use crate::{
    error::{Report, SqlState},
    pg::encode,
    upstream::{Mode, Role, Upstream},
};

/// How the conversation stopped.
enum Over {
    Stopped(Stopped),
    /// The time that a busy session was given has passed.
    Overdue,
}

impl Sessions {
    /// Hands the server's greeting over, pipes, and ends both sides properly.
    pub(super) async fn run_established(
        &self,
        mut about: About,
        mut reply: Reply,
        connected: Box<Connected>,
        early: BytesMut,
    ) {
        let database = about.wanted.database.as_deref().unwrap_or(connected.login.database.as_bytes());
        let record = about.record.ready(&connected, database);
        let Connected { stream, upstream, login, encrypted, greeting, key, rest, place: _place, grant, .. } =
            *connected;
        let cancelled = Arc::new(watch::Sender::new(0));
        let registered = key.map(|key| {
            let record = record.clone();
            let live = Live { key, upstream: upstream.clone(), record, encrypted, cancelled: Arc::clone(&cancelled) };
            self.registry.register(about.id, live)
        });
        let notices = notices(&about, &upstream, login.superuser);
        let logged_in = LoggedIn::new(&about, &upstream, &login);
        logged_in.opened(encrypted);
        drop(login);
        if reply.hand_over(&notices, &greeting).await.is_err() {
            goodbye(stream, Goodbye::Terminate).await;
            about.record.gave_up();
            record.ended((0, 0), "client gone", None);
            return logged_in.ended((0, 0), "client gone");
        }
        about.record.connected();
        let mut pipe = Pipe::new(reply.client, stream, &early, rest, cancelled);
        drop((greeting, early));
        let endings = Endings {
            lost: follows_the_primary(&about, &upstream).then(|| upstream.lost.clone()),
            revoked: self.connector.permits.follow(&grant),
            ends: self.connector.permits.ends(&grant, about.started),
            idle: Idle::of(&grant),
            ..Endings::new(self.phase.clone(), self.params.failover_grace)
        };
        let (over, ending) = self.pipe(&mut pipe, &upstream, endings, registered.as_ref()).await;
        let bytes = (pipe.bytes_up, pipe.bytes_down);
        let (why, said) = self.end(pipe, over, ending, registered, &upstream).await;
        record.ended(bytes, why, said);
        logged_in.ended(bytes, why);
    }

    /// Pipes until something ends, watching for reasons to end.
    async fn pipe(
        &self,
        pipe: &mut Pipe,
        upstream: &Upstream,
        mut endings: Endings,
        registered: Option<&Registered>,
    ) -> (Over, Option<Ending>) {
        let mut ending: Option<Ending> = None;
        loop {
            let until = if ending.is_some() { Until::Idle } else { Until::Ended };
            let overdue = ending.as_ref().map(|ending| ending.deadline);
            let look = endings.idle.as_ref().map(Idle::next).filter(|_| ending.is_none());
            tokio::select! {
                biased;
                stopped = pipe.transfer(until) => return (Over::Stopped(stopped), ending),
                next = endings.next(ending.is_some(), upstream) => {
                    if next.cancels && pipe.running() {
                        self.cancel_meanwhile(registered);
                    }
                    ending = Some(next);
                }
                () = sleep_until(look.unwrap_or_else(Instant::now)), if look.is_some() => {
                    ending = endings.idle.as_mut().and_then(|idle| idle.look(pipe));
                }
                () = sleep_until(overdue.unwrap_or_else(Instant::now)), if overdue.is_some() => {
                    return (Over::Overdue, ending);
                }
            }
        }
    }

    /// Cancels what a session is at that goes on being piped, so that its client hears of it.
    fn cancel_meanwhile(&self, registered: Option<&Registered>) {
        let Some(live) = registered.map(|registered| Arc::clone(registered.live())) else { return };
        let connector = Arc::clone(&self.connector);
        tokio::spawn(async move {
            if let Err(failure) = cancel::forward(connector.dial.as_ref(), &live).await {
                warn!(%failure, "the query of a session that is ended could not be cancelled");
            }
        });
    }

    /// Ends both sides. Gives the word for the log, and the code that the client hears.
    async fn end(
        &self,
        pipe: Pipe,
        over: Over,
        ending: Option<Ending>,
        registered: Option<Registered>,
        upstream: &Upstream,
    ) -> (&'static str, Option<SqlState>) {
        let (why, farewell) = match (&over, ending) {
            (Over::Stopped(Stopped::Terminated), _) => ("client terminated", Farewell::Close),
            (Over::Stopped(Stopped::ClientGone), _) => ("client gone", Farewell::None),
            (Over::Stopped(Stopped::Fatal), _) => ("server ended it", Farewell::Close),
            (Over::Stopped(Stopped::ServerClosed), _) => ("server closed", Farewell::Say(server_closed(upstream))),
            (Over::Stopped(Stopped::Lost(error)), _) => ("tunnel lost", Farewell::Say(tunnel_lost(upstream, error))),
            (Over::Stopped(Stopped::Idle) | Over::Overdue, Some(ending)) => (ending.why, Farewell::Say(ending.report)),
            (Over::Stopped(Stopped::Idle) | Over::Overdue, None) => ("ended", Farewell::Close),
        };
        let abandoned = matches!(over, Over::Overdue | Over::Stopped(Stopped::ClientGone)) && pipe.running();
        let boundary = pipe.at_boundary();
        let server = match over {
            Over::Stopped(Stopped::Terminated) => Goodbye::Terminated,
            Over::Stopped(Stopped::Lost(_) | Stopped::ServerClosed | Stopped::Fatal) => Goodbye::Closed,
            _ if pipe.at_client_boundary() => Goodbye::Terminate,
            _ => Goodbye::Closed,
        };
        let said = match &farewell {
            Farewell::Say(report) if boundary => Some(report.sqlstate),
            _ => None,
        };
        let Pipe { mut client, upstream: stream, .. } = pipe;
        let to_client = async {
            match farewell {
                Farewell::None => {}
                Farewell::Close => last_words(&mut client, &[]).await,
                Farewell::Say(report) if boundary => {
                    let mut out = BytesMut::new();
                    encode::report(&report, &mut out);
                    last_words(&mut client, &out).await;
                }
                // Inside a message nothing can be said; a clean end would pass for the message's end.
                Farewell::Say(_) => client.reset_on_drop(),
            }
        };
        // Side by side: the way that a cancel request takes may be as dead as the one that is given up.
        tokio::join!(to_client, self.cancel_abandoned(registered.filter(|_| abandoned)), goodbye(stream, server));
        (why, said)
    }

    /// A client that vanished in mid-query leaves no query behind.
    async fn cancel_abandoned(&self, registered: Option<Registered>) {
        if let Some(registered) = registered
            && let Err(failure) = cancel::forward(self.connector.dial.as_ref(), registered.live()).await
        {
            warn!(%failure, "the query of a client that is gone could not be cancelled");
        }
    }
}

/// What the client still hears.
enum Farewell {
    None,
    Close,
    Say(Report),
}

/// A failover ends the session: not one that streams WAL, nor one that did not care which server it got.
fn follows_the_primary(about: &About, upstream: &Upstream) -> bool {
    upstream.mode != Mode::Any && !is_replication(&about.startup)
}

fn server_closed(upstream: &Upstream) -> Report {
    Report::fatal(
        SqlState::CONNECTION_FAILURE,
        format!("the server in {} closed the connection without a word", upstream.server),
    )
    .detail("It may have crashed, been killed, or its pod may have been deleted.")
    .hint(format!("Connect again, or see: {}", upstream.server.logs()))
}

fn tunnel_lost(upstream: &Upstream, error: &io::Error) -> Report {
    match failure_inside(error) {
        Some(failure) => failure.report,
        None => Report::fatal(
            SqlState::CONNECTION_FAILURE,
            format!("the connection to {} was lost: {}", upstream.server, error.kind()),
        )
        .hint("Connect again"),
    }
}

/// The two cases of architecture that a person must know of; otherwise nothing is said.
fn notices(about: &About, upstream: &Upstream, superuser: bool) -> Vec<Report> {
    let mut notices = Vec::new();
    if superuser && about.wanted.ask.role == Role::Default {
        notices.push(Report::notice(format!(
            "you are a superuser here: {} has no other login that pgferry may use",
            upstream.cluster
        )));
    }
    if upstream.standby_cluster && upstream.mode == Mode::Rw {
        notices.push(Report::notice(format!("{} is a replica cluster: it is read-only", upstream.cluster)));
    }
    notices
}
