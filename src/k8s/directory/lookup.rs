//! From a name to a cluster: computed names first, lists last.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use tokio::time::Duration;

use crate::{
    error::{ClientFacing, Report, SqlState},
    k8s::{
        api::{
            error::K8sError,
            names::{Namespace, ObjectName},
            reader::Reader,
            resource::{DEPLOYMENTS, SECRETS, STATEFUL_SETS},
        },
        cluster::{plain, read, snapshot::View},
        directory::{
            dedup, refusals,
            scan::{self, Seen},
        },
        operators::{
            registry::Systems,
            system::{Rank, SystemRef},
        },
    },
    upstream::{Ask, Failure, Identity},
};

/// What is older is looked at again before a name is called unknown: the operator may be new.
const RECENT: Duration = Duration::from_secs(5);

/// What a name is in one namespace.
enum Here {
    Cluster(Box<View>),
    /// The caller may not look, so that it holds nothing for it.
    Hidden(K8sError),
    Nothing,
}

/// Looks for names in one context.
pub(in crate::k8s) struct Lookup<'a> {
    pub(in crate::k8s) systems: &'a Systems,
    pub(in crate::k8s) reader: Reader<'a>,
}

impl Lookup<'_> {
    /// Finds the cluster that a name means: `cluster.namespace`, else the whole as a cluster's name. Other people's names
    /// lead no further than that: whoever may write in some namespace would take a bare name, or an application's.
    pub(in crate::k8s) async fn find(&self, ask: &Ask) -> Result<View, Failure> {
        if let Some(system) = &ask.target.system
            && !self.systems.all().any(|known| is_meant(system, known))
        {
            return Err(no_such_system(self.systems, system).into());
        }
        self.reader.context.discover_once(self.reader.deadline).await?;
        if let Some(view) = self.find_known(ask).await? {
            return Ok(view);
        }
        // An operator may have been installed since.
        if self.reader.context.discover(RECENT, self.reader.deadline).await?
            && let Some(view) = self.find_known(ask).await?
        {
            return Ok(view);
        }
        if matches!(ask.identity, Identity::Person(_)) {
            // It hears nothing of what is called alike.
            return Err(Report::fatal(SqlState::UNKNOWN_TARGET, format!("there is no cluster {}", ask.target)).into());
        }
        Err(self.unknown(ask).await.into())
    }

    /// Whoever may write Secrets here cannot take the name of a cluster elsewhere: a namespace that is named comes first.
    async fn find_known(&self, ask: &Ask) -> Result<Option<View>, Failure> {
        let mut hidden = None;
        if let Some((cluster, namespace)) = ask.target.name.rsplit_once('.')
            && let (Ok(namespace), Ok(cluster)) = (Namespace::parse(namespace), ObjectName::parse(cluster))
        {
            match self.in_namespace((&namespace, &cluster), ask).await? {
                Here::Cluster(view) => return Ok(Some(*view)),
                Here::Hidden(error) => hidden = Some(error),
                Here::Nothing => {}
            }
        }
        let Ok(name) = ObjectName::parse(&ask.target.name) else { return nothing(hidden) };
        if let Some(error) = hidden {
            // What is called so here is the caller's own; what is elsewhere may be somebody's who counts on that.
            return match self.in_namespace((&self.reader.context.own_namespace()?, &name), ask).await? {
                Here::Cluster(view) => Ok(Some(*view)),
                _ => nothing(Some(error)),
            };
        }
        self.bare(&name, ask).await
    }

    /// A bare name: in the namespace in force, else wherever there is exactly one.
    async fn bare(&self, name: &ObjectName, ask: &Ask) -> Result<Option<View>, Failure> {
        let hidden = match self.in_namespace((&self.reader.context.own_namespace()?, name), ask).await? {
            Here::Cluster(view) => return Ok(Some(*view)),
            Here::Hidden(error) => Some(error),
            Here::Nothing => None,
        };
        if matches!(ask.identity, Identity::Person(_)) {
            return nothing(hidden);
        }
        let meant = |system: &&SystemRef| ask.target.system.as_ref().is_none_or(|wanted| is_meant(wanted, system));
        let plain = || self.systems.plain.iter().filter(meant);
        // Whoever may write a resource elsewhere does not hide what is called so in a third place: both are looked for.
        let (operators, called) = tokio::join!(
            scan::everywhere(self.reader, self.present().filter(meant)),
            scan::called(self.reader, plain(), name)
        );
        let mut all = dedup::without_owned([operators?.0, called?].concat(), |listed| (&listed.system, &listed.facts));
        if !all.iter().any(|listed| listed.facts.is_called(name)) {
            all = scan::everywhere(self.reader, plain()).await?.0;
        }
        let matching = matching(&all, name);
        let namespaces: BTreeSet<&Namespace> = matching.iter().map(|listed| &listed.facts.namespace).collect();
        match (matching.as_slice(), namespaces.len()) {
            // What is not found may be where the caller may not look.
            ([], _) => nothing(hidden),
            ([one], 1) if one.facts.name == *name => {
                match self.in_namespace((&one.facts.namespace, &one.facts.name), ask).await? {
                    Here::Cluster(view) => Ok(Some(*view)),
                    _ => Ok(self.view(one).await?),
                }
            }
            ([one], _) => Ok(self.view(one).await?),
            // Two of a release, or of an application.
            (several @ [one, ..], 1) if several.iter().any(|other| other.facts.name != one.facts.name) => {
                Err(refusals::ambiguous(name, full_names(several), ask).into())
            }
            ([one, ..], 1) => match self.in_namespace((&one.facts.namespace, &one.facts.name), ask).await? {
                Here::Cluster(view) => Ok(Some(*view)),
                _ => Err(refusals::ambiguous(name, full_names(&matching), ask).into()),
            },
            (several, _) => self.the_same(name, several, ask).await,
        }
    }

    /// Of clusters of one name in several namespaces: the one whose own pods all the others lead to, and to nothing else.
    /// What cannot be looked at is a cluster of its own.
    async fn the_same(&self, name: &ObjectName, several: &[&Seen], ask: &Ask) -> Result<Option<View>, Failure> {
        let views = join_all(several.iter().map(|listed| self.view(listed))).await;
        let known: Vec<View> = views.into_iter().filter_map(|view| view.ok().flatten()).collect();
        if known.len() == several.len()
            && let Some(one) = dedup::at_home(known)
        {
            return Ok(Some(one));
        }
        Err(refusals::ambiguous(name, full_names(several), ask).into())
    }

    async fn view(&self, listed: &Seen) -> Result<Option<View>, K8sError> {
        let place = (&listed.facts.namespace, &listed.facts.name);
        read::view(self.reader, self.systems, &listed.system, place).await
    }

    /// One namespace: the operators' clusters first, then what built-in objects make up, by who has to be trusted more to
    /// write them. A lower one never takes the name of a higher.
    async fn in_namespace(&self, place: (&Namespace, &ObjectName), ask: &Ask) -> Result<Here, Failure> {
        let meant = |system: &&SystemRef| ask.target.system.as_ref().is_none_or(|wanted| is_meant(wanted, system));
        let operators: Vec<SystemRef> = self.present().filter(meant).cloned().collect();
        let (found, forbidden) = self.among(&operators, place).await?;
        if let Some(view) = single(dedup::without_owned(found, |view| (&view.system, &view.facts)))? {
            return Ok(Here::Cluster(Box::new(view)));
        }
        let plain: Vec<&SystemRef> = self.systems.plain.iter().filter(meant).collect();
        let looks = join_all(plain.iter().map(|system| self.plain(system, place))).await;
        let mut by_rank: BTreeMap<Rank, Vec<Result<View, K8sError>>> = BTreeMap::new();
        for (system, look) in plain.into_iter().zip(looks) {
            let flavored = |view: &View| ask.target.system.as_ref().is_none_or(|wanted| is_of(wanted, view));
            let found = look?.filter(|look| look.as_ref().map_or(true, flavored));
            by_rank.entry(system.rank()).or_default().extend(found);
        }
        let Some(looks) = by_rank.into_values().find(|looks| !looks.is_empty()) else {
            return Ok(forbidden.map_or(Here::Nothing, Here::Hidden));
        };
        let (mut views, mut broken) = (Vec::new(), None);
        for look in looks {
            match look {
                Ok(view) => views.push(view),
                Err(error) => broken = broken.or(Some(error)),
            }
        }
        match (single(dedup::by_pods(views))?, broken) {
            (Some(view), _) if view.facts.name != *place.1 && matches!(ask.identity, Identity::Person(_)) => {
                Ok(Here::Nothing)
            }
            (Some(view), _) => Ok(Here::Cluster(Box::new(view))),
            // What exists and leads nowhere is told: nothing else is meant instead.
            (None, broken) => broken.map_or(Ok(Here::Nothing), |error| Err(leads_nowhere(place.1, error))),
        }
    }

    /// What built-in objects of one kind make up: nothing, a cluster, or one whose members could not be seen.
    async fn plain(
        &self,
        system: &SystemRef,
        place: (&Namespace, &ObjectName),
    ) -> Result<Option<Result<View, K8sError>>, K8sError> {
        let facts = match plain::facts(self.reader, system, place).await {
            Ok(Some(facts)) => facts,
            Ok(None) => return Ok(None),
            // What may not be looked at holds nothing.
            Err(error) if error.is_forbidden() || error.is_absent() => return Ok(None),
            Err(error) => return Err(error),
        };
        match plain::with_members(self.reader, self.systems, system, facts).await {
            Err(error) if !error.is_forbidden() && !error.is_absent() => Err(error),
            view => Ok(Some(view)),
        }
    }

    /// The systems whose resource the server has.
    fn present(&self) -> impl Iterator<Item = &SystemRef> {
        self.systems.operators.iter().filter(|system| self.reader.context.has(&system.resource()))
    }

    /// One namespace, several systems at once: what was found, and what may not be looked at.
    async fn among(
        &self,
        systems: &[SystemRef],
        place: (&Namespace, &ObjectName),
    ) -> Result<(Vec<View>, Option<K8sError>), K8sError> {
        let looks = systems.iter().map(|system| read::view(self.reader, self.systems, system, place));
        let (mut found, mut refused) = (Vec::new(), None);
        for look in join_all(looks).await {
            match look {
                Ok(view) => found.extend(view),
                Err(error) if error.is_forbidden() => refused = refused.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Ok((found, refused))
    }

    /// No cluster is called so: which are nearly, or have such a database, and what could not be looked at.
    async fn unknown(&self, ask: &Ask) -> Report {
        match scan::everywhere(self.reader, self.present().chain(&self.systems.plain)).await {
            Ok((all, refused)) => {
                let views = all.into_iter().map(|Seen { system, facts }| View::new(system, facts, Vec::new()));
                // To list Secrets is to read them all: that is nothing to ask for because of a name.
                let mut rules: Vec<&K8sError> = refused.iter().filter(|error| !error.is_about(&SECRETS)).collect();
                // What is operated shows in its pods; a workload shows nowhere else.
                rules.sort_by_key(|error| !error.is_about(&STATEFUL_SETS) && !error.is_about(&DEPLOYMENTS));
                let refused = K8sError::together(&rules).or_else(|| refused.first().cloned());
                refusals::unknown(self.reader.context, ask, views.collect(), refused.as_ref())
            }
            Err(error) => error.report(),
        }
    }
}

fn full_names(several: &[&Seen]) -> Vec<String> {
    several.iter().map(|listed| listed.facts.full()).collect()
}

/// Whether the configuration's word for a system means this one. Some share theirs: `bitnami` is a StatefulSet.
fn is_meant(wanted: &str, system: &SystemRef) -> bool {
    wanted == system.name() || system.flavors().contains(&wanted)
}

/// The same, of a cluster that was found.
fn is_of(wanted: &str, view: &View) -> bool {
    wanted == view.system.name() || view.facts.flavor == Some(wanted)
}

fn no_such_system(systems: &Systems, system: &str) -> Report {
    let names: Vec<&str> = systems.all().map(|system| system.name()).collect();
    Report::fatal(SqlState::UNKNOWN_TARGET, format!("no system is called \"{system}\""))
        .hint(format!("Correct the alias in the configuration: system is one of {}", names.join(", ")))
}

fn leads_nowhere(name: &ObjectName, error: K8sError) -> Failure {
    if !error.is_absent() {
        return error.into();
    }
    let report = Report::fatal(SqlState::UNKNOWN_TARGET, format!("\"{name}\" leads nowhere: {error}"));
    report.hint("See what the Service's name in it should be").into()
}

fn nothing(hidden: Option<K8sError>) -> Result<Option<View>, Failure> {
    hidden.map_or(Ok(None), |error| Err(error.into()))
}

/// What is meant in each namespace: the exact name there before a release's, the highest of several. Applications of Argo CD
/// come behind every name: anybody may label a cluster so.
fn matching<'a>(all: &'a [Seen], name: &ObjectName) -> Vec<&'a Seen> {
    let exact: BTreeSet<&Namespace> =
        all.iter().filter(|listed| listed.facts.name == *name).map(|listed| &listed.facts.namespace).collect();
    let is_meant = |listed: &&Seen| {
        let facts = &listed.facts;
        facts.name == *name || (facts.is_named(name) && !exact.contains(&facts.namespace))
    };
    let named: Vec<&Seen> = all.iter().filter(is_meant).collect();
    let applications = || all.iter().filter(|listed| listed.facts.is_called(name)).collect();
    let meant = if named.is_empty() { applications() } else { named };
    let mut ranks: BTreeMap<&Namespace, Rank> = BTreeMap::new();
    for listed in &meant {
        let rank = listed.system.rank();
        ranks.entry(&listed.facts.namespace).and_modify(|known| *known = rank.min(*known)).or_insert(rank);
    }
    let is_highest = |listed: &&Seen| ranks.get(&listed.facts.namespace) == Some(&listed.system.rank());
    meant.into_iter().filter(is_highest).collect()
}

/// The only one; two of different systems are an error.
fn single(mut found: Vec<View>) -> Result<Option<View>, Failure> {
    if let [one, _, ..] = found.as_slice() {
        let systems: Vec<&str> =
            found.iter().map(|view| view.facts.flavor.unwrap_or_else(|| view.system.name())).collect();
        let (name, namespace) = (&one.facts.name, &one.facts.namespace);
        let message = format!("\"{name}\" in namespace {namespace} is a cluster of {}", systems.join(" and of "));
        return Err(Report::fatal(SqlState::UNKNOWN_TARGET, message)
            .hint(format!(
                "Give the one that you mean a name in the configuration: names.aliases.NAME = {{ target = \"{}\", \
                 system = \"{}\" }}",
                one.facts.full(),
                systems.first().copied().unwrap_or_default()
            ))
            .into());
    }
    Ok(found.pop())
}
