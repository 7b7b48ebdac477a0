//! Requests and answers of the fake API.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::Response;
use http_body_util::StreamBody;
use hyper::{
    Request as HyperRequest,
    body::{Frame, Incoming},
};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::{
    Fault, Request,
    answer::{Body, BoxedUnsync as _, respond, short, status, throttled},
    forward, reviews, selectors,
    store::{Denied, END, ERROR, Shared, Store},
};

/// Core and built-in resources: plural to group.
const BUILT_IN: [(&str, &str); 11] = [
    ("pods", ""),
    ("secrets", ""),
    ("services", ""),
    ("endpoints", ""),
    ("configmaps", ""),
    ("namespaces", ""),
    ("endpointslices", "discovery.k8s.io"),
    ("statefulsets", "apps"),
    ("deployments", "apps"),
    ("tokenreviews", "authentication.k8s.io"),
    ("subjectaccessreviews", "authorization.k8s.io"),
];

/// What is asked and not kept.
const REVIEWS: [&str; 2] = ["tokenreviews", "subjectaccessreviews"];

/// A path taken apart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

impl Target {
    fn parse(path: &str) -> Option<Self> {
        let mut parts = path.trim_matches('/').split('/').peekable();
        let mut target = Self::default();
        if path == "/apis" {
            return Some(Self { plural: "apis".to_owned(), ..target });
        }
        match parts.next()? {
            "api" => {}
            "apis" => parts.next()?.clone_into(&mut target.group),
            _ => return None,
        }
        parts.next()?.clone_into(&mut target.version);
        let mut rest: Vec<&str> = parts.collect();
        if rest.len() >= 3 && rest[0] == "namespaces" {
            target.namespace = Some(rest[1].to_owned());
            rest.drain(..2);
        }
        let mut rest = rest.into_iter().map(str::to_owned);
        target.plural = rest.next()?;
        target.name = rest.next();
        target.subresource = rest.next();
        Some(target)
    }

    /// As the store has it.
    pub(crate) fn stored(&self) -> String {
        let built_in = BUILT_IN.iter().any(|(plural, group)| *plural == self.plural && *group == self.group);
        if built_in { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    fn resource(&self) -> String {
        match &self.subresource {
            Some(subresource) => format!("{}/{subresource}", self.plural),
            None => self.plural.clone(),
        }
    }
}

/// Percent-decoded.
pub(crate) fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let hex: String = bytes.by_ref().take(2).map(char::from).collect();
            out.push(u8::from_str_radix(&hex, 16).unwrap_or(b'?'));
        } else {
            out.push(byte);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn query(request: &HyperRequest<Incoming>) -> Vec<(String, String)> {
    let pairs = request.uri().query().unwrap_or("").split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

/// Answers one request.
pub(crate) async fn answer(
    shared: Arc<Shared>,
    certificate: Option<String>,
    request: HyperRequest<Incoming>,
) -> Result<Response<Body>, std::io::Error> {
    let path = request.uri().path().to_owned();
    let query = query(&request);
    let get = |name: &str| query.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone());
    let asked = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    shared.store().paths.push(asked);
    let Some(user) = user(&shared.store(), certificate, &request) else {
        return Ok(status(401, "Unauthorized", "Unauthorized", &json!({})));
    };
    if path == "/version" {
        return Ok(respond(200, json!({"major": "1", "minor": "35", "gitVersion": "v1.35.0"}).to_string()));
    }
    let Some(target) = Target::parse(&path) else {
        return Ok(respond(404, "404 page not found\n".to_owned()));
    };
    // Discovery has no verb in RBAC but that of its URL.
    let named = target.name.is_some() || target.plural == "apis";
    let verb = match (request.method().as_str(), named, get("watch").is_some()) {
        ("POST", ..) => "create",
        (_, _, true) => "watch",
        (_, true, _) => "get",
        _ => "list",
    };
    let mut record = Request {
        verb,
        resource: target.resource(),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        user: user.clone(),
        status: 0,
        query: request.uri().query().unwrap_or_default().to_owned(),
        bytes: 0,
    };
    shared.store().arrived.push((verb, target.resource()));
    let fault = planted(&shared, verb, &target);
    let response = match fault {
        Some(Fault::Status(code, text)) => respond(code, text),
        Some(Fault::RetryAfter(code, seconds)) => {
            status(code, "TooManyRequests", "try later", &json!({"retryAfterSeconds": seconds}))
        }
        Some(Fault::Throttled(seconds)) => throttled(seconds),
        Some(Fault::Short) => short(),
        Some(Fault::Cut) => return Err(std::io::Error::other("a planted fault")),
        Some(Fault::Hold(notify)) => {
            notify.notified().await;
            serve(&shared, &user, verb, &target, &get, request).await
        }
        None => serve(&shared, &user, verb, &target, &get, request).await,
    };
    record.status = response.status().as_u16();
    record.bytes = hyper::body::Body::size_hint(response.body()).exact().unwrap_or_default();
    shared.store().requests.push(record);
    Ok(response)
}

/// The groups of what is there.
fn groups(store: &Store) -> Response<Body> {
    let built_in = BUILT_IN.iter().filter(|(_, group)| !group.is_empty()).map(|(_, group)| (*group, "v1"));
    let custom = store.resources.iter().map(|(name, version)| (name.split_once('.').unwrap().1, version.as_str()));
    let mut groups: Vec<Value> = Vec::new();
    for (group, version) in built_in.chain(custom) {
        let about = json!({"groupVersion": format!("{group}/{version}"), "version": version});
        match groups.iter_mut().find(|known| known["name"] == *group) {
            Some(known) => known["versions"].as_array_mut().unwrap().push(about),
            None => groups.push(json!({"name": group, "versions": [about], "preferredVersion": about})),
        }
    }
    respond(200, json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}).to_string())
}

