//! From a name to a cluster: computed names first, lists last.

use futures_util::future::join_all;
use tokio::time::{Duration, Instant};

use super::{
    K8sError,
    access::ListQuery,
    choose::View,
    client::Context,
    nearest::nearest,
    objects::{Object, Pod},
    operators::{Evidence, Facts, Operator, PODS, Resource, System, Systems},
    reads, same,
};
use crate::{
    error::{ClientFacing, Report, SqlState},
    upstream::Failure,
};

/// What is older is looked at again before a name is called unknown: the operator may be new.
const RECENT: Duration = Duration::from_secs(5);

/// A cluster that a list showed.
struct Listed {
    system: System,
    facts: Facts,
}

/// Looks for names in one context.
pub(super) struct Lookup<'a> {
    pub(super) context: &'a Context,
    pub(super) systems: &'a Systems,
    pub(super) deadline: Instant,
}

impl Lookup<'_> {
    /// Finds the cluster that `name` means: `cluster` or `cluster.namespace`, the longest known reading first.
    pub(super) async fn find(&self, name: &str) -> Result<View, Failure> {
        self.context.discover_once(self.deadline).await?;
        if let Some(view) = self.find_known(name).await? {
            return Ok(view);
        }
        // An operator may have been installed since.
        if self.context.discover(RECENT, self.deadline).await?
            && let Some(view) = self.find_known(name).await?
        {
            return Ok(view);
        }
        Err(self.unknown(name).await.into())
    }

    async fn find_known(&self, name: &str) -> Result<Option<View>, Failure> {
        let Some((cluster, namespace)) = name.rsplit_once('.') else {
            return self.bare(name).await;
        };
        // Both readings at once: as a rule it is the second, and the first costs no time.
        let dotted: Vec<System> = self.systems.all().filter(|system| system.dotted_names()).cloned().collect();
        let (whole, divided) = tokio::join!(
            self.among(&dotted, (self.context.namespace(), name)),
            self.in_namespace((namespace, cluster)),
        );
        // A namespace that the caller may not look into holds nothing for it.
        let whole = whole?.0.into_iter().next();
        match (whole, divided) {
            (Some(view), _) => Ok(Some(view)),
            (None, divided) => divided,
        }
    }

    /// A bare name: in the namespace in force, else wherever there is exactly one.
    async fn bare(&self, name: &str) -> Result<Option<View>, Failure> {
        let mut hidden = None;
        match self.in_namespace((self.context.namespace(), name)).await {
            Ok(Some(view)) => return Ok(Some(view)),
            Ok(None) => {}
            // A namespace that the caller may not look into holds nothing for it; others may.
            Err(failure) if failure.report.sqlstate == SqlState::INSUFFICIENT_PRIVILEGE => hidden = Some(failure),
            Err(failure) => return Err(failure),
        }
        let (mut all, _) = self.everywhere(self.present()).await?;
        if !all.iter().any(|listed| listed.facts.is_called(name)) {
            all = self.everywhere(self.systems.plain.iter()).await?.0;
        }
        let named: Vec<&Listed> = all.iter().filter(|listed| listed.facts.name == name).collect();
        let called = || all.iter().filter(|listed| listed.facts.is_called(name)).collect();
        let matching = if named.is_empty() { called() } else { named };
        match matching.as_slice() {
            // What is not found may be where the caller may not look.
            [] => hidden.map_or(Ok(None), Err),
            [one] => {
                let place = (one.facts.namespace.as_str(), one.facts.name.as_str());
                Ok(reads::view(self.context, self.systems, &one.system, place, self.deadline).await?)
            }
            several => Err(ambiguous(name, several).into()),
        }
    }

    /// One namespace: the operators' clusters first, then what built-in objects make up.
    async fn in_namespace(&self, place: (&str, &str)) -> Result<Option<View>, Failure> {
        let operators: Vec<System> = self.present().cloned().collect();
        let (found, forbidden) = self.among(&operators, place).await?;
        if let Some(view) = single(found)? {
            return Ok(Some(view));
        }
        let looks = self.systems.plain.iter().map(|system| self.plain(system, place));
        let (mut first, mut broken) = (None, None);
        for look in join_all(looks).await {
            match look? {
                Some(Ok(view)) => first = first.or(Some(view)),
                Some(Err(error)) => broken = broken.or(Some(error)),
                None => {}
            }
        }
        match (first, broken, forbidden) {
            (Some(view), _, _) => Ok(Some(view)),
            // What exists and leads nowhere is told.
            (None, Some(error), _) if error.is_absent() => {
                let report = Report::fatal(SqlState::UNKNOWN_TARGET, format!("\"{}\" leads nowhere: {error}", place.1));
                Err(report.hint("See what the Service's name in it should be").into())
            }
            (None, Some(error), _) | (None, None, Some(error)) => Err(error.into()),
            (None, None, None) => Ok(None),
        }
    }

    /// What built-in objects of one kind make up: nothing, a cluster, or one whose members could not be seen.
    async fn plain(&self, system: &System, place: (&str, &str)) -> Result<Option<Result<View, K8sError>>, K8sError> {
        let facts = match reads::plain_facts(self.context, system, place, self.deadline).await {
            Ok(Some(facts)) => facts,
            Ok(None) => return Ok(None),
            // What may not be looked at holds nothing.
            Err(error) if error.is_forbidden() || error.is_absent() => return Ok(None),
            Err(error) => return Err(error),
        };
        match reads::with_members(self.context, self.systems, system, facts, self.deadline).await {
            Err(error) if !error.is_forbidden() && !error.is_absent() => Err(error),
            view => Ok(Some(view)),
        }
    }

    /// The systems whose resource the server has.
    fn present(&self) -> impl Iterator<Item = &System> {
        self.systems.operators.iter().filter(|system| self.context.has(&system.resource()))
    }

    /// One namespace, several systems at once: what was found, and what may not be looked at.
    async fn among(&self, systems: &[System], place: (&str, &str)) -> Result<(Vec<View>, Option<K8sError>), K8sError> {
        let looks = systems.iter().map(|system| reads::view(self.context, self.systems, system, place, self.deadline));
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

    /// All clusters that the caller may list, and what it may not.
    async fn everywhere(
        &self,
        systems: impl Iterator<Item = &System>,
    ) -> Result<(Vec<Listed>, Vec<K8sError>), K8sError> {
        let lists = systems.map(|system| async move { (system, self.list(system).await) });
        let (mut all, mut refused) = (Vec::new(), Vec::new());
        for (system, listed) in join_all(lists).await {
            match listed {
                Ok(found) => all.extend(found.into_iter().map(|facts| Listed { system: system.clone(), facts })),
                Err(error) if error.is_forbidden() => refused.push(error),
                Err(error) if error.is_absent() => {}
                Err(error) => return Err(error),
            }
        }
        Ok((same::without_owned(all, |listed| (&listed.system, &listed.facts)), refused))
    }

    /// One system's clusters: its resources, else what the labels of pods tell.
    async fn list(&self, system: &System) -> Result<Vec<Facts>, K8sError> {
        match all_facts(self.context, &**system, None, self.deadline).await {
            Err(error) if error.is_forbidden() => {
                let Some(query) = reads::pods_of_all(&**system) else { return Err(error) };
                let pods = reads::list::<Pod>(self.context, &PODS, None, &query, self.deadline).await;
                Ok(clusters_of(&**system, &pods.map_err(|_| error)?.0))
            }
            found => found,
        }
    }

    /// No cluster is called so: which are nearly, and what could not be looked at.
    async fn unknown(&self, name: &str) -> Report {
        let (all, refused) = match self.everywhere(self.present().chain(&self.systems.plain)).await {
            Ok(found) => found,
            Err(error) => return error.report(),
        };
        let message = match name.rsplit_once('.') {
            Some((cluster, namespace)) => format!("no cluster \"{cluster}\" in namespace \"{namespace}\""),
            None => format!("no cluster is called \"{name}\""),
        };
        let context = self.context;
        let mut report = Report::fatal(
            SqlState::UNKNOWN_TARGET,
            format!("{message} (context {}, namespace {})", context.name(), context.namespace()),
        );
        if let Some(refused) = refused.first() {
            let rule = refused.report().hint.unwrap_or_default();
            report = report.detail(format!("Not everything could be looked at: {refused}. {rule}"));
        }
        let names: Vec<String> = all.iter().map(|listed| listed.facts.full()).collect();
        let short = name.split('.').next().unwrap_or(name);
        let shorts = all.iter().map(|listed| listed.facts.name.as_str());
        let near: Vec<&String> = nearest(short, shorts)
            .into_iter()
            .flat_map(|near| names.iter().filter(move |full| full.split('.').next() == Some(near)))
            .collect();
        let near: Vec<&str> = near.into_iter().map(String::as_str).collect();
        report.hint(match near.as_slice() {
            [] => "For the list of clusters type: pgferry list".to_owned(),
            near => format!("Did you mean {}? For the list of clusters type: pgferry list", near.join(" or ")),
        })
    }
}

