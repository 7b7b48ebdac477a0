//! The reads that lookups are made of, each with what it needs to be allowed.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde::de::DeserializeOwned;
use tokio::time::{Duration, Instant};

use super::{
    K8sError,
    access::ListQuery,
    choose::View,
    client::Context,
    leaders,
    members::{self, Found},
    names::{Namespace, ObjectName, is_label_value},
    objects::{Object, Pod, Secret},
    operators::{Evidence, Facts, Leader, Members, Operator, PODS, PodLabels, Resource, SECRETS, System, Systems},
};

pub(super) async fn get<K: DeserializeOwned>(
    context: &Context,
    resource: &Resource,
    (namespace, name): (&Namespace, &ObjectName),
    deadline: Instant,
) -> Result<Option<K>, K8sError> {
    context.get_object(&context.access("get", resource, Some(namespace), Some(name)), deadline).await
}

/// As [`get`]; what may not be read, or is not even known, is not there.
pub(super) async fn get_if_allowed<K: DeserializeOwned>(
    context: &Context,
    resource: &Resource,
    place: (&Namespace, &ObjectName),
    deadline: Instant,
) -> Result<Option<K>, K8sError> {
    match get(context, resource, place, deadline).await {
        Err(error) if error.is_forbidden() || error.is_absent() => Ok(None),
        found => found,
    }
}

pub(super) async fn list<K: DeserializeOwned>(
    context: &Context,
    resource: &Resource,
    namespace: Option<&Namespace>,
    query: &ListQuery,
    deadline: Instant,
) -> Result<(Vec<K>, String), K8sError> {
    context.list_objects(&context.access("list", resource, namespace, None), query, deadline).await
}

pub(super) async fn get_pod(
    context: &Context,
    (namespace, name): (&Namespace, &ObjectName),
    deadline: Instant,
) -> Result<Option<Pod>, K8sError> {
    get(context, &PODS, (namespace, name), deadline).await
}

pub(super) async fn list_pods(
    context: &Context,
    namespace: &Namespace,
    selector: String,
    deadline: Instant,
) -> Result<Vec<Pod>, K8sError> {
    Ok(list(context, &PODS, Some(namespace), &ListQuery::labels(selector), deadline).await?.0)
}

pub(super) async fn get_secret(
    context: &Context,
    place: (&Namespace, &ObjectName),
    deadline: Instant,
) -> Result<Option<Secret>, K8sError> {
    get(context, &SECRETS, place, deadline).await
}

/// A cluster as it is now. `None` where there is none of this name.
pub(super) async fn view(
    context: &Context,
    systems: &Systems,
    system: &System,
    place: (&Namespace, &ObjectName),
    deadline: Instant,
) -> Result<Option<View>, K8sError> {
    // Which version of a resource to ask for must be known; how old that knowledge is does not matter here.
    context.discover(Duration::MAX, deadline).await?;
    match system.pod_labels() {
        Some(labels) => of_operator(context, system, &labels, place, deadline).await,
        None => plain(context, systems, system, place, deadline).await,
    }
}

/// The resource, its pods and its leader object, read at the same time. A caller who may not read the resource sees
/// what the pods tell.
async fn of_operator(
    context: &Context,
    system: &System,
    labels: &PodLabels,
    (namespace, name): (&Namespace, &ObjectName),
    deadline: Instant,
) -> Result<Option<View>, K8sError> {
    // A name that is no label's value is none of an operator's.
    if !is_label_value(name) {
        return Ok(None);
    }
    let resource = system.resource();
    let (object, pods, leader) = tokio::join!(
        get::<Object>(context, &resource, (namespace, name), deadline),
        list_pods(context, namespace, labels.selector_of([name]), deadline),
        leaders::of(context, &**system, (namespace, name), deadline),
    );
    let facts = match object {
        // An object of this name that is none of PostgreSQL.
        Ok(Some(object)) => match system.read(&object) {
            Some(facts) => Some(facts),
            None => return Ok(None),
        },
        Err(error) if error.is_forbidden() => None,
        // A deleted cluster's pods linger for a while: they are not it.
        Ok(None) => return Ok(None),
        Err(error) if error.is_absent() => return Ok(None),
        Err(error) => return Err(error),
    };
    let leader = leader?;
    let leads = match (&leader, facts.as_ref().map(|facts| &facts.leader)) {
        (Leader::Pod(pod), _) | (Leader::Unsaid, Some(Leader::Pod(pod))) => Some(pod.clone()),
        _ => None,
    };
    let mut pods = match (pods, leads) {
        (Ok(pods), _) => pods,
        // Who may not list pods may still read the one that leads.
        (Err(error), Some(leads)) if error.is_forbidden() => {
            let pod = get_pod(context, (namespace, &leads), deadline).await;
            pod.map_err(|_| error)?.into_iter().collect()
        }
        (Err(error), _) => return Err(error),
    };
    let facts = match facts {
        Some(facts) => facts,
        None if pods.is_empty() => return Ok(None),
        None => match system.guess(namespace, name) {
            Some(facts) => Facts { evidence: Evidence::Guessed, ..facts },
            None => return Ok(None),
        },
    };
    if let Members::Selected(selector) = &facts.members {
        pods = list_pods(context, namespace, selector.clone(), deadline).await?;
    }
    Ok(Some(View::new(system.clone(), leaders::decided(facts, leader), pods)))
}

