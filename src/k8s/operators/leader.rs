//! Who leads a cluster, and which objects say so.

use crate::k8s::api::{
    names::ObjectName,
    objects::{Meta, Object},
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
#[derive(Clone, Debug)]
pub(in crate::k8s) enum LeaderSource {
    /// Patroni's Endpoints of this name, or the EndpointSlice that follows it.
    Endpoints(ObjectName),
    /// Patroni's ConfigMap of this name.
    ConfigMap(ObjectName),
    /// The cluster's twin in another system.
    Twin {
        /// The twin's resource.
        resource: Resource,
        /// What a twin says.
        leader: fn(&Object) -> Leader,
        /// Its name.
        name: ObjectName,
    },
}

impl LeaderSource {
    pub(in crate::k8s) fn resource(&self) -> Resource {
        match self {
            Self::Endpoints(_) => ENDPOINTS.clone(),
            Self::ConfigMap(_) => CONFIG_MAPS.clone(),
            Self::Twin { resource, .. } => resource.clone(),
        }
    }

    pub(in crate::k8s) fn name(&self) -> &ObjectName {
        match self {
            Self::Endpoints(name) | Self::ConfigMap(name) | Self::Twin { name, .. } => name,
        }
    }
}
