//! One watch: a namespace's clusters of one system, and who uses it. It is `listed` and then `followed`; what it sees is
//! looked after by `lookout`.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::debug;

use crate::{
    k8s::{
        api::{
            client::Context,
            contexts::Contexts,
            error::K8sError,
            names::{Namespace, ObjectName},
        },
        cluster::{
            cache::{Guards, OperatedServer, REFUSED, State},
            guard::Guard,
            pod_heard::HEARD,
            recent::Caller,
            resumed::{BACKOFF, Backoff, rest},
        },
        operators::{registry::Systems, system::SystemRef},
    },
    upstream::Lost,
};

/// The settings of watches.
#[derive(Clone, Copy, Debug)]
pub struct WatchParams {
    /// Silence after which a watch ends.
    pub idle: Duration,
    /// How often is looked where `watch` is not allowed.
    pub poll: Duration,
    /// How often clusters without an operator are looked at while all is heard of their servers, up to half as much more.
    pub look: Duration,
}

impl Default for WatchParams {
    fn default() -> Self {
        Self { idle: Duration::from_mins(10), poll: Duration::from_secs(5), look: HEARD }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::k8s) struct Key {
    pub(in crate::k8s) context: String,
    /// Who sees what fills it: a watch on a cluster that the context's name means no more may take long to notice, and is
    /// nobody's who connects now.
    pub(in crate::k8s) caller: Caller,
    pub(in crate::k8s) namespace: Namespace,
    pub(in crate::k8s) system: String,
}

/// One namespace's clusters of one system.
#[derive(Debug)]
pub(in crate::k8s) struct Watched {
    pub(super) key: Key,
    pub(super) system: SystemRef,
    pub(super) systems: Arc<Systems>,
    pub(super) params: WatchParams,
    pub(in crate::k8s) wanted: watch::Sender<BTreeSet<ObjectName>>,
    pub(in crate::k8s) state: watch::Sender<State>,
    /// When somebody connected to a cluster the last time.
    used: Mutex<HashMap<ObjectName, Instant>>,
    guards: Mutex<Guards>,
}

impl Watched {
    pub(in crate::k8s) fn new(key: Key, system: SystemRef, systems: Arc<Systems>, params: WatchParams) -> Arc<Self> {
        Arc::new(Self {
            key,
            system,
            systems,
            params,
            wanted: watch::Sender::new(BTreeSet::new()),
            state: watch::Sender::new(State::default()),
            used: Mutex::default(),
            guards: Mutex::default(),
        })
    }

    pub(in crate::k8s) fn touch(&self, cluster: &ObjectName) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(cluster.clone(), Instant::now());
    }

    pub(in crate::k8s) fn guards(&self) -> MutexGuard<'_, Guards> {
        self.guards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The receiver for a server; `None` where this watch has ended.
    pub(in crate::k8s) fn guard(&self, guarded: OperatedServer) -> Option<watch::Receiver<Option<Lost>>> {
        self.touch(&guarded.cluster);
        let mut guards = self.guards();
        if guards.ended {
            return None;
        }
        let uid = guarded.uid.clone();
        let guard = guards.tidy().entry(guarded).or_insert_with(|| Guard::new(&uid));
        // One that has fired is spent: the same pod may be the primary again.
        if guard.is_spent() {
            *guard = Guard::new(&uid);
        }
        Some(guard.subscribe())
    }

