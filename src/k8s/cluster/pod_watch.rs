//! Whether the servers of clusters that no operator made are still the ones that sessions asked for: a Service that
//! leads elsewhere, a StatefulSet's pod that is deleted. Each pod in use is watched by itself, and its cluster looked at
//! every minute while sessions rely on it; every few seconds where the pod cannot be watched.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{
    StreamExt as _,
    stream::{BoxStream, select_all},
};
use kube::core::WatchEvent;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::debug;

use crate::{
    k8s::{
        api::{
            access::ListQuery,
            client::Context,
            contexts::Contexts,
            error::K8sError,
            names::Place,
            objects::{Object, Pod},
            reader::Reader,
            resource::{ENDPOINT_SLICES, PODS},
        },
        cluster::{
            cache::{READ, REFUSED},
            guard::Guard,
            leader_objects, read,
            recent::Caller,
            resumed::{Step, Subject, jittered},
            snapshot::View,
        },
        operators::{facts::Members, registry::Systems, system::SystemRef},
    },
    upstream::{Lost, Mode},
};

/// Each is a connection; beyond this many, servers are left to the tunnel's own end.
const MOST: usize = 64;
/// Between two looks while the pod's watch lives. A look is seven requests, and what ends most servers is seen by the
/// watch.
const WATCHED: Duration = Duration::from_mins(1);

/// A server that sessions rely on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Guarded {
    context: String,
    cluster: Place,
    /// Who sees it, and in which cluster, which an endpoint's uid need not tell.
    caller: Caller,
    pod: Place,
    uid: String,
    mode: Mode,
}

type All = Arc<Mutex<HashMap<Guarded, Guard>>>;

/// All servers that are looked after.
#[derive(Debug)]
pub(in crate::k8s) struct Guarding {
    contexts: Arc<Contexts>,
    systems: Arc<Systems>,
    pause: Duration,
    all: All,
}

impl Guarding {
    pub(in crate::k8s) fn new(contexts: Arc<Contexts>, systems: Arc<Systems>, pause: Duration) -> Self {
        Self { contexts, systems, pause, all: All::default() }
    }

    /// The receiver that says when this server is lost.
    pub(in crate::k8s) fn guard(
        &self,
        context: &Context,
        view: &View,
        (pod, mode): (&Pod, Mode),
    ) -> watch::Receiver<Option<Lost>> {
        let meta = &pod.metadata;
        let guarded = Guarded {
            context: context.name().to_owned(),
            cluster: view.place(),
            caller: Caller::of(context),
            pod: (meta.namespace.clone(), meta.name.clone()),
            uid: meta.uid.clone(),
            mode,
        };
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(guard) = all.get_mut(&guarded).filter(|guard| !guard.is_spent()) {
            return guard.subscribe();
        }
        let mut guard = Guard::new(&guarded.uid);
        let receiver = guard.subscribe();
        if all.len() >= MOST {
            return receiver;
        }
        all.insert(guarded.clone(), guard);
        drop(all);
        let task = Task {
            guarded,
            contexts: Arc::clone(&self.contexts),
            systems: Arc::clone(&self.systems),
            system: view.system.clone(),
            services: match &view.facts.members {
                Members::Service { places, .. } => places.clone(),
                _ => Vec::new(),
            },
            pause: self.pause,
            all: Arc::clone(&self.all),
        };
        tokio::spawn(task.run());
        receiver
    }
}

/// What a watch tells of a server.
enum Heard {
    Nothing,
    Change,
    Interrupted,
    Resumed,
}

fn heard<K>(step: Result<Step<K>, K8sError>) -> Result<Heard, K8sError> {
    Ok(match step? {
        // The first of a watch, which tells no change.
        Step::Event(WatchEvent::Added(_) | WatchEvent::Bookmark(_)) => Heard::Nothing,
        Step::Event(_) => Heard::Change,
        Step::Interrupted => Heard::Interrupted,
        Step::Resumed => Heard::Resumed,
    })
}

/// The watches on the one pod, and on where the Service leads that led to it.
#[derive(Default)]
struct PodWatch {
    heard: Option<BoxStream<'static, Result<Heard, K8sError>>>,
    /// Of how many things no changes are heard.
    deaf: usize,
}

impl PodWatch {
    /// Until the next look, if nothing is heard: `pause` where not all can be.
    fn next_look(&self, pause: Duration) -> Duration {
        if self.heard.is_some() && self.deaf == 0 { jittered(WATCHED) } else { pause }
    }

    async fn next(&mut self) -> Option<Result<Heard, K8sError>> {
        match &mut self.heard {
            Some(heard) => heard.next().await,
            None => std::future::pending().await,
        }
    }
}

/// Looks after one server.
struct Task {
    guarded: Guarded,
    contexts: Arc<Contexts>,
    systems: Arc<Systems>,
    system: SystemRef,
    /// Those that lead to the server, if any does.
    services: Vec<Place>,
    pause: Duration,
    all: All,
}

