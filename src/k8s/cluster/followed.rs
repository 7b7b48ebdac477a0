//! What a watch hears, from its list to the end of one of its streams.

use std::collections::BTreeSet;

use futures_util::{
    StreamExt as _,
    stream::{BoxStream, SelectAll, select_all},
};
use kube::core::WatchEvent;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{Instant, interval_at, sleep},
};

use crate::k8s::{
    api::{
        access::ListQuery,
        client::Context,
        error::K8sError,
        names::ObjectName,
        objects::{Object, Pod},
        resource::{PODS, Resource},
    },
    cluster::{
        leader_objects,
        listed::Versions,
        reflector::Watched,
        resumed::{Step, Steps, Subject, Versioned},
    },
    operators::leader::Word,
};

/// How often in the time after which clusters are not watched any more it is looked for such.
const ROUNDS: u32 = 10;

/// What is heard of leader objects, and of which resource they are.
type LeaderStep = (Resource, Result<Step<Value>, K8sError>);

/// All that is heard of a namespace's clusters of one system.
struct Streams {
    pods: Steps<Pod>,
    /// Nothing where they may not be listed.
    resources: Steps<Object>,
    leaders: SelectAll<BoxStream<'static, LeaderStep>>,
}

impl Watched {
    /// Lists, then watches until a watch ends, another cluster joins, or nobody needs it any more.
    pub(super) async fn follow(&self, context: &Context) -> Result<(), K8sError> {
        let mut joined = self.wanted.subscribe();
        let breaks = context.shared().clock.breaks();
        let wanted = joined.borrow_and_update().clone();
        let query = self.pods_of(&wanted);
        let versions = self.list(context, &query, &wanted).await?;
        if !versions.watchable {
            return self.poll(&mut joined).await;
        }
        match self.open(context, query, versions).await {
            Ok(streams) => {
                self.state.send_modify(|state| (state.followed, state.refused) = (true, false));
                self.hear(context, streams, &wanted, (joined, breaks)).await
            }
            Err(K8sError::Forbidden { .. }) => {
                self.state.send_modify(|state| state.refused = true);
                self.poll(&mut joined).await
            }
            Err(error) => Err(error),
        }
    }

    async fn open(&self, context: &Context, query: ListQuery, versions: Versions) -> Result<Streams, K8sError> {
        let pods = self.open_watch::<Pod>(context, &PODS, &query, versions.pods).await?;
        let resources = match versions.resources {
            Some(version) => {
                let all = ListQuery::default();
                self.open_watch::<Object>(context, &self.system.resource(), &all, version).await?
            }
            None => futures_util::stream::pending().boxed(),
        };
        let mut leaders = Vec::new();
        for (source, version) in versions.leaders {
            let stream = self.open_watch::<Value>(context, &source.resource, &source.query, version).await?;
            leaders.push(stream.map(move |event| (source.resource.clone(), event)).boxed());
        }
        Ok(Streams { pods, resources, leaders: select_all(leaders) })
    }

    async fn hear(
        &self,
        context: &Context,
        Streams { mut pods, mut resources, mut leaders }: Streams,
        wanted: &BTreeSet<ObjectName>,
        (mut joined, mut breaks): (watch::Receiver<BTreeSet<ObjectName>>, watch::Receiver<u64>),
    ) -> Result<(), K8sError> {
        let has_leaders = !leaders.is_empty();
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
                event = leaders.next(), if has_leaders => match event {
                    Some((resource, event)) => self.leader(wanted, &resource, event?),
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

    async fn open_watch<K>(
        &self,
        context: &Context,
        resource: &Resource,
        query: &ListQuery,
        version: String,
    ) -> Result<Steps<K>, K8sError>
    where
        K: Versioned + DeserializeOwned + Clone + Send + 'static,
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
