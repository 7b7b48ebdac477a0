//! The objects that layouts are made of.

use serde_json::{Value, json};

use super::{ServerSetup, State, System, uid};
use crate::cnpg::encoded;

/// A password over plaintext or TLS.
pub(super) const SCRAM: &str = "host all all all scram-sha-256";

pub(super) fn plaintext(hba: &'static str) -> ServerSetup {
    ServerSetup { hba, tls: false, md5: false }
}

pub(super) fn with_tls(hba: &'static str) -> ServerSetup {
    ServerSetup { hba, tls: true, md5: false }
}

/// A Secret.
pub(super) fn secret(state: &State, name: &str, labels: &Value, data: &[(&str, &str)]) -> (&'static str, Value) {
    typed_secret(state, name, "Opaque", labels, data)
}

pub(super) fn typed_secret(
    state: &State,
    name: &str,
    kind: &str,
    labels: &Value,
    data: &[(&str, &str)],
) -> (&'static str, Value) {
    let data: serde_json::Map<String, Value> =
        data.iter().map(|(key, value)| ((*key).to_owned(), json!(encoded(value)))).collect();
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "type": kind,
        "metadata": {"namespace": state.namespace, "name": name, "labels": labels}, "data": data,
    });
    ("secrets", object)
}

/// The Secret of a certificate, as cert-manager and most operators make it.
pub(super) fn certificate_secret(
    state: &State,
    name: &str,
    (certificate, key): &(String, String),
) -> (&'static str, Value) {
    let data = [("ca.crt", state.authority.as_str()), ("tls.crt", certificate), ("tls.key", key)];
    typed_secret(state, name, "kubernetes.io/tls", &json!({}), &data)
}

/// A custom resource.
pub(super) fn custom(
    state: &State,
    plural: &'static str,
    api: (&str, &str),
    spec: &Value,
    status: &Value,
) -> (&'static str, Value) {
    let (version, kind) = api;
    let object = json!({
        "apiVersion": version, "kind": kind,
        "metadata": {"namespace": state.namespace, "name": state.name, "labels": {}, "annotations": {}},
        "spec": spec, "status": status,
    });
    (plural, object)
}

/// A Service; without a selector where that is null.
pub(super) fn service(namespace: &str, name: &str, labels: &Value, selector: &Value) -> (&'static str, Value) {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": namespace, "name": name, "labels": labels, "annotations": {}},
        "spec": {"ports": [{"name": "postgresql", "port": 5432, "targetPort": 5432}]},
    });
    if !selector.is_null() {
        object["spec"]["selector"] = selector.clone();
    }
    ("services", object)
}

/// Patroni's Endpoints: annotations and the leader's address.
pub(super) fn patroni_endpoints(
    system: &dyn System,
    state: &State,
    name: &str,
    labels: &Value,
) -> (&'static str, Value) {
    let namespace = system.server_namespace(state);
    let leader = system.pod_name(state, state.leader);
    let object = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"namespace": namespace, "name": name, "labels": labels, "annotations": patroni_annotations(&leader)},
        "subsets": [{
            "addresses": [{"ip": "198.51.100.7", "targetRef": {
                "kind": "Pod", "name": leader, "namespace": namespace, "uid": uid(&namespace, &leader),
            }}],
            "ports": [{"name": "postgresql", "port": system.port(), "protocol": "TCP"}],
        }],
    });
    ("endpoints", object)
}

/// Patroni's ConfigMap, where it does not use Endpoints.
pub(super) fn patroni_config_map(system: &dyn System, state: &State, labels: &Value) -> (&'static str, Value) {
    let leader = system.pod_name(state, state.leader);
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "namespace": system.server_namespace(state), "name": format!("{}-leader", state.name), "labels": labels,
            "annotations": patroni_annotations(&leader),
        },
    });
    ("configmaps", object)
}

fn patroni_annotations(leader: &str) -> Value {
    json!({
        "leader": leader, "ttl": "30", "transitions": "3", "optime": "50331648",
        "acquireTime": "2026-01-01T00:00:00+00:00", "renewTime": "2026-01-01T00:00:10+00:00",
    })
}

/// What an EndpointSlice says of a Service whose endpoints are these pods.
pub(super) fn slice(system: &dyn System, state: &State, service: &str, numbers: &[usize]) -> (&'static str, Value) {
    let namespace = system.server_namespace(state);
    let endpoints: Vec<Value> = numbers
        .iter()
        .map(|number| {
            let pod = system.pod_name(state, *number);
            json!({
                "addresses": ["198.51.100.7"], "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "name": pod, "namespace": namespace, "uid": uid(&namespace, &pod)},
            })
        })
        .collect();
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "namespace": namespace, "name": format!("{service}-abcde"),
            "labels": {"kubernetes.io/service-name": service},
        },
        "endpoints": endpoints,
        "ports": [{"name": "postgresql", "port": system.port(), "protocol": "TCP"}],
    });
    ("endpointslices", object)
}

/// The role of a pod, in a system's own words.
pub(super) fn role<'a>(state: &State, number: usize, primary: &'a str, replica: &'a str) -> &'a str {
    if state.labelled.contains(&number) { primary } else { replica }
}

/// Everything but the Secrets may be missing, if the leader object or the labels can be read.
pub(super) fn by_labels(plural: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![("get", plural), ("list", plural), ("watch", plural), ("watch", "pods"), ("list", "secrets")]
}

/// Without these a plain cluster is found by computed names.
pub(super) fn no_lists() -> Vec<(&'static str, &'static str)> {
    ["services", "secrets", "statefulsets", "deployments"]
        .into_iter()
        .map(|resource| ("list", resource))
        .chain([("watch", "pods"), ("list", "endpointslices")])
        .collect()
}

/// A StatefulSet or Deployment.
pub(super) fn workload(
    state: &State,
    (kind, name): (&str, &str),
    labels: &Value,
    selector: &Value,
    (replicas, pod): (usize, &Value),
) -> (&'static str, Value) {
    let object = json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"namespace": state.namespace, "name": name, "labels": labels},
        "spec": {
            "replicas": replicas, "serviceName": name, "selector": {"matchLabels": selector},
            "template": {"metadata": {"labels": selector}, "spec": pod},
        },
        "status": {"replicas": replicas, "readyReplicas": replicas},
    });
    (if kind == "StatefulSet" { "statefulsets" } else { "deployments" }, object)
}