impl Task {
    async fn run(self) {
        let mut watch = PodWatch::default();
        loop {
            self.wait(&mut watch).await;
            if self.forget_if_unused() {
                return;
            }
            let looked =
                match self.contexts.get_quietly(Some(&self.guarded.context), &self.guarded.caller.identity).await {
                    // The server is not lost: it is where nobody can look any more.
                    Ok(context) if context.meaning() != self.guarded.caller.meaning => {
                        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.guarded);
                        return;
                    }
                    // What was read may be of the next cluster already.
                    Ok(context) => {
                        self.look(&context, &mut watch).await.map(|lost| lost.filter(|_| !context.is_left()))
                    }
                    Err(error) => Err(error),
                };
            match looked {
                Ok(Some(lost)) => return self.announce(lost),
                Ok(None) => {}
                Err(error) => {
                    debug!(pod = %self.guarded.pod.1, %error, "whether the server is lost could not be read");
                    if error.is_lasting() {
                        self.contexts.rest(&self.guarded.context, &error, REFUSED).await;
                    }
                }
            }
        }
    }

    /// Until the pod changes, a while has passed, or nobody relies on it for some seconds.
    async fn wait(&self, watch: &mut PodWatch) {
        let left = self.all.lock().unwrap_or_else(PoisonError::into_inner).get(&self.guarded).map(Guard::left);
        let left = async {
            if let Some(left) = left {
                left.await;
            }
            sleep(self.pause).await;
        };
        let next = sleep(watch.next_look(self.pause));
        tokio::pin!(left, next);
        loop {
            tokio::select! {
                heard = watch.next() => {
                    match heard {
                        Some(Ok(Heard::Nothing)) => continue,
                        Some(Ok(Heard::Change)) => return,
                        Some(Ok(Heard::Resumed)) => watch.deaf -= 1,
                        Some(Ok(Heard::Interrupted)) => watch.deaf += 1,
                        Some(Err(_)) | None => {
                            *watch = PodWatch::default();
                            return;
                        }
                    }
                    next.as_mut().reset(Instant::now() + watch.next_look(self.pause));
                }
                () = &mut next => return,
                () = &mut left => return,
            }
        }
    }

    /// Nobody relies on it any more: checked and removed in one step, so that nobody subscribes in between.
    fn forget_if_unused(&self) -> bool {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = all.get(&self.guarded).is_none_or(|guard| !guard.is_relied_on());
        if unused {
            all.remove(&self.guarded);
        }
        unused
    }

    async fn look(&self, context: &Context, watch: &mut PodWatch) -> Result<Option<Lost>, K8sError> {
        let Guarded { cluster, pod, mode, .. } = &self.guarded;
        if watch.heard.is_none() {
            *watch = self.open_watch(context).await;
        }
        let reader = Reader::new(context, Instant::now() + READ);
        let place = (&cluster.0, &cluster.1);
        let view = read::view(reader, &self.systems, &self.system, place).await?;
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
        match found.filter(|found| self.is_reached(found) && !found.metadata.deleting()) {
            Some(found) => Ok(view.and_then(|view| view.lost(&found, *mode))),
            None => Ok(Some(Lost::Deleted)),
        }
    }

    fn is_reached(&self, pod: &Pod) -> bool {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.get_mut(&self.guarded).is_none_or(|guard| guard.reached().is(pod))
    }

    /// The watches; deaf to what is not allowed.
    async fn open_watch(&self, context: &Context) -> PodWatch {
        let (namespace, pod) = self.guarded.pod.clone();
        let query = ListQuery::fields(format!("metadata.name={pod}"));
        let subject = Subject { context: context.clone(), resource: PODS.clone(), namespace, query };
        // From any version on: the first event is the pod as it is.
        let Ok(pods) = subject.follow::<Pod>("0".to_owned()).await else {
            return PodWatch::default();
        };
        let mut watch = PodWatch { heard: None, deaf: 0 };
        let mut all = vec![pods.map(heard).boxed()];
        for (namespace, service) in &self.services {
            let (namespace, query) = (namespace.clone(), leader_objects::slices_of([service]));
            let subject = Subject { context: context.clone(), resource: ENDPOINT_SLICES.clone(), namespace, query };
            match subject.follow::<Object>("0".to_owned()).await {
                Ok(slices) => all.push(slices.map(heard).boxed()),
                Err(_) => watch.deaf += 1,
            }
        }
        watch.heard = Some(select_all(all).boxed());
        watch
    }

    fn announce(&self, lost: Lost) {
        debug!(pod = %self.guarded.pod.1, "a server in use {}", lost.as_str());
        if let Some(guard) = self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.guarded) {
            guard.announce(lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look is seven requests: one every five seconds for each session's cluster was all that an API server heard.
    #[test]
    fn a_cluster_is_looked_at_once_a_minute_while_its_pod_is_watched() {
        let pause = Duration::from_secs(5);
        let mut watch = PodWatch { heard: Some(futures_util::stream::pending().boxed()), deaf: 0 };
        let looks: Vec<Duration> = (0..100).map(|_| watch.next_look(pause)).collect();
        assert!(looks.iter().all(|look| (WATCHED..=WATCHED * 3 / 2).contains(look)), "{looks:?}");
        assert!(looks.iter().any(|look| *look != *looks.first().unwrap_or(&pause)), "not all at once");
        watch.deaf = 1;
        assert_eq!(watch.next_look(pause), pause);
    }
}
