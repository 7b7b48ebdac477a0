//! Kinds of objects in the API, and the built-in ones that are looked at.

use std::borrow::Cow;

/// A kind of object in the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) group: Cow<'static, str>,
    /// The version that is asked for where the server has it.
    pub(super) version: Cow<'static, str>,
    /// Versions that do as well, where it has not.
    pub(super) others: &'static [&'static str],
    pub(super) plural: Cow<'static, str>,
}

impl Resource {
    pub(super) const fn new(group: &'static str, version: &'static str, plural: &'static str) -> Self {
        Self::with_versions(group, version, &[], plural)
    }

    pub(super) const fn with_versions(
        group: &'static str,
        version: &'static str,
        others: &'static [&'static str],
        plural: &'static str,
    ) -> Self {
        Self { group: Cow::Borrowed(group), version: Cow::Borrowed(version), others, plural: Cow::Borrowed(plural) }
    }

    /// `clusters.postgresql.cnpg.io`, as kubectl takes it.
    pub(super) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_string() } else { format!("{}.{}", self.plural, self.group) }
    }
}

pub(super) static PODS: Resource = Resource::new("", "v1", "pods");
pub(super) static SECRETS: Resource = Resource::new("", "v1", "secrets");
pub(super) static SERVICES: Resource = Resource::new("", "v1", "services");
pub(super) static ENDPOINTS: Resource = Resource::new("", "v1", "endpoints");
pub(super) static CONFIG_MAPS: Resource = Resource::new("", "v1", "configmaps");
pub(super) static ENDPOINT_SLICES: Resource = Resource::new("discovery.k8s.io", "v1", "endpointslices");
pub(super) static STATEFUL_SETS: Resource = Resource::new("apps", "v1", "statefulsets");
pub(super) static DEPLOYMENTS: Resource = Resource::new("apps", "v1", "deployments");
