//! One session more, logged in ahead: a tool that opens one connection soon opens another like it. It waits some seconds
//! for a client that asks for the very same (identity, target, role, database, startup parameters), is given away once,
//! and is closed where nobody comes. Nobody ever gets a session that somebody has used.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::AsyncBufReadExt as _,
    sync::{oneshot, watch},
    time::{Instant, sleep},
};

use super::{
    Phase,
    connect::{Connected, Connector, Wanted},
    converse::{Goodbye, goodbye, lost_server},
};
use crate::upstream::{Directory, Identity, Progress, Role, Target};

/// How much longer than its life a session may have waited by the wall clock, which NTP may set meanwhile.
const SLEPT: Duration = Duration::from_secs(5);

/// What makes two clients alike. The startup packet holds whatever else they say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Likeness {
    identity: Identity,
    target: Target,
    role: Role,
    database: Option<Bytes>,
    startup: Bytes,
}

impl Likeness {
    pub(super) fn of(wanted: &Wanted) -> Self {
        let mut startup = BytesMut::new();
        wanted.startup.encode(wanted.startup.spoken(), &mut startup);
        Self {
            identity: wanted.ask.identity.clone(),
            target: wanted.ask.target.clone(),
            role: wanted.ask.role.clone(),
            database: wanted.database.clone(),
            startup: startup.freeze(),
        }
    }
}

/// Asks the task that keeps a session for it.
type Claim = oneshot::Sender<oneshot::Sender<Connected>>;

/// All spare sessions.
pub(super) struct Spares {
    /// How long one waits.
    life: Duration,
    /// `None` while one is being made.
    waiting: Mutex<HashMap<Likeness, Option<Claim>>>,
    phase: watch::Receiver<Phase>,
}

impl Spares {
    /// None where the life is nothing.
    pub(super) fn new(life: Duration, phase: watch::Receiver<Phase>) -> Option<Arc<Self>> {
        (!life.is_zero()).then(|| Arc::new(Self { life, waiting: Mutex::default(), phase }))
    }

    /// The session that waits for such a client, if it is still good.
    pub(super) async fn take(&self, likeness: &Likeness) -> Option<Connected> {
        let claim = {
            let mut waiting = self.waiting();
            match waiting.get(likeness) {
                Some(Some(_)) => waiting.remove(likeness).flatten()?,
                // One that is being made is ready no sooner than one of the client's own.
                Some(None) | None => return None,
            }
        };
        let (sender, receiver) = oneshot::channel();
        claim.send(sender).ok()?;
        receiver.await.ok()
    }

    /// Makes one for the next such client, unless there is one.
    pub(super) fn prepare(self: &Arc<Self>, likeness: Likeness, wanted: &Wanted, connector: &Arc<Connector>) {
        if *self.phase.borrow() != Phase::Serving {
            return;
        }
        {
            let mut waiting = self.waiting();
            if waiting.contains_key(&likeness) {
                return;
            }
            waiting.insert(likeness.clone(), None);
        }
        let (progress, _) = Progress::new();
        let now = Instant::now();
        let mut ask = wanted.ask.clone();
        ask.progress = progress;
        ask.deadline = now + self.life;
        // Nobody waits for it: a server that is not there now is not waited for either.
        ask.wait_until = now;
        let wanted = Wanted { ask, startup: wanted.startup.clone(), database: wanted.database.clone() };
        let (spares, connector) = (Arc::clone(self), Arc::clone(connector));
        let began = (now, SystemTime::now());
        tokio::spawn(async move {
            match connector.connect(&wanted).await {
                Ok(connected) => spares.keep(likeness, connected, began, &*connector.directory).await,
                // Whoever comes next is told what is wrong.
                Err(_) => {
                    spares.waiting().remove(&likeness);
                }
            }
        });
    }

    /// Keeps a session, whose making `began` then, until it is claimed, or not good any more.
    async fn keep(
        &self,
        likeness: Likeness,
        mut connected: Connected,
        began: (Instant, SystemTime),
        directory: &dyn Directory,
    ) {
        let (claim, claimed) = oneshot::channel();
        self.waiting().insert(likeness.clone(), Some(claim));
        let mut phase = self.phase.clone();
        let mut lost = Some(connected.upstream.lost.clone());
        let given = tokio::select! {
            biased;
            // The server closes, or says something that a client has to hear.
            _ = connected.stream.fill_buf() => None,
            _ = lost_server(&mut lost) => None,
            _ = phase.wait_for(|phase| *phase != Phase::Serving) => None,
            sender = claimed => sender.ok(),
            () = sleep(self.life) => None,
        };
        // After a stop of this process a claim may be seen before the timer has run; and while the machine sleeps only
        // the wall clock goes on. What led through the network is dead then.
        let (made, by_wall) = began;
        let good = made.elapsed() < self.life && by_wall.elapsed().is_ok_and(|age| age < self.life + SLEPT);
        // Alike are those that say the same; what they say may mean another cluster since.
        let given = given.filter(|_| good && directory.is_current(&connected.upstream));
        let left = if let Some(sender) = given {
            sender.send(connected).err()
        } else {
            self.waiting().remove(&likeness);
            Some(connected)
        };
        if let Some(connected) = left {
            goodbye(connected.stream, Goodbye::Terminate).await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Likeness, Option<Claim>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
