//! Everything that can be reached, for `pgferry list`: of each system its objects and its pods, each in one list.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use serde_json::Value;

use crate::{
    error::{ClientFacing, Report},
    k8s::{
        api::{
            access::ListQuery,
            client::Context,
            error::K8sError,
            names::{Namespace, ObjectName, Place},
            objects::{LeaderObject, Object, Pod},
            reader::Reader,
            resource::{ENDPOINT_SLICES, PODS, Resource},
        },
        cluster::{
            leader_objects, operated,
            snapshot::{Choice, Preference, View},
        },
        directory::{
            dedup::{self, Listed},
            lookup::{clusters_of, merged},
        },
        operators::{
            facts::{Evidence, Facts, Members},
            leader::Leader,
            registry::Systems,
            system::{System, SystemRef},
        },
    },
    upstream::{ClusterInfo, Listing, Mode},
};

/// One system's part of a listing.
#[derive(Default)]
struct Part {
    clusters: Vec<Listed>,
    refused: Vec<K8sError>,
}

/// One listing under way.
struct Lister<'a> {
    reader: Reader<'a>,
    systems: &'a Systems,
    namespace: Option<&'a Namespace>,
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
    let mut clusters: Vec<ClusterInfo> = all.iter().map(|listed| info(reader.context, listed)).collect();
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
                Listed { view: View::new(system.clone(), facts, pods), endpoints: None }
            })
            .collect();
        self.decide(&**system, &mut part.clusters).await?;
        Ok(part)
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
        parts
    }

    /// The objects of one resource, each read by the first system that knows it.
    async fn of_resource(&self, resource: &Resource, systems: &[&SystemRef]) -> Result<Part, K8sError> {
        let read = |object: Object| {
            systems.iter().find_map(|system| {
                let facts = system.read(&object).filter(|facts| facts.evidence == Evidence::Read)?;
                Some(((*system).clone(), facts))
            })
        };
        // Systems that share a resource want the same of it.
        let query = systems.first().map(|system| system.list_query()).unwrap_or_default();
        let found = self.widest(resource, &query, read).await?;
        let mut part = Part::default();
        part.refused.extend(found.refused);
        let mut by_system: BTreeMap<String, (SystemRef, Vec<Facts>)> = BTreeMap::new();
        for (system, facts) in found.objects.unwrap_or_default() {
            by_system.entry(system.name().to_owned()).or_insert_with(|| (system, Vec::new())).1.push(facts);
        }
        for (system, facts) in by_system.into_values() {
            let views = merged(facts).into_iter().map(|facts| View::new(system.clone(), facts, Vec::new()));
            part.clusters.extend(views.map(|view| Listed { view, endpoints: None }));
        }
        Ok(part)
    }

    /// Where Services lead, in one list of EndpointSlices: no pod needs to be read for it.
    async fn reach(&self, parts: &mut [Result<Part, K8sError>]) -> Result<(), K8sError> {
        /// So many names make a selector of 8 KiB or so, which every server takes.
        const MOST: usize = 100;
        let clusters = || parts.iter().flatten().flat_map(|part| &part.clusters);
        let services: BTreeSet<ObjectName> =
            clusters().flat_map(|listed| listed.view.facts.places()).map(|(_, service)| service.clone()).collect();
        if services.is_empty() {
            return Ok(());
        }
        let query = if services.len() > MOST { ListQuery::default() } else { leader_objects::slices_of(&services) };
        let keep = |slice: LeaderObject| {
            let service = ObjectName::parse(slice.service()?).ok()?;
            services
                .contains(&service)
                .then(|| ((slice.metadata.namespace.clone(), service), slice.pods().collect::<Vec<Pod>>()))
        };
        // In a list of one namespace a Service of another may be named.
        let named = clusters().flat_map(|listed| listed.view.facts.places()).map(|(namespace, _)| namespace.clone());
        let namespaces: BTreeSet<Option<Namespace>> = match self.namespace {
            Some(_) => named.map(Some).collect(),
            None => BTreeSet::from([None]),
        };
        let mut pods: BTreeMap<Place, Vec<Pod>> = BTreeMap::new();
        let mut answered = false;
        for namespace in namespaces {
            let lister = Lister { namespace: namespace.as_ref(), ..*self };
            let found = lister.widest(&ENDPOINT_SLICES, &query, keep).await?;
            answered |= found.objects.is_some();
            for (service, found) in found.objects.into_iter().flatten() {
                pods.entry(service).or_default().extend(found);
            }
        }
        if !answered {
            return Ok(());
        }
        for listed in parts.iter_mut().flatten().flat_map(|part| &mut part.clusters) {
            let places = listed.view.facts.places();
            if !places.is_empty() {
                let found = places.iter().filter_map(|place| pods.get(*place));
                let several = matches!(listed.view.facts.members, Members::Several(_));
                let found = found.take(if several { usize::MAX } else { 1 }).flatten().cloned();
                listed.endpoints = Some(found.collect());
            }
        }
        Ok(())
    }

    /// As widely as the caller may: all namespaces, else the one in force.
    async fn widest<K: serde::de::DeserializeOwned, T>(
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
struct Found<T> {
    objects: Option<Vec<T>>,
    refused: Option<K8sError>,
}

/// What was refused, each once; what is missing in the same place is one rule.
fn warnings(refused: &[K8sError]) -> Vec<Report> {
    let mut places: Vec<(&Option<String>, Vec<&K8sError>)> = Vec::new();
    for error in refused {
        let K8sError::Forbidden { namespace, .. } = error else { continue };
        match places.iter_mut().find(|(known, _)| *known == namespace) {
            Some((_, errors)) => errors.push(error),
            None => places.push((namespace, vec![error])),
        }
    }
    places.into_iter().filter_map(|(_, errors)| K8sError::together(&errors)).map(|error| warning(&error)).collect()
}

fn warning(error: &K8sError) -> Report {
    Report { severity: crate::error::Severity::Warning, ..error.report() }
}

fn info(context: &Context, listed: &Listed) -> ClusterInfo {
    let facts = &listed.view.facts;
    let mut logins = facts.logins.clone();
    logins.sort_by_key(|login| login.kind);
    // A role that only its Secret names is left out: lists read no Secrets of operators.
    let mut roles: Vec<String> = Vec::new();
    for role in logins.into_iter().filter_map(|login| login.role) {
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    let Shown { primary, replicas, ready, status } = shown(listed);
    ClusterInfo {
        id: listed.view.id(context.name()),
        system: facts.flavor.unwrap_or_else(|| listed.view.system.name()).into(),
        primary,
        replicas,
        ready,
        status,
        databases: facts.databases.clone(),
        roles,
    }
}

struct Shown {
    primary: Option<String>,
    replicas: (usize, usize),
    ready: bool,
    status: String,
}

fn shown(listed: &Listed) -> Shown {
    let (view, facts) = (&listed.view, &listed.view.facts);
    let plain =
        |primary, replicas, ready: bool, status: &str| Shown { primary, replicas, ready, status: status.to_owned() };
    if facts.broken.is_some() {
        return plain(None, (0, 0), false, "unusable");
    }
    if let Some(halt) = &facts.halt {
        return plain(None, (0, facts.instances.saturating_sub(1)), false, halt.state);
    }
    if let Members::External(servers) = &facts.members {
        let hosts: Vec<&str> = servers.iter().map(|(host, _)| host.as_str()).collect();
        return plain(Some(hosts.join(",")), (0, 0), true, "external");
    }
    if let (Some([]), Members::Service { outside: Some(host), .. }) = (listed.endpoints.as_deref(), &facts.members) {
        return plain(Some(host.clone()), (0, 0), true, "external");
    }
    if let Some(pods) = &listed.endpoints {
        let mut serving = pods.iter().filter(|pod| pod.serves());
        let name = serving.next().map(|pod| pod.metadata.name.to_string());
        let (others, ready) = (serving.count(), name.is_some());
        let status = if ready { "ready" } else { "no endpoints" };
        return plain(name, (others, pods.len().saturating_sub(1)), ready, status);
    }
    if let Some(ready) = facts.ready {
        let status = if ready > 0 { "ready" } else { "no ready pod" };
        let replicas = (ready.saturating_sub(1), facts.instances.saturating_sub(1));
        return plain(facts.first_pod.clone().filter(|_| ready > 0), replicas, ready > 0, status);
    }
    if view.system.pod_labels().is_none() {
        return plain(None, (0, 0), false, "unknown");
    }
    let (ready, status) = match view.choose(Mode::Rw, Preference::default()) {
        Choice::Pod(_) if view.is_standby() => (true, "ready (replica cluster)".to_owned()),
        Choice::Pod(_) => (true, "ready".to_owned()),
        Choice::Never(report) if report.message.contains("fenced") => (false, "fenced".to_owned()),
        Choice::Never(_) => (false, "not serving".to_owned()),
        Choice::Wait(_) => (false, "no ready primary".to_owned()),
    };
    let members = facts.instances.max(view.pods.len());
    Shown {
        primary: view.primary_pod().map(|pod| pod.metadata.name.to_string()),
        replicas: (view.replicas(None).len(), members.saturating_sub(1)),
        ready,
        status,
    }
}
