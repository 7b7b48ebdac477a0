//! Everything that can be reached, for `pgferry list`: of each system its objects and its pods, each in one list.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::Value;

use crate::{
    k8s::{
        api::{
            access::ListQuery,
            error::K8sError,
            names::{Namespace, ObjectName, Place},
            objects::{Object, Pod},
            reader::Reader,
            resource::{PODS, Resource},
        },
        cluster::{leader_objects, operated, snapshot::View},
        directory::{
            dedup::{self, Listed},
            list_rows::{row, warnings},
            scan::{clusters_of, merged},
        },
        operators::{
            facts::{Evidence, Facts},
            leader::Leader,
            pod_owners,
            registry::Systems,
            system::{System, SystemRef},
        },
    },
    upstream::{ClusterInfo, Listing},
};

/// One system's part of a listing.
#[derive(Default)]
pub(super) struct Part {
    pub(super) clusters: Vec<Listed>,
    pub(super) aliases: Vec<Alias>,
    refused: Vec<K8sError>,
}

/// A Service that is only another name.
#[derive(Clone)]
pub(super) struct Alias {
    pub(super) place: Place,
    pub(super) host: String,
    /// As the configuration says.
    pub(super) followed: bool,
}

/// One listing under way.
pub(super) struct Lister<'a> {
    pub(super) reader: Reader<'a>,
    pub(super) systems: &'a Systems,
    pub(super) namespace: Option<&'a Namespace>,
}

/// Lists one namespace, or all; falls back to the namespace in force where the caller may not list all.
pub(in crate::k8s) async fn list(
    reader: Reader<'_>,
    systems: &Systems,
    namespace: Option<&Namespace>,
) -> Result<Listing, K8sError> {
    reader.context.discover_once(reader.deadline).await?;
    let lister = Lister { reader, systems, namespace };
    let present = systems.operators.iter().filter(|system| reader.context.has(&system.resource()));
    let operators = join_all(present.map(|system| lister.operator(system)));
    let (operators, plain) = tokio::join!(operators, lister.plain());
    let mut all = Vec::new();
    let mut refused: Vec<K8sError> = Vec::new();
    for part in operators.into_iter().chain(plain) {
        let part = part?;
        all.extend(part.clusters);
        refused.extend(part.refused);
    }
    let all = dedup::once(all);
    let mut clusters: Vec<ClusterInfo> = all.iter().map(|listed| row(reader.context, listed)).collect();
    clusters.sort_by(|a, b| (&a.id.namespace, &a.id.name).cmp(&(&b.id.namespace, &b.id.name)));
    Ok(Listing { clusters, warnings: warnings(&refused) })
}

fn key(facts: &Facts) -> Place {
    (facts.namespace.clone(), facts.name.clone())
}