/// The only one; two of different systems are an error.
fn single(found: Vec<View>) -> Result<Option<View>, Failure> {
    let mut found = same::without_owned(found, |view| (&view.system, &view.facts));
    if let [one, _, ..] = found.as_slice() {
        let systems: Vec<_> = found.iter().map(|view| view.system.system()).collect();
        let (name, namespace) = (&one.facts.name, &one.facts.namespace);
        let message = format!("\"{name}\" in namespace {namespace} is a cluster of {}", systems.join(" and of "));
        return Err(Report::fatal(SqlState::UNKNOWN_TARGET, message)
            .hint("Delete or rename one of them, or log in to a Secret of one by its own name")
            .into());
    }
    Ok(found.pop())
}

/// The facts of all objects of a system; those of one cluster merged.
pub(super) async fn all_facts(
    context: &Context,
    system: &dyn Operator,
    namespace: Option<&str>,
    deadline: Instant,
) -> Result<Vec<Facts>, K8sError> {
    let resource = system.resource();
    let read = |object: Object| system.read(&object).filter(|facts| facts.evidence == Evidence::Read);
    let path = context.collection(&resource, namespace);
    let access = reads::access("list", &resource, namespace, None);
    let (facts, _) = context.filter_objects(&access, &path, &worth_reading(&resource), deadline, read).await?;
    Ok(merged(facts))
}

