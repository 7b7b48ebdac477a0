//! A cluster that an operator made, as it is now.

use crate::k8s::{
    api::{
        access::ListQuery,
        error::K8sError,
        names::{Namespace, ObjectName, is_label_value},
        objects::Object,
        reader::Reader,
    },
    cluster::{leader_objects, snapshot::View},
    operators::{
        facts::{Evidence, Facts, Members},
        leader::Leader,
        system::{PodLabels, System, SystemRef},
    },
};

/// The resource, its pods and its leader object, read at the same time. A caller who may not read the resource sees
/// what the pods tell.
pub(in crate::k8s) async fn read(
    reader: Reader<'_>,
    system: &SystemRef,
    labels: &PodLabels,
    (namespace, name): (&Namespace, &ObjectName),
) -> Result<Option<View>, K8sError> {
    // A name that is no label's value is none of an operator's.
    if !is_label_value(name) {
        return Ok(None);
    }
    let resource = system.resource();
    let (object, pods, leader) = tokio::join!(
        reader.get::<Object>(&resource, (namespace, name)),
        reader.list_pods(namespace, labels.selector_of([name])),
        leader_objects::of(reader, &**system, (namespace, name)),
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
    let leads = leading(&leader, facts.as_ref());
    let mut pods = match (pods, leads) {
        // Who may not list pods may still read the one that leads.
        (Err(error), Some(leads)) if error.is_forbidden() => {
            let pod = reader.get_pod((namespace, &leads)).await;
            pod.map_err(|_| error)?.into_iter().collect()
        }
        (pods, _) => pods?,
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
        pods = reader.list_pods(namespace, selector.clone()).await?;
    }
    Ok(Some(View::new(system.clone(), leader_objects::decided(facts, leader), pods)))
}

/// The pod that leads: by the leader object's word, and where that says nothing by the resource's.
fn leading(leader: &Leader, facts: Option<&Facts>) -> Option<ObjectName> {
    match (leader, facts.map(|facts| &facts.leader)) {
        (Leader::Pod(pod), _) | (Leader::Unsaid, Some(Leader::Pod(pod))) => Some(pod.clone()),
        _ => None,
    }
}

/// The pods of all clusters of a system.
pub(in crate::k8s) fn pods_of_all(operator: &dyn System) -> Option<ListQuery> {
    operator.pod_labels().map(|labels| ListQuery::labels(labels.selector()))
}
