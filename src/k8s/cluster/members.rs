//! Which pods a cluster's facts mean, where not a label but a Service or a host says so.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::Value;

use crate::k8s::{
    api::{
        client::Context,
        endpoints::LeaderObject,
        error::K8sError,
        names::{Namespace, ObjectName, Place},
        objects::{Meta, Object, Pod, text},
        reader::Reader,
        resource::{ENDPOINTS, SERVICES},
    },
    cluster::{
        leader_objects::{self, Endpoints},
        operated,
    },
    operators::{
        connection_hosts::members as lead,
        facts::{Kin, Members, Port},
        leader::Leader,
        registry::Systems,
        system::SystemRef,
    },
};

/// What was found.
#[derive(Debug)]
pub(in crate::k8s) struct Found {
    pub(in crate::k8s) pods: Vec<Pod>,
    pub(in crate::k8s) leader: Leader,
    /// The operator whose pods these are, and its cluster.
    pub(in crate::k8s) claimed: Option<(SystemRef, Place)>,
    pub(in crate::k8s) port: Option<Port>,
    /// Hosts outside Kubernetes, and their ports.
    pub(in crate::k8s) outside: Vec<(String, u16)>,
    pub(in crate::k8s) pooled: bool,
    /// Why something on the way leads nowhere.
    pub(in crate::k8s) refused: Option<String>,
}

impl Found {
    fn outside(systems: &Systems, outside: Vec<(String, u16)>) -> Self {
        Self { outside, ..Self::pods(systems, Vec::new()) }
    }

    fn pods(systems: &Systems, pods: Vec<Pod>) -> Self {
        let pooled = pods.first().is_some_and(|pod| systems.is_pooler(&pod.metadata.labels));
        Self { pods, leader: Leader::Unsaid, claimed: None, port: None, outside: Vec::new(), pooled, refused: None }
    }
}

