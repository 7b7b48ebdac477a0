//! Who leads a cluster, and which objects say so.

use super::{cnpg, patroni, system::System as _};
use crate::k8s::api::{
    names::ObjectName,
    objects::{LeaderObject, Meta, Object},
    resource::{CONFIG_MAPS, ENDPOINTS, Resource},
};

/// Who the leader object says is the primary. It decides; labels only propose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::k8s) enum Leader {
    /// This pod.
    Pod(ObjectName),
    /// Something that cannot be a pod: which object and field says so, and what.
    Misnamed(String),
    /// The role is being handed over.
    Moving,
    /// It does not say, or may not be read: the labels decide.
    #[default]
    Unsaid,
    /// This pod, where the labels leave a doubt.
    Perhaps(String),
    /// Nothing but the servers themselves knows: they are asked in turn.
    Ask,
}

impl Leader {
    /// The pod that a field names.
    pub(in crate::k8s) fn named(pod: &str, object: &Meta, field: &str) -> Self {
        match ObjectName::parse(pod) {
            Ok(pod) => Self::Pod(pod),
            Err(error) => Self::Misnamed(format!("{field} of {}/{}: {error}", object.namespace, object.name)),
        }
    }
}

/// What a leader object says, and when it was written: Patroni leaves the objects of a mode that it no longer uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::k8s) struct Word {
    pub(in crate::k8s) leader: Leader,
    /// RFC 3339, always in UTC.
    pub(in crate::k8s) renewed: String,
}

/// An object that says who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::k8s) enum LeaderSource {
    /// Patroni's Endpoints of this name, or the EndpointSlice that follows it.
    Endpoints(ObjectName),
    /// Patroni's ConfigMap of this name.
    ConfigMap(ObjectName),
    /// The cluster's twin in another system.
    Twin(&'static cnpg::Cnpg, ObjectName),
}

impl LeaderSource {
    pub(in crate::k8s) fn resource(&self) -> Resource {
        match self {
            Self::Endpoints(_) => ENDPOINTS.clone(),
            Self::ConfigMap(_) => CONFIG_MAPS.clone(),
            Self::Twin(operator, _) => operator.resource(),
        }
    }

    pub(in crate::k8s) fn name(&self) -> &ObjectName {
        match self {
            Self::Endpoints(name) | Self::ConfigMap(name) | Self::Twin(_, name) => name,
        }
    }

    /// What the object says.
    pub(in crate::k8s) fn word(&self, object: serde_json::Value) -> Word {
        match self {
            Self::Twin(operator, _) => {
                let twin = serde_json::from_value::<Object>(object).ok().and_then(|twin| operator.read(&twin));
                Word { leader: twin.map_or(Leader::Unsaid, |facts| facts.leader), renewed: String::new() }
            }
            Self::Endpoints(_) | Self::ConfigMap(_) => {
                serde_json::from_value::<LeaderObject>(object).map(|object| patroni::word(&object)).unwrap_or_default()
            }
        }
    }
}
