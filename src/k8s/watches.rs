//! Watches on the clusters in use: one on their pods and one on their resources, for each context, identity,
//! namespace and system; shared by all sessions, ended some minutes after the last use.
//!
//! They answer the next connection without a request, and tell sessions when their server is lost. What they say is
//! believed only while they run; whoever is told that a server is lost can rely on it having been read once more.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use kube::core::WatchEvent;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::debug;

use super::{
    K8sError,
    choose::View,
    client::{Context, ListQuery},
    clock::Mark,
    contexts::Contexts,
    objects::{Custom, Pod},
    operators::{Facts, Operator, Resource},
    reads::{self, PODS, access, collection, pods_of},
};
use crate::upstream::{ClusterId, Identity, Lost, Mode};

/// How often changes are looked at: a blocked failover of CloudNativePG changes its resource ten times a second.
const SETTLE: Duration = Duration::from_millis(50);
/// Between two tries to open a watch that failed.
const BACKOFF: Duration = Duration::from_secs(2);
/// One list or get.
const READ: Duration = Duration::from_secs(10);
/// A watch is two connections. Beyond this many, clusters are read at each connect instead.
const MOST: usize = 64;

/// The settings of watches.
#[derive(Clone, Copy, Debug)]
pub struct WatchParams {
    /// Silence after which a watch ends.
    pub idle: Duration,
    /// How often is looked where `watch` is not allowed.
    pub poll: Duration,
}

impl Default for WatchParams {
    fn default() -> Self {
        Self { idle: Duration::from_mins(10), poll: Duration::from_secs(5) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    context: String,
    identity: Identity,
    namespace: String,
    system: &'static str,
}

/// All watches.
#[derive(Debug)]
pub(super) struct Watches {
    contexts: Arc<Contexts>,
    params: WatchParams,
    all: Mutex<HashMap<Key, Arc<Watched>>>,
}

/// One namespace's clusters of one system.
#[derive(Debug)]
struct Watched {
    key: Key,
    operator: &'static dyn Operator,
    params: WatchParams,
    wanted: watch::Sender<BTreeSet<String>>,
    state: watch::Sender<State>,
    used: Mutex<Instant>,
    guards: Mutex<Guards>,
}

/// The servers that sessions rely on, and whether anybody still looks after them.
#[derive(Debug, Default)]
struct Guards {
    ended: bool,
    all: HashMap<Guarded, watch::Sender<Option<Lost>>>,
}

impl Guards {
    /// Forgets those whose sessions have ended.
    fn tidy(&mut self) -> &mut HashMap<Guarded, watch::Sender<Option<Lost>>> {
        self.all.retain(|_, sender| sender.receiver_count() > 0);
        &mut self.all
    }
}

/// A server that sessions rely on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Guarded {
    cluster: String,
    pod: String,
    uid: String,
    mode: Mode,
}

#[derive(Debug, Default)]
struct State {
    pods: BTreeMap<String, Pod>,
    /// `None` where the caller may not read them.
    resources: Option<BTreeMap<String, Facts>>,
    /// Which clusters the state is about; empty while it is not to be believed.
    covers: BTreeSet<String>,
    mark: Option<Mark>,
}

impl Watches {
    pub(super) fn new(contexts: Arc<Contexts>, params: WatchParams) -> Self {
        Self { contexts, params, all: Mutex::default() }
    }

    /// The cluster as the running watch knows it; `None` where none runs, or it is not to be believed now.
    pub(super) fn view(&self, id: &ClusterId, identity: &Identity, operator: &'static dyn Operator) -> Option<View> {
        let watched = self.find(id, identity, operator)?;
        watched.touch();
        let state = watched.state.borrow();
        state.view(operator, &id.namespace, &id.name)
    }

    /// Waits for the next change of what the watch knows; at most `longest`.
    pub(super) async fn changed(
        &self,
        id: &ClusterId,
        identity: &Identity,
        operator: &'static dyn Operator,
        longest: Duration,
    ) {
        let Some(watched) = self.find(id, identity, operator) else {
            return sleep(longest).await;
        };
        let mut state = watched.state.subscribe();
        state.mark_unchanged();
        // However it ends, the cluster is looked at again.
        let _ = tokio::time::timeout(longest, state.changed()).await;
    }

