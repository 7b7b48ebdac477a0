//! Watches on the clusters in use: one on their pods, one on their resources and one on their leader objects where they
//! have such, for each context, credential, namespace and operator; shared by all sessions, ended some minutes after the
//! last use. Clusters that no operator made are watched by `pod_watch`, pod by pod.
//!
//! They answer the next connection without a request, and tell sessions when their server is lost. What they say is
//! believed only while they run; whoever is told that a server is lost can rely on it having been read once more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::sleep};
use tracing::debug;

use crate::{
    k8s::{
        api::{client::Context, contexts::Contexts, names::Place, objects::Pod},
        cluster::{
            cache::OperatedServer,
            pod_watch::Guarding,
            recent::Caller,
            reflector::{Key, WatchParams, Watched},
            snapshot::View,
        },
        operators::{registry::Systems, system::SystemRef},
    },
    upstream::{Lost, Mode},
};

/// A watch is two or three connections. Beyond this many, clusters are read at each connect instead.
const MOST_WATCHES: usize = 64;

/// All watches.
#[derive(Debug)]
pub(in crate::k8s) struct Watches {
    contexts: Arc<Contexts>,
    systems: Arc<Systems>,
    params: WatchParams,
    all: Mutex<HashMap<Key, Arc<Watched>>>,
    guarding: Guarding,
}

impl Watches {
    pub(in crate::k8s) fn new(contexts: Arc<Contexts>, systems: Arc<Systems>, params: WatchParams) -> Self {
        let guarding = Guarding::new(Arc::clone(&contexts), Arc::clone(&systems), (params.poll, params.look));
        Self { contexts, systems, params, all: Mutex::default(), guarding }
    }

    /// The cluster as the running watch knows it; `None` where none runs, or it is not to be believed now.
    pub(in crate::k8s) fn view(&self, place: &Place, context: &Context, system: &SystemRef) -> Option<View> {
        let watched = self.find(place, context, system)?;
        watched.touch(&place.1);
        let state = watched.state.borrow();
        state.view(system, (&place.0, &place.1))
    }

    /// Whether a watch on the cluster's system and namespace runs, believed now or not.
    pub(in crate::k8s) fn is_watched(&self, place: &Place, context: &Context, system: &SystemRef) -> bool {
        self.find(place, context, system).is_some_and(|watched| watched.state.borrow().followed)
    }

    /// Waits for the next change of what the watch knows; at most `longest`.
    pub(in crate::k8s) async fn changed(
        &self,
        place: &Place,
        context: &Context,
        system: &SystemRef,
        longest: Duration,
    ) {
        let Some(watched) = self.find(place, context, system) else {
            return sleep(longest).await;
        };
        let mut state = watched.state.subscribe();
        state.mark_unchanged();
        // However it ends, the cluster is looked at again.
        let _ = tokio::time::timeout(longest, state.changed()).await;
    }

    /// Watches a cluster from now on, and gives the receiver that says when this server of it is lost.
    pub(in crate::k8s) fn guard(
        &self,
        context: &Context,
        view: &View,
        (pod, mode): (&Pod, Mode),
    ) -> watch::Receiver<Option<Lost>> {
        let place = view.place();
        if view.system.pod_labels().is_none() {
            return self.guarding.guard(context, view, (pod, mode));
        }
        let cluster = place.1.clone();
        let guarded = OperatedServer {
            cluster: cluster.clone(),
            pod: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            mode,
        };
        loop {
            let Some(watched) = self.open(&place, context, &view.system) else {
                return watch::Sender::new(None).subscribe();
            };
            // One that has ended meanwhile is replaced by the next `open`.
            if let Some(receiver) = watched.guard(guarded.clone()) {
                watched.wanted.send_if_modified(|wanted| wanted.insert(cluster.clone()));
                return receiver;
            }
        }
    }

    fn key((namespace, _): &Place, context: &Context, system: &SystemRef) -> Key {
        Key {
            context: context.name().to_owned(),
            caller: Caller::of(context),
            namespace: namespace.clone(),
            system: system.name().to_owned(),
        }
    }

    fn find(&self, place: &Place, context: &Context, system: &SystemRef) -> Option<Arc<Watched>> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&Self::key(place, context, system)).cloned()
    }

    /// The watch for a cluster, begun if need be; `None` where there are too many.
    fn open(&self, place: &Place, context: &Context, system: &SystemRef) -> Option<Arc<Watched>> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, watched| !watched.guards().ended);
        let key = Self::key(place, context, system);
        if let Some(watched) = all.get(&key) {
            return Some(Arc::clone(watched));
        }
        if all.len() >= MOST_WATCHES {
            debug!(namespace = %place.0, "too many watches; clusters here are read at each connect");
            return None;
        }
        let watched = Watched::new(key.clone(), system.clone(), Arc::clone(&self.systems), self.params);
        // Before anybody can ask whether it is used.
        watched.touch(&place.1);
        all.insert(key.clone(), Arc::clone(&watched));
        drop(all);
        let (contexts, registered) = (Arc::clone(&self.contexts), Arc::clone(&watched));
        tokio::spawn(async move { registered.run(&contexts).await });
        Some(watched)
    }
}
