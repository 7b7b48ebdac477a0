//! Calls that give objects of a type, each with what it needs to be allowed.

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

pub(in crate::k8s) async fn get<K: DeserializeOwned>(
    context: &Context,
    resource: &Resource,
    (namespace, name): (&Namespace, &ObjectName),
    deadline: Instant,
) -> Result<Option<K>, K8sError> {
    context.get_object(&context.access("get", resource, Some(namespace), Some(name)), deadline).await
}

/// As [`get`]; what may not be read, or is not even known, is not there.
pub(in crate::k8s) async fn get_if_allowed<K: DeserializeOwned>(
    context: &Context,
    resource: &Resource,
    place: (&Namespace, &ObjectName),
    deadline: Instant,
) -> Result<Option<K>, K8sError> {
    match get(context, resource, place, deadline).await {
        Err(error) if error.is_forbidden() || error.is_absent() => Ok(None),
        found => found,
    }
}

pub(in crate::k8s) async fn list<K: DeserializeOwned>(
    context: &Context,
    resource: &Resource,
    namespace: Option<&Namespace>,
    query: &ListQuery,
    deadline: Instant,
) -> Result<(Vec<K>, String), K8sError> {
    context.list_objects(&context.access("list", resource, namespace, None), query, deadline).await
}

pub(in crate::k8s) async fn get_pod(
    context: &Context,
    (namespace, name): (&Namespace, &ObjectName),
    deadline: Instant,
) -> Result<Option<Pod>, K8sError> {
    get(context, &PODS, (namespace, name), deadline).await
}

pub(in crate::k8s) async fn list_pods(
    context: &Context,
    namespace: &Namespace,
    selector: String,
    deadline: Instant,
) -> Result<Vec<Pod>, K8sError> {
    Ok(list(context, &PODS, Some(namespace), &ListQuery::labels(selector), deadline).await?.0)
}

pub(in crate::k8s) async fn get_secret(
    context: &Context,
    place: (&Namespace, &ObjectName),
    deadline: Instant,
) -> Result<Option<Secret>, K8sError> {
    get(context, &SECRETS, place, deadline).await
}
