//! What is said about names that lead nowhere, or to several clusters.

use std::collections::BTreeSet;

use crate::{
    error::{ClientFacing as _, Report, SqlState},
    k8s::{
        api::{client::Context, error::K8sError, names::ObjectName, suggest::nearest},
        cluster::snapshot::View,
        directory::dedup,
        operators::facts::Facts,
    },
    upstream::{Ask, Form, Mode},
};

/// No cluster is called so: which are nearly, or have such a database, and what could not be looked at.
pub(in crate::k8s) fn unknown(context: &Context, ask: &Ask, all: Vec<View>, refused: Option<&K8sError>) -> Report {
    let name = ask.target.name.as_str();
    let message = match name.rsplit_once('.') {
        Some((cluster, namespace)) => format!("no cluster \"{cluster}\" in namespace \"{namespace}\""),
        None => format!("no cluster is called \"{name}\""),
    };
    let message = match &ask.target.system {
        Some(system) => format!("{message} that is of {system}"),
        None => message,
    };
    let nowhere = match ask.conninfo.form {
        Form::Nowhere => ": clients send the user's name where no database is given",
        _ => "",
    };
    let mut report = Report::fatal(
        SqlState::UNKNOWN_TARGET,
        format!("{message}{nowhere} (context {}, namespace {})", context.name(), context.namespace()),
    );
    if let Some(refused) = refused {
        let rule = refused.report().hint.unwrap_or_default();
        report = report.detail(format!("Not everything could be looked at: {refused}. {rule}"));
    }
    report.hint(format!("{}For the list of clusters type: pgferry list", suggestion(all, ask)))
}

/// What was probably meant instead of a name that is none, as something to type; empty where nothing is near.
fn suggestion(all: Vec<View>, ask: &Ask) -> String {
    let (name, conninfo) = (ask.target.name.as_str(), &ask.conninfo);
    let context = in_context(ask);
    let typed = |full: &str| conninfo.to(&with_mode(&format!("{full}{context}"), ask));
    // What leads to a cluster that is there by itself is no other one.
    let all = dedup::once(all.into_iter().map(dedup::Listed::new).collect());
    let all: Vec<Facts> = all.into_iter().map(|listed| listed.view.facts).collect();
    let names: BTreeSet<String> = all.iter().map(Facts::full).collect();
    let names: Vec<String> = names.into_iter().collect();
    let short = name.split('.').next().unwrap_or(name);
    let near: Vec<&String> = nearest(short, all.iter().map(|facts| &*facts.name))
        .into_iter()
        .flat_map(|near| names.iter().filter(move |full| full.split('.').next() == Some(near)))
        .collect();
    if let [first, ..] = near.as_slice() {
        let near: Vec<&str> = near.iter().map(|name| name.as_str()).collect();
        return format!("Did you mean {}? Type: {}. ", near.join(" or "), typed(first));
    }
    if !matches!(conninfo.form, Form::Nowhere | Form::Database { .. }) {
        return String::new();
    }
    // In psql, `\c app` asks for a cluster of that name: no connection knows of the one before.
    let mut holders: Vec<String> =
        all.iter().filter(|facts| facts.databases.iter().any(|database| database == name)).map(Facts::full).collect();
    holders.sort_unstable();
    holders.dedup();
    if let [first, ..] = holders.as_slice() {
        let target = format!("{first}{context}/{name}");
        let first = format!("\\c {target} in psql, or: {}", conninfo.to(&target));
        return format!("A database of this name is in {}. Type: {first}. ", shown(&holders));
    }
    match (&conninfo.form, names.first()) {
        (Form::Nowhere, Some(first)) => format!("The clusters are {}. Type: {}. ", shown(&names), typed(first)),
        _ => String::new(),
    }
}

/// As many names as a person reads.
fn shown(names: &[String]) -> String {
    const MOST_NAMES: usize = 10;
    let shown: Vec<&str> = names.iter().take(MOST_NAMES).map(String::as_str).collect();
    match names.len().saturating_sub(MOST_NAMES) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The context as the client wrote it.
fn in_context(ask: &Ask) -> String {
    ask.target.context.as_ref().map(|context| format!("@{context}")).unwrap_or_default()
}

/// The mode as the client wrote it.
fn with_mode(target: &str, ask: &Ask) -> String {
    match ask.target.mode {
        Mode::Rw => target.to_owned(),
        mode => format!("{target}:{}", mode.as_str()),
    }
}

/// Several clusters are called so: each with a spelling that works.
pub(in crate::k8s) fn ambiguous(name: &ObjectName, several: Vec<String>, ask: &Ask) -> Report {
    let context = in_context(ask);
    let mut names: Vec<String> = several.into_iter().map(|full| format!("{full}{context}")).collect();
    names.sort_unstable();
    let first = with_mode(names.first().map_or("", String::as_str), ask);
    Report::fatal(
        SqlState::UNKNOWN_TARGET,
        format!("\"{name}\" names {} clusters: {}", names.len(), names.join(" and ")),
    )
    .hint(format!("Write which one, such as: {}", ask.conninfo.to(&first)))
}
