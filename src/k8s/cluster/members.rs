//! Which pods a cluster's facts mean, where not a label but a Service or a host says so.

use serde_json::Value;
use tokio::time::Instant;

use crate::k8s::{
    api::{
        client::Context,
        error::K8sError,
        names::{Namespace, ObjectName, Place},
        objects::{LeaderObject, Meta, Object, Pod, text},
        resource::{ENDPOINTS, SERVICES},
        typed,
    },
    cluster::{
        leader_objects::{self, Endpoints},
        operated,
    },
    operators::{
        connection,
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
    /// A host outside Kubernetes, and its port.
    pub(in crate::k8s) outside: Option<(String, u16)>,
    pub(in crate::k8s) pooled: bool,
    /// Why something on the way leads nowhere.
    pub(in crate::k8s) refused: Option<String>,
}

impl Found {
    fn pods(pods: Vec<Pod>) -> Self {
        let pooled = pods.first().is_some_and(|pod| is_pooler(&pod.metadata));
        Self { pods, leader: Leader::Unsaid, claimed: None, port: None, outside: None, pooled, refused: None }
    }
}

/// Poolers carry their cluster's labels and some of their own.
fn is_pooler(meta: &Meta) -> bool {
    meta.label("connection-pooler").is_some()
        || meta.label("cnpg.io/podRole") == Some("pooler")
        || meta.label("postgres-operator.crunchydata.com/role") == Some("pgbouncer")
        || ["app", "app.kubernetes.io/name"]
            .iter()
            .any(|name| meta.label(name).is_some_and(|app| app.contains("bouncer")))
}

pub(in crate::k8s) async fn read(
    context: &Context,
    systems: &Systems,
    namespace: &Namespace,
    members: &Members,
    deadline: Instant,
) -> Result<Found, K8sError> {
    match members {
        Members::Labelled => Ok(Found::pods(Vec::new())),
        Members::Selected(selector) => {
            Ok(Found::pods(typed::list_pods(context, namespace, selector.clone(), deadline).await?))
        }
        Members::Pod { namespace: place, pod, service: Some(service) } if place != namespace => {
            // Into another namespace only a Service leads.
            let places = [(place.clone(), service.clone())];
            let service = ByService { places: &places, port: crate::k8s::operators::facts::PORT, kin: Kin::Alone };
            let found = of_services(context, systems, service, deadline).await?;
            let pods = found.pods.into_iter().filter(|found| found.metadata.name == *pod).collect();
            Ok(Found { refused: found.refused, ..Found::pods(pods) })
        }
        Members::Pod { namespace, pod, .. } => {
            let pod = typed::get_pod(context, (namespace, pod), deadline).await?;
            Ok(Found::pods(pod.into_iter().collect()))
        }
        Members::External { host, port } => {
            Ok(Found { outside: Some((host.clone(), *port)), ..Found::pods(Vec::new()) })
        }
        Members::Service { places, port, outside, kin } => {
            let service = ByService { places, port: *port, kin: *kin };
            let found = of_services(context, systems, service, deadline).await;
            match (found, outside) {
                (Err(error), Some(host)) if error.is_absent() => {
                    Ok(Found { outside: Some((host.clone(), *port)), ..Found::pods(Vec::new()) })
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
async fn of_services(
    context: &Context,
    systems: &Systems,
    by: ByService<'_>,
    deadline: Instant,
) -> Result<Found, K8sError> {
    let mut refused = None;
    for (namespace, name) in by.places {
        match typed::get::<Object>(context, &SERVICES, (namespace, name), deadline).await {
            Ok(Some(service)) => return of_service(context, systems, (&service, by), deadline).await,
            Ok(None) => {}
            Err(error) if error.is_forbidden() => {
                // Who may not read the Service may see where it leads.
                if let Ok(found) = of_endpoints(context, (namespace, name), None, deadline).await
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
    context: &Context,
    systems: &Systems,
    (service, by): (&Object, ByService<'_>),
    deadline: Instant,
) -> Result<Found, K8sError> {
    let meta = &service.metadata;
    let namespace = &meta.namespace;
    if service.spec("/type") == Some("ExternalName") {
        return of_external_name(context, systems, (service, by), deadline).await;
    }
    let (target, port_name) = target_port(service, by.port)?;
    let selector = service.selector("/selector");
    let listed = match &selector {
        Some(selector) => match typed::list_pods(context, namespace, selector.clone(), deadline).await {
            Ok(pods) => Some(Found { port: Some(target), ..Found::pods(pods) }),
            Err(error) if error.is_forbidden() => None,
            Err(error) => return Err(error),
        },
        None => None,
    };
    let mut found = match listed {
        Some(found) => found,
        None => of_endpoints(context, (namespace, &meta.name), port_name.as_deref(), deadline).await?,
    };
    if found.pooled {
        return Ok(found);
    }
    let claims = if by.kin == Kin::Alone { Vec::new() } else { claiming_service(context, systems, meta) };
    if found.pods.is_empty() && selector.is_none() {
        // Its addresses are another Service's: the operator whose Service it is knows the pods.
        for (system, cluster) in claims {
            let Some(labels) = system.pod_labels() else { continue };
            if let Some(view) = operated::read(context, system, &labels, (namespace, &cluster), deadline).await? {
                return Ok(Found {
                    leader: view.facts.leader.clone(),
                    claimed: Some((system.clone(), view.place())),
                    port: Some(view.facts.port.clone()),
                    ..Found::pods(view.pods)
                });
            }
        }
        return Ok(found);
    }
    let of_pods = found.pods.iter().find_map(|pod| systems.claiming(&pod.metadata));
    let Some((system, cluster)) = of_pods.or_else(|| claims.into_iter().next()) else {
        return Ok(found);
    };
    // One address is what the Service says; of several only the leader object knows which one leads.
    if found.pods.iter().filter(|pod| pod.serves()).count() > 1 {
        found.leader = leader_objects::of(context, &**system, (namespace, &cluster), deadline).await?;
    }
    found.claimed = Some((system.clone(), (namespace.clone(), cluster)));
    Ok(found)
}

/// An alias in the cluster's DNS, followed once, and only where the configuration says so: whoever may write a Service
/// may point it anywhere.
async fn of_external_name(
    context: &Context,
    systems: &Systems,
    (service, by): (&Object, ByService<'_>),
    deadline: Instant,
) -> Result<Found, K8sError> {
    let meta = &service.metadata;
    if !systems.follows(meta) {
        return Err(K8sError::ExternalName { namespace: meta.namespace.clone(), name: meta.name.clone() });
    }
    let host = service.spec("/externalName").unwrap_or_default();
    match connection::members(host, by.port, &meta.namespace) {
        Some(Members::Service { places, .. }) if host.contains(".svc") => {
            for (namespace, name) in &places {
                if let Some(service) = typed::get::<Object>(context, &SERVICES, (namespace, name), deadline).await?
                    && service.spec("/type") != Some("ExternalName")
                {
                    return Box::pin(of_service(context, systems, (&service, by), deadline)).await;
                }
            }
            Err(K8sError::NotFound { what: format!("Service {host}") })
        }
        _ => Ok(Found { outside: Some((host.to_owned(), by.port)), ..Found::pods(Vec::new()) }),
    }
}

/// Pods as endpoints tell them, which needs no right to read pods.
async fn of_endpoints(
    context: &Context,
    (namespace, service): (&Namespace, &ObjectName),
    port: Option<&str>,
    deadline: Instant,
) -> Result<Found, K8sError> {
    let objects = match leader_objects::slices::<LeaderObject>(context, namespace, service, deadline).await {
        Ok(slices) => slices,
        Err(error) if error.is_forbidden() || error.is_absent() => {
            let object = typed::get::<LeaderObject>(context, &ENDPOINTS, (namespace, service), deadline).await;
            object.map_err(|_| error)?.into_iter().collect()
        }
        Err(error) => return Err(error),
    };
    let Endpoints { pods, port, refused } = leader_objects::endpoints(&objects, port);
    Ok(Found { port: port.map(Port::Number), refused, ..Found::pods(pods) })
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
