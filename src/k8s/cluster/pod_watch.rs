//! Whether the servers of clusters that no operator made are still the ones that sessions asked for: a Service that
//! leads elsewhere, a StatefulSet's pod that is deleted. Each pod in use is watched by itself, and its cluster looked at
//! now and then while sessions rely on it; every few seconds where something cannot be watched.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::debug;

use crate::{
    k8s::{
        api::{client::Context, contexts::Contexts, error::K8sError, names::Place, objects::Pod, reader::Reader},
        cluster::{
            cache::{READ, REFUSED},
            guard::Guard,
            plain,
            pod_heard::{Heard, PodWatch},
            recent::Caller,
            resumed::{Backoff, rest},
            snapshot::View,
        },
        operators::{
            facts::{Facts, Members},
            registry::Systems,
            system::SystemRef,
        },
    },
    upstream::{Lost, Mode},
};

/// Each is a connection; beyond this many, servers are left to the tunnel's own end.
const MOST_SERVERS: usize = 64;

/// A server that sessions rely on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PlainServer {
    context: String,
    cluster: Place,
    /// Who sees it, and in which cluster, which an endpoint's uid need not tell.
    caller: Caller,
    pod: Place,
    uid: String,
    mode: Mode,
}

type All = Arc<Mutex<HashMap<PlainServer, Guard>>>;

/// All servers that are looked after.
#[derive(Debug)]
pub(in crate::k8s) struct Guarding {
    contexts: Arc<Contexts>,
    systems: Arc<Systems>,
    /// Between two looks where not all is heard.
    pause: Duration,
    /// Where it is.
    rare: Duration,
    all: All,
}

impl Guarding {
    pub(in crate::k8s) fn new(
        contexts: Arc<Contexts>,
        systems: Arc<Systems>,
        (pause, rare): (Duration, Duration),
    ) -> Self {
        Self { contexts, systems, pause, rare, all: All::default() }
    }

    /// The receiver that says when this server is lost.
    pub(in crate::k8s) fn guard(
        &self,
        context: &Context,
        view: &View,
        (pod, mode): (&Pod, Mode),
    ) -> watch::Receiver<Option<Lost>> {
        let meta = &pod.metadata;
        let server = PlainServer {
            context: context.name().to_owned(),
            cluster: view.place(),
            caller: Caller::of(context),
            pod: (meta.namespace.clone(), meta.name.clone()),
            uid: meta.uid.clone(),
            mode,
        };
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(guard) = all.get_mut(&server).filter(|guard| !guard.is_spent()) {
            return guard.subscribe();
        }
        let mut guard = Guard::new(&server.uid);
        let receiver = guard.subscribe();
        if all.len() >= MOST_SERVERS {
            return receiver;
        }
        all.insert(server.clone(), guard);
        drop(all);
        let task = Task {
            server,
            contexts: Arc::clone(&self.contexts),
            systems: Arc::clone(&self.systems),
            system: view.system.clone(),
            services: match &view.facts.members {
                Members::Service { places, .. } => places.clone(),
                _ => Vec::new(),
            },
            pause: self.pause,
            rare: self.rare,
            all: Arc::clone(&self.all),
        };
        tokio::spawn(task.run());
        receiver
    }
}

/// Why a look is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Something has changed, or what would tell has ended.
    Heard,
    /// It is time.
    Due,
}

/// Looks after one server.
struct Task {
    server: PlainServer,
    contexts: Arc<Contexts>,
    systems: Arc<Systems>,
    system: SystemRef,
    /// Those that lead to the server, if any does.
    services: Vec<Place>,
    /// Between two looks where not all is heard.
    pause: Duration,
    /// Where it is.
    rare: Duration,
    all: All,
}

