//! Who leads, and where a Service leads: what Patroni and the endpoints controller keep.

use serde::{Deserialize, Deserializer};

use crate::{
    error::printable,
    k8s::api::{
        names::ObjectName,
        objects::{Meta, Pod},
    },
};

/// Who leads, as Patroni or the endpoints controller keep it: an Endpoints object, an EndpointSlice, or a ConfigMap.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::k8s) struct LeaderObject {
    pub(in crate::k8s) metadata: Meta,
    #[serde(default, deserialize_with = "nullable")]
    subsets: Vec<Subset>,
    #[serde(default, deserialize_with = "nullable")]
    endpoints: Vec<Endpoint>,
    #[serde(default, deserialize_with = "nullable")]
    ports: Vec<EndpointPort>,
}

/// An empty EndpointSlice has `null` where others have lists.
fn nullable<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Subset {
    addresses: Vec<Endpoint>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Endpoint {
    target_ref: Option<TargetRef>,
    conditions: EndpointConditions,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct EndpointConditions {
    ready: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct EndpointPort {
    name: Option<String>,
    port: Option<u16>,
}

/// What an endpoint is an address of.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct TargetRef {
    kind: String,
    name: String,
    namespace: Option<String>,
    uid: String,
}

/// The label of an EndpointSlice that names its Service, which is called as the Endpoints object it follows.
pub(in crate::k8s) const SERVICE_NAME: &str = "kubernetes.io/service-name";

impl LeaderObject {
    /// The Service of an EndpointSlice.
    pub(in crate::k8s) fn service(&self) -> Option<&str> {
        self.metadata.label(SERVICE_NAME)
    }

    /// The pods that take connections, and those that do not. Who may write an endpoint may write anything into it: a pod
    /// is one of the object's own namespace, or it is none.
    pub(in crate::k8s) fn pods(&self) -> impl Iterator<Item = Pod> {
        self.targets().filter_map(|(target, ready)| self.pod(target, ready).ok())
    }

    /// Why an endpoint leads nowhere, where one does: the field, and what it holds.
    pub(in crate::k8s) fn refused(&self) -> Option<String> {
        let Meta { namespace, name, .. } = &self.metadata;
        let why = self.targets().find_map(|(target, ready)| self.pod(target, ready).err())?;
        Some(format!("the endpoints {namespace}/{name} lead nowhere: {why}"))
    }

    fn targets(&self) -> impl Iterator<Item = (&TargetRef, bool)> {
        self.subsets.iter().flat_map(|subset| &subset.addresses).chain(&self.endpoints).filter_map(|endpoint| {
            let target = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod")?;
            Some((target, endpoint.conditions.ready.unwrap_or(true)))
        })
    }

    fn pod(&self, target: &TargetRef, ready: bool) -> Result<Pod, String> {
        let namespace = &self.metadata.namespace;
        let elsewhere = target.namespace.as_deref().filter(|named| !named.is_empty() && *namespace != *named);
        if let Some(elsewhere) = elsewhere {
            return Err(format!("targetRef names a pod in namespace {}, another than its own", printable(elsewhere)));
        }
        let name = ObjectName::parse(&target.name).map_err(|error| format!("targetRef.name: {error}"))?;
        Ok(Pod::of_endpoint(namespace, &name, &target.uid, if ready { "True" } else { "False" }))
    }

    /// The port behind a Service's port of this name; the only one there is, whatever its name.
    pub(in crate::k8s) fn port(&self, name: Option<&str>) -> Option<u16> {
        match self.ports.as_slice() {
            [only] => only.port,
            ports => {
                ports.iter().find(|port| port.name.as_deref().unwrap_or_default() == name.unwrap_or_default())?.port
            }
        }
    }
}
