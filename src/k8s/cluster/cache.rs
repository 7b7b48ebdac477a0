//! What a watch knows, and which servers somebody relies on: no I/O.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use crate::{
    k8s::{
        api::{
            names::{Namespace, ObjectName},
            objects::Pod,
            suspend::Mark,
        },
        cluster::{
            guard::{Guard, Reached},
            leader_objects,
            snapshot::View,
        },
        operators::{
            facts::{Evidence, Facts, Members},
            leader::Word,
            system::SystemRef,
        },
    },
    upstream::{Lost, Mode},
};

/// One list or get.
pub(in crate::k8s) const READ: Duration = Duration::from_secs(10);
/// Where the caller may not list pods, or has to log in: rights change seldom, and people are not to be asked by a task.
pub(in crate::k8s) const REFUSED: Duration = Duration::from_secs(30);

/// The servers that sessions rely on, and whether anybody still looks after them.
#[derive(Debug, Default)]
pub(in crate::k8s) struct Guards {
    pub(in crate::k8s) ended: bool,
    pub(in crate::k8s) all: HashMap<OperatedServer, Guard>,
}

impl Guards {
    /// Forgets those whose sessions have ended.
    pub(in crate::k8s) fn tidy(&mut self) -> &mut HashMap<OperatedServer, Guard> {
        self.all.retain(|_, guard| guard.is_relied_on());
        &mut self.all
    }
}

/// A server that sessions rely on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::k8s) struct OperatedServer {
    pub(in crate::k8s) cluster: ObjectName,
    pub(in crate::k8s) pod: ObjectName,
    pub(in crate::k8s) uid: String,
    pub(in crate::k8s) mode: Mode,
}

/// By cluster, then by the position of the object among those that may say who leads.
pub(in crate::k8s) type Said = BTreeMap<ObjectName, BTreeMap<usize, Word>>;

#[derive(Debug, Default)]
pub(in crate::k8s) struct State {
    pub(in crate::k8s) pods: BTreeMap<ObjectName, Pod>,
    /// `None` where the caller may not read them.
    pub(in crate::k8s) resources: Option<BTreeMap<ObjectName, Facts>>,
    /// What leader objects say of a cluster, by the order in which they are believed.
    pub(in crate::k8s) leaders: Said,
    /// Which clusters the state is about.
    pub(in crate::k8s) covers: BTreeSet<ObjectName>,
    /// Whether changes are heard of: who connects believes nothing else.
    pub(in crate::k8s) followed: bool,
    /// Watching was refused the last time: a list is not believed before a watch runs.
    pub(in crate::k8s) refused: bool,
    /// Of how many resources no changes are heard just now.
    pub(in crate::k8s) interrupted: usize,
    pub(in crate::k8s) mark: Option<Mark>,
}

impl State {
    /// The cluster as it is, as far as anybody knows.
    pub(in crate::k8s) fn view(&self, system: &SystemRef, place: (&Namespace, &ObjectName)) -> Option<View> {
        (self.followed && self.interrupted == 0).then(|| self.last_seen(system, place)).flatten()
    }

    /// The cluster as it was when it was last listed, or has changed since.
    pub(in crate::k8s) fn last_seen(
        &self,
        system: &SystemRef,
        (namespace, name): (&Namespace, &ObjectName),
    ) -> Option<View> {
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
        let leader = leader_objects::newest(said.cloned());
        Some(View::new(system.clone(), leader_objects::decided(facts, leader), pods))
    }
}

impl OperatedServer {
    /// Whether this server, as it is now, still serves what was asked of it.
    pub(in crate::k8s) fn judge(&self, reached: &mut Reached, view: Option<&View>, pod: Option<&Pod>) -> Option<Lost> {
        match pod.filter(|pod| reached.is(pod) && !pod.metadata.deleting()) {
            Some(pod) => view?.lost(pod, self.mode),
            None => Some(Lost::Deleted),
        }
    }
}
