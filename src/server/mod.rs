//! Accepts connections, each into a task of its own, until it is told to stop; then drains.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tracing::{debug, error, info, warn};

use crate::session::{
    Sessions,
    meet::{Met, Unwelcome, Welcome},
    phase::Phase,
};

pub mod descriptors;
pub mod dumps;
pub mod listen;

use listen::Bound;

/// After a failed accept (no descriptors left, mostly): long enough for a session to end, short enough for a person.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// How many connections of users who may not connect wait to hear why. A person's mistake is one or two; whoever opens
/// more need not hear it.
const STRANGERS: usize = 16;

/// When the drain is over every session ends by deadlines of its own, the longest of which are the five seconds of a
/// cancel request for what it was at. So many seconds in which none has ended mean that none will.
const SILENT: u32 = 6;

/// However many there are, and however slowly they end: the seconds after which the rest is cut.
const LAST_WORDS: u32 = 30;

const SECOND: Duration = Duration::from_secs(1);

/// How the process was told to stop, and how far that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It was not.
    Not,
    /// Let sessions finish what they are at.
    Drain,
    /// End all of them.
    Now,
}

/// The settings of the server.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// How long busy sessions get when the process is told to stop.
    pub drain: Duration,
    /// Connections that have not sent their startup packet yet; more wait in the kernel's queue.
    pub max_startups: usize,
}

/// Serves until `stop` says otherwise and every session has ended. `phase` is what the sessions look at.
pub async fn run(
    bound: Vec<Bound>,
    sessions: Arc<Sessions>,
    phase: watch::Sender<Phase>,
    mut stop: watch::Receiver<Stop>,
    params: Params,
) {
    let (accepted, mut arrivals) = mpsc::channel(1);
    let door = Door {
        sessions: Arc::clone(&sessions),
        clients: Arc::new(Semaphore::new(params.max_startups)),
        strangers: Arc::new(Semaphore::new(STRANGERS)),
        arrivals: accepted,
    };
    let mut listeners = JoinSet::new();
    for bound in bound {
        listeners.spawn(door.clone().accept(bound));
    }
    drop(door);
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop != Stop::Not) => break,
            arrival = arrivals.recv() => match arrival {
                Some(arrival) => spawn(&mut running, &sessions, arrival),
                None => break,
            },
            Some(ended) = running.join_next() => reaped(ended),
        }
    }
    // New connections are refused by the sessions themselves for as long as the drain lasts: a clear error, not a
    // closed port.
    let until = Instant::now() + params.drain;
    phase.send_replace(Phase::Draining { until });
    info!(sessions = running.len(), seconds = params.drain.as_secs(), "draining; a second signal ends all at once");
    while !running.is_empty() {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop == Stop::Now) => break,
            Some(arrival) = arrivals.recv() => spawn(&mut running, &sessions, arrival),
            Some(ended) = running.join_next() => reaped(ended),
        }
    }
    listeners.shutdown().await;
    phase.send_replace(Phase::Draining { until: Instant::now() });
    last_words(&mut running).await;
    if !running.is_empty() {
        warn!(sessions = running.len(), "sessions that do not end are cut");
        running.shutdown().await;
    }
}

/// Waits for sessions that have been told to end, as long as they do. Each second is waited for by itself: on a machine
/// that lets this process run seldom, or not at all for a while, the sessions have had as little of it.
async fn last_words(running: &mut JoinSet<()>) {
    let mut silent = 0;
    for _ in 0..LAST_WORDS {
        let second = Instant::now() + SECOND;
        silent += 1;
        while let Ok(ended) = timeout_at(second, running.join_next()).await {
            let Some(ended) = ended else { return };
            reaped(ended);
            silent = 0;
        }
        if silent == SILENT {
            return;
        }
    }
}

/// A connection with its place.
enum Arrival {
    /// Of somebody who may connect.
    Client(Welcome, OwnedSemaphorePermit),
    /// Of somebody who may not.
    Stranger(Unwelcome, OwnedSemaphorePermit),
}

fn spawn(running: &mut JoinSet<()>, sessions: &Arc<Sessions>, arrival: Arrival) {
    let sessions = Arc::clone(sessions);
    running.spawn(async move {
        let id = sessions.next_id();
        match arrival {
            Arrival::Client(welcome, place) => sessions.serve(id, welcome, place).await,
            Arrival::Stranger(unwelcome, place) => sessions.refuse(id, unwelcome, place).await,
        }
    });
}

/// A session that panicked has ended alone; that it did is a bug worth a line.
fn reaped(ended: Result<(), tokio::task::JoinError>) {
    if let Err(panic) = ended
        && panic.is_panic()
    {
        error!("a session panicked; this is a bug in pgferry, please report it with the lines above");
    }
}

/// Where connections come in.
#[derive(Clone)]
struct Door {
    sessions: Arc<Sessions>,
    /// Places of those who may connect and have not sent their startup packet yet.
    clients: Arc<Semaphore>,
    /// Places of those who may not.
    strangers: Arc<Semaphore>,
    arrivals: mpsc::Sender<Arrival>,
}

impl Door {
    async fn accept(self, bound: Bound) {
        loop {
            let met = match bound.accept().await {
                Ok(connection) => self.sessions.meet(connection).await,
                Err(error) => {
                    warn!(%error, listener = %bound, "a connection could not be accepted");
                    sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            };
            let arrival = match met {
                // A place is waited for with a client at hand: a listener that nobody comes to takes none.
                Met::Welcome(welcome) => match Arc::clone(&self.clients).acquire_owned().await {
                    Ok(place) => Arrival::Client(welcome, place),
                    Err(_) => return,
                },
                Met::Unwelcome(unwelcome) => {
                    let Ok(place) = Arc::clone(&self.strangers).try_acquire_owned() else {
                        debug!(listener = %bound, "one more connection of a user who may not connect is closed");
                        continue;
                    };
                    Arrival::Stranger(unwelcome, place)
                }
                Met::OneTooMany => continue,
            };
            if self.arrivals.send(arrival).await.is_err() {
                return;
            }
        }
    }
}

/// The first SIGTERM or Ctrl-C drains, the second ends all.
///
/// # Errors
/// Where the signals cannot be listened to.
pub fn signals() -> std::io::Result<(watch::Receiver<Stop>, impl Future<Output = ()>)> {
    use tokio::signal::unix::{SignalKind, signal};
    let (sender, stop) = watch::channel(Stop::Not);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listen = async move {
        for stop in [Stop::Drain, Stop::Now] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            sender.send_replace(stop);
        }
        sender.closed().await;
    };
    Ok((stop, listen))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One session for each of these, which ends half a second behind it. How many are left, and after how long.
    async fn left(ends: impl IntoIterator<Item = u64>) -> (usize, u64) {
        let mut running = JoinSet::new();
        for seconds in ends {
            running.spawn(sleep(Duration::from_millis(seconds * 1000 + 500)));
        }
        let started = Instant::now();
        last_words(&mut running).await;
        (running.len(), started.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_that_go_on_ending_are_not_cut() {
        assert_eq!(left([]).await, (0, 0));
        assert_eq!(left([0, 5, 5, 10, 14, 19, 24, 28]).await, (0, 28));
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_that_do_not_end_are_cut() {
        assert_eq!(left([3600]).await, (1, u64::from(SILENT)));
        assert_eq!(left([2, 3600, 3600]).await, (2, 3 + u64::from(SILENT)));
        assert_eq!(left(0..100).await.1, u64::from(LAST_WORDS), "a bound for all");
    }
}
