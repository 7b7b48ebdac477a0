//! Reading objects of a type, each call with what it needs to be allowed.

use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::k8s::api::{
    access::ListQuery,
    client::Context,
    error::K8sError,
    names::{Namespace, ObjectName},
    objects::{Pod, Secret},
    resource::{PODS, Resource, SECRETS},
};

/// Reads from one API server, as one caller, until a deadline.
#[derive(Clone, Copy)]
pub(in crate::k8s) struct Reader<'a> {
    pub(in crate::k8s) context: &'a Context,
    pub(in crate::k8s) deadline: Instant,
}

impl<'a> Reader<'a> {
    pub(in crate::k8s) fn new(context: &'a Context, deadline: Instant) -> Self {
        Self { context, deadline }
    }
}

impl Reader<'_> {
    pub(in crate::k8s) async fn get<K: DeserializeOwned>(
        self,
        resource: &Resource,
        (namespace, name): (&Namespace, &ObjectName),
    ) -> Result<Option<K>, K8sError> {
        let access = self.context.access("get", resource, Some(namespace), Some(name));
        self.context.get_object(&access, self.deadline).await
    }

    /// As [`Self::get`]; what may not be read, or is not even known, is not there.
    pub(in crate::k8s) async fn get_if_allowed<K: DeserializeOwned>(
        self,
        resource: &Resource,
        place: (&Namespace, &ObjectName),
    ) -> Result<Option<K>, K8sError> {
        match self.get(resource, place).await {
            Err(error) if error.is_forbidden() || error.is_absent() => Ok(None),
            found => found,
        }
    }

    /// Everywhere without a namespace; with the version of the list.
    pub(in crate::k8s) async fn list<K: DeserializeOwned>(
        self,
        resource: &Resource,
        namespace: Option<&Namespace>,
        query: &ListQuery,
    ) -> Result<(Vec<K>, String), K8sError> {
        let access = self.context.access("list", resource, namespace, None);
        self.context.list_objects(&access, query, self.deadline).await
    }

    pub(in crate::k8s) async fn get_pod(self, place: (&Namespace, &ObjectName)) -> Result<Option<Pod>, K8sError> {
        self.get(&PODS, place).await
    }

    pub(in crate::k8s) async fn list_pods(self, namespace: &Namespace, selector: String) -> Result<Vec<Pod>, K8sError> {
        Ok(self.list(&PODS, Some(namespace), &ListQuery::labels(selector)).await?.0)
    }

    pub(in crate::k8s) async fn get_secret(self, place: (&Namespace, &ObjectName)) -> Result<Option<Secret>, K8sError> {
        self.get(&SECRETS, place).await
    }
}