    /// Watches a cluster from now on, and gives the receiver that says when this server of it is lost.
    pub(super) fn guard(
        &self,
        id: &ClusterId,
        identity: &Identity,
        operator: &'static dyn Operator,
        (pod, mode): (&Pod, Mode),
    ) -> watch::Receiver<Option<Lost>> {
        let guarded =
            Guarded { cluster: id.name.clone(), pod: pod.metadata.name.clone(), uid: pod.metadata.uid.clone(), mode };
        loop {
            let Some(watched) = self.open(id, identity, operator) else { return watch::Sender::new(None).subscribe() };
            // One that has ended meanwhile is replaced by the next `open`.
            if let Some(receiver) = watched.guard(guarded.clone()) {
                watched.wanted.send_if_modified(|wanted| wanted.insert(id.name.clone()));
                return receiver;
            }
        }
    }

    fn key(id: &ClusterId, identity: &Identity, operator: &dyn Operator) -> Key {
        Key {
            context: id.context.clone(),
            identity: identity.clone(),
            namespace: id.namespace.clone(),
            system: operator.system(),
        }
    }

    fn find(&self, id: &ClusterId, identity: &Identity, operator: &dyn Operator) -> Option<Arc<Watched>> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&Self::key(id, identity, operator)).cloned()
    }

    /// The watch for a cluster, begun if need be; `None` where there are too many.
    fn open(&self, id: &ClusterId, identity: &Identity, operator: &'static dyn Operator) -> Option<Arc<Watched>> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, watched| !watched.guards().ended);
        let key = Self::key(id, identity, operator);
        if let Some(watched) = all.get(&key) {
            return Some(Arc::clone(watched));
        }
        if all.len() >= MOST {
            debug!(namespace = id.namespace, "too many watches; clusters here are read at each connect");
            return None;
        }
        let watched = Arc::new(Watched {
            key: key.clone(),
            operator,
            params: self.params,
            wanted: watch::Sender::new(BTreeSet::new()),
            state: watch::Sender::new(State::default()),
            used: Mutex::new(Instant::now()),
            guards: Mutex::default(),
        });
        all.insert(key.clone(), Arc::clone(&watched));
        drop(all);
        let (contexts, registered) = (Arc::clone(&self.contexts), Arc::clone(&watched));
        tokio::spawn(async move { registered.run(&contexts).await });
        Some(watched)
    }
}

impl State {
    fn view(&self, operator: &'static dyn Operator, namespace: &str, name: &str) -> Option<View> {
        if !self.covers.contains(name) || self.mark.is_none_or(|mark| mark.jumped()) {
            return None;
        }
        let of_cluster = |pod: &&Pod| pod.metadata.label(operator.cluster_label()) == Some(name);
        let pods: Vec<Pod> = self.pods.values().filter(of_cluster).cloned().collect();
        let facts = match &self.resources {
            Some(resources) => resources.get(name)?.clone(),
            None if pods.is_empty() => return None,
            None => operator.guess(namespace, name),
        };
        Some(View { operator, facts, pods })
    }
}

impl Watched {
    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn guards(&self) -> MutexGuard<'_, Guards> {
        self.guards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The receiver for a server; `None` where this watch has ended.
    fn guard(&self, guarded: Guarded) -> Option<watch::Receiver<Option<Lost>>> {
        self.touch();
        let mut guards = self.guards();
        if guards.ended {
            return None;
        }
        let sender = guards.tidy().entry(guarded).or_insert_with(|| watch::Sender::new(None));
        // One that has fired is spent: the same pod may be the primary again.
        if sender.borrow().is_some() {
            *sender = watch::Sender::new(None);
        }
        Some(sender.subscribe())
    }

    /// Nobody has connected for a while, and no session relies on it.
    fn unused(&self) -> bool {
        let idle = self.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= self.params.idle;
        idle && !self.relied_on()
    }

    fn relied_on(&self) -> bool {
        !self.guards().tidy().is_empty()
    }

    /// Ends for good, if nobody needs it: checked and marked in one step, so that no guard is added in between.
    fn retire(&self) -> bool {
        let unused = self.unused();
        let mut guards = self.guards();
        guards.ended = unused && guards.tidy().is_empty();
        guards.ended
    }

