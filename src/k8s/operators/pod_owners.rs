//! StatefulSets and Deployments as their pods show them, for those who may read pods and nothing else: a pod says what it
//! belongs to, and has all of the template that it was made from.

use std::collections::BTreeMap;

use serde_json::json;

use crate::k8s::api::{
    names::{ObjectName, Place},
    objects::{Object, text},
    resource::{DEPLOYMENTS, Resource, STATEFUL_SETS},
};

/// Labels that Kubernetes adds to the pods themselves.
const ADDED: [&str; 4] = [
    "pod-template-hash",
    "controller-revision-hash",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
];

/// Whether pods show objects of this kind.
pub(in crate::k8s) fn are_shown(resource: &Resource) -> bool {
    *resource == STATEFUL_SETS || *resource == DEPLOYMENTS
}

/// The object of this kind that a pod belongs to.
pub(in crate::k8s) fn owner(resource: &Resource, pod: &Object) -> Option<ObjectName> {
    let meta = &pod.metadata;
    let owned = |kind: &str| meta.owner_references.iter().find(|owner| owner.kind == kind && owner.group() == "apps");
    let name = if *resource == STATEFUL_SETS {
        owned("StatefulSet")?.name.as_str()
    } else {
        // A Deployment calls its ReplicaSets by itself and a hash.
        let hash = meta.label("pod-template-hash")?;
        owned("ReplicaSet")?.name.strip_suffix(hash)?.strip_suffix('-')?
    };
    ObjectName::parse(name).ok().filter(|_| !meta.deleting())
}

/// The objects of this kind that pods belong to.
pub(in crate::k8s) fn owners(resource: &Resource, pods: Vec<Object>) -> Vec<Object> {
    let mut by_owner: BTreeMap<Place, Vec<Object>> = BTreeMap::new();
    for pod in pods {
        if let Some(name) = owner(resource, &pod) {
            by_owner.entry((pod.metadata.namespace.clone(), name)).or_default().push(pod);
        }
    }
    let shown = |((namespace, name), pods): (Place, Vec<Object>)| made_of(Object::unread(&namespace, &name), &pods);
    by_owner.into_iter().filter_map(shown).collect()
}

fn made_of(mut object: Object, pods: &[Object]) -> Option<Object> {
    let pod = pods.first()?;
    let labels: BTreeMap<&String, &String> =
        pod.metadata.labels.iter().filter(|(name, _)| !ADDED.contains(&name.as_str())).collect();
    object.spec = json!({
        "replicas": pods.len(),
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod.spec},
    });
    object.status = json!({"readyReplicas": pods.iter().filter(|pod| is_ready(pod)).count()});
    object.metadata.labels = labels.into_iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    Some(object)
}

fn is_ready(pod: &Object) -> bool {
    let conditions = pod.status.pointer("/conditions").and_then(serde_json::Value::as_array);
    let is = |condition: &serde_json::Value| {
        text(condition, "/type") == Some("Ready") && text(condition, "/status") == Some("True")
    };
    conditions.into_iter().flatten().any(is)
}