fn planted(shared: &Shared, verb: &str, target: &Target) -> Option<Fault> {
    let mut store = shared.store();
    let resource = target.resource();
    let planted = store.faults.iter_mut().find(|p| p.times > 0 && p.verb == verb && p.resource == resource)?;
    planted.times -= 1;
    Some(planted.fault.clone())
}

fn user(store: &Store, certificate: Option<String>, request: &HyperRequest<Incoming>) -> Option<String> {
    let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    match header.and_then(|value| value.strip_prefix("Bearer ")) {
        Some(token) => store.tokens.get(token).cloned(),
        None => certificate,
    }
}

async fn serve(
    shared: &Arc<Shared>,
    user: &str,
    verb: &'static str,
    target: &Target,
    get: &(dyn Fn(&str) -> Option<String> + Sync),
    request: HyperRequest<Incoming>,
) -> Response<Body> {
    let resource = target.resource();
    // A port-forward over a WebSocket needs get, and since Kubernetes 1.35 create.
    let verbs: &[&'static str] = if resource == "pods/portforward" { &["get", "create"] } else { &[verb] };
    for verb in verbs {
        if denied(&shared.store(), user, verb, &resource, target.namespace.as_deref()) {
            return forbidden(user, verb, target);
        }
    }
    if resource == "apis" {
        return groups(&shared.store());
    }
    if !exists(&shared.store(), target) {
        return respond(404, "404 page not found\n".to_owned());
    }
    if REVIEWS.contains(&resource.as_str()) {
        return reviews::answer(shared, &resource, request).await;
    }
    if resource == "pods/portforward" {
        return forward::upgrade(shared, target, get("ports"), request);
    }
    match verb {
        "get" => {
            let store = shared.store();
            let name = target.name.clone().unwrap_or_default();
            let key = (target.stored(), target.namespace.clone().unwrap_or_default(), name.clone());
            if let Some(object) = store.objects.get(&key) {
                respond(200, object.to_string())
            } else {
                let message = format!("{} \"{name}\" not found", target.plural);
                status(404, "NotFound", &message, &json!({"name": name, "kind": target.plural}))
            }
        }
        "watch" => watch(shared, target, get),
        _ => list(&shared.store(), target, get),
    }
}

fn exists(store: &Store, target: &Target) -> bool {
    let built_in = BUILT_IN.iter().any(|(plural, group)| *plural == target.plural && *group == target.group);
    built_in || store.resources.get(&target.stored()).is_some_and(|version| *version == target.version)
}

fn denied(store: &Store, user: &str, verb: &str, resource: &str, namespace: Option<&str>) -> bool {
    let matches = |denied: &Denied| {
        denied.user.as_deref().is_none_or(|name| name == user)
            && denied.verb == verb
            && denied.resource == resource
            && denied.namespace.as_deref().is_none_or(|name| name == namespace.unwrap_or_default())
    };
    store.denied.iter().any(matches)
}

fn forbidden(user: &str, verb: &str, target: &Target) -> Response<Body> {
    let (resource, group) = (target.resource(), &target.group);
    let place = match &target.namespace {
        Some(namespace) => format!("in the namespace \"{namespace}\""),
        None => "at the cluster scope".to_owned(),
    };
    let name = target.name.as_ref().map(|name| format!(" \"{name}\"")).unwrap_or_default();
    let message = format!(
        "{}{name} is forbidden: User \"{user}\" cannot {verb} resource \"{resource}\" in API group \"{group}\" {place}",
        target.plural
    );
    status(403, "Forbidden", &message, &json!({"kind": target.plural}))
}

fn matching<'a>(
    store: &'a Store,
    target: &'a Target,
    get: &(dyn Fn(&str) -> Option<String> + Sync),
) -> impl Iterator<Item = &'a Value> {
    let terms = |name: &str| selectors::terms(&get(name).unwrap_or_default());
    let (labels, fields) = (terms("labelSelector"), terms("fieldSelector"));
    let stored = target.stored();
    let first = (stored.clone(), String::new(), String::new());
    let of = store.objects.range(first..).take_while(move |((plural, ..), _)| *plural == stored);
    let of = of.filter(|((_, namespace, _), _)| target.namespace.as_ref().is_none_or(|wanted| wanted == namespace));
    of.map(|(_, object)| object)
        .filter(move |object| selectors::labels(object, &labels) && selectors::fields(object, &fields))
}

