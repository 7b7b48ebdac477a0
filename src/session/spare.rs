//! One session more, logged in ahead: a tool that opens one connection soon opens another like it. It waits some seconds
//! for a client that asks for the very same (identity, target, role, database, startup parameters), is given away once,
//! and is closed where nobody comes. Nobody ever gets a session that somebody has used.
//!
//! It counts as a session, and keeps no client out: where the limit is reached, it ends and leaves its place.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use tokio::{
    io::AsyncBufReadExt as _,
    sync::{oneshot, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    connect::{Connected, Connector, Wanted},
    goodbye::{Goodbye, goodbye},
    phase::{Phase, until_given},
    registry::{Permit, Registry},
};
use crate::upstream::{Identity, Progress, Role, Target};

/// How much longer than its life a session may have waited by the wall clock, which NTP may set meanwhile.
const SLEPT: Duration = Duration::from_secs(5);

/// How long one that is being made may still take where only its place is wanted. Given up half-way it would stay open
/// at the server until that notices.
const MADE: Duration = Duration::from_secs(2);

/// What makes two clients alike. The startup packet holds whatever else they say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Likeness {
    identity: Identity,
    target: Target,
    role: Role,
    database: Option<Bytes>,
    startup: Bytes,
    reason: Option<String>,
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
            reason: wanted.reason.clone(),
        }
    }
}

/// What a client asks of the task that keeps a session.
struct Claim {
    wants: Wants,
    to: oneshot::Sender<Given>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wants {
    /// The session; where that is not good any more, its place.
    Session,
    /// Its place, when it has ended.
    Place,
}

/// What a client gets.
pub(super) enum Given {
    /// A session and its place.
    Session(Box<Connected>, Permit),
    /// A place alone.
    Place(Permit),
}

impl Given {
    pub(super) fn parts(self) -> (Permit, Option<Box<Connected>>) {
        match self {
            Self::Session(connected, permit) => (permit, Some(connected)),
            Self::Place(permit) => (permit, None),
        }
    }
}

/// Whether a spare session made room.
pub(super) enum Yielded {
    /// It did.
    Given(Given),
    /// It ended by itself: its place is free, or somebody else's.
    Ended,
    /// There is none.
    None,
}

/// How far a spare session is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Waiting,
    Ending,
    Making,
}

/// One spare session, as long as it holds a place and nobody has claimed it.
struct Spare {
    /// Tells it from the next one that is like it.
    number: u64,
    state: State,
    claim: oneshot::Sender<Claim>,
}

impl Spare {
    /// Asks for it; what comes where it ends by itself is an error.
    fn claim(self, wants: Wants) -> oneshot::Receiver<Given> {
        let (to, given) = oneshot::channel();
        // A task that is gone drops the claim, and with it the sender of what would be given.
        let _ = self.claim.send(Claim { wants, to });
        given
    }
}

#[derive(Default)]
struct All {
    next: u64,
    spares: HashMap<Likeness, Spare>,
}

/// All spare sessions.
pub(super) struct Spares {
    /// How long one waits.
    life: Duration,
    all: Mutex<All>,
    phase: watch::Receiver<Phase>,
}

impl Spares {
    /// None where the life is nothing.
    pub(super) fn new(life: Duration, phase: watch::Receiver<Phase>) -> Option<Arc<Self>> {
        (!life.is_zero()).then(|| Arc::new(Self { life, all: Mutex::default(), phase }))
    }

    /// The session that waits for such a client; its place where it is not good any more.
    pub(super) async fn take(&self, likeness: &Likeness) -> Option<Given> {
        let spare = {
            let mut all = self.all();
            // One that is being made is ready no sooner than one of the client's own.
            all.spares.get(likeness).filter(|spare| spare.state == State::Waiting)?;
            all.spares.remove(likeness)?
        };
        spare.claim(Wants::Session).await.ok()
    }

    /// Makes room where the limit is reached: gives the session that is like the client even if it is still being made,
    /// else ends one.
    pub(super) async fn yield_one(&self, likeness: Option<&Likeness>) -> Yielded {
        let claimed = {
            let mut all = self.all();
            let alike = likeness.and_then(|likeness| all.spares.remove(likeness));
            if let Some(spare) = alike {
                spare.claim(Wants::Session)
            } else {
                let soonest = all.spares.iter().min_by_key(|(_, spare)| (spare.state, spare.number));
                let Some(likeness) = soonest.map(|(likeness, _)| likeness.clone()) else { return Yielded::None };
                let Some(spare) = all.spares.remove(&likeness) else { return Yielded::None };
                spare.claim(Wants::Place)
            }
        };
        claimed.await.map_or(Yielded::Ended, Yielded::Given)
    }

    /// Ends all of them; how many there were.
    pub(super) async fn end_all(&self) -> usize {
        let spares: Vec<Spare> = self.all().spares.drain().map(|(_, spare)| spare).collect();
        join_all(spares.into_iter().map(|spare| spare.claim(Wants::Place))).await.len()
    }

