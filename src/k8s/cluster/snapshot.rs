//! Which pod of a cluster serves a request: pure, from what is known at one moment.

use std::collections::BTreeSet;

use crate::{
    error::{Report, SqlState},
    k8s::{
        api::{
            names::{ObjectName, Place},
            objects::Pod,
        },
        operators::{
            facts::PORT,
            facts::{Evidence, Facts, Halt, Members, Port, Wants},
            leader::Leader,
            system::{Member, Rank, SystemRef},
        },
    },
    upstream::{ClusterId, Lost, Mode},
};

/// A cluster at one moment.
#[derive(Clone, Debug)]
pub(in crate::k8s) struct View {
    pub(in crate::k8s) system: SystemRef,
    pub(in crate::k8s) facts: Facts,
    pub(in crate::k8s) pods: Vec<Pod>,
    /// Pods that are replicas, whatever their labels say.
    pub(in crate::k8s) standbys: BTreeSet<ObjectName>,
    /// The operator whose pods these are, where the cluster was found by something else.
    pub(in crate::k8s) claimed: Option<SystemRef>,
    /// Why something that should lead to a pod does not.
    pub(in crate::k8s) refused: Option<String>,
}

/// Which pod comes first where several would do.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::k8s) struct Preference<'a> {
    /// Spreads clients over replicas.
    pub(in crate::k8s) turn: usize,
    /// The pod that was the primary the last time, where only the servers know.
    pub(in crate::k8s) last: Option<&'a str>,
    /// The pod that has just said it is not the one.
    pub(in crate::k8s) avoid: Option<&'a str>,
}

/// The answer.
#[derive(Debug)]
pub(in crate::k8s) enum Choice<'a> {
    /// This pod.
    Pod(&'a Pod),
    /// None now; waiting may help.
    Wait(Report),
    /// None, on purpose.
    Never(Report),
}

impl View {
    pub(in crate::k8s) fn new(system: SystemRef, facts: Facts, pods: Vec<Pod>) -> Self {
        Self { system, facts, pods, standbys: BTreeSet::new(), claimed: None, refused: None }
    }

