//! What the fake API server holds: objects, users, planted faults, and what it was asked.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde_json::Value;
use tokio::sync::{Notify, broadcast, watch};

use super::{
    forward,
    reviews::{Bearer, Bound},
    script::Script,
};

/// A request as the server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub verb: &'static str,
    pub resource: String,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub user: String,
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
    pub(super) verb: &'static str,
    pub(super) resource: String,
    pub(super) fault: Fault,
    pub(super) times: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(super) user: Option<String>,
    pub(super) verb: &'static str,
    pub(super) resource: String,
    pub(super) namespace: Option<String>,
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
    pub(super) objects: BTreeMap<Key, Value>,
    pub(super) version: u64,
    /// Custom resources that exist: `plural.group` to its version.
    pub(super) resources: BTreeMap<String, String>,
    pub(super) tokens: HashMap<String, String>,
    /// Tokens that were shown, good and bad.
    pub(super) shown: HashSet<String>,
    /// What reviews say of tokens.
    pub(super) bearers: HashMap<String, Bearer>,
    /// What reviews allow.
    pub(super) bound: Vec<Bound>,
    pub(super) denied: Vec<Denied>,
    pub(super) faults: Vec<Planted>,
    pub(super) backends: HashMap<(String, String, u16), Backend>,
    /// By pod, for the next so many tunnels.
    pub(super) scripts: HashMap<String, (Script, usize)>,
    pub(super) requests: Vec<Request>,
    /// Verbs and resources of all requests, answered or not.
    pub(super) arrived: Vec<(&'static str, String)>,
    /// Paths and queries of all requests, byte for byte as they came.
    pub(super) paths: Vec<String>,
    pub(super) page: usize,
    pub(super) websockets: bool,
    /// The container runtime's limit on streams without a message.
    pub(super) stream_idle: Option<Duration>,
    /// How late the end of a server's stream is reported.
    pub(super) linger: Duration,
    pub(super) events: broadcast::Sender<(u64, &'static str, Value)>,
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
    fn new(token: &str) -> Self {
        Self {
            objects: BTreeMap::new(),
            version: 100,
            resources: BTreeMap::new(),
            tokens: HashMap::from([(token.to_owned(), "admin".to_owned())]),
            shown: HashSet::new(),
            bearers: HashMap::new(),
            bound: Vec::new(),
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
        }
    }

    /// A resource by its plural, where that is enough to tell it, as kubectl takes it.
    pub(super) fn resource(&self, plural: &str) -> String {
        let prefix = format!("{plural}.");
        self.resources.keys().find(|known| known.starts_with(&prefix)).cloned().unwrap_or_else(|| plural.to_owned())
    }

    /// What the next tunnel to a pod is to meet.
    pub(super) fn script(&mut self, pod: &str) -> Option<Script> {
        let (script, times) = self.scripts.get_mut(pod).filter(|(_, times)| *times > 0)?;
        *times -= 1;
        Some(script.clone())
    }
}

impl Shared {
    /// Of a server whose administrator shows this token.
    pub(super) fn new(token: &str) -> Self {
        Self {
            store: Mutex::new(Store::new(token)),
            orders: broadcast::Sender::new(100),
            tunnels: watch::Sender::new(0),
            reminders: watch::Sender::new(0),
            closed: watch::Sender::new(0),
            down: watch::Sender::new(0),
        }
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    /// Keeps the token that a request shows, valid here or not.
    pub(super) fn note_token<B>(&self, request: &http::Request<B>) {
        let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        if let Some(token) = header.and_then(|value| value.strip_prefix("Bearer ")) {
            self.store().shown.insert(token.to_owned());
        }
    }
}

/// The event that ends a watch.
pub(crate) const ERROR: &str = "ERROR";

/// The end of a watch, which is none of its events.
pub(crate) const END: &str = "END";
