//! How a watch begins: what it watches is listed first, and from when it is watched.

use std::collections::BTreeSet;

use serde_json::Value;
use tokio::time::Instant;

use crate::k8s::{
    api::{
        access::ListQuery,
        client::Context,
        error::K8sError,
        names::ObjectName,
        objects::{Object, Pod},
        reader::Reader,
        resource::{ENDPOINTS, PODS},
    },
    cluster::{
        cache::{READ, Said},
        leader_objects::{self, Source},
        reflector::Watched,
    },
    operators::{
        facts::Facts,
        leader::{Leader, Word},
    },
};

/// Where watches begin.
pub(super) struct Versions {
    pub(super) pods: String,
    pub(super) resources: Option<String>,
    pub(super) leaders: Vec<(Source, String)>,
    /// Whether all of it can be watched.
    pub(super) watchable: bool,
}

/// What leader objects say in one list, and from when.
type SaidIn = (Source, Vec<(ObjectName, usize, Word)>, String);

/// What they say of each cluster, and which of the lists are watched: what says nothing now is not. Labels decide there,
/// and it is looked at again in some minutes.
fn sorted(objects: Vec<SaidIn>) -> (Said, Vec<(Source, String)>) {
    let (mut leaders, mut watched) = (Said::new(), Vec::new());
    for (source, said, version) in objects {
        if said.iter().any(|(_, _, word)| word.leader != Leader::Unsaid) {
            watched.push((source, version));
        }
        for (cluster, position, word) in said {
            leaders.entry(cluster).or_default().insert(position, word);
        }
    }
    (leaders, watched)
}

impl Watched {
    /// Lists all that is wanted, and remembers it.
    pub(super) async fn list(
        &self,
        context: &Context,
        query: &ListQuery,
        wanted: &BTreeSet<ObjectName>,
    ) -> Result<Versions, K8sError> {
        let namespace = Some(&self.key.namespace);
        let reader = Reader::new(context, Instant::now() + READ);
        let (resource, all) = (self.system.resource(), ListQuery::default());
        let (pods, resources, objects) = tokio::join!(
            reader.list::<Pod>(&PODS, namespace, query),
            reader.list::<Object>(&resource, namespace, &all),
            self.leader_objects(reader, wanted),
        );
        let (pods, pods_version) = pods?;
        let (resources, resources_version) = match resources {
            Ok((resources, version)) => (Some(resources), Some(version)),
            Err(error) if error.is_forbidden() => (self.each(reader, wanted).await?, None),
            Err(error) => return Err(error),
        };
        let (leaders, watched) = sorted(objects?);
        // Who may get a resource and not list it, cannot watch it either.
        let watchable = (resources.is_none() || resources_version.is_some())
            && self.all_are_listed(reader, wanted, &leaders).await?;
        self.state.send_modify(|state| {
            state.pods = pods.into_iter().map(|pod| (pod.metadata.name.clone(), pod)).collect();
            state.resources =
                resources.map(|resources| resources.iter().filter_map(|found| self.facts(found)).collect());
            state.leaders = leaders;
            state.covers.clone_from(wanted);
            state.followed = watchable && !state.refused;
            state.interrupted = 0;
            state.mark = Some(context.shared().clock.mark());
        });
        Ok(Versions { pods: pods_version, resources: resources_version, leaders: watched, watchable })
    }

    /// Whether lists show the leader object of each cluster that has one: it may be one without labels, which the watch
    /// would miss, too.
    async fn all_are_listed(
        &self,
        reader: Reader<'_>,
        wanted: &BTreeSet<ObjectName>,
        leaders: &Said,
    ) -> Result<bool, K8sError> {
        for cluster in wanted {
            let has_sources = !self.system.leader_sources(cluster).is_empty();
            let place = (&self.key.namespace, cluster);
            if has_sources
                && !leaders.contains_key(cluster)
                && leader_objects::of(reader, &*self.system, place).await? != Leader::Unsaid
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The wanted resources one by one; `None` where the caller may not read them at all.
    async fn each(&self, reader: Reader<'_>, wanted: &BTreeSet<ObjectName>) -> Result<Option<Vec<Object>>, K8sError> {
        let resource = self.system.resource();
        let mut all = Vec::new();
        for name in wanted {
            match reader.get::<Object>(&resource, (&self.key.namespace, name)).await {
                Ok(object) => all.extend(object),
                Err(error) if error.is_forbidden() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(all))
    }

    pub(super) fn facts(&self, object: &Object) -> Option<(ObjectName, Facts)> {
        Some((object.metadata.name.clone(), self.system.read(object)?))
    }

    /// What the leader objects of the wanted clusters say, and from when; those that may be read.
    async fn leader_objects(&self, reader: Reader<'_>, wanted: &BTreeSet<ObjectName>) -> Result<Vec<SaidIn>, K8sError> {
        let mut sources = leader_objects::sources(&*self.system, wanted);
        let mut all = Vec::new();
        while let Some(source) = sources.pop() {
            let namespace = Some(&self.key.namespace);
            match reader.list::<Value>(&source.resource, namespace, &source.query).await {
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
}
