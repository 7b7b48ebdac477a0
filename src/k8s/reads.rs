//! The reads that lookups are made of, each with what it needs to be allowed.

use tokio::time::Instant;

use super::{
    K8sError,
    choose::View,
    client::{Access, Context, ListQuery},
    objects::{Custom, Pod, Secret},
    operators::{Operator, Resource},
};

/// The path of a resource's collection; of all namespaces where none is named.
pub(super) fn collection(resource: Resource, namespace: Option<&str>) -> String {
    let Resource { group, version, plural } = resource;
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    match namespace {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
        None => format!("{root}/{plural}"),
    }
}

/// Pods.
pub(super) const PODS: Resource = Resource { group: "", version: "v1", plural: "pods" };
const SECRETS: Resource = Resource { group: "", version: "v1", plural: "secrets" };

pub(super) fn access<'a>(
    verb: &'static str,
    resource: Resource,
    namespace: Option<&'a str>,
    name: Option<&'a str>,
) -> Access<'a> {
    Access { verb, group: resource.group, resource: resource.plural, namespace, name }
}

/// The selector of one cluster's pods, or of several.
pub(super) fn pods_of<'a>(operator: &dyn Operator, clusters: impl IntoIterator<Item = &'a str>) -> ListQuery {
    let names: Vec<&str> = clusters.into_iter().collect();
    let label = operator.cluster_label();
    ListQuery::labels(format!("{},{label} in ({})", operator.pod_selector(), names.join(",")))
}

/// The selector of all pods that belong to some cluster of the system.
pub(super) fn pods_of_all(operator: &dyn Operator) -> ListQuery {
    ListQuery::labels(format!("{},{}", operator.pod_selector(), operator.cluster_label()))
}

pub(super) async fn get<K: serde::de::DeserializeOwned>(
    context: &Context,
    resource: Resource,
    (namespace, name): (&str, &str),
    deadline: Instant,
) -> Result<Option<K>, K8sError> {
    let path = format!("{}/{name}", collection(resource, Some(namespace)));
    context.get_object(&access("get", resource, Some(namespace), Some(name)), &path, deadline).await
}

pub(super) async fn list<K: serde::de::DeserializeOwned>(
    context: &Context,
    resource: Resource,
    namespace: Option<&str>,
    query: &ListQuery,
    deadline: Instant,
) -> Result<(Vec<K>, String), K8sError> {
    let path = collection(resource, namespace);
    context.list_objects(&access("list", resource, namespace, None), &path, query, deadline).await
}

pub(super) async fn get_pod(
    context: &Context,
    namespace: &str,
    name: &str,
    deadline: Instant,
) -> Result<Option<Pod>, K8sError> {
    get(context, PODS, (namespace, name), deadline).await
}

pub(super) async fn get_secret(
    context: &Context,
    namespace: &str,
    name: &str,
    deadline: Instant,
) -> Result<Option<Secret>, K8sError> {
    get(context, SECRETS, (namespace, name), deadline).await
}

/// A cluster as it is now: its resource and its pods, read at the same time. `None` where there is neither. A caller
/// who may not read the resource sees what the pods tell.
pub(super) async fn view(
    context: &Context,
    operator: &'static dyn Operator,
    (namespace, name): (&str, &str),
    deadline: Instant,
) -> Result<Option<View>, K8sError> {
    let query = pods_of(operator, [name]);
    let (custom, pods) = tokio::join!(
        get::<Custom>(context, operator.resource(), (namespace, name), deadline),
        list::<Pod>(context, PODS, Some(namespace), &query, deadline),
    );
    let facts = match custom {
        Ok(Some(custom)) => Some(operator.read(&custom)),
        Err(error) if error.is_forbidden() => None,
        // A deleted cluster's pods linger for a while: they are not it.
        Ok(None) => return Ok(None),
        Err(error) if error.is_absent() => return Ok(None),
        Err(error) => return Err(error),
    };
    let pods = pods?.0;
    let facts = match facts {
        Some(facts) => facts,
        None if pods.is_empty() => return Ok(None),
        None => operator.guess(namespace, name),
    };
    Ok(Some(View { operator, facts, pods }))
}
