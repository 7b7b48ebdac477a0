//! A session whose server has answered, until its end: the log's two lines, the pipe, and every way to end.

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::{info, warn};

use super::{
    About, Phase, Sessions, cancel,
    connect::{Connected, failure_inside},
    pipe::{Pipe, Stopped, Until},
    registry::{Live, Registered},
    reply::{LAST_WORDS, Reply, last_words},
};
use crate::{
    error::{Report, SqlState},
    pg::encode,
    upstream::{BoxedStream, Lost, Upstream},
};

/// After Terminate the server closes by itself. Closing first would answer its TLS close with a reset, which is what
/// kills other tools' tunnels; one that takes longer than this is busy with something else.
const GOODBYE: Duration = Duration::from_secs(2);

/// A reason to end that is ours.
struct Ending {
    report: Report,
    why: &'static str,
    deadline: Instant,
}

/// How the conversation stopped.
enum Over {
    Stopped(Stopped),
    /// The time that a busy session was given has passed.
    Overdue,
}

impl Sessions {
    /// Hands the server's greeting over, pipes, and ends both sides properly.
    pub(super) async fn converse(&self, about: About, mut reply: Reply, connected: Box<Connected>, early: BytesMut) {
        let Connected { stream, upstream, login, encrypted, greeting, key, rest, place: _place } = *connected;
        let cancelled = Arc::new(watch::Sender::new(0));
        let lost = upstream.lost.clone();
        let registered = key.map(|key| {
            let identity = about.wanted.ask.identity.clone();
            let live = Live { key, upstream: upstream.clone(), identity, encrypted, cancelled: Arc::clone(&cancelled) };
            self.registry.register(about.id, live)
        });
        let notices = notices(&about, &upstream, login.superuser);
        opened(&about, &upstream, &login.user, encrypted);
        let role = login.user.clone();
        drop(login);
        if reply.hand_over(&notices, &greeting).await.is_err() {
            goodbye(stream, Goodbye::Terminate).await;
            return closed(&about, &upstream, &role, (0, 0), "client gone");
        }
        let mut pipe = Pipe::new(reply.client, stream, &early, rest, cancelled);
        drop((greeting, early));
        let follows = about.follows_the_primary().then_some(lost);
        let (over, ending) = self.pipe(&mut pipe, &upstream, follows).await;
        let bytes = (pipe.bytes_up, pipe.bytes_down);
        let why = self.end(pipe, over, ending, registered, &upstream).await;
        closed(&about, &upstream, &role, bytes, why);
    }

    /// Pipes until something ends, watching for reasons to end.
    async fn pipe(
        &self,
        pipe: &mut Pipe,
        upstream: &Upstream,
        mut lost: Option<watch::Receiver<Option<Lost>>>,
    ) -> (Over, Option<Ending>) {
        let mut phase = self.phase.clone();
        let mut ending: Option<Ending> = None;
        let mut drains = None;
        loop {
            let until = if ending.is_some() { Until::Idle } else { Until::Ended };
            let overdue = ending.as_ref().map(|ending| ending.deadline);
            tokio::select! {
                biased;
                stopped = pipe.transfer(until) => return (Over::Stopped(stopped), ending),
                until = drained(&mut phase, drains) => {
                    drains = Some(until);
                    ending = Some(Ending {
                        report: Report::fatal(
                            SqlState::ADMIN_SHUTDOWN,
                            "terminating connection because pgferry is shutting down",
                        ),
                        why: "drained",
                        deadline: until,
                    });
                }
                reason = lost_server(&mut lost), if ending.is_none() => {
                    ending = Some(Ending {
                        report: lost_report(upstream, reason),
                        why: "failover",
                        deadline: Instant::now() + self.params.failover_grace,
                    });
                }
                () = sleep_until(overdue.unwrap_or_else(Instant::now)), if overdue.is_some() => {
                    return (Over::Overdue, ending);
                }
            }
        }
    }

    /// Ends both sides. Gives the word for the log.
    async fn end(
        &self,
        pipe: Pipe,
        over: Over,
        ending: Option<Ending>,
        registered: Option<Registered>,
        upstream: &Upstream,
    ) -> &'static str {
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
        why
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

/// What the server still hears.
pub(super) enum Goodbye {
    /// It has had the client's Terminate: its close is awaited.
    Terminated,
    /// It gets one from us.
    Terminate,
    /// Nothing: it is gone, or in the middle of a message.
    Closed,
}

pub(super) async fn goodbye(mut stream: BoxedStream, goodbye: Goodbye) {
    let farewell = async {
        if let Goodbye::Terminate = goodbye {
            let mut out = BytesMut::new();
            encode::terminate(&mut out);
            stream.write_all(&out).await?;
            stream.flush().await?;
        }
        if !matches!(goodbye, Goodbye::Closed) {
            let mut rest = [0; 4096];
            while stream.read(&mut rest).await? > 0 {}
        }
        io::Result::Ok(())
    };
    // However the server's close looks, the session is over.
    let _ = timeout(GOODBYE, farewell).await;
    let _ = timeout(LAST_WORDS, stream.shutdown()).await;
}

/// Waits for a drain whose end is not the `known` one: a second signal brings it forward.
async fn drained(phase: &mut watch::Receiver<Phase>, known: Option<Instant>) -> Instant {
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

/// Waits until the server is lost; for ever where nobody watches it.
pub(super) async fn lost_server(lost: &mut Option<watch::Receiver<Option<Lost>>>) -> Lost {
    if let Some(lost) = lost
        && let Ok(reason) = lost.wait_for(Option::is_some).await
        && let Some(reason) = *reason
    {
        return reason;
    }
    std::future::pending().await
}

fn lost_report(upstream: &Upstream, reason: Lost) -> Report {
    Report::fatal(
        SqlState::ADMIN_SHUTDOWN,
        format!("terminating connection because {} {}", upstream.server, reason.as_str()),
    )
    .hint("Connect again to reach the server that takes over")
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
    if superuser && about.wanted.ask.role == crate::upstream::Role::Default {
        notices.push(Report::notice(format!(
            "you are a superuser here: {} has no other login that pgferry may use",
            upstream.cluster
        )));
    }
    if upstream.standby_cluster && about.wanted.ask.target.mode == crate::upstream::Mode::Rw {
        notices.push(Report::notice(format!("{} is a replica cluster: it is read-only", upstream.cluster)));
    }
    notices
}

fn opened(about: &About, upstream: &Upstream, role: &str, encrypted: bool) {
    info!(
        session = %about.id, client = %about.peer, who = about.who.who(), context = upstream.cluster.context,
        target = %about.wanted.ask.target, pod = %upstream.server.name(), namespace = %upstream.server.namespace(), role,
        application = about.application(), tls = encrypted,
        seconds = about.started.elapsed().as_secs_f32(), "session opened"
    );
}

fn closed(about: &About, upstream: &Upstream, role: &str, bytes: (u64, u64), why: &str) {
    info!(
        session = %about.id, context = upstream.cluster.context, target = %about.wanted.ask.target,
        pod = %upstream.server.name(), namespace = %upstream.server.namespace(), role, application = about.application(),
        bytes_up = bytes.0, bytes_down = bytes.1, seconds = about.started.elapsed().as_secs_f32(), why, "session ended"
    );
}