    /// Makes one for the next such client, unless there is one, or no place for it.
    pub(super) fn prepare(
        self: &Arc<Self>,
        likeness: Likeness,
        wanted: &Wanted,
        connector: &Arc<Connector>,
        registry: &Arc<Registry>,
    ) {
        if *self.phase.borrow() != Phase::Serving {
            return;
        }
        let (claim, claimed) = oneshot::channel();
        let (number, permit) = {
            let mut all = self.all();
            if all.spares.contains_key(&likeness) {
                return;
            }
            // Under the lock: a client that finds no place finds this one.
            let Ok(permit) = registry.admit() else { return };
            all.next += 1;
            let number = all.next;
            all.spares.insert(likeness.clone(), Spare { number, state: State::Making, claim });
            (number, permit)
        };
        let (progress, _) = Progress::new();
        let now = Instant::now();
        let mut ask = wanted.ask.clone();
        ask.progress = progress;
        ask.deadline = now + self.life;
        // Nobody waits for it: a server that is not there now is not waited for either.
        ask.wait_until = now;
        let wanted = Wanted {
            ask,
            startup: wanted.startup.clone(),
            database: wanted.database.clone(),
            otherwise: None,
            reason: wanted.reason.clone(),
        };
        let keeper = Keeper {
            spares: Arc::clone(self),
            connector: Arc::clone(connector),
            likeness,
            number,
            began: (now, SystemTime::now()),
        };
        tokio::spawn(keeper.run(wanted, permit, claimed));
    }

    fn all(&self) -> MutexGuard<'_, All> {
        // A panic while the map was held leaves it whole: every change is one insert or remove.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task of one spare session.
struct Keeper {
    spares: Arc<Spares>,
    connector: Arc<Connector>,
    likeness: Likeness,
    number: u64,
    /// When its making began.
    began: (Instant, SystemTime),
}

impl Keeper {
    async fn run(self, wanted: Wanted, permit: Permit, mut claimed: oneshot::Receiver<Claim>) {
        let (made, claim) = self.make(&wanted, &mut claimed).await;
        let (made, claim) = match (made, claim) {
            (Some(mut connected), None) => {
                let claim = self.keep(&mut connected, &mut claimed).await;
                (Some(connected), claim)
            }
            other => other,
        };
        match (made, claim) {
            (Some(connected), Some(Claim { wants: Wants::Session, to })) if self.is_good(&connected) => {
                if let Err(Given::Session(connected, permit)) = to.send(Given::Session(Box::new(connected), permit)) {
                    end(Some(*connected)).await;
                    drop(permit);
                }
            }
            // It is worth nothing, and most often dead: the client need not wait for its end.
            (made, Some(Claim { wants: Wants::Session, to })) => {
                give(to, permit);
                end(made).await;
            }
            (made, Some(Claim { wants: Wants::Place, to })) => {
                end(made).await;
                give(to, permit);
            }
            (made, None) => {
                self.is(State::Ending);
                end(made).await;
                // Whoever has claimed it meanwhile gets the place, without having seen it free.
                if !self.withdraw()
                    && let Ok(claim) = claimed.await
                {
                    give(claim.to, permit);
                }
            }
        }
    }

    /// Logs in; a claim meanwhile is answered when that is over.
    async fn make(
        &self,
        wanted: &Wanted,
        claimed: &mut oneshot::Receiver<Claim>,
    ) -> (Option<Connected>, Option<Claim>) {
        let connecting = Box::pin(self.connector.connect(wanted));
        tokio::pin!(connecting);
        // Whoever comes after one that failed is told what is wrong.
        tokio::select! {
            made = &mut connecting => (made.ok(), None),
            Ok(claim) = claimed => {
                let patience = match claim.wants {
                    Wants::Session => self.spares.life,
                    Wants::Place => MADE,
                };
                (timeout(patience, connecting).await.ok().and_then(Result::ok), Some(claim))
            }
        }
    }

    /// Keeps a session until it is claimed, or not good any more.
    async fn keep(&self, connected: &mut Connected, claimed: &mut oneshot::Receiver<Claim>) -> Option<Claim> {
        self.is(State::Waiting);
        let mut phase = self.spares.phase.clone();
        let mut lost = Some(connected.upstream.lost.clone());
        tokio::select! {
            biased;
            // The server closes, or says something that a client has to hear.
            _ = connected.stream.fill_buf() => None,
            _ = until_given(&mut lost) => None,
            _ = phase.wait_for(|phase| *phase != Phase::Serving) => None,
            claim = claimed => claim.ok(),
            () = sleep(self.spares.life) => None,
        }
    }

    /// After a stop of this process a claim may be seen before the timer has run; and while the machine sleeps only the
    /// wall clock goes on: what led through the network is dead then. And alike are those that say the same; what they
    /// say may mean another cluster since, or be another's to see.
    fn is_good(&self, connected: &Connected) -> bool {
        let (made, by_wall) = self.began;
        made.elapsed() < self.spares.life
            && by_wall.elapsed().is_ok_and(|age| age < self.spares.life + SLEPT)
            && self.connector.directory.is_current(&connected.upstream)
    }

    fn is(&self, state: State) {
        let mut all = self.spares.all();
        if let Some(spare) = all.spares.get_mut(&self.likeness).filter(|spare| spare.number == self.number) {
            spare.state = state;
        }
    }

    /// Takes it out; false where somebody has claimed it.
    fn withdraw(&self) -> bool {
        let mut all = self.spares.all();
        let ours = all.spares.get(&self.likeness).is_some_and(|spare| spare.number == self.number);
        if ours {
            all.spares.remove(&self.likeness);
        }
        ours
    }
}

/// Leaves a place to a client; where that is gone, to whoever comes.
fn give(to: oneshot::Sender<Given>, permit: Permit) {
    let _ = to.send(Given::Place(permit));
}

async fn end(made: Option<Connected>) {
    if let Some(connected) = made {
        goodbye(connected.stream, Goodbye::Terminate).await;
    }
}
