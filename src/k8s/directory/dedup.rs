//! The same cluster seen twice: what one operator made for another, pods that two systems label alike, and what leads to
//! a cluster that is known already.

use std::collections::{BTreeMap, HashSet};

use crate::k8s::{
    api::{
        names::{Namespace, ObjectName, Place},
        objects::{Owner, Pod},
    },
    cluster::snapshot::View,
    operators::{
        facts::Facts,
        system::{Rank, SystemRef},
    },
};

/// A cluster, and what is known of its members.
pub(in crate::k8s) struct Listed {
    pub(in crate::k8s) view: View,
    /// Where pods were not read: the ones that an endpoint names.
    pub(in crate::k8s) endpoints: Option<Vec<Pod>>,
}

/// Without clusters that belong to another of them (Percona's operator makes one of Crunchy's, Tembo's one of
/// CloudNativePG's), and without guesses about pods that another system's cluster has.
pub(in crate::k8s) fn without_owned<T>(all: Vec<T>, about: impl Fn(&T) -> (&SystemRef, &Facts)) -> Vec<T> {
    let resources: HashSet<(String, Place)> = all
        .iter()
        .map(|one| {
            let (system, facts) = about(one);
            (system.resource().group.to_string(), place(facts))
        })
        .collect();
    let is_owned =
        |facts: &Facts| facts.owners.iter().any(|of| owner(facts, of).is_some_and(|owner| resources.contains(&owner)));
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
pub(in crate::k8s) fn once(all: Vec<Listed>) -> Vec<Listed> {
    let mut by_rank: BTreeMap<Rank, Vec<Listed>> = BTreeMap::new();
    for listed in without_owned(all, |listed| (&listed.view.system, &listed.view.facts)) {
        by_rank.entry(listed.view.system.rank()).or_default().push(listed);
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

/// Without clusters whose pods one before them has: two readings of the same servers are one.
pub(in crate::k8s) fn by_pods(mut views: Vec<View>) -> Vec<View> {
    views.sort_by_key(|view| view.system.rank());
    let mut known: HashSet<Place> = HashSet::new();
    let mut servers = |view: &View| {
        let mut any = false;
        for pod in &view.pods {
            any |= !known.insert(place_of(pod));
        }
        any
    };
    views.retain(|view| !servers(view));
    views
}

/// The one that all readings lead to, from whatever namespaces: its pods are of its own namespace, and the others have no
/// pods but those. Anybody may write what leads to another's pods, and to one of their own besides.
pub(in crate::k8s) fn at_home(views: Vec<View>) -> Option<View> {
    let pods = |view: &View| view.pods.iter().map(place_of).collect::<HashSet<Place>>();
    let is_home = |view: &View| {
        !view.pods.is_empty() && view.pods.iter().all(|pod| pod.metadata.namespace == view.facts.namespace)
    };
    let (mut home, away): (Vec<View>, Vec<View>) = views.into_iter().partition(is_home);
    let one = home.pop().filter(|_| home.is_empty())?;
    let own = pods(&one);
    let leads_there = |view: &View| !view.pods.is_empty() && pods(view).is_subset(&own);
    away.iter().all(leads_there).then_some(one)
}

/// What owns an object, in its own namespace.
fn owner(facts: &Facts, of: &Owner) -> Option<(String, Place)> {
    Some((of.group().to_owned(), (facts.namespace.clone(), ObjectName::parse(&of.name).ok()?)))
}

/// What is known to lead to a cluster.
#[derive(Default)]
struct Known {
    services: HashSet<Place>,
    pods: HashSet<Place>,
    /// How the names of pods begin that were not read.
    prefixes: Vec<(Namespace, String)>,
    /// By group: what owns a Secret or a workload.
    resources: HashSet<(String, Place)>,
}

impl Known {
    fn add(&mut self, listed: &Listed) {
        let facts = &listed.view.facts;
        self.services.extend(services(facts));
        // Pods of another namespace are not its own to hide what leads to them.
        let own = |pod: &&Pod| pod.metadata.namespace == facts.namespace;
        self.pods.extend(listed.view.pods.iter().chain(listed.endpoints.iter().flatten()).filter(own).map(place_of));
        self.prefixes.extend(facts.pod_prefixes.iter().map(|prefix| (facts.namespace.clone(), prefix.clone())));
        self.resources.insert((listed.view.system.resource().group.to_string(), place(facts)));
    }

    fn leads_to(&self, listed: &Listed) -> bool {
        let facts = &listed.view.facts;
        facts.owners.iter().any(|of| owner(facts, of).is_some_and(|owner| self.resources.contains(&owner)))
            || services(facts).any(|service| self.services.contains(&service))
            || facts.places().into_iter().any(|service| self.services.contains(service))
            || listed.endpoints.iter().flatten().any(|found| self.has_pod(&place_of(found)))
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

fn place_of(pod: &Pod) -> Place {
    (pod.metadata.namespace.clone(), pod.metadata.name.clone())
}

fn services(facts: &Facts) -> impl Iterator<Item = Place> {
    let name = |service: &String| ObjectName::parse(service).ok();
    facts.services.iter().filter_map(move |service| Some((facts.namespace.clone(), name(service)?)))
}
