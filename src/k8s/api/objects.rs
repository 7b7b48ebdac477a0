//! The parts of Kubernetes objects that are looked at; everything else is dropped while parsing.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer};

use crate::k8s::api::{
    names::{Namespace, ObjectName, is_label_name, is_label_value},
    secret_data::Data,
};

/// Metadata of any object that is looked at here; all of them have a namespace.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(in crate::k8s) struct Meta {
    pub(in crate::k8s) name: ObjectName,
    pub(in crate::k8s) namespace: Namespace,
    #[serde(default)]
    pub(in crate::k8s) uid: String,
    #[serde(default)]
    pub(in crate::k8s) resource_version: String,
    #[serde(default)]
    pub(in crate::k8s) labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "short_values")]
    pub(in crate::k8s) annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(in crate::k8s) owner_references: Vec<Owner>,
    #[serde(default)]
    deletion_timestamp: Option<String>,
}

/// An object that another belongs to.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::k8s) struct Owner {
    api_version: String,
    pub(in crate::k8s) kind: String,
    pub(in crate::k8s) name: String,
}

impl Owner {
    /// The API group; empty for the core one.
    pub(in crate::k8s) fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

impl Meta {
    /// Of an object of which no more is known.
    fn bare(namespace: &Namespace, name: &ObjectName) -> Self {
        Self {
            name: name.clone(),
            namespace: namespace.clone(),
            uid: String::new(),
            resource_version: String::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            owner_references: Vec::new(),
            deletion_timestamp: None,
        }
    }

    /// As [`crate::upstream::Login::source`] names a Secret.
    pub(in crate::k8s) fn secret_source(&self) -> String {
        format!("Secret {}/{}", self.namespace, self.name)
    }

    pub(in crate::k8s) fn deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    pub(in crate::k8s) fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    pub(in crate::k8s) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }
}

/// Annotations that anybody here looks at are short; kubectl and operators keep whole objects in others.
fn short_values<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    const LONGEST_ANNOTATION: usize = 1024;
    let mut all = Option::<BTreeMap<String, String>>::deserialize(deserializer)?.unwrap_or_default();
    all.retain(|_, value| value.len() <= LONGEST_ANNOTATION);
    Ok(all)
}

/// A pod.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(in crate::k8s) struct Pod {
    pub(in crate::k8s) metadata: Meta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
