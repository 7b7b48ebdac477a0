//! A cluster that built-in objects make up, as it is now.

use std::collections::BTreeSet;

use futures_util::future::join_all;

use crate::k8s::{
    api::{
        access::ListQuery,
        error::K8sError,
        names::{Namespace, ObjectName, Place},
        objects::Object,
        reader::Reader,
        resource::{PODS, Resource},
    },
    cluster::{
        leader_objects,
        members::{self, Found},
        snapshot::View,
    },
    operators::{
        facts::{Facts, Members},
        leader::Leader,
        pod_owners,
        registry::Systems,
        system::SystemRef,
    },
};

/// A cluster that built-in objects make up: its object first, for that says which pods are its members.
pub(in crate::k8s) async fn read(
    reader: Reader<'_>,
    systems: &Systems,
    system: &SystemRef,
    (namespace, name): (&Namespace, &ObjectName),
) -> Result<Option<View>, K8sError> {
    let Some(facts) = facts(reader, system, (namespace, name)).await? else {
        return Ok(None);
    };
    with_members(reader, systems, system, facts).await.map(Some)
}

/// The objects that may be called so, and those that a label says are the cluster's.
pub(in crate::k8s) async fn facts(
    reader: Reader<'_>,
    system: &SystemRef,
    (namespace, name): (&Namespace, &ObjectName),
) -> Result<Option<Facts>, K8sError> {
    let resource = system.resource();
    let names = system.object_names(name);
    let gets = names.iter().map(|name| reader.get::<Object>(&resource, (namespace, name)));
    let labelled = async {
        let query = system.labelled_query(name)?;
        Some(reader.list::<Object>(&resource, Some(namespace), &query).await)
    };
    let (gets, labelled) = tokio::join!(join_all(gets), labelled);
    let (mut objects, mut refused) = (Vec::<Object>::new(), None);
    for found in gets {
        match found {
            Err(error) if error.is_forbidden() && pod_owners::are_shown(&resource) => refused = Some(error),
            found => objects.extend(found?),
        }
    }
    if let Some(refused) = refused {
        objects = by_pods(reader, &resource, Some(namespace)).await.map_err(|_| refused.clone())?;
        if !objects.iter().filter_map(|object| system.read(object)).any(|facts| facts.is_called(name)) {
            return Err(refused);
        }
    }
    match labelled {
        Some(Ok((found, _))) => objects.extend(found),
        // Who may not list still has what is found by name.
        Some(Err(error)) if !error.is_forbidden() && !error.is_absent() => return Err(error),
        _ => {}
    }
    let mut seen = BTreeSet::new();
    objects.retain(|object| seen.insert(object.metadata.name.clone()));
    let facts = objects.iter().filter_map(|object| system.read(object));
    // The exact name first; a release's name where nothing is called so.
    let (exact, aliased): (Vec<Facts>, Vec<Facts>) =
        facts.filter(|facts| facts.is_called(name)).partition(|facts| facts.name == *name);
    let aliased = aliased.into_iter().filter(|_| exact.is_empty()).collect::<Vec<_>>();
    Ok(exact.into_iter().chain(aliased).reduce(Facts::merge))
}

/// Workloads that the caller may not read, as their pods show them.
pub(in crate::k8s) async fn by_pods(
    reader: Reader<'_>,
    resource: &Resource,
    namespace: Option<&Namespace>,
) -> Result<Vec<Object>, K8sError> {
    let access = reader.context.access("list", &PODS, namespace, None);
    let owned = |pod: Object| pod_owners::owner(resource, &pod).is_some().then_some(pod);
    let (pods, _) = reader.context.filter_objects(&access, &ListQuery::default(), reader.deadline, owned).await?;
    Ok(pod_owners::owners(resource, pods))
}

/// Whether an operator's cluster may keep passwords as MD5: its resource says so, for labels are written by anybody.
async fn keeps_md5(reader: Reader<'_>, system: &SystemRef, (namespace, name): &Place) -> Result<bool, K8sError> {
    let object = reader.get_if_allowed::<Object>(&system.resource(), (namespace, name)).await?;
    Ok(object.and_then(|object| system.read(&object)).is_some_and(|facts| facts.md5))
}

/// Reads the members that the facts name.
pub(in crate::k8s) async fn with_members(
    reader: Reader<'_>,
    systems: &Systems,
    system: &SystemRef,
    mut facts: Facts,
) -> Result<View, K8sError> {
    if facts.broken.is_some() {
        return Ok(View::new(system.clone(), facts, Vec::new()));
    }
    let Found { pods, leader, claimed, port, outside, pooled, refused } =
        members::read(reader, systems, &facts.namespace, &facts.members).await?;
    if !outside.is_empty() {
        facts.members = Members::External(outside);
    }
    facts.port = port.unwrap_or(facts.port);
    facts.pooled |= pooled;
    if claimed.is_some() {
        // An operator's pods: what its leader object does not say, its labels do, and no server is asked.
        facts.leader = Leader::Unsaid;
    }
    let mut view = View::new(system.clone(), leader_objects::decided(facts, leader), pods);
    if let Some((system, place)) = claimed {
        view.facts.md5 |= keeps_md5(reader, &system, &place).await?;
        view.claimed = Some(system);
    }
    view.refused = refused;
    if let Some(replicas) = view.facts.replicas.clone() {
        // Without replicas the primary serves all the same.
        let found = match members::read(reader, systems, &view.facts.namespace, &replicas).await {
            Ok(found) => found.pods,
            Err(error) if error.is_forbidden() || error.is_absent() => Vec::new(),
            Err(error) => return Err(error),
        };
        let known: BTreeSet<ObjectName> = view.pods.iter().map(|pod| pod.metadata.name.clone()).collect();
        let others = found.into_iter().filter(|pod| !known.contains(&pod.metadata.name));
        for pod in others {
            view.standbys.insert(pod.metadata.name.clone());
            view.pods.push(pod);
        }
    }
    Ok(view)
}
