//! Everything that can be reached, for `pgferry list`: two lists a system, none of Secrets.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{
    K8sError,
    choose::{Choice, View},
    client::{Context, ListQuery},
    lookup::clusters_of,
    objects::{Custom, Pod},
    operators::{self, Facts, Operator},
    reads::{self, PODS},
};
use crate::{
    error::{ClientFacing, Report},
    upstream::{ClusterInfo, Listing, Mode},
};

/// Lists one namespace, or all; falls back to the namespace in force where the caller may not list all.
pub(super) async fn list(context: &Context, namespace: Option<&str>, deadline: Instant) -> Result<Listing, K8sError> {
    let systems = operators::all().into_iter().map(|operator| of_system(context, operator, namespace, deadline));
    let mut listing = Listing::default();
    for found in join_all(systems).await {
        let (clusters, warnings) = found?;
        listing.clusters.extend(clusters);
        for warning in warnings {
            if !listing.warnings.contains(&warning) {
                listing.warnings.push(warning);
            }
        }
    }
    listing.clusters.sort_by(|a, b| (&a.id.namespace, &a.id.name).cmp(&(&b.id.namespace, &b.id.name)));
    Ok(listing)
}

async fn of_system(
    context: &Context,
    operator: &'static dyn Operator,
    namespace: Option<&str>,
    deadline: Instant,
) -> Result<(Vec<ClusterInfo>, Vec<Report>), K8sError> {
    let mut warnings = Vec::new();
    let (query, all) = (reads::pods_of_all(operator), ListQuery::default());
    let (resources, pods) = tokio::join!(
        widest::<Custom>(context, operator.resource(), namespace, &all, deadline),
        widest::<Pod>(context, PODS, namespace, &query, deadline),
    );
    let Found { objects: pods, refused } = pods?;
    warnings.extend(refused.map(|error| warning(&error)));
    let Found { objects: resources, refused } = resources?;
    let forbidden = resources.is_none();
    // Where the resource is not even known, nobody needs the right to read it.
    if let Some(refused) = refused.filter(|_| pods.as_ref().is_some_and(|pods| !pods.is_empty()) || !forbidden) {
        warnings.push(warning(&refused));
    }
    let pods = pods.unwrap_or_default();
    let facts: Vec<Facts> = match resources {
        Some(resources) => resources.iter().map(|found| operator.read(found)).collect(),
        None => clusters_of(operator, &pods),
    };
    let mut by_cluster: BTreeMap<(String, String), Vec<Pod>> = BTreeMap::new();
    for pod in pods {
        if let Some(name) = pod.metadata.label(operator.cluster_label()) {
            by_cluster.entry((pod.metadata.namespace.clone(), name.to_owned())).or_default().push(pod);
        }
    }
    let infos = facts.into_iter().map(|facts| {
        let pods = by_cluster.remove(&(facts.namespace.clone(), facts.name.clone())).unwrap_or_default();
        info(context, &View { operator, facts, pods })
    });
    Ok((infos.collect(), warnings))
}

/// What a list gave; `objects` is `None` where nothing of it may be listed.
struct Found<K> {
    objects: Option<Vec<K>>,
    refused: Option<K8sError>,
}

/// As widely as the caller may: all namespaces, else the one in force.
async fn widest<K: serde::de::DeserializeOwned>(
    context: &Context,
    resource: operators::Resource,
    namespace: Option<&str>,
    query: &ListQuery,
    deadline: Instant,
) -> Result<Found<K>, K8sError> {
    let all = |objects: Vec<K>| Found { objects: Some(objects), refused: None };
    let refused = match reads::list::<K>(context, resource, namespace, query, deadline).await {
        Ok((objects, _)) => return Ok(all(objects)),
        Err(error) if error.is_absent() => return Ok(all(Vec::new())),
        Err(error) if error.is_forbidden() => error,
        Err(error) => return Err(error),
    };
    if namespace.is_some() {
        return Ok(Found { objects: None, refused: Some(refused) });
    }
    match reads::list::<K>(context, resource, Some(context.namespace()), query, deadline).await {
        Ok((objects, _)) => Ok(Found { objects: Some(objects), refused: Some(refused) }),
        Err(error) if error.is_forbidden() => Ok(Found { objects: None, refused: Some(error) }),
        Err(error) if error.is_absent() => Ok(all(Vec::new())),
        Err(error) => Err(error),
    }
}

fn warning(error: &K8sError) -> Report {
    let report = error.report();
    Report { severity: crate::error::Severity::Warning, ..report }
}

fn info(context: &Context, view: &View) -> ClusterInfo {
    let primary = view.primary_pod();
    let (ready, status) = match view.choose(Mode::Rw, 0) {
        Choice::Pod(_) if view.facts.standby => (true, "ready (replica cluster)".to_owned()),
        Choice::Pod(_) => (true, "ready".to_owned()),
        Choice::Never(report) => (false, short(view, &report)),
        Choice::Wait(_) => (false, "no ready primary".to_owned()),
    };
    let members = view.facts.instances.max(view.pods.len());
    let mut logins = view.facts.logins.clone();
    logins.sort_by_key(|login| login.kind);
    // A role that only its Secret names is left out: lists read no Secrets.
    let roles = logins.into_iter().filter_map(|login| login.role);
    ClusterInfo {
        id: view.id(context.name()),
        system: view.operator.system(),
        primary: primary.map(|pod| pod.metadata.name.clone()),
        replicas: (view.replicas().len(), members.saturating_sub(1)),
        ready,
        status,
        databases: view.facts.databases.clone(),
        roles: roles.collect(),
    }
}

/// The state in a word.
fn short(view: &View, report: &Report) -> String {
    match &view.facts.halt {
        Some(halt) => halt.state.to_owned(),
        None if report.message.contains("fenced") => "fenced".to_owned(),
        None => "not serving".to_owned(),
    }
}