    async fn run(&self, contexts: &Contexts) {
        while !self.retire() {
            let pause = match contexts.get(Some(&self.key.context), &self.key.identity, None).await {
                Ok(context) => self.follow(&context).await,
                Err(error) => Err(error),
            };
            self.distrust();
            if let Err(error) = pause {
                debug!(namespace = self.key.namespace, %error, "the watch is interrupted");
                sleep(BACKOFF).await;
            }
        }
    }

    fn distrust(&self) {
        self.state.send_modify(|state| state.covers.clear());
    }

    /// Lists, then watches until a watch ends, another cluster joins, or nobody needs it any more.
    async fn follow(&self, context: &Context) -> Result<(), K8sError> {
        let mut joined = self.wanted.subscribe();
        let wanted = joined.borrow_and_update().clone();
        let query = pods_of(self.operator, wanted.iter().map(String::as_str));
        let (pods_version, resources_version) = self.list(context, &query, &wanted).await?;
        self.look(context).await;
        let pods = self.open_watch::<Pod>(context, PODS, &query, &pods_version).await;
        if matches!(&pods, Err(error) if error.is_forbidden()) {
            return self.poll(&mut joined).await;
        }
        let mut pods = pods?.boxed();
        let mut resources = match resources_version {
            Some(version) => {
                let all = ListQuery::default();
                match self.open_watch::<Custom>(context, self.operator.resource(), &all, &version).await {
                    Ok(stream) => stream.boxed(),
                    Err(error) if error.is_forbidden() => return self.poll(&mut joined).await,
                    Err(error) => return Err(error),
                }
            }
            None => futures_util::stream::pending().boxed(),
        };
        // When it is looked whether servers are lost: soon after a change, and after what else comes with it.
        let mut due: Option<Instant> = None;
        loop {
            tokio::select! {
                event = pods.next() => match event {
                    Some(event) => self.pod(event?)?,
                    None => return Ok(()),
                },
                event = resources.next() => match event {
                    Some(event) => self.resource(event?)?,
                    None => return Ok(()),
                },
                _ = joined.changed() => return Ok(()),
                () = sleep_until(due.unwrap_or_else(|| Instant::now() + self.params.idle)) => {
                    if due.take().is_some() {
                        self.look(context).await;
                    } else if self.unused() {
                        return Ok(());
                    }
                    continue;
                }
            }
            due.get_or_insert_with(|| Instant::now() + SETTLE);
        }
    }

    /// Where `watch` is not allowed: a list every few seconds, while sessions rely on it. Connections read for
    /// themselves.
    async fn poll(&self, joined: &mut watch::Receiver<BTreeSet<String>>) -> Result<(), K8sError> {
        self.distrust();
        loop {
            tokio::select! {
                () = sleep(self.params.poll) => {}
                _ = joined.changed() => return Ok(()),
            }
            if self.relied_on() || self.unused() {
                return Ok(());
            }
        }
    }

    async fn list(
        &self,
        context: &Context,
        query: &ListQuery,
        wanted: &BTreeSet<String>,
    ) -> Result<(String, Option<String>), K8sError> {
        let namespace = Some(self.key.namespace.as_str());
        let deadline = Instant::now() + READ;
        let all = ListQuery::default();
        let (pods, resources) = tokio::join!(
            reads::list::<Pod>(context, PODS, namespace, query, deadline),
            reads::list::<Custom>(context, self.operator.resource(), namespace, &all, deadline),
        );
        let (pods, pods_version) = pods?;
        let (resources, resources_version) = match resources {
            Ok((resources, version)) => (Some(resources), Some(version)),
            Err(error) if error.is_forbidden() => (None, None),
            Err(error) => return Err(error),
        };
        self.state.send_modify(|state| {
            state.pods = pods.into_iter().map(|pod| (pod.metadata.name.clone(), pod)).collect();
            state.resources = resources.map(|resources| {
                resources.iter().map(|found| (found.metadata.name.clone(), self.operator.read(found))).collect()
            });
            state.covers.clone_from(wanted);
            state.mark = Some(Mark::now());
        });
        Ok((pods_version, resources_version))
    }