    /// The pod for a mode.
    pub(in crate::k8s) fn choose(&self, mode: Mode, preference: Preference<'_>) -> Choice<'_> {
        if let Some(broken) = &self.facts.broken {
            let report =
                Report::fatal(SqlState::INVALID_AUTHORIZATION, format!("cluster {}: {broken}", self.facts.full()));
            return Choice::Never(report.hint("Correct it, and connect again"));
        }
        if let Some(Halt { state, hint }) = &self.facts.halt {
            return Choice::Never(not_now(format!("cluster {} is {state}", self.facts.full())).hint(hint.clone()));
        }
        match mode {
            Mode::Rw => self.primary(preference),
            Mode::Ro => match turned(&self.replicas(preference.last), preference) {
                Some(pod) => Choice::Pod(pod),
                // An operator's own resource says how many there are to be: nothing is worth waiting for.
                None if self.has_one_instance() => {
                    Choice::Never(not_now(format!("cluster {} has one instance, and no replica", self.facts.full())))
                }
                None => Choice::Wait(not_now(format!("cluster {} has no ready replica", self.facts.full()))),
            },
            Mode::Any => {
                let serving: Vec<&Pod> = self.pods.iter().filter(|pod| pod.serves() && !self.fenced(pod)).collect();
                turned(&serving, preference).map_or_else(|| self.none("server"), Choice::Pod)
            }
        }
    }

    /// Which server is meant: what the client says, else what whoever wrote the object does.
    pub(in crate::k8s) fn mode(&self, asked: Mode) -> Mode {
        match (asked, self.facts.wants) {
            (Mode::Rw, Some(Wants::Only(mode))) => mode,
            (Mode::Rw, Some(Wants::ReplicaFirst)) if !self.replicas(None).is_empty() => Mode::Ro,
            (asked, _) => asked,
        }
    }

    /// Servers outside Kubernetes, where those are meant.
    pub(in crate::k8s) fn outside(&self, mode: Mode) -> &[(String, u16)] {
        match (mode, &self.facts.replicas, &self.facts.members) {
            (Mode::Ro, Some(Members::External(servers)), Members::External(_)) | (_, _, Members::External(servers)) => {
                servers
            }
            _ => &[],
        }
    }

    fn has_one_instance(&self) -> bool {
        self.system.pod_labels().is_some() && self.facts.evidence == Evidence::Read && self.facts.instances == 1
    }

    /// What a pod is to the cluster.
    fn member(&self, pod: &Pod) -> Member {
        if self.standbys.contains(&pod.metadata.name) {
            return Member::Replica;
        }
        match &self.claimed {
            // What an endpoint tells has no labels.
            Some(claimed) if !pod.metadata.labels.is_empty() => claimed.member(&self.facts, pod),
            _ => self.system.member(&self.facts, pod),
        }
    }

    /// The primary, whether it serves or not.
    pub(in crate::k8s) fn primary_pod(&self) -> Option<&Pod> {
        match &self.facts.leader {
            Leader::Pod(name) => self.pod(name),
            Leader::Moving | Leader::Misnamed(_) => None,
            Leader::Unsaid | Leader::Ask => single(&self.labelled()),
            Leader::Perhaps(name) => match self.labelled().as_slice() {
                [] => None,
                [only] => Some(only),
                several => several.iter().find(|pod| pod.metadata.name == **name).copied(),
            },
        }
    }

    fn pod(&self, name: &ObjectName) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.metadata.name == *name)
    }

    /// Pods that serve and carry the primary's label. Where two do and nothing decides, neither is believed.
    fn labelled(&self) -> Vec<&Pod> {
        self.pods.iter().filter(|pod| pod.serves() && self.member(pod) == Member::Primary).collect()
    }

    /// Replicas that serve.
    pub(in crate::k8s) fn replicas(&self, last: Option<&str>) -> Vec<&Pod> {
        let serving = || self.pods.iter().filter(|pod| pod.serves());
        let primary = self.primary_pod().map(|pod| &pod.metadata.name);
        let is = |pod: &&Pod| self.member(pod) == Member::Replica && Some(&pod.metadata.name) != primary;
        let replicas: Vec<&Pod> = serving().filter(is).collect();
        if replicas.is_empty() && self.is_standby() {
            // All servers of a replica cluster only take reads.
            return self.primary_pod().filter(|pod| pod.serves()).into_iter().collect();
        }
        if !replicas.is_empty() || self.facts.leader != Leader::Ask || serving().count() < 2 {
            return replicas;
        }
        // Only the servers know: each that was not the primary the last time is asked.
        serving().filter(|pod| Some(&*pod.metadata.name) != last).collect()
    }

    fn primary(&self, preference: Preference<'_>) -> Choice<'_> {
        if self.facts.fenced.iter().any(|fenced| fenced == "*") {
            return Choice::Never(self.fence(format!("all servers of cluster {} are fenced", self.facts.full())));
        }
        if self.facts.leader == Leader::Ask {
            return self.ask(preference).map_or_else(|| self.none("primary"), Choice::Pod);
        }
        match self.primary_pod() {
            Some(pod) if self.fenced(pod) => Choice::Never(self.fence(format!(
                "the primary of cluster {}, {}, is fenced",
                self.facts.full(),
                pod.metadata.name
            ))),
            Some(pod) if pod.serves() => Choice::Pod(pod),
            _ => self.none("primary"),
        }
    }

    /// The pod to ask whether it is the primary: the one that was, else the next behind the one that said no.
    fn ask(&self, preference: Preference<'_>) -> Option<&Pod> {
        let mut candidates = self.labelled();
        candidates.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
        let position = |name: &str| candidates.iter().position(|pod| pod.metadata.name == *name);
        let start = match (preference.avoid.and_then(position), preference.last.and_then(position)) {
            (Some(avoid), _) => avoid + 1,
            (None, Some(last)) => last,
            (None, None) => 0,
        };
        candidates.get(start.checked_rem(candidates.len())?).copied()
    }

    /// Servers beside a primary that was asked for, of which nothing says that they are not primaries themselves. Behind a
    /// Service there may be poolers, all of one server, so that only a workload's own pods are rivals.
    pub(in crate::k8s) fn rivals(&self, chosen: &Pod) -> Vec<&Pod> {
        if self.facts.leader != Leader::Ask || self.facts.pooled {
            return Vec::new();
        }
        let is_server = |pod: &&Pod| {
            self.system.rank() == Rank::Workload || pod.metadata.label("statefulset.kubernetes.io/pod-name").is_some()
        };
        let others = self.labelled().into_iter().filter(|pod| pod.metadata.name != chosen.metadata.name);
        others.filter(is_server).collect()
    }

    /// Whether what leads it is a standby of another cluster: read-only, and no mistake.
    pub(in crate::k8s) fn is_standby(&self) -> bool {
        self.facts.standby || self.primary_pod().is_some_and(|primary| self.system.is_standby(primary))
    }

    /// PostgreSQL's port in a pod.
    pub(in crate::k8s) fn port(&self, pod: &Pod) -> u16 {
        match &self.facts.port {
            Port::Number(port) => *port,
            Port::Named(name) => pod.port(name).unwrap_or(PORT),
        }
    }

    /// Why a pod no longer serves what was asked of it; `None` while that is not certain.
    pub(in crate::k8s) fn lost(&self, pod: &Pod, mode: Mode) -> Option<Lost> {
        let name = &pod.metadata.name;
        let lost = if self.system.pod_labels().is_some() {
            self.operated_lost(pod)
        } else if !matches!(self.facts.members, Members::External(_))
            && !self.pods.is_empty()
            && self.pod(name).is_none()
        {
            // The Service leads elsewhere.
            Some(Lost::Demoted)
        } else {
            let elsewhere = matches!(&self.facts.leader, Leader::Pod(leader) if name != leader);
            (elsewhere || self.member(pod) == Member::Replica).then_some(Lost::Demoted)
        };
        lost.filter(|lost| *lost != Lost::Demoted || mode == Mode::Rw)
    }

    /// The same, of a cluster that an operator made: its pods say what they are.
    fn operated_lost(&self, pod: &Pod) -> Option<Lost> {
        if self.fenced(pod) {
            return Some(Lost::Fenced);
        }
        match (&self.facts.leader, self.system.member(&self.facts, pod)) {
            (Leader::Pod(leader), _) if *leader != pod.metadata.name => Some(Lost::Demoted),
            (Leader::Unsaid | Leader::Perhaps(_), Member::Replica) => Some(Lost::Demoted),
            _ => None,
        }
    }

    fn fenced(&self, pod: &Pod) -> bool {
        self.facts.is_fenced(&pod.metadata.name)
    }

    fn fence(&self, message: String) -> Report {
        not_now(message).hint(self.facts.fence_hint.clone())
    }

    fn none(&self, what: &str) -> Choice<'static> {
        let misnamed = match &self.facts.leader {
            Leader::Misnamed(why) => Some(why),
            _ => self.refused.as_ref().filter(|_| self.pods.is_empty()),
        };
        if let Some(why) = misnamed {
            let message = format!("cluster {} has no {what}: {why}", self.facts.full());
            let report = Report::fatal(SqlState::INVALID_AUTHORIZATION, message);
            return Choice::Never(
                report.hint("Whoever may write that object wrote this: correct it, and connect again"),
            );
        }
        let mut report = not_now(format!("cluster {} has no ready {what}", self.facts.full()));
        let serving = self.pods.iter().filter(|pod| pod.serves()).count();
        let phase = if self.facts.phase.is_empty() {
            String::new()
        } else {
            format!("The operator says: {}. ", self.facts.phase)
        };
        report = report.detail(format!("{phase}{serving} of {} pods are ready.", self.pods.len()));
        Choice::Wait(report.hint(format!(
            "Try again in a moment, or see: kubectl get pods -n {} -l '{}'",
            self.facts.namespace,
            self.selector()
        )))
    }

    /// The pods' labels, as kubectl takes them.
    fn selector(&self) -> String {
        match (&self.facts.members, self.system.pod_labels()) {
            (Members::Selected(selector), _) => selector.clone(),
            (_, Some(labels)) => format!("{}={}", labels.cluster, self.facts.name),
            (_, None) => self.facts.name.to_string(),
        }
    }

    pub(in crate::k8s) fn place(&self) -> Place {
        (self.facts.namespace.clone(), self.facts.name.clone())
    }

    pub(in crate::k8s) fn id(&self, context: &str) -> ClusterId {
        ClusterId {
            context: context.to_owned(),
            namespace: self.facts.namespace.to_string(),
            name: self.facts.name.to_string(),
            system: self.system.name().into(),
        }
    }
}

fn not_now(message: String) -> Report {
    Report::fatal(SqlState::CANNOT_CONNECT_NOW, message)
}

fn single<'a>(pods: &[&'a Pod]) -> Option<&'a Pod> {
    match pods {
        [only] => Some(only),
        _ => None,
    }
}

/// The pod whose turn it is; not the one that has just refused, if there is another.
fn turned<'a>(pods: &[&'a Pod], preference: Preference<'_>) -> Option<&'a Pod> {
    let others: Vec<&Pod> = pods.iter().filter(|pod| preference.avoid != Some(&*pod.metadata.name)).copied().collect();
    let pods = if others.is_empty() { pods } else { others.as_slice() };
    pods.get(preference.turn.checked_rem(pods.len())?).copied()
}
