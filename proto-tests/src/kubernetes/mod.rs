//! A fake Kubernetes API: real TLS, real HTTP, an object store with lists, selectors, paging and watches, RBAC that
//! refuses on demand, faults, and a port-forward of its own framing.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Notify, broadcast, watch},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

mod api;
mod forward;
mod script;
mod selectors;

pub mod certificates;
pub mod proxies;

use crate::ports;
use certificates::Authority;
pub use script::{Act, Script, When};

/// A request as the server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub verb: &'static str,
    pub resource: String,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub user: String,
    pub impersonated: Option<String>,
    pub status: u16,
    /// What was asked for behind the `?`.
    pub query: String,
    /// The answer's length, where it is not a stream.
    pub bytes: u64,
}

/// What a fault does to the requests that it matches.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers with this status and body.
    Status(u16, String),
    /// A Status with `retryAfterSeconds`.
    RetryAfter(u16, u32),
    /// 429 as API Priority and Fairness answers it: the seconds in the header `Retry-After`, and a line of text.
    Throttled(u32),
    /// 200, and a body that ends before its length.
    Short,
    /// Waits until the test says so.
    Hold(Arc<Notify>),
    /// Drops the connection.
    Cut,
}

#[derive(Clone, Debug)]
pub(crate) struct Planted {
    verb: &'static str,
    resource: String,
    fault: Fault,
    times: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Denied {
    user: Option<String>,
    verb: &'static str,
    resource: String,
    namespace: Option<String>,
}

/// What happens to a port-forward.
#[derive(Clone, Copy, Debug)]
pub enum Backend {
    /// Its bytes go here.
    To(SocketAddr),
    /// Nothing listens.
    Refuse,
}

/// An order to the tunnels of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The TCP connection is reset.
    Cut(String),
    /// As when the pod is deleted: the stream ends.
    End(String),
}

pub(crate) type Key = (String, String, String);