/// A cluster that built-in objects make up: its object first, for that says which pods are its members.
async fn plain(
    context: &Context,
    systems: &Systems,
    system: &System,
    (namespace, name): (&Namespace, &ObjectName),
    deadline: Instant,
) -> Result<Option<View>, K8sError> {
    let Some(facts) = plain_facts(context, system, (namespace, name), deadline).await? else {
        return Ok(None);
    };
    with_members(context, systems, system, facts, deadline).await.map(Some)
}

/// The objects that may be called so, and those that a label says are the cluster's.
pub(super) async fn plain_facts(
    context: &Context,
    system: &System,
    (namespace, name): (&Namespace, &ObjectName),
    deadline: Instant,
) -> Result<Option<Facts>, K8sError> {
    let resource = system.resource();
    let names = system.object_names(name);
    let gets = names.iter().map(|name| get::<Object>(context, &resource, (namespace, name), deadline));
    let labelled = async {
        // A name that is no label's value is on no object. Services are small, and an annotation may name them too.
        let label = system.name_label().filter(|_| is_label_value(name))?;
        let query = match &*resource.plural {
            "services" => ListQuery::default(),
            _ => ListQuery::labels(format!("{label}={name}")),
        };
        Some(list::<Object>(context, &resource, Some(namespace), &query, deadline).await)
    };
    let (gets, labelled) = tokio::join!(join_all(gets), labelled);
    let mut objects: Vec<Object> = Vec::new();
    for found in gets {
        objects.extend(found?);
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

/// Reads the members that the facts name.
pub(super) async fn with_members(
    context: &Context,
    systems: &Systems,
    system: &System,
    mut facts: Facts,
    deadline: Instant,
) -> Result<View, K8sError> {
    if facts.broken.is_some() {
        return Ok(View::new(system.clone(), facts, Vec::new()));
    }
    let Found { pods, leader, claimed, port, outside, pooled, refused } =
        members::read(context, systems, &facts.namespace, &facts.members, deadline).await?;
    if let Some((host, port)) = outside {
        facts.members = Members::External { host, port };
    }
    facts.port = port.unwrap_or(facts.port);
    facts.pooled |= pooled;
    if claimed.is_some() {
        // An operator's pods: what its leader object does not say, its labels do, and no server is asked.
        facts.leader = Leader::Unsaid;
    }
    let mut view = View::new(system.clone(), leaders::decided(facts, leader), pods);
    if let Some(claimed) = &claimed {
        // What its own object tells of it, its pods' operator would, too.
        view.facts.md5 |= claimed.guess(&view.facts.namespace, &view.facts.name).is_some_and(|facts| facts.md5);
    }
    view.claimed = claimed;
    view.refused = refused;
    if let Some(replicas) = view.facts.replicas.clone() {
        // Without replicas the primary serves all the same.
        let found = match members::read(context, systems, &view.facts.namespace, &replicas, deadline).await {
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

/// The pods of all clusters of a system.
pub(super) fn pods_of_all(operator: &dyn Operator) -> Option<ListQuery> {
    operator.pod_labels().map(|labels| ListQuery::labels(labels.selector()))
}
