//! Reading who leads. Labels only propose: two pods can carry the primary's for minutes, and only the leader object
//! knows which one is right.

use futures_util::future::join_all;
use serde_json::Value;

use crate::k8s::{
    api::{
        access::ListQuery,
        endpoints::{LeaderObject, SERVICE_NAME},
        error::K8sError,
        names::{Namespace, ObjectName},
        objects::{Meta, Object, Pod},
        reader::Reader,
        resource::{ENDPOINT_SLICES, Resource},
    },
    operators::{
        facts::Facts,
        leader::{Leader, LeaderSource, Word},
        patroni,
        system::System,
    },
};

/// Who leads a cluster, as the leader object says that was written last. One that may not be read says nothing; one
/// that could not be read is an error, for then nobody knows.
pub(in crate::k8s) async fn of(
    reader: Reader<'_>,
    operator: &dyn System,
    (namespace, name): (&Namespace, &ObjectName),
) -> Result<Leader, K8sError> {
    let sources = operator.leader_sources(name);
    let looks = sources.iter().map(|source| look(reader, source, namespace));
    let words = join_all(looks).await.into_iter().collect::<Result<Vec<Word>, K8sError>>()?;
    Ok(newest(words))
}

/// What an object says.
fn word(source: &LeaderSource, object: Value) -> Word {
    match source {
        LeaderSource::Twin { leader, .. } => {
            let twin = serde_json::from_value::<Object>(object).ok();
            Word { leader: twin.as_ref().map_or(Leader::Unsaid, leader), renewed: String::new() }
        }
        LeaderSource::Endpoints(_) | LeaderSource::ConfigMap(_) => {
            serde_json::from_value::<LeaderObject>(object).map(|object| patroni::word(&object)).unwrap_or_default()
        }
    }
}

/// What the object says that was written last; of two without a time the first.
pub(in crate::k8s) fn newest(words: impl IntoIterator<Item = Word>) -> Leader {
    let said = words.into_iter().filter(|word| word.leader != Leader::Unsaid);
    let newer = |one: Word, other: Word| if other.renewed > one.renewed { other } else { one };
    said.reduce(newer).map_or(Leader::Unsaid, |word| word.leader)
}

async fn look(reader: Reader<'_>, source: &LeaderSource, namespace: &Namespace) -> Result<Word, K8sError> {
    let resource = source.resource();
    match reader.get::<Value>(&resource, (namespace, source.name())).await {
        Ok(Some(object)) => Ok(word(source, object)),
        Ok(None) => Ok(Word::default()),
        Err(error) if error.is_absent() => Ok(Word::default()),
        Err(error) if error.is_forbidden() => match source {
            LeaderSource::Endpoints(service) => of_slices(reader, service, namespace).await,
            _ => Ok(Word::default()),
        },
        Err(error) => Err(error),
    }
}

/// The EndpointSlice follows the Endpoints object within a fraction of a second, annotations included.
async fn of_slices(reader: Reader<'_>, service: &ObjectName, namespace: &Namespace) -> Result<Word, K8sError> {
    match slices::<Value>(reader, namespace, service).await {
        Ok(slices) => {
            let source = LeaderSource::Endpoints(service.clone());
            let mut words = slices.into_iter().map(|slice| word(&source, slice));
            Ok(words.find(|word| word.leader != Leader::Unsaid).unwrap_or_default())
        }
        Err(error) if error.is_forbidden() || error.is_absent() => Ok(Word::default()),
        Err(error) => Err(error),
    }
}

/// The EndpointSlices of a Service.
pub(in crate::k8s) async fn slices<K: serde::de::DeserializeOwned>(
    reader: Reader<'_>,
    namespace: &Namespace,
    service: &ObjectName,
) -> Result<Vec<K>, K8sError> {
    let query = slices_of([service]);
    Ok(reader.list(&ENDPOINT_SLICES, Some(namespace), &query).await?.0)
}

pub(in crate::k8s) fn slices_of<'a>(services: impl IntoIterator<Item = &'a ObjectName>) -> ListQuery {
    let names: Vec<&str> = services.into_iter().map(|service| &**service).collect();
    ListQuery::labels(format!("{SERVICE_NAME} in ({})", names.join(",")))
}

