//! Which pod of a cluster serves a request: pure, from what is known at one moment.

use super::{
    objects::Pod,
    operators::{Facts, Halt, Leader, Member, Operator},
};
use crate::{
    error::{Report, SqlState},
    upstream::{ClusterId, Mode},
};

/// A cluster at one moment.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) operator: &'static dyn Operator,
    pub(super) facts: Facts,
    pub(super) pods: Vec<Pod>,
}

/// The answer.
#[derive(Debug)]
pub(super) enum Choice<'a> {
    /// This pod.
    Pod(&'a Pod),
    /// None now; waiting may help.
    Wait(Report),
    /// None, on purpose.
    Never(Report),
}

impl View {
    /// The pod for a mode. `turn` spreads clients over replicas.
    pub(super) fn choose(&self, mode: Mode, turn: usize) -> Choice<'_> {
        if let Some(Halt { state, hint }) = &self.facts.halt {
            return Choice::Never(not_now(format!("cluster {} is {state}", self.name())).hint(hint.clone()));
        }
        match mode {
            Mode::Rw => self.primary(),
            Mode::Ro => match nth(&self.replicas(), turn) {
                Some(pod) => Choice::Pod(pod),
                None => Choice::Wait(
                    not_now(format!("cluster {} has no ready replica", self.name()))
                        .hint(format!("Its primary takes reads too: {}", self.name())),
                ),
            },
            Mode::Any => {
                let serving: Vec<&Pod> = self.pods.iter().filter(|pod| pod.serves() && !self.fenced(pod)).collect();
                nth(&serving, turn).map_or_else(|| self.none("server"), Choice::Pod)
            }
        }
    }

    /// The primary, whether it serves or not.
    pub(super) fn primary_pod(&self) -> Option<&Pod> {
        match &self.facts.leader {
            Leader::Pod(name) => self.pods.iter().find(|pod| pod.metadata.name == *name),
            Leader::Moving => None,
            Leader::Unsaid => {
                let mut labelled = self
                    .pods
                    .iter()
                    .filter(|pod| pod.serves() && self.operator.member(&self.facts, pod) == Member::Primary);
                // Two that claim it: neither is believed.
                labelled.next().filter(|_| labelled.next().is_none())
            }
        }
    }

    /// Replicas that serve.
    pub(super) fn replicas(&self) -> Vec<&Pod> {
        let primary = self.primary_pod().map(|pod| pod.metadata.name.as_str());
        let replica = |pod: &&Pod| {
            pod.serves()
                && self.operator.member(&self.facts, pod) == Member::Replica
                && Some(pod.metadata.name.as_str()) != primary
        };
        self.pods.iter().filter(replica).collect()
    }

    fn primary(&self) -> Choice<'_> {
        if self.facts.fenced.iter().any(|fenced| fenced == "*") {
            return Choice::Never(self.fence(format!("all servers of cluster {} are fenced", self.name())));
        }
        match self.primary_pod() {
            Some(pod) if self.fenced(pod) => Choice::Never(self.fence(format!(
                "the primary of cluster {}, {}, is fenced",
                self.name(),
                pod.metadata.name
            ))),
            Some(pod) if pod.serves() => Choice::Pod(pod),
            _ => self.none("primary"),
        }
    }

    fn fenced(&self, pod: &Pod) -> bool {
        self.facts.is_fenced(&pod.metadata.name)
    }

    fn fence(&self, message: String) -> Report {
        not_now(message).hint(self.facts.fence_hint.clone())
    }

    fn none(&self, what: &str) -> Choice<'static> {
        let mut report = not_now(format!("cluster {} has no ready {what}", self.name()));
        let serving = self.pods.iter().filter(|pod| pod.serves()).count();
        let phase = if self.facts.phase.is_empty() {
            String::new()
        } else {
            format!("The operator says: {}. ", self.facts.phase)
        };
        report = report.detail(format!("{phase}{serving} of {} pods are ready.", self.pods.len()));
        Choice::Wait(report.hint(format!(
            "Try again in a moment, or see: kubectl get pods -n {} -l {}={}",
            self.facts.namespace,
            self.operator.cluster_label(),
            self.facts.name
        )))
    }

    fn name(&self) -> String {
        format!("{}.{}", self.facts.name, self.facts.namespace)
    }

    pub(super) fn id(&self, context: &str) -> ClusterId {
        ClusterId {
            context: context.to_owned(),
            namespace: self.facts.namespace.clone(),
            name: self.facts.name.clone(),
        }
    }
}

fn not_now(message: String) -> Report {
    Report::fatal(SqlState::CANNOT_CONNECT_NOW, message)
}

fn nth<'a>(pods: &[&'a Pod], turn: usize) -> Option<&'a Pod> {
    pods.get(turn.checked_rem(pods.len())?).copied()
}