/// What several hosts lead to. One that leads nowhere is passed over, as libpq does; that all do is told.
fn together(systems: &Systems, found: Vec<Result<Found, K8sError>>) -> Result<Found, K8sError> {
    let (mut all, mut refused) = (None::<Found>, None);
    for found in found {
        let found = match found {
            Ok(found) => found,
            Err(error) if error.is_forbidden() || error.is_absent() => {
                refused = refused.or(Some(error));
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(known) = &mut all else {
            all = Some(found);
            continue;
        };
        if found.port.is_some() && known.port.is_some() && found.port != known.port && !found.pods.is_empty() {
            known.refused.get_or_insert("its hosts lead to pods with different ports".to_owned());
            continue;
        }
        known.port = known.port.take().or(found.port);
        let names: BTreeSet<Place> = known.pods.iter().map(|pod| place_of(&pod.metadata)).collect();
        known.pods.extend(found.pods.into_iter().filter(|pod| !names.contains(&place_of(&pod.metadata))));
        known.outside.extend(found.outside);
        known.pooled |= found.pooled;
        known.claimed = known.claimed.take().or(found.claimed);
        known.refused = known.refused.take().or(found.refused);
        if known.leader == Leader::Unsaid {
            known.leader = found.leader;
        }
    }
    let mut all =
        all.ok_or_else(|| refused.unwrap_or_else(|| K8sError::NotFound { what: "any of its hosts".to_owned() }))?;
    if !all.pods.is_empty() {
        // Some here, some outside: what can be reached through the API server comes first.
        all.outside.clear();
    }
    all.pooled |= all.pods.first().is_some_and(|pod| systems.is_pooler(&pod.metadata.labels));
    Ok(all)
}

fn place_of(meta: &Meta) -> Place {
    (meta.namespace.clone(), meta.name.clone())
}

pub(in crate::k8s) async fn read(
    reader: Reader<'_>,
    systems: &Systems,
    namespace: &Namespace,
    members: &Members,
) -> Result<Found, K8sError> {
    match members {
        Members::Labelled => Ok(Found::pods(systems, Vec::new())),
        Members::Selected(selector) => Ok(Found::pods(systems, reader.list_pods(namespace, selector.clone()).await?)),
        Members::Pod { namespace: place, pod, service: Some(service) } if place != namespace => {
            // Into another namespace only a Service leads.
            let places = [(place.clone(), service.clone())];
            let service = ByService { places: &places, port: crate::k8s::operators::facts::PORT, kin: Kin::Alone };
            let found = of_services(reader, systems, service).await?;
            let pods = found.pods.into_iter().filter(|found| found.metadata.name == *pod).collect();
            Ok(Found { refused: found.refused, ..Found::pods(systems, pods) })
        }
        Members::Pod { namespace, pod, .. } => {
            let pod = reader.get_pod((namespace, pod)).await?;
            Ok(Found::pods(systems, pod.into_iter().collect()))
        }
        Members::External(servers) => Ok(Found::outside(systems, servers.clone())),
        Members::Several(all) => {
            let reads = all.iter().map(|members| Box::pin(read(reader, systems, namespace, members)));
            together(systems, join_all(reads).await)
        }
        Members::Service { places, port, outside, kin } => {
            let service = ByService { places, port: *port, kin: *kin };
            let found = of_services(reader, systems, service).await;
            match (found, outside) {
                (Err(error), Some(host)) if error.is_absent() => {
                    Ok(Found::outside(systems, vec![(host.clone(), *port)]))
                }
                (found, _) => found,
            }
        }
    }
}

/// The way through a Service.
#[derive(Clone, Copy)]
struct ByService<'a> {
    /// The first that exists.
    places: &'a [Place],
    port: u16,
    kin: Kin,
}

/// The first Service that exists.
async fn of_services(reader: Reader<'_>, systems: &Systems, by: ByService<'_>) -> Result<Found, K8sError> {
    let mut refused = None;
    for (namespace, name) in by.places {
        match reader.get::<Object>(&SERVICES, (namespace, name)).await {
            Ok(Some(service)) => return of_service(reader, systems, (&service, by)).await,
            Ok(None) => {}
            Err(error) if error.is_forbidden() => {
                // Who may not read the Service may see where it leads.
                if let Ok(found) = of_endpoints(reader, systems, (namespace, name), None).await
                    && !found.pods.is_empty()
                {
                    return Ok(found);
                }
                refused = refused.or(Some(error));
            }
            Err(error) => return Err(error),
        }
    }
    let names: Vec<String> =
        by.places.iter().map(|(namespace, name)| format!("{name} in namespace {namespace}")).collect();
    Err(refused.unwrap_or_else(|| K8sError::NotFound { what: format!("Service {}", names.join(", nor ")) }))
}

async fn of_service(
    reader: Reader<'_>,
    systems: &Systems,
    (service, by): (&Object, ByService<'_>),
) -> Result<Found, K8sError> {
    let meta = &service.metadata;
    let namespace = &meta.namespace;
    if service.spec("/type") == Some("ExternalName") {
        return of_external_name(reader, systems, (service, by)).await;
    }
    let (target, port_name) = target_port(service, by.port)?;
    let selector = service.selector("/selector");
    let selected = match &selector {
        Some(selector) => match reader.list_pods(namespace, selector.clone()).await {
            Err(error) if error.is_forbidden() => None,
            pods => Some(pods?),
        },
        None => None,
    };
    let mut found = match selected {
        Some(pods) => Found { port: Some(target), ..Found::pods(systems, pods) },
        None => of_endpoints(reader, systems, (namespace, &meta.name), port_name.as_deref()).await?,
    };
    if found.pooled {
        return Ok(found);
    }
    let claims = if by.kin == Kin::Alone { Vec::new() } else { claiming_service(reader.context, systems, meta) };
    if found.pods.is_empty() && selector.is_none() {
        // Its addresses are another Service's: the operator whose Service it is knows the pods.
        return Ok(of_an_operator(reader, systems, namespace, claims).await?.unwrap_or(found));
    }
    let of_pods = found.pods.iter().find_map(|pod| systems.claiming(&pod.metadata));
    let Some((system, cluster)) = of_pods.or_else(|| claims.into_iter().next()) else {
        return Ok(found);
    };
    // One address is what the Service says; of several only the leader object knows which one leads.
    if found.pods.iter().filter(|pod| pod.serves()).count() > 1 {
        found.leader = leader_objects::of(reader, &**system, (namespace, &cluster)).await?;
    }
    found.claimed = Some((system.clone(), (namespace.clone(), cluster)));
    Ok(found)
}

/// The cluster of the first of these operators that has one.
async fn of_an_operator(
    reader: Reader<'_>,
    systems: &Systems,
    namespace: &Namespace,
    claims: Vec<(&SystemRef, ObjectName)>,
) -> Result<Option<Found>, K8sError> {
    for (system, cluster) in claims {
        let Some(labels) = system.pod_labels() else { continue };
        if let Some(view) = operated::read(reader, system, &labels, (namespace, &cluster)).await? {
            return Ok(Some(Found {
                leader: view.facts.leader.clone(),
                claimed: Some((system.clone(), view.place())),
                port: Some(view.facts.port.clone()),
                ..Found::pods(systems, view.pods)
            }));
        }
    }
    Ok(None)
}

/// An alias in the cluster's DNS, followed once, and only where the configuration says so: whoever may write a Service
/// may point it anywhere.
async fn of_external_name(
    reader: Reader<'_>,
    systems: &Systems,
    (service, by): (&Object, ByService<'_>),
) -> Result<Found, K8sError> {
    let meta = &service.metadata;
    if !systems.follows(meta) {
        return Err(K8sError::ExternalName { namespace: meta.namespace.clone(), name: meta.name.clone() });
    }
    let host = service.spec("/externalName").unwrap_or_default();
    match lead(host, by.port, &meta.namespace) {
        Some(Members::Service { places, .. }) if host.contains(".svc") => {
            for (namespace, name) in &places {
                if let Some(service) = reader.get::<Object>(&SERVICES, (namespace, name)).await?
                    && service.spec("/type") != Some("ExternalName")
                {
                    return Box::pin(of_service(reader, systems, (&service, by))).await;
                }
            }
            Err(K8sError::NotFound { what: format!("Service {host}") })
        }
        _ => Ok(Found::outside(systems, vec![(host.to_owned(), by.port)])),
    }
}

/// Pods as endpoints tell them, which needs no right to read pods.
async fn of_endpoints(
    reader: Reader<'_>,
    systems: &Systems,
    (namespace, service): (&Namespace, &ObjectName),
    port: Option<&str>,
) -> Result<Found, K8sError> {
    let objects = match leader_objects::slices::<LeaderObject>(reader, namespace, service).await {
        Ok(slices) => slices,
        Err(error) if error.is_forbidden() || error.is_absent() => {
            let object = reader.get::<LeaderObject>(&ENDPOINTS, (namespace, service)).await;
            object.map_err(|_| error)?.into_iter().collect()
        }
        Err(error) => return Err(error),
    };
    let Endpoints { pods, port, refused } = leader_objects::endpoints(&objects, port);
    Ok(Found { port: port.map(Port::Number), refused, ..Found::pods(systems, pods) })
}

/// The operators that may have made a Service, and the cluster it is for: two may label it alike.
fn claiming_service<'a>(context: &Context, systems: &'a Systems, meta: &Meta) -> Vec<(&'a SystemRef, ObjectName)> {
    let present = systems.operators.iter().filter(|system| context.has(&system.resource()));
    let claims = present.filter_map(|system| {
        let cluster = ObjectName::parse(meta.label(&system.pod_labels()?.cluster)?).ok()?;
        let facts = system.guess(&meta.namespace, &cluster)?;
        facts.services.iter().any(|service| meta.name == **service).then_some((system, cluster))
    });
    claims.collect()
}

/// The pods' port behind a Service's, and what the Service calls it.
fn target_port(service: &Object, port: u16) -> Result<(Port, Option<String>), K8sError> {
    let number = |entry: &Value| entry.get("port").and_then(Value::as_u64) == Some(port.into());
    let Some(entry) = service.items("/ports").find(|entry| number(entry)) else {
        // A headless Service's hosts are dialled as they are, whatever ports it names; another publishes no other port.
        if service.spec("/clusterIP") == Some("None") || service.items("/ports").next().is_none() {
            return Ok((Port::Number(port), None));
        }
        let Meta { namespace, name, .. } = &service.metadata;
        return Err(K8sError::NotFound { what: format!("port {port} of Service {namespace}/{name}") });
    };
    let name = text(entry, "/name").map(str::to_owned);
    let target = match entry.get("targetPort") {
        Some(Value::String(named)) => named.parse().map_or_else(|_| Port::Named(named.clone()), Port::Number),
        Some(Value::Number(number)) => {
            Port::Number(number.as_u64().and_then(|number| number.try_into().ok()).unwrap_or(port))
        }
        _ => Port::Number(port),
    };
    Ok((target, name))
}
