//! Whose a pod is that something else led to: a person who may use a connection Secret may not therefore use the cluster
//! that it leads into.

use crate::{
    k8s::{
        api::{client::Context, names::Place, objects::Pod},
        cluster::snapshot::View,
        operators::{
            registry::Systems,
            system::{Rank, SystemRef},
        },
    },
    upstream::ClusterId,
};

/// What owns the pod besides the cluster that was named: the operator's cluster whose pod it is, else the Services that
/// led to it. Who may write a pod's labels may read its namespace's Secrets anyhow.
pub(super) fn owners(systems: &Systems, view: &View, pod: &Pod, context: &Context) -> Vec<ClusterId> {
    if matches!(view.system.rank(), Rank::Operator | Rank::Workload) {
        return Vec::new();
    }
    let namespace = &pod.metadata.namespace;
    let id = |system: Option<&SystemRef>, name: String| ClusterId {
        context: context.name().to_owned(),
        namespace: namespace.to_string(),
        name,
        system: system.map(|system| system.name().into()).unwrap_or_default(),
    };
    let mut owners = if let Some((system, name)) = systems.claiming(&pod.metadata) {
        vec![id(Some(system), name.to_string())]
    } else {
        let near = |place: &&&Place| place.0 == *namespace;
        view.facts.places().iter().filter(near).map(|place| id(None, place.1.to_string())).collect()
    };
    if owners.is_empty() && *namespace != view.facts.namespace {
        owners.push(id(None, pod.metadata.name.to_string()));
    }
    owners.retain(|owner| *owner.name != *view.facts.name || *namespace != view.facts.namespace);
    owners
}