impl Lister<'_> {
    /// The resources and the pods; the leader objects too, where labels leave a doubt.
    async fn operator(&self, system: &SystemRef) -> Result<Part, K8sError> {
        let resource = system.resource();
        let Some(query) = operated::pods_of_all(&**system) else { return Ok(Part::default()) };
        let (keep, all) = (|object: Object| system.read(&object), ListQuery::default());
        let (resources, pods) =
            tokio::join!(self.widest(&resource, &all, keep), self.widest(&PODS, &query, Some::<Pod>),);
        let (resources, pods) = (resources?, pods?);
        let mut part = Part::default();
        part.refused.extend(pods.refused);
        let nothing = pods.objects.as_ref().is_none_or(Vec::is_empty) && resources.objects.is_none();
        // Where there is nothing to see, nobody needs the right to read it.
        part.refused.extend(resources.refused.filter(|_| !nothing));
        let pods = pods.objects.unwrap_or_default();
        let facts = match resources.objects {
            Some(facts) => facts,
            None => clusters_of(&**system, &pods),
        };
        let label = system.pod_labels().map(|labels| labels.cluster).unwrap_or_default();
        let mut by_cluster: BTreeMap<Place, Vec<Pod>> = BTreeMap::new();
        for pod in pods {
            if let Some(name) = pod.metadata.label(&label).and_then(|name| ObjectName::parse(name).ok()) {
                by_cluster.entry((pod.metadata.namespace.clone(), name)).or_default().push(pod);
            }
        }
        part.clusters = facts
            .into_iter()
            .map(|facts| {
                let pods = by_cluster.remove(&key(&facts)).unwrap_or_default();
                Listed::new(View::new(system.clone(), facts, pods))
            })
            .collect();
        self.decide(&**system, &mut part.clusters).await?;
        self.databases(&**system, &mut part.clusters).await?;
        Ok(part)
    }

    /// Databases that have a resource of their own; whoever may not read those sees the others.
    async fn databases(&self, system: &dyn System, clusters: &mut [Listed]) -> Result<(), K8sError> {
        let resource = system.more_databases().filter(|resource| self.reader.context.has(resource));
        let Some(resource) = resource.filter(|_| !clusters.is_empty()) else { return Ok(()) };
        let found = self.widest(&resource, &ListQuery::default(), Some::<Object>).await?;
        for object in found.objects.into_iter().flatten() {
            let of = |listed: &&mut Listed| listed.view.facts.namespace == object.metadata.namespace;
            for listed in clusters.iter_mut().filter(of) {
                let facts = &mut listed.view.facts;
                let declared = system.more_database(facts, &object).map(|owned| owned.database);
                let new = declared.filter(|database| !facts.databases.contains(database));
                facts.databases.extend(new);
            }
        }
        Ok(())
    }

    /// Where two pods claim to be the primary, the leader objects are read; one list for all.
    async fn decide(&self, system: &dyn System, clusters: &mut [Listed]) -> Result<(), K8sError> {
        let doubtful = |listed: &&mut Listed| {
            let facts = &listed.view.facts;
            facts.leader == Leader::Unsaid
                && facts.halt.is_none()
                && listed.view.primary_pod().is_none()
                && !listed.view.pods.is_empty()
        };
        let mut doubtful: Vec<&mut Listed> = clusters.iter_mut().filter(doubtful).collect();
        if doubtful.is_empty() {
            return Ok(());
        }
        let names: Vec<ObjectName> = doubtful.iter().map(|listed| listed.view.facts.name.clone()).collect();
        for source in leader_objects::sources(system, &names) {
            let keep = |object: Value| {
                let namespace = Namespace::parse(object.pointer("/metadata/namespace")?.as_str()?).ok()?;
                let (cluster, _, word) =
                    leader_objects::said(system, names.iter().cloned(), &source.resource, &object)?;
                Some(((namespace, cluster), word.leader))
            };
            let found = self.widest(&source.resource, &source.query, keep).await?;
            let said: BTreeMap<Place, Leader> = found.objects.unwrap_or_default().into_iter().collect();
            for listed in &mut doubtful {
                let leader = said.get(&key(&listed.view.facts)).cloned().unwrap_or(Leader::Unsaid);
                if listed.view.facts.leader == Leader::Unsaid {
                    listed.view.facts.leader = leader;
                }
            }
            if !doubtful.iter().any(|listed| listed.view.facts.leader == Leader::Unsaid) {
                break;
            }
        }
        Ok(())
    }

    /// What built-in objects make up: each resource once, whichever systems look at it.
    async fn plain(&self) -> Vec<Result<Part, K8sError>> {
        let mut resources: Vec<(Resource, Vec<&SystemRef>)> = Vec::new();
        for system in &self.systems.plain {
            let resource = system.resource();
            match resources.iter_mut().find(|(known, _)| *known == resource) {
                Some((_, systems)) => systems.push(system),
                None => resources.push((resource, vec![system])),
            }
        }
        let lists = resources.iter().map(|(resource, systems)| self.of_resource(resource, systems));
        let mut parts = join_all(lists).await;
        if let Err(error) = self.reach(&mut parts).await {
            parts.push(Err(error));
        }
        self.single_pods(&mut parts).await;
        parts
    }

    /// The objects of one resource, each read by the first system that knows it.
    async fn of_resource(&self, resource: &Resource, systems: &[&SystemRef]) -> Result<Part, K8sError> {
        let read = |object: Object| {
            let found = systems.iter().find_map(|system| {
                let facts = system.read(&object).filter(|facts| facts.evidence == Evidence::Read)?;
                Some(((*system).clone(), facts))
            });
            let alias = object.spec("/externalName").filter(|_| object.spec("/type") == Some("ExternalName"));
            let alias = alias.map(|host| Alias {
                place: (object.metadata.namespace.clone(), object.metadata.name.clone()),
                host: host.to_owned(),
                followed: self.systems.follows(&object.metadata),
            });
            (found.is_some() || alias.is_some()).then_some((found, alias))
        };
        // Systems that share a resource want the same of it.
        let query = systems.first().map(|system| system.list_query()).unwrap_or_default();
        let found = self.widest(resource, &query, read).await?;
        let mut part = Part::default();
        part.refused.extend(found.refused);
        let mut by_system: BTreeMap<String, (SystemRef, Vec<Facts>)> = BTreeMap::new();
        let found = match found.objects {
            Some(found) => found,
            None if pod_owners::are_shown(resource) => {
                self.shown_by_pods(resource).await?.into_iter().filter_map(read).collect()
            }
            None => Vec::new(),
        };
        for (found, alias) in found {
            part.aliases.extend(alias);
            let Some((system, facts)) = found else { continue };
            by_system.entry(system.name().to_owned()).or_insert_with(|| (system, Vec::new())).1.push(facts);
        }
        for (system, facts) in by_system.into_values() {
            let views = merged(facts).into_iter().map(|facts| View::new(system.clone(), facts, Vec::new()));
            part.clusters.extend(views.map(Listed::new));
        }
        Ok(part)
    }

    /// Workloads as their pods show them, where the caller may read those.
    async fn shown_by_pods(&self, resource: &Resource) -> Result<Vec<Object>, K8sError> {
        let owned = |pod: Object| pod_owners::owner(resource, &pod).is_some().then_some(pod);
        let pods = self.widest(&PODS, &ListQuery::default(), owned).await?;
        Ok(pod_owners::owners(resource, pods.objects.unwrap_or_default()))
    }

    /// As widely as the caller may: all namespaces, else the one in force.
    pub(super) async fn widest<K: serde::de::DeserializeOwned, T>(
        &self,
        resource: &Resource,
        query: &ListQuery,
        keep: impl Fn(K) -> Option<T>,
    ) -> Result<Found<T>, K8sError> {
        let mut refused = None;
        let own = self.reader.context.own_namespace()?;
        let places = match self.namespace {
            Some(namespace) => vec![Some(namespace)],
            None => vec![None, Some(&own)],
        };
        for namespace in places {
            let access = self.reader.context.access("list", resource, namespace, None);
            match self.reader.context.filter_objects(&access, query, self.reader.deadline, &keep).await {
                Ok((objects, _)) => return Ok(Found { objects: Some(objects), refused }),
                Err(error) if error.is_absent() => return Ok(Found { objects: Some(Vec::new()), refused: None }),
                Err(error) if error.is_forbidden() => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        Ok(Found { objects: None, refused })
    }
}

/// What a list gave; `objects` is `None` where nothing of it may be listed.
pub(super) struct Found<T> {
    pub(super) objects: Option<Vec<T>>,
    refused: Option<K8sError>,
}
