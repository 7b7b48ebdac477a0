//! Kinds of objects in the API, and the built-in ones that are looked at.

use std::borrow::Cow;

/// A kind of object in the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::k8s) struct Resource {
    pub(in crate::k8s) group: Cow<'static, str>,
    /// The version that is asked for where the server has it.
    pub(in crate::k8s) version: Cow<'static, str>,
    /// Versions that do as well, where it has not.
    pub(in crate::k8s) others: &'static [&'static str],
    pub(in crate::k8s) plural: Cow<'static, str>,
}

impl Resource {
    pub(in crate::k8s) const fn new(group: &'static str, version: &'static str, plural: &'static str) -> Self {
        Self::with_versions(group, version, &[], plural)
    }

    pub(in crate::k8s) const fn with_versions(
        group: &'static str,
        version: &'static str,
        others: &'static [&'static str],
        plural: &'static str,
    ) -> Self {
        Self { group: Cow::Borrowed(group), version: Cow::Borrowed(version), others, plural: Cow::Borrowed(plural) }
    }

    /// `clusters.postgresql.cnpg.io`, as kubectl takes it.
    pub(in crate::k8s) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_string() } else { format!("{}.{}", self.plural, self.group) }
    }
}

pub(in crate::k8s) static PODS: Resource = Resource::new("", "v1", "pods");
pub(in crate::k8s) static SECRETS: Resource = Resource::new("", "v1", "secrets");
pub(in crate::k8s) static SERVICES: Resource = Resource::new("", "v1", "services");
pub(in crate::k8s) static ENDPOINTS: Resource = Resource::new("", "v1", "endpoints");
pub(in crate::k8s) static CONFIG_MAPS: Resource = Resource::new("", "v1", "configmaps");
pub(in crate::k8s) static ENDPOINT_SLICES: Resource = Resource::new("discovery.k8s.io", "v1", "endpointslices");
pub(in crate::k8s) static STATEFUL_SETS: Resource = Resource::new("apps", "v1", "statefulsets");
pub(in crate::k8s) static DEPLOYMENTS: Resource = Resource::new("apps", "v1", "deployments");
pub(in crate::k8s) static TOKEN_REVIEWS: Resource = Resource::new("authentication.k8s.io", "v1", "tokenreviews");
pub(in crate::k8s) static SUBJECT_ACCESS_REVIEWS: Resource =
    Resource::new("authorization.k8s.io", "v1", "subjectaccessreviews");