    /// Nobody has connected for a while, and no session relies on it.
    pub(super) fn unused(&self) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, at| at.elapsed() < self.params.idle);
        used.is_empty() && !self.relied_on()
    }

    /// Clusters that nobody uses any more are not wanted any more. Of the last one the whole watch ends.
    pub(super) fn leave_unused(&self) {
        let mut guards = self.guards();
        let guarded: BTreeSet<ObjectName> = guards.tidy().keys().map(|guarded| guarded.cluster.clone()).collect();
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let recently = |name: &ObjectName| used.get(name).is_some_and(|at| at.elapsed() < self.params.idle);
        self.wanted.send_if_modified(|wanted| {
            let stay: BTreeSet<ObjectName> =
                wanted.iter().filter(|name| guarded.contains(*name) || recently(name)).cloned().collect();
            let fewer = !stay.is_empty() && stay.len() < wanted.len();
            if fewer {
                *wanted = stay;
            }
            fewer
        });
    }

    pub(super) fn relied_on(&self) -> bool {
        !self.guards().tidy().is_empty()
    }

    /// Ends for good, if nobody needs it: checked and marked in one step, so that no guard is added in between.
    fn retire(&self) -> bool {
        let unused = self.unused();
        let mut guards = self.guards();
        guards.ended = unused && guards.tidy().is_empty();
        guards.ended
    }

    pub(in crate::k8s) async fn run(&self, contexts: &Contexts) {
        let mut backoff = Backoff::default();
        while !self.retire() {
            self.leave_unused();
            let (began, wanted) = (Instant::now(), self.wanted.borrow().len());
            let ended = match contexts.get_quietly(Some(&self.key.context)).await {
                // Its servers are not lost: they are where nobody can look any more.
                Ok(context) if context.meaning() != self.key.caller.meaning => {
                    self.guards().ended = true;
                    return;
                }
                Ok(context) => Box::pin(self.follow_and_look(&context)).await,
                Err(error) => Err(error),
            };
            self.distrust();
            match ended {
                Err(error) => {
                    debug!(namespace = %self.key.namespace, %error, "the watch is interrupted");
                    if began.elapsed() > REFUSED {
                        backoff.reset();
                    }
                    let pause = if error.is_lasting() { REFUSED } else { backoff.pause() };
                    contexts.rest(&self.key.context, &error, rest(&error, pause)).await;
                }
                // Something that ends every watch at once is not to be asked at full speed.
                Ok(()) if began.elapsed() < BACKOFF && self.wanted.borrow().len() == wanted => sleep(BACKOFF).await,
                Ok(()) => {}
            }
        }
    }

    pub(super) fn distrust(&self) {
        self.state.send_modify(|state| state.followed = false);
    }

    /// Servers are looked after beside the streams, which go on meanwhile.
    async fn follow_and_look(&self, context: &Context) -> Result<(), K8sError> {
        tokio::select! {
            ended = self.follow(context) => ended,
            never = self.look_after(context) => match never {},
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{k8s::operators::registry::SystemsParams, upstream::Mode};

    /// A watch that had once been asked for a cluster listed its pods for as long as anybody used another one.
    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_nobody_uses_is_not_watched() {
        let systems = Arc::new(Systems::new(&SystemsParams::default()));
        let system = systems.all().next().expect("a system").clone();
        let namespace = Namespace::parse("prod").expect("a name");
        let key = Key {
            context: "c".to_owned(),
            caller: Caller { meaning: 0, credential: 0 },
            namespace,
            system: system.name().to_owned(),
        };
        let watched = Watched::new(key, system, systems, WatchParams::default());
        let [used, left, open] = ["used", "left", "open"].map(|name| ObjectName::parse(name).expect("a name"));
        let guarded = |cluster: &ObjectName| OperatedServer {
            cluster: cluster.clone(),
            pod: cluster.clone(),
            uid: "uid".to_owned(),
            mode: Mode::Rw,
        };
        let session = watched.guard(guarded(&open)).expect("it runs");
        for cluster in [&used, &left, &open] {
            watched.touch(cluster);
            watched.wanted.send_if_modified(|wanted| wanted.insert(cluster.clone()));
        }
        tokio::time::advance(Duration::from_mins(9)).await;
        watched.leave_unused();
        assert_eq!(watched.wanted.borrow().len(), 3);
        watched.touch(&used);
        tokio::time::advance(Duration::from_mins(2)).await;
        let mut changed = watched.wanted.subscribe();
        watched.leave_unused();
        assert!(changed.has_changed().expect("it is there"));
        assert_eq!(*changed.borrow_and_update(), BTreeSet::from([used.clone(), open.clone()]));
        tokio::time::advance(Duration::from_mins(11)).await;
        watched.leave_unused();
        assert_eq!(*watched.wanted.borrow(), BTreeSet::from([open]));
        assert!(!watched.retire(), "a session relies on it");
        drop(session);
        assert!(watched.retire());
    }
}
