//! What a watch knows, and which servers somebody relies on: no I/O.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use tokio::sync::watch;

use super::{
    choose::View,
    clock::Mark,
    leaders,
    names::{Namespace, ObjectName},
    objects::Pod,
    operators::{Evidence, Facts, Members, System, Word},
};
use crate::upstream::{Lost, Mode};

/// One list or get.
pub(super) const READ: Duration = Duration::from_secs(10);
/// Where the caller may not list pods, or has to log in: rights change seldom, and people are not to be asked by a task.
pub(super) const REFUSED: Duration = Duration::from_secs(30);

/// The servers that sessions rely on, and whether anybody still looks after them.
#[derive(Debug, Default)]
pub(super) struct Guards {
    pub(super) ended: bool,
    pub(super) all: HashMap<Guarded, watch::Sender<Option<Lost>>>,
}

impl Guards {
    /// Forgets those whose sessions have ended.
    pub(super) fn tidy(&mut self) -> &mut HashMap<Guarded, watch::Sender<Option<Lost>>> {
        self.all.retain(|_, sender| sender.receiver_count() > 0);
        &mut self.all
    }
}

/// A server that sessions rely on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Guarded {
    pub(super) cluster: ObjectName,
    pub(super) pod: ObjectName,
    pub(super) uid: String,
    pub(super) mode: Mode,
}

/// By cluster, then by the position of the object among those that may say who leads.
pub(super) type Said = BTreeMap<ObjectName, BTreeMap<usize, Word>>;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) pods: BTreeMap<ObjectName, Pod>,
    /// `None` where the caller may not read them.
    pub(super) resources: Option<BTreeMap<ObjectName, Facts>>,
    /// What leader objects say of a cluster, by the order in which they are believed.
    pub(super) leaders: Said,
    /// Which clusters the state is about; empty while it is not to be believed.
    pub(super) covers: BTreeSet<ObjectName>,
    pub(super) mark: Option<Mark>,
}

impl State {
    pub(super) fn view(&self, system: &System, (namespace, name): (&Namespace, &ObjectName)) -> Option<View> {
        if !self.covers.contains(name) || self.mark.as_ref().is_none_or(Mark::jumped) {
            return None;
        }
        let labels = system.pod_labels()?;
        let of_cluster = |pod: &&Pod| pod.metadata.label(&labels.cluster) == Some(&**name);
        let pods: Vec<Pod> = self.pods.values().filter(of_cluster).cloned().collect();
        let facts = match &self.resources {
            Some(resources) => resources.get(name)?.clone(),
            None if pods.is_empty() => return None,
            None => Facts { evidence: Evidence::Guessed, ..system.guess(namespace, name)? },
        };
        // Pods that the cluster's own object selects are not among those that are watched.
        if facts.members != Members::Labelled {
            return None;
        }
        let said = self.leaders.get(name).into_iter().flat_map(BTreeMap::values);
        let leader = leaders::newest(said.cloned());
        Some(View::new(system.clone(), leaders::decided(facts, leader), pods))
    }
}

impl Guarded {
    /// Whether this server, as it is now, still serves what was asked of it.
    pub(super) fn judge(&self, view: Option<&View>, pod: Option<&Pod>) -> Option<Lost> {
        match pod.filter(|pod| pod.metadata.uid == self.uid && !pod.metadata.deleting()) {
            Some(pod) => view?.lost(pod, self.mode),
            None => Some(Lost::Deleted),
        }
    }
}