/// Secrets of certificates, Helm's releases and the like hold no logins, and some are a megabyte.
pub(super) fn worth_reading(resource: &Resource) -> ListQuery {
    const OTHERS: [&str; 7] = [
        "helm.sh/release.v1",
        "kubernetes.io/tls",
        "kubernetes.io/service-account-token",
        "kubernetes.io/dockercfg",
        "kubernetes.io/dockerconfigjson",
        "kubernetes.io/ssh-auth",
        "bootstrap.kubernetes.io/token",
    ];
    if resource.group.is_empty() && resource.plural == "secrets" {
        ListQuery::fields(OTHERS.map(|kind| format!("type!={kind}")).join(","))
    } else {
        ListQuery::default()
    }
}

/// One cluster may have several objects.
pub(super) fn merged(facts: Vec<Facts>) -> Vec<Facts> {
    let mut all: std::collections::BTreeMap<(String, String), Facts> = std::collections::BTreeMap::new();
    for facts in facts {
        let key = (facts.namespace.clone(), facts.name.clone());
        let known = all.remove(&key);
        all.insert(
            key,
            match known {
                Some(known) => known.merge(facts),
                None => facts,
            },
        );
    }
    all.into_values().collect()
}

/// The clusters that pods belong to.
pub(super) fn clusters_of(system: &dyn Operator, pods: &[Pod]) -> Vec<Facts> {
    let Some(labels) = system.pod_labels() else { return Vec::new() };
    let mut names: Vec<(&str, &str)> = pods
        .iter()
        .filter_map(|pod| Some((pod.metadata.namespace.as_str(), pod.metadata.label(&labels.cluster)?)))
        .collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().filter_map(|(namespace, name)| system.guess(namespace, name)).collect()
}

fn ambiguous(name: &str, several: &[&Listed]) -> Report {
    let mut names: Vec<String> = several.iter().map(|listed| listed.facts.full()).collect();
    names.sort_unstable();
    Report::fatal(
        SqlState::UNKNOWN_TARGET,
        format!("\"{name}\" names {} clusters: {}", names.len(), names.join(" and ")),
    )
    .hint(format!("Write which one, such as: psql -h localhost {}", names.first().map_or("", String::as_str)))
}