    async fn open_watch<K: serde::de::DeserializeOwned + Clone + Send + 'static>(
        &self,
        context: &Context,
        resource: Resource,
        query: &ListQuery,
        version: &str,
    ) -> Result<impl Stream<Item = Result<WatchEvent<K>, K8sError>> + Send + use<K>, K8sError> {
        let namespace = Some(self.key.namespace.as_str());
        let path = collection(resource, namespace);
        context.watch_objects(&access("watch", resource, namespace, None), &path, query, version).await
    }

    fn pod(&self, event: WatchEvent<Pod>) -> Result<(), K8sError> {
        match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => self.state.send_modify(|state| {
                state.pods.insert(pod.metadata.name.clone(), pod);
            }),
            WatchEvent::Deleted(pod) => self.state.send_modify(|state| {
                state.pods.remove(&pod.metadata.name);
            }),
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(_) => return Err(K8sError::Gone),
        }
        Ok(())
    }

    fn resource(&self, event: WatchEvent<Custom>) -> Result<(), K8sError> {
        let change = |change: &dyn Fn(&mut BTreeMap<String, Facts>)| {
            self.state.send_modify(|state| {
                if let Some(resources) = &mut state.resources {
                    change(resources);
                }
            });
        };
        match event {
            WatchEvent::Added(found) | WatchEvent::Modified(found) => change(&|resources| {
                resources.insert(found.metadata.name.clone(), self.operator.read(&found));
            }),
            WatchEvent::Deleted(found) => change(&|resources| {
                resources.remove(&found.metadata.name);
            }),
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(_) => return Err(K8sError::Gone),
        }
        Ok(())
    }

    /// Looks whether servers that sessions rely on are lost. What seems so is read once more before it is said.
    async fn look(&self, context: &Context) {
        let guarded: Vec<Guarded> = {
            let mut guards = self.guards();
            let unsaid = guards.tidy().iter().filter(|(_, sender)| sender.borrow().is_none());
            unsaid.map(|(guarded, _)| guarded.clone()).collect()
        };
        for guarded in guarded {
            let seems = {
                let state = self.state.borrow();
                let facts = state.view(self.operator, &self.key.namespace, &guarded.cluster).map(|view| view.facts);
                guarded.judge(self.operator, facts.as_ref(), state.pods.get(&guarded.pod))
            };
            if seems.is_none() {
                continue;
            }
            match self.confirm(context, &guarded).await {
                Ok(Some(lost)) => self.announce(&guarded, lost),
                Ok(None) => {}
                Err(error) => debug!(pod = guarded.pod, %error, "whether the server is lost could not be read"),
            }
        }
    }

    async fn confirm(&self, context: &Context, guarded: &Guarded) -> Result<Option<Lost>, K8sError> {
        let deadline = Instant::now() + READ;
        let namespace = self.key.namespace.as_str();
        let resource = self.operator.resource();
        let (pod, custom) = tokio::join!(
            reads::get_pod(context, namespace, &guarded.pod, deadline),
            reads::get::<Custom>(context, resource, (namespace, &guarded.cluster), deadline),
        );
        let facts = match custom {
            Ok(custom) => custom.map(|custom| self.operator.read(&custom)),
            Err(error) if error.is_forbidden() => Some(self.operator.guess(namespace, &guarded.cluster)),
            Err(error) if error.is_absent() => None,
            Err(error) => return Err(error),
        };
        Ok(guarded.judge(self.operator, facts.as_ref(), pod?.as_ref()))
    }

    fn announce(&self, guarded: &Guarded, lost: Lost) {
        debug!(pod = guarded.pod, cluster = guarded.cluster, "a server in use {}", lost.as_str());
        if let Some(sender) = self.guards().all.get(guarded) {
            sender.send_replace(Some(lost));
        }
    }
}

impl Guarded {
    /// Whether this server, as it is now, still serves what was asked of it.
    fn judge(&self, operator: &dyn Operator, facts: Option<&Facts>, pod: Option<&Pod>) -> Option<Lost> {
        let Some(pod) = pod.filter(|pod| pod.metadata.uid == self.uid && !pod.metadata.deleting()) else {
            return Some(Lost::Deleted);
        };
        match (facts?.lost(operator, pod)?, self.mode) {
            (Lost::Demoted, Mode::Ro | Mode::Any) => None,
            (lost, _) => Some(lost),
        }
    }
}
