//! What Patroni leaves in Kubernetes (<https://github.com/patroni/patroni>, `patroni/dcs/kubernetes.py`).

use super::leader::{Leader, Word};
use crate::k8s::api::{endpoints::LeaderObject, objects::Pod};

/// The annotations that only Patroni writes.
const TRACES: [&str; 4] = ["ttl", "renewTime", "transitions", "acquireTime"];

/// Who leads, and since when that is known.
pub(in crate::k8s) fn word(object: &LeaderObject) -> Word {
    let renewed = object.metadata.annotation("renewTime").unwrap_or_default().to_owned();
    Word { leader: leader(object), renewed }
}

/// Who leads: the annotation `leader`, else the one address that is a pod's.
fn leader(object: &LeaderObject) -> Leader {
    let annotation = object.metadata.annotation("leader").filter(|leader| !leader.is_empty());
    if let Some(leader) = annotation {
        return Leader::named(leader, &object.metadata, "the annotation leader");
    }
    let patroni = TRACES.iter().any(|trace| object.metadata.annotation(trace).is_some());
    let mut pods = object.pods();
    match (pods.next(), pods.next()) {
        (Some(pod), None) => Leader::Pod(pod.metadata.name),
        // Between two leaders Patroni empties the object.
        (None, _) if patroni => Leader::Moving,
        _ => Leader::Unsaid,
    }
}

/// Whether a pod leads a standby cluster: it carries the label of a primary, and its server is read-only.
pub(in crate::k8s) fn leads_a_standby(pod: &Pod) -> bool {
    let status =
        pod.metadata.annotation("status").and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    status.and_then(|status| Some(status.get("role")?.as_str()? == "standby_leader")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::k8s::api::names::ObjectName;

    fn of(mut object: serde_json::Value) -> Leader {
        object["metadata"]["name"] = "shop".into();
        object["metadata"]["namespace"] = "prod".into();
        leader(&serde_json::from_value(object).expect("an object"))
    }

    #[test]
    fn the_annotation_leads_and_the_addresses_follow() {
        let pod = |name: &str| json!({"ip": "1.2.3.4", "targetRef": {"kind": "Pod", "name": name, "uid": "u"}});
        let named = |name: &str| Leader::Pod(ObjectName::parse(name).expect("a name"));
        assert_eq!(of(json!({"metadata": {"annotations": {"leader": "shop-1"}}})), named("shop-1"));
        let path = of(json!({"metadata": {"annotations": {"leader": "x/exec?y="}}}));
        assert!(
            matches!(&path, Leader::Misnamed(why) if why.contains("prod/shop") && why.contains("x/exec")),
            "{path:?}"
        );
        let both =
            json!({"metadata": {"annotations": {"leader": "shop-1"}}, "subsets": [{"addresses": [pod("shop-0")]}]});
        assert_eq!(of(both), named("shop-1"));
        assert_eq!(of(json!({"metadata": {}, "subsets": [{"addresses": [pod("shop-0")]}]})), named("shop-0"));
        assert_eq!(of(json!({"metadata": {}, "endpoints": [pod("shop-0")], "ports": null})), named("shop-0"));
        let two = json!({"metadata": {}, "subsets": [{"addresses": [pod("shop-0"), pod("shop-1")]}]});
        assert_eq!(of(two), Leader::Unsaid);
        assert_eq!(of(json!({"metadata": {"annotations": {"ttl": "30", "leader": ""}}})), Leader::Moving);
        assert_eq!(of(json!({"metadata": {}, "endpoints": null})), Leader::Unsaid);
    }

    #[test]
    fn the_leader_of_a_standby_cluster_says_so() {
        let pod = |status: &str| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"name": "x", "namespace": "prod", "annotations": {"status": status}}}),
            )
            .expect("a pod")
        };
        assert!(leads_a_standby(&pod(r#"{"role":"standby_leader","state":"running"}"#)));
        assert!(!leads_a_standby(&pod(r#"{"role":"primary"}"#)) && !leads_a_standby(&pod("no json")));
    }
}