struct PodSpec {
    containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
struct Container {
    ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort {
    name: Box<str>,
    container_port: u16,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
struct PodStatus {
    phase: String,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(in crate::k8s) struct Condition {
    #[serde(rename = "type")]
    pub(in crate::k8s) kind: String,
    pub(in crate::k8s) status: String,
}

impl Pod {
    /// A pod of which no more is known than an endpoint in its namespace tells.
    pub(super) fn of_endpoint(namespace: &Namespace, name: &ObjectName, uid: &str, ready: &str) -> Self {
        Self {
            metadata: Meta { uid: uid.to_owned(), ..Meta::bare(namespace, name) },
            spec: PodSpec::default(),
            status: PodStatus {
                phase: "Running".to_owned(),
                conditions: vec![Condition { kind: "Ready".to_owned(), status: ready.to_owned() }],
            },
        }
    }

    /// The number of a port that its containers name.
    pub(in crate::k8s) fn port(&self, name: &str) -> Option<u16> {
        let mut ports = self.spec.containers.iter().flat_map(|container| &container.ports);
        ports.find(|port| &*port.name == name).map(|port| port.container_port)
    }

    /// Running, Ready, and not being deleted: it takes connections, as far as Kubernetes knows.
    pub(in crate::k8s) fn serves(&self) -> bool {
        self.status.phase == "Running" && self.ready() && !self.metadata.deleting()
    }

    fn ready(&self) -> bool {
        self.status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True")
    }
}

/// An object that stands for a cluster: a custom resource, a StatefulSet, a Service, a Secret.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::k8s) struct Object {
    pub(in crate::k8s) metadata: Meta,
    #[serde(default)]
    pub(in crate::k8s) spec: serde_json::Value,
    #[serde(default)]
    pub(in crate::k8s) status: serde_json::Value,
    /// Of a Secret.
    #[serde(default)]
    pub(in crate::k8s) data: Data,
    /// A Secret's type.
    #[serde(default, rename = "type")]
    pub(in crate::k8s) kind: String,
}

impl Object {
    /// One that may not be read.
    pub(in crate::k8s) fn unread(namespace: &Namespace, name: &ObjectName) -> Self {
        Self {
            metadata: Meta::bare(namespace, name),
            spec: serde_json::Value::Null,
            status: serde_json::Value::Null,
            data: Data::default(),
            kind: String::new(),
        }
    }

    /// A string of the spec, by JSON pointer; `None` where it is absent, empty, or something else.
    pub(in crate::k8s) fn spec(&self, pointer: &str) -> Option<&str> {
        text(&self.spec, pointer)
    }

    /// A string of the status.
    pub(in crate::k8s) fn status(&self, pointer: &str) -> Option<&str> {
        text(&self.status, pointer)
    }

    /// Whether the spec says so.
    pub(in crate::k8s) fn is_set(&self, pointer: &str) -> bool {
        self.spec.pointer(pointer).and_then(serde_json::Value::as_bool).unwrap_or_default()
    }

    /// A number of the spec.
    pub(in crate::k8s) fn number(&self, pointer: &str) -> Option<u64> {
        self.spec.pointer(pointer).and_then(serde_json::Value::as_u64)
    }

    /// A list of the spec.
    pub(in crate::k8s) fn items(&self, pointer: &str) -> impl Iterator<Item = &serde_json::Value> {
        self.spec.pointer(pointer).and_then(serde_json::Value::as_array).into_iter().flatten()
    }

    /// The keys of a map in the spec.
    pub(in crate::k8s) fn keys(&self, pointer: &str) -> impl Iterator<Item = &str> {
        let map = self.spec.pointer(pointer).and_then(serde_json::Value::as_object);
        map.into_iter().flat_map(|map| map.keys().map(String::as_str))
    }

    /// Conditions that are not met, in the operator's words, such as `Ready is False (RestoreInProgress)`.
    pub(in crate::k8s) fn unmet(&self) -> String {
        let conditions = self.status.pointer("/conditions").and_then(serde_json::Value::as_array);
        let unmet = conditions.into_iter().flatten().filter(|condition| text(condition, "/status") == Some("False"));
        let words = unmet.filter_map(|condition| {
            let reason = text(condition, "/reason").map(|reason| format!(" ({reason})")).unwrap_or_default();
            Some(format!("{} is False{reason}", text(condition, "/type")?))
        });
        words.collect::<Vec<_>>().join(", ")
    }

    /// A map of labels in the spec, as a label selector; `None` where it holds none, or what is no label.
    pub(in crate::k8s) fn selector(&self, pointer: &str) -> Option<String> {
        let labels = self.spec.pointer(pointer).and_then(serde_json::Value::as_object)?;
        let pair = |(name, value): (&String, &serde_json::Value)| {
            let value = value.as_str().filter(|value| is_label_name(name) && is_label_value(value))?;
            Some(format!("{name}={value}"))
        };
        let pairs = labels.iter().map(pair).collect::<Option<Vec<String>>>()?;
        (!pairs.is_empty()).then(|| pairs.join(","))
    }

    /// A label, or an annotation of the same name.
    pub(in crate::k8s) fn mark(&self, name: &str) -> Option<&str> {
        let value = self.metadata.label(name).or_else(|| self.metadata.annotation(name));
        value.filter(|value| !value.is_empty())
    }
}

/// A string inside a JSON value.
pub(in crate::k8s) fn text<'a>(value: &'a serde_json::Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(serde_json::Value::as_str).filter(|text| !text.is_empty())
}

/// A Secret. Its values are wiped when it is dropped, and not shown.
#[derive(Clone, Deserialize)]
pub(in crate::k8s) struct Secret {
    pub(in crate::k8s) metadata: Meta,
    #[serde(default)]
    pub(in crate::k8s) data: Data,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("name", &self.metadata.name).finish_non_exhaustive()
    }
}

/// A ConfigMap.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::k8s) struct ConfigMap {
    #[serde(default)]
    pub(in crate::k8s) data: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let secret: Secret = serde_json::from_value(
            serde_json::json!({"metadata": {"name": "s", "namespace": "n"}, "data": {"password": "aHVudGVyMg=="}}),
        )
        .expect("a Secret");
        assert_eq!(secret.data.get("password"), Some(&b"hunter2"[..]));
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    #[test]
    fn a_pod_serves_when_ready_and_not_going() {
        let pod = |mut meta: serde_json::Value, ready: &str| -> Pod {
            meta["namespace"] = "n".into();
            serde_json::from_value(serde_json::json!({
                "metadata": meta,
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
            }))
            .expect("a pod")
        };
        assert!(pod(serde_json::json!({"name": "a"}), "True").serves());
        assert!(!pod(serde_json::json!({"name": "a"}), "False").serves());
        assert!(!pod(serde_json::json!({"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}), "True").serves());
        let silent = serde_json::json!({"metadata": {"name": "a", "namespace": "n"}});
        assert!(!serde_json::from_value::<Pod>(silent).expect("a pod").serves());
    }
}
