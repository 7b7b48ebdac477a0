//! What a list shows of each cluster.

use crate::{
    error::{ClientFacing, Report, Severity},
    k8s::{
        api::{client::Context, error::K8sError},
        cluster::snapshot::{Choice, Preference, View},
        directory::dedup::{Away, Listed},
        operators::facts::Members,
    },
    upstream::{ClusterInfo, Mode},
};

/// What was refused, each once; what is missing in the same place is one rule.
pub(super) fn warnings(refused: &[K8sError]) -> Vec<Report> {
    let mut places: Vec<(&Option<String>, Vec<&K8sError>)> = Vec::new();
    for error in refused {
        let K8sError::Forbidden { namespace, .. } = error else { continue };
        match places.iter_mut().find(|(known, _)| *known == namespace) {
            Some((_, errors)) => errors.push(error),
            None => places.push((namespace, vec![error])),
        }
    }
    places.into_iter().filter_map(|(_, errors)| K8sError::together(&errors)).map(|error| warning(&error)).collect()
}

fn warning(error: &K8sError) -> Report {
    Report { severity: Severity::Warning, ..error.report() }
}

/// A row of the list.
pub(super) fn row(context: &Context, listed: &Listed) -> ClusterInfo {
    let facts = &listed.view.facts;
    let mut logins = facts.logins.clone();
    logins.sort_by_key(|login| login.kind);
    // A role that only its Secret names is left out: lists read no Secrets of operators.
    let mut roles: Vec<String> = Vec::new();
    for role in logins.into_iter().filter_map(|login| login.role) {
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    let Shown { primary, replicas, ready, status } = shown(listed);
    ClusterInfo {
        id: listed.view.id(context.name()),
        system: facts.flavor.unwrap_or_else(|| listed.view.system.name()).into(),
        primary,
        replicas,
        ready,
        status,
        databases: facts.databases.clone(),
        roles,
        logins: listed.also.clone(),
    }
}

struct Shown {
    primary: Option<String>,
    replicas: (usize, usize),
    ready: bool,
    status: String,
}

fn plain(primary: Option<String>, replicas: (usize, usize), ready: bool, status: &str) -> Shown {
    Shown { primary, replicas, ready, status: status.to_owned() }
}

/// What the cluster's own object tells, else its Service's endpoints, else its pods.
fn shown(listed: &Listed) -> Shown {
    let (view, facts) = (&listed.view, &listed.view.facts);
    if facts.broken.is_some() {
        return plain(None, (0, 0), false, "unusable");
    }
    if let Some(halt) = &facts.halt {
        return plain(None, (0, facts.instances.saturating_sub(1)), false, halt.state);
    }
    if let Some(host) = outside(listed) {
        return plain(Some(host), (0, 0), true, "external");
    }
    if let Some(Away::NotFollowed) = listed.away {
        return plain(None, (0, 0), false, "ExternalName, not followed");
    }
    if let Some(pods) = &listed.endpoints {
        let mut serving = pods.iter().filter(|pod| pod.serves());
        let name = serving.next().map(|pod| pod.metadata.name.to_string());
        let (others, ready) = (serving.count(), name.is_some());
        let status = if ready { "ready" } else { "no endpoints" };
        return plain(name, (others, pods.len().saturating_sub(1)), ready, status);
    }
    if let Some(ready) = facts.ready {
        let status = if ready > 0 { "ready" } else { "no ready pod" };
        let replicas = (ready.saturating_sub(1), facts.instances.saturating_sub(1));
        let only = || view.pods.iter().find(|pod| pod.serves()).map(|pod| pod.metadata.name.to_string());
        let primary = facts.first_pod.clone().or_else(only);
        return plain(primary.filter(|_| ready > 0), replicas, ready > 0, status);
    }
    if view.system.pod_labels().is_none() {
        return plain(None, (0, 0), false, "unknown");
    }
    as_its_pods(view)
}

/// The hosts of servers outside Kubernetes.
fn outside(listed: &Listed) -> Option<String> {
    match (&listed.view.facts.members, &listed.away, listed.endpoints.as_deref()) {
        (Members::External(servers), _, _) => {
            let hosts: Vec<&str> = servers.iter().map(|(host, _)| host.as_str()).collect();
            Some(hosts.join(","))
        }
        (_, Some(Away::Outside(host)), _) | (Members::Service { outside: Some(host), .. }, None, Some([])) => {
            Some(host.clone())
        }
        _ => None,
    }
}

fn as_its_pods(view: &View) -> Shown {
    let (ready, status) = match view.choose(Mode::Rw, Preference::default()) {
        Choice::Pod(_) if view.is_standby() => (true, "ready (replica cluster)".to_owned()),
        Choice::Pod(_) => (true, "ready".to_owned()),
        Choice::Never(report) if report.message.contains("fenced") => (false, "fenced".to_owned()),
        Choice::Never(_) => (false, "not serving".to_owned()),
        Choice::Wait(_) => (false, "no ready primary".to_owned()),
    };
    let members = view.facts.instances.max(view.pods.len());
    Shown {
        primary: view.primary_pod().map(|pod| pod.metadata.name.to_string()),
        replicas: (view.replicas(None).len(), members.saturating_sub(1)),
        ready,
        status,
    }
}