impl Task {
    async fn run(self) {
        let (mut watch, mut backoff) = (PodWatch::default(), Backoff::default());
        let mut known = None;
        loop {
            let why = self.wait(&mut watch).await;
            if self.forget_if_unused() {
                return;
            }
            let server = &self.server;
            let looked = match self.contexts.get_quietly(Some(&server.context)).await {
                // The server is not lost: it is where nobody can look any more.
                Ok(context) if context.meaning() != server.caller.meaning => {
                    self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(server);
                    return;
                }
                // What was read may be of the next cluster already.
                Ok(context) => {
                    let looked = self.look(&context, &mut watch, (why, &mut known)).await;
                    looked.map(|lost| lost.filter(|_| !context.is_left()))
                }
                Err(error) => Err(error),
            };
            match looked {
                Ok(Some(lost)) => return self.announce(lost),
                Ok(None) => {
                    backoff.reset();
                    watch.looked(None);
                }
                Err(error) => {
                    debug!(pod = %server.pod.1, %error, "whether the server is lost could not be read");
                    known = None;
                    if error.is_lasting() {
                        self.contexts.rest(&server.context, &error, REFUSED).await;
                    }
                    // Whatever it is that fails, nobody asks it all the time.
                    let again = rest(&error, backoff.pause()).max(self.pause);
                    watch.looked(Some(again));
                }
            }
        }
    }

    /// Until something is heard that may end the server, a while has passed, or nobody relies on it for some seconds.
    async fn wait(&self, watch: &mut PodWatch) -> Why {
        let left = self.all.lock().unwrap_or_else(PoisonError::into_inner).get(&self.server).map(Guard::left);
        let left = async {
            if let Some(left) = left {
                left.await;
            }
            sleep(self.pause).await;
        };
        let next = sleep_until(watch.next_look((self.pause, self.rare)));
        tokio::pin!(left, next);
        loop {
            tokio::select! {
                heard = watch.next() => match heard {
                    Some(Heard::Nothing) => {}
                    Some(Heard::Interrupted | Heard::Resumed) => next.as_mut().reset(watch.next_look((self.pause, self.rare))),
                    Some(Heard::Change) | None => return Why::Heard,
                },
                () = &mut next => return Why::Due,
                () = &mut left => return Why::Due,
            }
        }
    }

    /// Nobody relies on it any more: checked and removed in one step, so that nobody subscribes in between.
    fn forget_if_unused(&self) -> bool {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = all.get(&self.server).is_none_or(|guard| !guard.is_relied_on());
        if unused {
            all.remove(&self.server);
        }
        unused
    }

    /// Reads once more what may have ended the server: everything, or, where nothing was heard and all would have been,
    /// only what says where the cluster is.
    async fn look(
        &self,
        context: &Context,
        watch: &mut PodWatch,
        (why, known): (Why, &mut Option<Facts>),
    ) -> Result<Option<Lost>, K8sError> {
        let PlainServer { cluster, pod, mode, .. } = &self.server;
        if !watch.is_open() {
            *known = None;
            *watch = PodWatch::open(context, pod, &self.services).await;
        }
        let reader = Reader::new(context, Instant::now() + READ);
        // Which version of a resource to ask for must be known; how old that knowledge is does not matter here.
        context.discover(Duration::MAX, reader.deadline).await?;
        let place = (&cluster.0, &cluster.1);
        let facts = plain::facts(reader, &self.system, place).await?;
        if why == Why::Due && watch.hears_all() && facts.is_some() && facts == *known {
            return Ok(None);
        }
        *known = None;
        let view = match facts.clone() {
            Some(facts) => Some(plain::with_members(reader, &self.systems, &self.system, facts).await?),
            None => None,
        };
        let found = match reader.get_pod((&pod.0, &pod.1)).await {
            Ok(found) => found,
            // Who may not read pods sees what the Service says.
            Err(error) if error.is_forbidden() => {
                let pods = view.map(|view| view.pods).unwrap_or_default();
                let elsewhere = !pods.is_empty() && !pods.iter().any(|found| found.metadata.name == pod.1);
                return Ok(elsewhere.then_some(Lost::Demoted));
            }
            Err(error) => return Err(error),
        };
        // Of an operator's several pods its leader object tells, which is not watched here.
        if view.as_ref().is_some_and(|view| view.claimed.is_none() || view.pods.len() < 2) {
            *known = facts;
        }
        match found.filter(|found| self.is_reached(found) && !found.metadata.deleting()) {
            Some(found) => Ok(view.and_then(|view| view.lost(&found, *mode))),
            None => Ok(Some(Lost::Deleted)),
        }
    }

    fn is_reached(&self, pod: &Pod) -> bool {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.get_mut(&self.server).is_none_or(|guard| guard.reached().is(pod))
    }

    fn announce(&self, lost: Lost) {
        debug!(pod = %self.server.pod.1, "a server in use {}", lost.as_str());
        if let Some(guard) = self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.server) {
            guard.announce(lost);
        }
    }
}
