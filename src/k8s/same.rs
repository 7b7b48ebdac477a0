//! The same cluster seen twice: what one operator made for another, pods that two systems label alike, and what leads to
//! a cluster that is known already.

use std::collections::{BTreeMap, HashSet};

use super::{
    list::{Listed, places},
    objects::Pod,
    operators::{Facts, System},
};

/// Something by namespace and name.
type Place = (String, String);

/// Without clusters that belong to another of them (Percona's operator makes one of Crunchy's, Tembo's one of
/// CloudNativePG's), and without guesses about pods that another system's cluster has.
pub(super) fn without_owned<T>(all: Vec<T>, about: impl Fn(&T) -> (&System, &Facts)) -> Vec<T> {
    let resources: HashSet<(String, Place)> = all
        .iter()
        .map(|one| {
            let (system, facts) = about(one);
            (system.resource().group.to_string(), place(facts))
        })
        .collect();
    let is_owned = |facts: &Facts| {
        let owner = |name: &str| (facts.namespace.clone(), name.to_owned());
        facts.owners.iter().any(|of| resources.contains(&(of.group().to_owned(), owner(&of.name))))
    };
    let all: Vec<T> = all.into_iter().filter(|one| !is_owned(about(one).1)).collect();
    let pods = |one: &T| {
        let (system, facts) = about(one);
        (system.pod_labels().map(|labels| labels.selector()).unwrap_or_default(), place(facts))
    };
    // Where resources may not be read, pods are all there is: of two guesses the first is believed.
    let mut told: HashSet<(String, Place)> = all.iter().filter(|one| !about(one).1.is_guessed()).map(pods).collect();
    all.into_iter().filter(|one| !about(one).1.is_guessed() || told.insert(pods(one))).collect()
}

/// Each cluster once: what leads to one that is believed more is left out.
pub(super) fn once(all: Vec<Listed>) -> Vec<Listed> {
    let mut by_rank: BTreeMap<u8, Vec<Listed>> = BTreeMap::new();
    for listed in without_owned(all, |listed| (&listed.view.system, &listed.view.facts)) {
        by_rank.entry(rank(&listed)).or_default().push(listed);
    }
    let (mut known, mut kept) = (Known::default(), Vec::new());
    for rank in by_rank.into_values() {
        let new: Vec<Listed> = rank.into_iter().filter(|listed| !known.leads_to(listed)).collect();
        for listed in &new {
            known.add(listed);
        }
        kept.extend(new);
    }
    kept
}

/// Operators' resources are believed before marked Services, those before workloads, and Secrets last.
fn rank(listed: &Listed) -> u8 {
    match &*listed.view.system.resource().plural {
        _ if listed.view.system.pod_labels().is_some() => 0,
        "services" => 1,
        "secrets" => 3,
        _ => 2,
    }
}

/// What is known to lead to a cluster.
#[derive(Default)]
struct Known {
    services: HashSet<Place>,
    pods: HashSet<Place>,
    /// How the names of pods begin that were not read.
    prefixes: Vec<Place>,
    /// By group: what owns a Secret or a workload.
    resources: HashSet<(String, Place)>,
}

impl Known {
    fn add(&mut self, listed: &Listed) {
        let facts = &listed.view.facts;
        self.services.extend(services(facts));
        self.pods.extend(listed.view.pods.iter().chain(listed.endpoints.iter().flatten()).map(pod));
        self.prefixes.extend(facts.pod_prefix.clone().map(|prefix| (facts.namespace.clone(), prefix)));
        self.resources.insert((listed.view.system.resource().group.to_string(), place(facts)));
    }

    fn leads_to(&self, listed: &Listed) -> bool {
        let facts = &listed.view.facts;
        let owner = |name: &str| (facts.namespace.clone(), name.to_owned());
        let mut owners = facts.owners.iter().map(|of| (of.group().to_owned(), owner(&of.name)));
        owners.any(|owner| self.resources.contains(&owner))
            || services(facts).any(|service| self.services.contains(&service))
            || places(facts).iter().any(|service| self.services.contains(service))
            || listed.endpoints.iter().flatten().any(|found| self.has_pod(&pod(found)))
    }

    fn has_pod(&self, (namespace, name): &Place) -> bool {
        // A StatefulSet's pods are numbered.
        let of = |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.parse::<u32>().is_ok());
        self.pods.contains(&(namespace.clone(), name.clone()))
            || self.prefixes.iter().any(|(place, prefix)| place == namespace && of(prefix))
    }
}

fn place(facts: &Facts) -> Place {
    (facts.namespace.clone(), facts.name.clone())
}

fn pod(pod: &Pod) -> Place {
    (pod.metadata.namespace.clone(), pod.metadata.name.clone())
}

fn services(facts: &Facts) -> impl Iterator<Item = Place> {
    facts.services.iter().map(|service| (facts.namespace.clone(), service.clone()))
}
