//! From a name to a cluster: computed names first, lists last.

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{
    K8sError,
    choose::View,
    client::{Context, ListQuery},
    nearest::nearest,
    objects::{Custom, Pod},
    operators::{self, Facts, Operator},
    reads::{self, PODS},
};
use crate::{
    error::{ClientFacing, Report, SqlState},
    upstream::Failure,
};

/// A cluster that a name means.
pub(super) struct Found {
    pub(super) view: View,
}

/// A cluster that a list showed.
struct Listed {
    operator: &'static dyn Operator,
    facts: Facts,
}

/// Finds the cluster that `name` means: `cluster` or `cluster.namespace`, the longest known reading first.
pub(super) async fn find(context: &Context, name: &str, deadline: Instant) -> Result<Found, Failure> {
    let dotted = name.rsplit_once('.');
    let whole: Vec<_> =
        operators::all().into_iter().filter(|operator| dotted.is_none() || operator.dotted_names()).collect();
    if !whole.is_empty()
        && let Some(view) = bare(context, &whole, name, deadline).await?
    {
        return Ok(Found { view });
    }
    if let Some((cluster, namespace)) = dotted {
        let found = in_namespace(context, &operators::all(), (namespace, cluster), deadline).await?;
        if let Some(view) = single(found)? {
            return Ok(Found { view });
        }
    }
    Err(unknown(context, name, deadline).await.into())
}

/// A bare name: in the namespace in force, else wherever there is exactly one.
async fn bare(
    context: &Context,
    systems: &[&'static dyn Operator],
    name: &str,
    deadline: Instant,
) -> Result<Option<View>, Failure> {
    match in_namespace(context, systems, (context.namespace(), name), deadline).await {
        Ok(found) => {
            if let Some(view) = single(found)? {
                return Ok(Some(view));
            }
        }
        // A namespace that the caller may not look into holds nothing for it; others may.
        Err(error) if error.is_forbidden() => {}
        Err(error) => return Err(error.into()),
    }
    let (all, _) = everywhere(context, deadline).await?;
    let named = |listed: &&Listed| listed.facts.name == name;
    let of_application = |listed: &&Listed| listed.facts.applications.iter().any(|app| app == name);
    let mut matching: Vec<&Listed> = all.iter().filter(named).collect();
    if matching.is_empty() {
        matching = all.iter().filter(of_application).collect();
    }
    match matching.as_slice() {
        [] => Ok(None),
        [one] => {
            let place = (one.facts.namespace.as_str(), one.facts.name.as_str());
            Ok(reads::view(context, one.operator, place, deadline).await?)
        }
        several => Err(ambiguous(name, several).into()),
    }
}

/// One namespace, all systems at once.
async fn in_namespace(
    context: &Context,
    systems: &[&'static dyn Operator],
    (namespace, name): (&str, &str),
    deadline: Instant,
) -> Result<Vec<View>, K8sError> {
    let looks = systems.iter().map(|operator| reads::view(context, *operator, (namespace, name), deadline));
    let mut found = Vec::new();
    for look in join_all(looks).await {
        found.extend(look?);
    }
    Ok(found)
}

/// The only one; two of different systems are an error.
fn single(mut found: Vec<View>) -> Result<Option<View>, Failure> {
    if let [one, _, ..] = found.as_slice() {
        let systems: Vec<_> = found.iter().map(|view| view.operator.system()).collect();
        let (name, namespace) = (&one.facts.name, &one.facts.namespace);
        let message = format!("\"{name}\" in namespace {namespace} is a cluster of {}", systems.join(" and of "));
        return Err(Report::fatal(SqlState::UNKNOWN_TARGET, message).into());
    }
    Ok(found.pop())
}

/// All clusters that the caller may list, and what it may not.
async fn everywhere(context: &Context, deadline: Instant) -> Result<(Vec<Listed>, Vec<K8sError>), K8sError> {
    let lists =
        operators::all().into_iter().map(|operator| async move { (operator, list(context, operator, deadline).await) });
    let (mut all, mut refused) = (Vec::new(), Vec::new());
    for (operator, listed) in join_all(lists).await {
        match listed {
            Ok(found) => all.extend(found.into_iter().map(|facts| Listed { operator, facts })),
            Err(error) if error.is_forbidden() => refused.push(error),
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error),
        }
    }
    Ok((all, refused))
}

/// One system's clusters: its resources, else what the labels of pods tell.
async fn list(context: &Context, operator: &dyn Operator, deadline: Instant) -> Result<Vec<Facts>, K8sError> {
    let all = ListQuery::default();
    match reads::list::<Custom>(context, operator.resource(), None, &all, deadline).await {
        Ok((found, _)) => Ok(found.iter().map(|found| operator.read(found)).collect()),
        Err(error) if error.is_forbidden() => {
            let pods = reads::list::<Pod>(context, PODS, None, &reads::pods_of_all(operator), deadline).await;
            Ok(clusters_of(operator, &pods.map_err(|_| error)?.0))
        }
        Err(error) => Err(error),
    }
}

/// The clusters that pods belong to.
pub(super) fn clusters_of(operator: &dyn Operator, pods: &[Pod]) -> Vec<Facts> {
    let mut names: Vec<(&str, &str)> = pods
        .iter()
        .filter_map(|pod| Some((pod.metadata.namespace.as_str(), pod.metadata.label(operator.cluster_label())?)))
        .collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|(namespace, name)| operator.guess(namespace, name)).collect()
}

fn full(facts: &Facts) -> String {
    format!("{}.{}", facts.name, facts.namespace)
}

fn ambiguous(name: &str, several: &[&Listed]) -> Report {
    let mut names: Vec<String> = several.iter().map(|listed| full(&listed.facts)).collect();
    names.sort_unstable();
    Report::fatal(
        SqlState::UNKNOWN_TARGET,
        format!("\"{name}\" names {} clusters: {}", names.len(), names.join(" and ")),
    )
    .hint(format!("Write which one, such as: psql -h localhost {}", names.first().map_or("", String::as_str)))
}

/// No cluster is called so: which are nearly, and what could not be looked at.
async fn unknown(context: &Context, name: &str, deadline: Instant) -> Report {
    let (all, refused) = match everywhere(context, deadline).await {
        Ok(found) => found,
        Err(error) => return error.report(),
    };
    let message = match name.rsplit_once('.') {
        Some((cluster, namespace)) => format!("no cluster \"{cluster}\" in namespace \"{namespace}\""),
        None => format!("no cluster is called \"{name}\""),
    };
    let mut report = Report::fatal(
        SqlState::UNKNOWN_TARGET,
        format!("{message} (context {}, namespace {})", context.name(), context.namespace()),
    );
    if let Some(refused) = refused.first() {
        let rule = refused.report().hint.unwrap_or_default();
        report = report.detail(format!("Not everything could be looked at: {refused}. {rule}"));
    }
    let names: Vec<String> = all.iter().map(|listed| full(&listed.facts)).collect();
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
