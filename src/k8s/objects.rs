//! The parts of Kubernetes objects that are looked at; everything else is dropped while parsing.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, de};
use zeroize::Zeroizing;

/// Metadata of any object.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "short_values")]
    pub(super) annotations: BTreeMap<String, String>,
    deletion_timestamp: Option<String>,
}

impl Meta {
    pub(super) fn deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    pub(super) fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }
}

/// Annotations that anybody here looks at are short; kubectl and operators keep whole objects in others.
fn short_values<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    const LONGEST: usize = 1024;
    let mut all = Option::<BTreeMap<String, String>>::deserialize(deserializer)?.unwrap_or_default();
    all.retain(|_, value| value.len() <= LONGEST);
    Ok(all)
}

/// A pod.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) metadata: Meta,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
struct PodStatus {
    phase: String,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Condition {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) status: String,
}

impl Pod {
    /// Running, Ready, and not being deleted: it takes connections, as far as Kubernetes knows.
    pub(super) fn serves(&self) -> bool {
        self.status.phase == "Running" && self.ready() && !self.metadata.deleting()
    }

    fn ready(&self) -> bool {
        self.status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True")
    }
}

/// A custom resource whose spec and status an operator's file reads.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Custom {
    pub(super) metadata: Meta,
    #[serde(default)]
    pub(super) spec: serde_json::Value,
    #[serde(default)]
    pub(super) status: serde_json::Value,
}

impl Custom {
    /// A string of the spec, by JSON pointer; `None` where it is absent, empty, or something else.
    pub(super) fn spec(&self, pointer: &str) -> Option<&str> {
        text(&self.spec, pointer)
    }

    /// A string of the status.
    pub(super) fn status(&self, pointer: &str) -> Option<&str> {
        text(&self.status, pointer)
    }
}

/// A string inside a JSON value.
pub(super) fn text<'a>(value: &'a serde_json::Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(serde_json::Value::as_str).filter(|text| !text.is_empty())
}

/// A Secret. Its values are wiped when it is dropped, and not shown.
#[derive(Clone, Deserialize)]
pub(super) struct Secret {
    pub(super) metadata: Meta,
    #[serde(default)]
    data: BTreeMap<String, Value>,
}

impl Secret {
    /// A key's bytes.
    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        self.data.get(key).map(|value| value.0.as_slice())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("name", &self.metadata.name).finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Value(Zeroizing<Vec<u8>>);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Option::<k8s_openapi::ByteString>::deserialize(deserializer)
            .map_err(|_| de::Error::custom("a value that is not base64"))?;
        Ok(Self(Zeroizing::new(bytes.map(|bytes| bytes.0).unwrap_or_default())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let secret: Secret = serde_json::from_value(
            serde_json::json!({"metadata": {"name": "s"}, "data": {"password": "aHVudGVyMg=="}}),
        )
        .expect("a Secret");
        assert_eq!(secret.get("password"), Some(&b"hunter2"[..]));
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    #[test]
    fn a_pod_serves_when_ready_and_not_going() {
        let pod = |meta: serde_json::Value, ready: &str| -> Pod {
            serde_json::from_value(serde_json::json!({
                "metadata": meta,
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
            }))
            .expect("a pod")
        };
        assert!(pod(serde_json::json!({"name": "a"}), "True").serves());
        assert!(!pod(serde_json::json!({"name": "a"}), "False").serves());
        assert!(!pod(serde_json::json!({"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}), "True").serves());
        assert!(!Pod::default().serves());
    }
}