pub(crate) struct Store {
    /// By (resource, namespace, name); a custom resource is `plural.group`.
    objects: BTreeMap<Key, Value>,
    version: u64,
    /// Custom resources that exist: `plural.group` to its version.
    resources: BTreeMap<String, String>,
    tokens: HashMap<String, String>,
    /// Tokens that were shown, good and bad.
    shown: HashSet<String>,
    denied: Vec<Denied>,
    faults: Vec<Planted>,
    backends: HashMap<(String, String, u16), Backend>,
    /// By pod, for the next so many tunnels.
    scripts: HashMap<String, (Script, usize)>,
    requests: Vec<Request>,
    /// Verbs and resources of all requests, answered or not.
    arrived: Vec<(&'static str, String)>,
    /// Paths and queries of all requests, byte for byte as they came.
    paths: Vec<String>,
    page: usize,
    websockets: bool,
    /// The container runtime's limit on streams without a message.
    stream_idle: Option<Duration>,
    /// How late the end of a server's stream is reported.
    linger: Duration,
    events: broadcast::Sender<(u64, &'static str, Value)>,
}

/// The server.
pub struct FakeKubernetes {
    pub(crate) shared: Arc<Shared>,
    address: SocketAddr,
    authority: Authority,
    directory: tempfile::TempDir,
    token: String,
    accepting: Mutex<Option<JoinHandle<()>>>,
    acceptor: TlsAcceptor,
}

pub(crate) struct Shared {
    pub(crate) store: Mutex<Store>,
    pub(crate) orders: broadcast::Sender<Order>,
    pub(crate) tunnels: watch::Sender<usize>,
    /// Messages that carry nothing, so far.
    pub(crate) reminders: watch::Sender<usize>,
    /// Ends plain connections.
    pub(crate) closed: watch::Sender<u64>,
    /// Ends tunnels.
    pub(crate) down: watch::Sender<u64>,
}

impl Store {
    /// A resource by its plural, where that is enough to tell it, as kubectl takes it.
    fn resource(&self, plural: &str) -> String {
        let prefix = format!("{plural}.");
        self.resources.keys().find(|known| known.starts_with(&prefix)).cloned().unwrap_or_else(|| plural.to_owned())
    }

    /// What the next tunnel to a pod is to meet.
    fn script(&mut self, pod: &str) -> Option<Script> {
        let (script, times) = self.scripts.get_mut(pod).filter(|(_, times)| *times > 0)?;
        *times -= 1;
        Some(script.clone())
    }
}

impl Shared {
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    /// Keeps the token that a request shows, valid here or not.
    fn note_token<B>(&self, request: &http::Request<B>) {
        let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        if let Some(token) = header.and_then(|value| value.strip_prefix("Bearer ")) {
            self.store().shown.insert(token.to_owned());
        }
    }
}

impl FakeKubernetes {
    pub async fn start() -> Self {
        let authority = Authority::new("fake kubernetes");
        let (certificate, key) = authority.server(&["localhost", "127.0.0.1", "kubernetes.test"]);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        let token = crate::secrets::make("token");
        let store = Store {
            objects: BTreeMap::new(),
            version: 100,
            resources: BTreeMap::new(),
            tokens: HashMap::from([(token.clone(), "admin".to_owned())]),
            shown: HashSet::new(),
            denied: Vec::new(),
            faults: Vec::new(),
            backends: HashMap::new(),
            scripts: HashMap::new(),
            requests: Vec::new(),
            arrived: Vec::new(),
            paths: Vec::new(),
            page: usize::MAX,
            websockets: true,
            stream_idle: None,
            linger: forward::LINGER,
            events: broadcast::Sender::new(10_000),
        };
        let shared = Arc::new(Shared {
            store: Mutex::new(store),
            orders: broadcast::Sender::new(100),
            tunnels: watch::Sender::new(0),
            reminders: watch::Sender::new(0),
            closed: watch::Sender::new(0),
            down: watch::Sender::new(0),
        });
        // It may go down, and come back where it was.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, ports::free())).await.unwrap();
        let address = listener.local_addr().unwrap();
        let it = Self {
            shared,
            address,
            authority,
            directory: tempfile::tempdir().unwrap(),
            token,
            accepting: Mutex::new(None),
            acceptor: TlsAcceptor::from(Arc::new(config)),
        };
        it.accept(listener);
        it
    }

    fn accept(&self, listener: TcpListener) {
        let (shared, acceptor) = (Arc::clone(&self.shared), self.acceptor.clone());
        let task = tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else {
                    return;
                };
                let (shared, acceptor) = (Arc::clone(&shared), acceptor.clone());
                tokio::spawn(async move {
                    let _ = socket.set_nodelay(true);
                    let mut closed = shared.closed.subscribe();
                    closed.mark_unchanged();
                    let Ok(tls) = acceptor.accept(socket).await else { return };
                    let peer = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first().cloned());
                    let certificate = peer.map(|certificate| certificates::common_name(&certificate));
                    let inside = Arc::clone(&shared);
                    let service = hyper::service::service_fn(move |request| {
                        inside.note_token(&request);
                        api::answer(Arc::clone(&inside), certificate.clone(), request)
                    });
                    let serving = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(tls), service)
                        .with_upgrades();
                    tokio::select! {
                        _ = serving => {}
                        _ = closed.changed() => {}
                    }
                });
            }
        });
        *self.accepting.lock().unwrap() = Some(task);
    }

    /// Stops listening and drops every connection, tunnels too.
    pub async fn go_down(&self) {
        self.stop_answering().await;
        self.shared.down.send_modify(|count| *count += 1);
    }

    /// Stops listening and drops every connection that is no tunnel: those lead through other API servers, say.
    pub async fn stop_answering(&self) {
        let task = self.accepting.lock().unwrap().take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
        self.shared.closed.send_modify(|count| *count += 1);
    }

    /// Listens again on the same port.
    pub async fn come_back(&self) {
        self.accept(TcpListener::bind(self.address).await.unwrap());
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Makes a custom resource exist.
    pub fn serve_crd(&self, group: &str, version: &str, plural: &str) {
        self.shared.store().resources.insert(format!("{plural}.{group}"), version.to_owned());
    }

    /// A user with a bearer token; may do everything that is not denied.
    #[must_use]
    pub fn user(&self, name: &str) -> String {
        let token = crate::secrets::make("token");
        self.shared.store().tokens.insert(token.clone(), name.to_owned());
        token
    }

    /// The token is not valid any more.
    pub fn revoke(&self, token: &str) {
        self.shared.store().tokens.remove(token);
    }

    /// Whether a token was ever shown to this server, valid here or not.
    #[must_use]
    pub fn has_seen(&self, token: &str) -> bool {
        self.shared.store().shown.contains(token)
    }

    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Refuses a verb on a resource (`pods/portforward`) to a user, or to all; in a namespace, or in any; `Some("")` is what is
    /// asked of all at once.
    pub fn deny(&self, user: Option<&str>, verb: &'static str, resource: &str, namespace: Option<&str>) {
        self.shared.store().denied.push(Denied {
            user: user.map(str::to_owned),
            verb,
            resource: resource.to_owned(),
            namespace: namespace.map(str::to_owned),
        });
    }

    /// Refuses nothing any more.
    pub fn allow_all(&self) {
        self.shared.store().denied.clear();
    }

    /// The next `times` requests with this verb on this resource meet a fault.
    pub fn fault(&self, verb: &'static str, resource: &str, times: usize, fault: Fault) {
        self.shared.store().faults.push(Planted { verb, resource: resource.to_owned(), fault, times });
    }

    /// The next `times` tunnels to a pod follow a script.
    pub fn script(&self, namespace: &str, pod: &str, times: usize, script: Script) {
        self.shared.store().scripts.insert(format!("{namespace}/{pod}"), (script, times));
    }

    /// Nothing new meets a fault or a script any more.
    pub fn heal(&self) {
        let mut store = self.shared.store();
        store.faults.clear();
        store.scripts.clear();
    }

    /// Answers upgrades as an intermediary that knows no WebSockets.
    pub fn without_websockets(&self) {
        self.shared.store().websockets = false;
    }

    /// Ends streams on which no message was sent either way for so long, as container runtimes do after four hours.
    /// Pings are no messages there.
    pub fn end_silent_streams(&self, after: Duration) {
        self.shared.store().stream_idle = Some(after);
    }

    /// How late new tunnels report that the server has closed.
    pub fn linger(&self, linger: Duration) {
        self.shared.store().linger = linger;
    }

    /// Waits until this many messages have come that carry nothing.
    pub async fn reminders(&self, count: usize) {
        self.shared.reminders.subscribe().wait_for(|seen| *seen >= count).await.unwrap();
    }

    /// How many objects a page holds at the most.
    pub fn page(&self, size: usize) {
        self.shared.store().page = size;
    }

    /// Where a pod's port leads.
    pub fn backend(&self, namespace: &str, pod: &str, port: u16, backend: Backend) {
        self.shared.store().backends.insert((namespace.to_owned(), pod.to_owned(), port), backend);
    }

    /// Creates or replaces an object.
    pub fn put(&self, plural: &str, mut object: Value) {
        let mut store = self.shared.store();
        store.version += 1;
        let version = store.version;
        let meta = object["metadata"].as_object_mut().expect("metadata");
        meta.insert("resourceVersion".to_owned(), json!(version.to_string()));
        let text = |meta: &serde_json::Map<String, Value>, name: &str| meta[name].as_str().unwrap_or("").to_owned();
        let plural = store.resource(plural);
        let key = (plural.clone(), text(meta, "namespace"), text(meta, "name"));
        let known = store.objects.get(&key).map(|known| known["metadata"]["uid"].clone());
        let uid = known.clone().unwrap_or_else(|| json!(format!("uid-{version}")));
        meta.entry("uid").or_insert(uid);
        let event = if known.is_some() { "MODIFIED" } else { "ADDED" };
        store.objects.insert(key, object.clone());
        let _ = store.events.send((version, event, with_plural(&plural, object)));
    }

    /// Changes an object in place.
    pub fn change(&self, plural: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.get(plural, namespace, name).expect("the object");
        change(&mut object);
        self.put(plural, object);
    }

    #[must_use]
    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let store = self.shared.store();
        let key = (store.resource(plural), namespace.to_owned(), name.to_owned());
        store.objects.get(&key).cloned()
    }

    /// Removes an object; a pod's tunnels end.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        let mut store = self.shared.store();
        store.version += 1;
        let version = store.version;
        let resource = store.resource(plural);
        let key = (resource.clone(), namespace.to_owned(), name.to_owned());
        if let Some(mut object) = store.objects.remove(&key) {
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            let _ = store.events.send((version, "DELETED", with_plural(&resource, object)));
        }
        drop(store);
        if plural == "pods" {
            let _ = self.shared.orders.send(Order::End(format!("{namespace}/{name}")));
        }
    }

    /// Ends every watch as etcd's compaction does: with 410 inside the stream.
    pub fn expire_watches(&self) {
        let gone = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "too old resource version", "reason": "Expired", "code": 410});
        let store = self.shared.store();
        let _ = store.events.send((store.version, ERROR, gone));
    }

    /// Ends every watch as an API server does after some minutes.
    pub fn end_watches(&self) {
        let store = self.shared.store();
        let _ = store.events.send((store.version, END, Value::Null));
    }

    /// Resets the tunnels of a pod.
    pub fn cut_tunnels(&self, namespace: &str, pod: &str) {
        let _ = self.shared.orders.send(Order::Cut(format!("{namespace}/{pod}")));
    }

    /// Waits until this many tunnels are open.
    pub async fn tunnels(&self, count: usize) {
        self.shared.tunnels.subscribe().wait_for(|open| *open == count).await.unwrap();
    }

    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.store().requests.clone()
    }

    pub fn forget_requests(&self) {
        let mut store = self.shared.store();
        store.requests.clear();
        store.arrived.clear();
        store.paths.clear();
    }

    /// What has been asked for, path and query as they came, answered or not.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.shared.store().paths.clone()
    }

    /// The selectors that were asked with, decoded.
    #[must_use]
    pub fn selectors(&self) -> Vec<String> {
        let queries = self.paths().into_iter().filter_map(|path| Some(path.split_once('?')?.1.to_owned()));
        let pairs = queries.flat_map(|query| query.split('&').map(str::to_owned).collect::<Vec<_>>());
        let selecting = pairs.filter_map(|pair| pair.split_once("Selector=").map(|(_, value)| api::decoded(value)));
        selecting.collect()
    }

    /// Requests that have arrived, those too that a fault leaves without an answer.
    #[must_use]
    pub fn asked(&self, verb: &str, resource: &str) -> usize {
        let store = self.shared.store();
        store.arrived.iter().filter(|(asked, about)| *asked == verb && about == resource).count()
    }

    /// Requests that were answered.
    #[must_use]
    pub fn count(&self, verb: &str, resource: &str) -> usize {
        self.requests().iter().filter(|request| request.verb == verb && request.resource == resource).count()
    }

    /// A directory for this test's files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A kubeconfig whose user is as given (`{"token": ...}`), in this directory.
    #[must_use]
    pub fn kubeconfig_with(&self, context: &str, namespace: Option<&str>, user: Value, cluster: Value) -> PathBuf {
        use base64::Engine as _;
        let authority = base64::engine::general_purpose::STANDARD.encode(self.authority.pem());
        let mut about = json!({
            "server": format!("https://127.0.0.1:{}", self.address.port()),
            "certificate-authority-data": authority,
        });
        for (name, value) in cluster.as_object().into_iter().flatten() {
            about[name] = value.clone();
        }
        let mut inside = json!({"cluster": "c", "user": "u"});
        if let Some(namespace) = namespace {
            inside["namespace"] = json!(namespace);
        }
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": context,
            "clusters": [{"name": "c", "cluster": about}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": context, "context": inside}],
        });
        self.write("kubeconfig", &config.to_string())
    }

    /// Writes a private file.
    #[must_use]
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.directory.path().join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
        file
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_with("fake", None, json!({"token": self.token}), json!({}))
    }
}

/// The event that ends a watch.
pub(crate) const ERROR: &str = "ERROR";

/// The end of a watch, which is none of its events.
pub(crate) const END: &str = "END";

fn with_plural(plural: &str, mut object: Value) -> Value {
    object["__plural"] = json!(plural);
    object
}
