//! The same cluster seen twice: what one operator made for another, pods that two systems label alike, and what leads to
//! a cluster that is known already.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    k8s::{
        api::{
            names::{Namespace, ObjectName, Place},
            objects::{Owner, Pod},
        },
        cluster::snapshot::View,
        operators::{
            facts::Facts,
            login::LoginSource,
            system::{Rank, SystemRef},
        },
    },
    upstream::NamedLogin,
};

/// A cluster, and what is known of its members.
pub(in crate::k8s) struct Listed {
    pub(in crate::k8s) view: View,
    /// Where pods were not read: the ones that an endpoint names.
    pub(in crate::k8s) endpoints: Option<Vec<Pod>>,
    /// Where it leads, if to no pods.
    pub(in crate::k8s) away: Option<Away>,
    /// Secrets that lead to it, too.
    pub(in crate::k8s) also: Vec<NamedLogin>,
}

/// A Service that is only a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::k8s) enum Away {
    /// Of a host outside Kubernetes.
    Outside(String),
    /// Of something that the configuration does not say to follow.
    NotFollowed,
}

impl Listed {
    pub(in crate::k8s) fn new(view: View) -> Self {
        Self { view, endpoints: None, away: None, also: Vec::new() }
    }
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
    let (mut known, mut kept) = (Known::default(), Vec::<Listed>::new());
    for rank in by_rank.into_values() {
        let mut new = Vec::new();
        for listed in rank {
            match known.leads_to(&listed) {
                Some(number) => kept.get_mut(number).into_iter().for_each(|row| row.also.extend(login(&listed, row))),
                None => new.push(listed),
            }
        }
        for listed in new {
            known.add(&listed, kept.len());
            kept.push(listed);
        }
    }
    for row in &mut kept {
        row.also.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    }
    kept
}

/// What a Secret that leads to a cluster is called there, and whose login it holds.
fn login(listed: &Listed, row: &Listed) -> Option<NamedLogin> {
    let (facts, there) = (&listed.view.facts, &row.view.facts.namespace);
    if !matches!(listed.view.system.rank(), Rank::AccessSecret | Rank::ConnectionSecret) {
        return None;
    }
    let named = |login: &LoginSource| {
        login.secret.as_ref().is_some_and(|secret| secret.name().is_ok_and(|name| *name == facts.object))
    };
    if facts.namespace == *there && row.view.facts.logins.iter().any(named) {
        // The system names it itself: its role is the row's.
        return None;
    }
    let role = facts.logins.first()?.role.clone()?;
    let name = if facts.namespace == *there { facts.name.to_string() } else { facts.full() };
    Some(NamedLogin { name, role })
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

/// What is known to lead to a cluster, which is named by its place among all.
#[derive(Default)]
struct Known {
    services: HashMap<Place, usize>,
    pods: HashMap<Place, usize>,
    /// How the names of pods begin that were not read.
    prefixes: Vec<(Namespace, String, usize)>,
    /// By group: what owns a Secret or a workload.
    resources: HashMap<(String, Place), usize>,
}

impl Known {
    fn add(&mut self, listed: &Listed, number: usize) {
        let facts = &listed.view.facts;
        self.services.extend(services(facts).map(|service| (service, number)));
        // Pods of another namespace are not its own to hide what leads to them.
        let own = |pod: &&Pod| pod.metadata.namespace == facts.namespace;
        let pods = listed.view.pods.iter().chain(listed.endpoints.iter().flatten()).filter(own).map(place_of);
        self.pods.extend(pods.map(|pod| (pod, number)));
        let prefix = |prefix: &String| (facts.namespace.clone(), prefix.clone(), number);
        self.prefixes.extend(facts.pod_prefixes.iter().map(prefix));
        self.resources.insert((listed.view.system.resource().group.to_string(), place(facts)), number);
    }

    fn leads_to(&self, listed: &Listed) -> Option<usize> {
        let facts = &listed.view.facts;
        let owned = || facts.owners.iter().find_map(|of| self.resources.get(&owner(facts, of)?));
        let serves = || services(facts).find_map(|service| self.services.get(&service));
        let named = || facts.places().into_iter().find_map(|service| self.services.get(service));
        let known = owned().or_else(serves).or_else(named).copied();
        known.or_else(|| listed.endpoints.iter().flatten().find_map(|found| self.of_pod(&place_of(found))))
    }

    fn of_pod(&self, (namespace, name): &Place) -> Option<usize> {
        // A StatefulSet's pods are numbered.
        let of = |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.parse::<u32>().is_ok());
        let numbered = self.prefixes.iter().find(|(place, prefix, _)| place == namespace && of(prefix));
        let known = self.pods.get(&(namespace.clone(), name.clone())).copied();
        known.or_else(|| numbered.map(|(_, _, number)| *number))
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
