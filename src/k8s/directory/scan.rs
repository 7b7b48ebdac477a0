//! All clusters that the caller may see, as their objects tell, else their pods.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;

use crate::k8s::{
    api::{
        access::ListQuery,
        error::K8sError,
        names::{Namespace, ObjectName, Place},
        objects::{Object, Pod},
        reader::Reader,
        resource::PODS,
    },
    cluster::operated,
    directory::dedup,
    operators::{
        facts::{Evidence, Facts},
        system::{System, SystemRef},
    },
};

/// A cluster that a list showed.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) system: SystemRef,
    pub(super) facts: Facts,
}

/// What built-in objects of this name make up anywhere: only these are asked for, so that few come.
pub(super) async fn called(
    reader: Reader<'_>,
    systems: impl Iterator<Item = &SystemRef>,
    name: &ObjectName,
) -> Result<Vec<Seen>, K8sError> {
    let looks = systems.flat_map(|system| {
        let names = system.object_names(name).into_iter();
        names.map(move |object| async move {
            let query = ListQuery::fields(format!("metadata.name={object}"));
            (system, all_facts(reader, &**system, &query, None).await)
        })
    });
    let mut all = Vec::new();
    for (system, found) in join_all(looks).await {
        match found {
            Ok(found) => all.extend(found.into_iter().map(|facts| Seen { system: system.clone(), facts })),
            // What may not be looked at holds nothing.
            Err(error) if error.is_forbidden() || error.is_absent() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// All clusters that the caller may list, and what it may not.
pub(super) async fn everywhere(
    reader: Reader<'_>,
    systems: impl Iterator<Item = &SystemRef>,
) -> Result<(Vec<Seen>, Vec<K8sError>), K8sError> {
    let lists = systems.map(|system| async move { (system, list(reader, system).await) });
    let (mut all, mut refused) = (Vec::new(), Vec::new());
    for (system, listed) in join_all(lists).await {
        match listed {
            Ok((found, hidden)) => {
                all.extend(found.into_iter().map(|facts| Seen { system: system.clone(), facts }));
                refused.extend(hidden);
            }
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error),
        }
    }
    Ok((dedup::without_owned(all, |listed| (&listed.system, &listed.facts)), refused))
}

/// One system's clusters: its resources, else what the labels of pods tell; everywhere, else in the namespace in force.
/// What was refused, too.
async fn list(reader: Reader<'_>, system: &SystemRef) -> Result<(Vec<Facts>, Option<K8sError>), K8sError> {
    let mut refused = None;
    for namespace in [None, Some(&reader.context.own_namespace()?)] {
        match all_facts(reader, &**system, &system.list_query(), namespace).await {
            Ok(found) => return Ok((found, refused)),
            Err(error) if error.is_forbidden() => refused = refused.or(Some(error)),
            Err(error) => return Err(error),
        }
        let Some(query) = operated::pods_of_all(&**system) else { continue };
        if let Ok((pods, _)) = reader.list::<Pod>(&PODS, namespace, &query).await {
            // Where all pods can be seen, the resources would tell no other cluster.
            return Ok((clusters_of(&**system, &pods), refused.filter(|_| namespace.is_some())));
        }
    }
    Ok((Vec::new(), refused))
}

/// The facts of objects of a system; those of one cluster merged.
async fn all_facts(
    reader: Reader<'_>,
    system: &dyn System,
    query: &ListQuery,
    namespace: Option<&Namespace>,
) -> Result<Vec<Facts>, K8sError> {
    let resource = system.resource();
    let read = |object: Object| system.read(&object).filter(|facts| facts.evidence == Evidence::Read);
    let access = reader.context.access("list", &resource, namespace, None);
    let (facts, _) = reader.context.filter_objects(&access, query, reader.deadline, read).await?;
    Ok(merged(facts))
}

/// One cluster may have several objects.
pub(super) fn merged(facts: Vec<Facts>) -> Vec<Facts> {
    let mut all: BTreeMap<Place, Facts> = BTreeMap::new();
    for facts in facts {
        let key = (facts.namespace.clone(), facts.name.clone());
        let known = all.remove(&key);
        all.insert(
            key,
            match known {
                Some(known) => known.merge(facts),
                None => facts,
            },
        );
    }
    all.into_values().collect()
}

/// The clusters that pods belong to.
pub(super) fn clusters_of(system: &dyn System, pods: &[Pod]) -> Vec<Facts> {
    let Some(labels) = system.pod_labels() else { return Vec::new() };
    let name = |pod: &Pod| ObjectName::parse(pod.metadata.label(&labels.cluster)?).ok();
    let names: BTreeSet<Place> =
        pods.iter().filter_map(|pod| Some((pod.metadata.namespace.clone(), name(pod)?))).collect();
    names.iter().filter_map(|(namespace, name)| system.guess(namespace, name)).collect()
}
