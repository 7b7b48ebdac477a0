//! One watch: a namespace's clusters of one system, listed and then followed. What it sees is looked after by `lookout`.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::StreamExt as _;
use kube::core::WatchEvent;
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{Instant, interval_at, sleep},
};
use tracing::debug;

use crate::{
    k8s::{
        api::{
            access::ListQuery,
            client::Context,
            contexts::Contexts,
            error::K8sError,
            names::{Namespace, ObjectName},
            objects::{Object, Pod},
            resource::{ENDPOINTS, PODS, Resource},
            typed,
        },
        cluster::{
            cache::{Guards, OperatedServer, READ, REFUSED, Said, State},
            guard::Guard,
            leader_objects::{self, Source},
            recent::Caller,
            resumed::{BACKOFF, Backoff, Step, Steps, Subject, Versioned, rest},
        },
        operators::{
            facts::Facts,
            leader::{Leader, Word},
            registry::Systems,
            system::SystemRef,
        },
    },
    upstream::Lost,
};

/// How often in the time after which clusters are not watched any more it is looked for such.
const ROUNDS: u32 = 10;

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
    params: WatchParams,
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
    fn unused(&self) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, at| at.elapsed() < self.params.idle);
        used.is_empty() && !self.relied_on()
    }

    /// Clusters that nobody uses any more are not wanted any more. Of the last one the whole watch ends.
    fn leave_unused(&self) {
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

    pub(in crate::k8s) async fn run(&self, contexts: &Contexts) {
        let mut backoff = Backoff::default();
        while !self.retire() {
            self.leave_unused();
            let (began, wanted) = (Instant::now(), self.wanted.borrow().len());
            let ended = match contexts.get_quietly(Some(&self.key.context), &self.key.caller.identity).await {
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

    fn distrust(&self) {
        self.state.send_modify(|state| state.followed = false);
    }

    /// Servers are looked after beside the streams, which go on meanwhile.
    async fn follow_and_look(&self, context: &Context) -> Result<(), K8sError> {
        tokio::select! {
            ended = self.follow(context) => ended,
            never = self.look_after(context) => match never {},
        }
    }

    /// Lists, then watches until a watch ends, another cluster joins, or nobody needs it any more.
    async fn follow(&self, context: &Context) -> Result<(), K8sError> {
        let mut joined = self.wanted.subscribe();
        let mut breaks = context.shared().clock.breaks();
        let wanted = joined.borrow_and_update().clone();
        let query = self.pods_of(&wanted);
        let Versions { pods, resources, leaders, watchable } = self.list(context, &query, &wanted).await?;
        if !watchable {
            return self.poll(&mut joined).await;
        }
        let opened = async {
            let pods = self.open_watch::<Pod>(context, &PODS, &query, pods).await?;
            let resources = match resources {
                Some(version) => {
                    let all = ListQuery::default();
                    self.open_watch::<Object>(context, &self.system.resource(), &all, version).await?
                }
                None => futures_util::stream::pending().boxed(),
            };
            let mut objects = Vec::new();
            for (source, version) in leaders {
                let stream = self.open_watch::<Value>(context, &source.resource, &source.query, version).await?;
                objects.push(stream.map(move |event| (source.resource.clone(), event)).boxed());
            }
            Ok((pods, resources, futures_util::stream::select_all(objects)))
        };
        let (mut pods, mut resources, mut objects) = match opened.await {
            Ok(opened) => opened,
            Err(K8sError::Forbidden { .. }) => return self.poll(&mut joined).await,
            Err(error) => return Err(error),
        };
        let no_objects = objects.is_empty();
        // A bookmark a minute is no use.
        let pause = self.params.idle / ROUNDS;
        let mut round = interval_at(Instant::now() + pause, pause);
        loop {
            tokio::select! {
                event = pods.next() => match event {
                    Some(event) => self.pod(event?),
                    None => return Ok(()),
                },
                event = resources.next() => match event {
                    Some(event) => self.resource(event?),
                    None => return Ok(()),
                },
                event = objects.next(), if !no_objects => match event {
                    Some((resource, event)) => self.leader(&wanted, &resource, event?),
                    None => return Ok(()),
                },
                _ = joined.changed() => return Ok(()),
                // The streams may be dead, and never say so.
                _ = breaks.changed() => return Ok(()),
                // The kubeconfig was replaced: this cluster is nobody's who connects now.
                () = context.left() => return Ok(()),
                _ = round.tick() => {
                    if self.unused() {
                        return Ok(());
                    }
                    self.leave_unused();
                }
            }
        }
    }

    fn pods_of(&self, wanted: &BTreeSet<ObjectName>) -> ListQuery {
        let labels = self.system.pod_labels();
        ListQuery::labels(labels.map(|labels| labels.selector_of(wanted)).unwrap_or_default())
    }

    /// Where `watch` is not allowed: a list every few seconds, while sessions rely on it. Connections read for
    /// themselves.
    async fn poll(&self, joined: &mut watch::Receiver<BTreeSet<ObjectName>>) -> Result<(), K8sError> {
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
        wanted: &BTreeSet<ObjectName>,
    ) -> Result<Versions, K8sError> {
        let namespace = Some(&self.key.namespace);
        let deadline = Instant::now() + READ;
        let (resource, all) = (self.system.resource(), ListQuery::default());
        let (pods, resources, objects) = tokio::join!(
            typed::list::<Pod>(context, &PODS, namespace, query, deadline),
            typed::list::<Object>(context, &resource, namespace, &all, deadline),
            self.leader_objects(context, wanted, deadline),
        );
        let (pods, pods_version) = pods?;
        let (resources, resources_version) = match resources {
            Ok((resources, version)) => (Some(resources), Some(version)),
            Err(error) if error.is_forbidden() => (self.each(context, wanted, deadline).await?, None),
            Err(error) => return Err(error),
        };
        // Who may get a resource and not list it, cannot watch it either.
        let watchable = resources.is_none() || resources_version.is_some();
        let mut versions =
            Versions { pods: pods_version, resources: resources_version, leaders: Vec::new(), watchable };
        let mut leaders = Said::new();
        for (source, said, version) in objects? {
            // What says nothing now is not watched: labels decide there, and it is looked at again in some minutes.
            if said.iter().any(|(_, _, word)| word.leader != Leader::Unsaid) {
                versions.leaders.push((source, version));
            }
            for (cluster, position, word) in said {
                leaders.entry(cluster).or_default().insert(position, word);
            }
        }
        for cluster in wanted {
            let has_sources = !self.system.leader_sources(cluster).is_empty();
            if has_sources && !leaders.contains_key(cluster) {
                // Where no list shows its object, it may be one without labels: then the watch would miss it, too.
                let place = (&self.key.namespace, cluster);
                versions.watchable &=
                    leader_objects::of(context, &*self.system, place, deadline).await? == Leader::Unsaid;
            }
        }
        let watchable = versions.watchable;
        self.state.send_modify(|state| {
            state.pods = pods.into_iter().map(|pod| (pod.metadata.name.clone(), pod)).collect();
            state.resources =
                resources.map(|resources| resources.iter().filter_map(|found| self.facts(found)).collect());
            state.leaders = leaders;
            state.covers.clone_from(wanted);
            state.followed = watchable;
            state.interrupted = 0;
            state.mark = Some(context.shared().clock.mark());
        });
        Ok(versions)
    }

    /// The wanted resources one by one; `None` where the caller may not read them at all.
    async fn each(
        &self,
        context: &Context,
        wanted: &BTreeSet<ObjectName>,
        deadline: Instant,
    ) -> Result<Option<Vec<Object>>, K8sError> {
        let resource = self.system.resource();
        let mut all = Vec::new();
        for name in wanted {
            match typed::get::<Object>(context, &resource, (&self.key.namespace, name), deadline).await {
                Ok(object) => all.extend(object),
                Err(error) if error.is_forbidden() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(all))
    }

    fn facts(&self, object: &Object) -> Option<(ObjectName, Facts)> {
        Some((object.metadata.name.clone(), self.system.read(object)?))
    }

    /// What the leader objects of the wanted clusters say, and from when; those that may be read.
    async fn leader_objects(
        &self,
        context: &Context,
        wanted: &BTreeSet<ObjectName>,
        deadline: Instant,
    ) -> Result<Vec<(Source, Vec<(ObjectName, usize, Word)>, String)>, K8sError> {
        let mut sources = leader_objects::sources(&*self.system, wanted);
        let mut all = Vec::new();
        while let Some(source) = sources.pop() {
            let namespace = Some(&self.key.namespace);
            match typed::list::<Value>(context, &source.resource, namespace, &source.query, deadline).await {
                Ok((objects, version)) => {
                    let said =
                        |object| leader_objects::said(&*self.system, wanted.iter().cloned(), &source.resource, object);
                    let said = objects.iter().filter_map(said).collect();
                    all.push((source, said, version));
                }
                Err(error) if error.is_forbidden() && source.resource == ENDPOINTS => {
                    sources.extend(leader_objects::sliced(&*self.system, wanted));
                }
                Err(error) if error.is_forbidden() || error.is_absent() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    async fn open_watch<K>(
        &self,
        context: &Context,
        resource: &Resource,
        query: &ListQuery,
        version: String,
    ) -> Result<Steps<K>, K8sError>
    where
        K: Versioned + serde::de::DeserializeOwned + Clone + Send + 'static,
    {
        let (context, resource, query) = (context.clone(), resource.clone(), query.clone());
        Subject { context, resource, query, namespace: self.key.namespace.clone() }.follow(version).await
    }

    /// What is known is not believed while one of the watches is interrupted.
    fn heard<K>(&self, step: Step<K>) -> Option<WatchEvent<K>> {
        match step {
            Step::Event(event) => return Some(event),
            Step::Interrupted => self.state.send_modify(|state| state.interrupted += 1),
            Step::Resumed => self.state.send_modify(|state| state.interrupted -= 1),
        }
        None
    }

    fn leader(&self, wanted: &BTreeSet<ObjectName>, resource: &Resource, step: Step<Value>) {
        let Some(event) = self.heard(step) else { return };
        let (object, deleted) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
            WatchEvent::Deleted(object) => (object, true),
            WatchEvent::Bookmark(_) | WatchEvent::Error(_) => return,
        };
        if let Some((cluster, position, word)) =
            leader_objects::said(&*self.system, wanted.iter().cloned(), resource, &object)
        {
            let word = if deleted { Word::default() } else { word };
            self.state.send_modify(|state| {
                state.leaders.entry(cluster).or_default().insert(position, word);
            });
        }
    }

    fn pod(&self, step: Step<Pod>) {
        let Some(event) = self.heard(step) else { return };
        match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => self.state.send_modify(|state| {
                state.pods.insert(pod.metadata.name.clone(), pod);
            }),
            WatchEvent::Deleted(pod) => self.state.send_modify(|state| {
                state.pods.remove(&pod.metadata.name);
            }),
            WatchEvent::Bookmark(_) | WatchEvent::Error(_) => {}
        }
    }

    fn resource(&self, step: Step<Object>) {
        let Some(event) = self.heard(step) else { return };
        let (object, deleted) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
            WatchEvent::Deleted(object) => (object, true),
            WatchEvent::Bookmark(_) | WatchEvent::Error(_) => return,
        };
        self.state.send_modify(|state| {
            let Some(resources) = &mut state.resources else { return };
            match self.facts(&object).filter(|_| !deleted) {
                Some((name, facts)) => resources.insert(name, facts),
                None => resources.remove(&object.metadata.name),
            };
        });
    }
}

/// Where watches begin.
struct Versions {
    pods: String,
    resources: Option<String>,
    leaders: Vec<(Source, String)>,
    /// Whether all of it can be watched.
    watchable: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        k8s::operators::registry::SystemsParams,
        upstream::{Identity, Mode},
    };

    /// A watch that had once been asked for a cluster listed its pods for as long as anybody used another one.
    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_nobody_uses_is_not_watched() {
        let systems = Arc::new(Systems::new(&SystemsParams::default()));
        let system = systems.all().next().expect("a system").clone();
        let namespace = Namespace::parse("prod").expect("a name");
        let key = Key {
            context: "c".to_owned(),
            caller: Caller { identity: Identity::Local, meaning: 0, credential: 0 },
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
