//! Which servers of a cluster were asked whether they take writes, where nothing in Kubernetes says who is the primary.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    k8s::cluster::recent::{Caller, tidy},
    upstream::{ClusterId, PodId, Server, Upstream},
};

/// How long an answer is believed: a server that is promoted beside the primary is found out within it.
const BELIEVED: Duration = Duration::from_secs(30);

/// The uids of servers that were asked, the one that takes writes first; and when. One that is made anew is another.
type Asked = (Vec<String>, Instant);

/// By cluster, and how it was found.
#[derive(Debug, Default)]
pub(super) struct Undisputed(Mutex<HashMap<(Caller, ClusterId), Asked>>);

impl Undisputed {
    /// With those rivals that were not asked a moment ago.
    pub(super) fn with_rivals(&self, mut upstream: Upstream, rivals: Vec<PodId>) -> Upstream {
        upstream.rivals = rivals.into_iter().map(Server::Pod).collect();
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(&key(&upstream)).filter(|(_, at)| at.elapsed() < BELIEVED);
        if known.is_some_and(|(servers, _)| *servers == servers_of(&upstream)) {
            upstream.rivals.clear();
        }
        upstream
    }

    /// They were asked, and only the server itself takes writes.
    pub(super) fn note(&self, upstream: &Upstream) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tidy(&mut all);
        all.insert(key(upstream), (servers_of(upstream), Instant::now()));
    }
}

fn key(upstream: &Upstream) -> (Caller, ClusterId) {
    let Upstream { meaning, credential, cluster, .. } = upstream;
    let caller = Caller { meaning: *meaning, credential: *credential };
    (caller, cluster.clone())
}

fn servers_of(upstream: &Upstream) -> Vec<String> {
    let all = std::iter::once(&upstream.server).chain(&upstream.rivals);
    all.filter_map(|server| if let Server::Pod(pod) = server { Some(pod.uid.clone()) } else { None }).collect()
}