/// The facts with what the leader object says; it knows better than anything else.
pub(in crate::k8s) fn decided(facts: Facts, leader: Leader) -> Facts {
    match leader {
        Leader::Unsaid => facts,
        leader => Facts { leader, ..facts },
    }
}

/// A resource that holds the leader objects of some clusters, and which objects of it.
#[derive(Clone, Debug)]
pub(in crate::k8s) struct Source {
    pub(in crate::k8s) resource: Resource,
    pub(in crate::k8s) query: ListQuery,
}

/// Where the leader objects of these clusters are, each resource once.
pub(in crate::k8s) fn sources<'a>(
    operator: &dyn System,
    clusters: impl IntoIterator<Item = &'a ObjectName>,
) -> Vec<Source> {
    let mut all: Vec<(Resource, Vec<ObjectName>)> = Vec::new();
    for source in clusters.into_iter().flat_map(|cluster| operator.leader_sources(cluster)) {
        let name = source.name().clone();
        match all.iter_mut().find(|(resource, _)| *resource == source.resource()) {
            Some((_, names)) => names.push(name),
            None => all.push((source.resource(), vec![name])),
        }
    }
    // Patroni labels its objects as it labels its pods.
    let labels = operator.pod_labels();
    let query = |resource: &Resource, names: &[ObjectName]| match (names, &labels) {
        ([one], _) => ListQuery::fields(format!("metadata.name={one}")),
        (_, Some(labels)) if resource.group.is_empty() => ListQuery::labels(labels.cluster.to_string()),
        _ => ListQuery::default(),
    };
    all.into_iter().map(|(resource, names)| Source { query: query(&resource, &names), resource }).collect()
}

/// The same, for a caller who may read EndpointSlices and not Endpoints.
pub(in crate::k8s) fn sliced<'a>(
    operator: &dyn System,
    clusters: impl IntoIterator<Item = &'a ObjectName>,
) -> Option<Source> {
    let sources = clusters.into_iter().flat_map(|cluster| operator.leader_sources(cluster));
    let services: Vec<ObjectName> = sources
        .filter_map(|source| match source {
            LeaderSource::Endpoints(service) => Some(service),
            _ => None,
        })
        .collect();
    (!services.is_empty()).then(|| Source { resource: ENDPOINT_SLICES.clone(), query: slices_of(&services) })
}

/// Which of these clusters an object is the leader object of, and what it says; the position tells its objects apart.
pub(in crate::k8s) fn said(
    operator: &dyn System,
    clusters: impl IntoIterator<Item = ObjectName>,
    resource: &Resource,
    object: &Value,
) -> Option<(ObjectName, usize, Word)> {
    let meta: Meta = serde_json::from_value(object.get("metadata")?.clone()).ok()?;
    let sliced = *resource == ENDPOINT_SLICES;
    let name = if sliced { meta.label(SERVICE_NAME)? } else { &*meta.name };
    clusters.into_iter().find_map(|cluster| {
        let sources = operator.leader_sources(&cluster);
        let fits = |source: &LeaderSource| {
            *source.name() == *name
                && if sliced { matches!(source, LeaderSource::Endpoints(_)) } else { source.resource() == *resource }
        };
        let position = sources.iter().position(fits)?;
        let word = word(sources.get(position)?, object.clone());
        Some((cluster, position, word))
    })
}

/// What an Endpoints object or EndpointSlices lead to.
pub(in crate::k8s) struct Endpoints {
    pub(in crate::k8s) pods: Vec<Pod>,
    pub(in crate::k8s) port: Option<u16>,
    /// Why one of them leads nowhere.
    pub(in crate::k8s) refused: Option<String>,
}

/// Where endpoints lead, and behind which port of this name.
pub(in crate::k8s) fn endpoints(objects: &[LeaderObject], port: Option<&str>) -> Endpoints {
    Endpoints {
        pods: objects.iter().flat_map(LeaderObject::pods).collect(),
        port: objects.iter().find_map(|object| object.port(port)),
        refused: objects.iter().find_map(LeaderObject::refused),
    }
}