fn list(store: &Store, target: &Target, get: &(dyn Fn(&str) -> Option<String> + Sync)) -> Response<Body> {
    let limit = get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX).min(store.page);
    let from: usize = get("continue").and_then(|token| token.parse().ok()).unwrap_or(0);
    let all: Vec<&Value> = matching(store, target, get).collect();
    let page: Vec<&Value> = all.iter().skip(from).take(limit).copied().collect();
    let mut meta = json!({"resourceVersion": store.version.to_string()});
    if from + page.len() < all.len() {
        meta["continue"] = json!((from + page.len()).to_string());
    }
    // Written once; as a part of another value the objects would be copied first.
    let items: Vec<String> = page.iter().map(ToString::to_string).collect();
    let items = items.join(",");
    respond(200, format!("{{\"kind\":\"List\",\"apiVersion\":\"v1\",\"metadata\":{meta},\"items\":[{items}]}}"))
}

fn watch(shared: &Arc<Shared>, target: &Target, get: &(dyn Fn(&str) -> Option<String> + Sync)) -> Response<Body> {
    let since: u64 = get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    let terms = |name: &str| selectors::terms(&get(name).unwrap_or_default());
    let (labels, fields) = (terms("labelSelector"), terms("fieldSelector"));
    let store = shared.store();
    let events = store.events.subscribe();
    // What changed between the list and this watch.
    let mut missed: Vec<Value> = Vec::new();
    for object in matching(&store, target, get) {
        let version = object["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse().ok());
        if version.unwrap_or(0) > since {
            missed.push(json!({"type": "MODIFIED", "object": object}));
        }
    }
    drop(store);
    let target = target.clone();
    let live = stream::unfold(events, |mut events| async move {
        match events.recv().await {
            Ok((_, END, _)) | Err(RecvError::Closed) => None,
            Ok(event) => Some((Some(event), events)),
            Err(RecvError::Lagged(_)) => Some((None, events)),
        }
    });
    let live = live.filter_map(move |event| {
        let keep = event.and_then(|(version, kind, mut object)| {
            if kind == ERROR {
                return Some(json!({"type": kind, "object": object}));
            }
            let plural = object["__plural"].take();
            object.as_object_mut()?.remove("__plural");
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or("").to_owned();
            let here = plural == json!(target.stored())
                && version > since
                && target.namespace.as_ref().is_none_or(|wanted| *wanted == namespace);
            let fits = selectors::labels(&object, &labels) && selectors::fields(&object, &fields);
            // An object that stops matching a selector is gone, for the one who watches by it.
            let kind = if fits { kind } else { "DELETED" };
            here.then(|| json!({"type": kind, "object": object}))
        });
        async move { keep }
    });
    let lines = stream::iter(missed)
        .chain(live)
        .map(|event| Ok::<_, Infallible>(Frame::data(Bytes::from(format!("{event}\n")))));
    Response::builder()
        .status(200)
        .header("content-type", "application/json")
        .body(StreamBody::new(Box::pin(lines)).boxed_unsync_ok())
        .unwrap()
}
