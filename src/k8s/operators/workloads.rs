//! PostgreSQL without an operator: StatefulSets and Deployments of the official image
//! (<https://github.com/docker-library/docs/tree/master/postgres>) or one like it, and Bitnami's charts postgresql and
//! postgresql-ha (<https://github.com/bitnami/charts>). The environment of their containers says who logs in.

use serde_json::Value;

use super::{
    charts::{self, BITNAMI, BITNAMI_HA, Chart},
    container::{Container, DATABASE, PASSWORD, SUPERUSER_PASSWORD, USER, Variable},
    facts::POSTGRES,
    facts::{CaSource, Facts, Members, Port, Tls},
    leader::Leader,
    login::{Hidden, KeyOf, Keys, LoginKind, LoginSource, Part},
    system::{Labels, Member, PodLabels, Rank, System, SystemRef, keeps_md5, sized},
};
use crate::k8s::api::{
    names::ObjectName,
    objects::{Object, Pod},
    resource::{DEPLOYMENTS, Resource, STATEFUL_SETS},
};

/// Those that none of these operators looks after.
pub(super) fn stateful_sets(operators: Vec<SystemRef>) -> Workload {
    Workload { system: "statefulset", resource: STATEFUL_SETS.clone(), operators }
}

/// Those that none of these operators looks after.
pub(super) fn deployments(operators: Vec<SystemRef>) -> Workload {
    Workload { system: "deployment", resource: DEPLOYMENTS.clone(), operators }
}

#[derive(Debug)]
pub(super) struct Workload {
    system: &'static str,
    resource: Resource,
    operators: Vec<SystemRef>,
}

/// The Services that lead to it, by convention.
fn services(object: &Object, name: &str, chart: bool) -> Vec<String> {
    let suffixes: &[&str] = if chart {
        &["", "-hl", "-primary", "-primary-hl", "-read", "-read-hl", "-pgpool", "-postgresql", "-postgresql-headless"]
    } else {
        &[""]
    };
    let own = suffixes.iter().map(|suffix| format!("{name}{suffix}"));
    own.chain(object.spec("/serviceName").map(str::to_owned)).collect()
}

/// The logins that a container's environment tells, and the database that it has.
fn logins(server: &Container<'_>) -> (Vec<LoginSource>, Option<String>) {
    let (user, database) = (server.first(&USER), server.first(&DATABASE));
    let literal = |variable: &Option<Variable>| match variable {
        Some(Variable::Literal(text)) => Some(text.clone()),
        _ => None,
    };
    let name = if user.is_none() { Some(POSTGRES.to_owned()) } else { literal(&user) };
    let database_part = match &database {
        // What is not there is called as the user.
        Some(Variable::In(places)) => Part::In(places.clone(), Some(String::new())),
        Some(Variable::Joined(parts)) => Part::Joined(parts.clone()),
        _ => Part::Absent,
    };
    let database = literal(&database);
    // The official image's user is a superuser, whatever its name. Bitnami's is not.
    let owner = server.makes_owners() && name.as_deref() != Some(POSTGRES);
    let kind = if owner { LoginKind::Application } else { LoginKind::Superuser };
    let default = database.clone().or_else(|| name.clone()).unwrap_or_default();
    let user = part(user, Some(POSTGRES));
    let mut all = vec![source(kind, (name.as_deref(), user), server.first(&PASSWORD), database_part, &default)];
    if let Some(password) = server.first(&SUPERUSER_PASSWORD).filter(|_| owner) {
        let user = Part::Fixed(POSTGRES.to_owned());
        all.push(source(LoginKind::Superuser, (Some(POSTGRES), user), Some(password), Part::Absent, POSTGRES));
    }
    (all, database.or(name))
}

fn part(variable: Option<Variable>, or: Option<&str>) -> Part {
    let or = or.map(str::to_owned);
    match variable {
        Some(Variable::Literal(value)) => Part::Fixed(value),
        Some(Variable::In(places)) => Part::In(places, or),
        Some(Variable::Joined(parts)) => Part::Joined(parts),
        None => or.map_or(Part::Absent, Part::Fixed),
    }
}

fn source(
    kind: LoginKind,
    (role, user): (Option<&str>, Part),
    password: Option<Variable>,
    database_part: Part,
    database: &str,
) -> LoginSource {
    // A Secret that is read for one part is not read again for another.
    let first = |places: &[KeyOf]| {
        places.iter().find_map(|place| match place {
            KeyOf::Secret(secret, _) => Some(secret.clone()),
            KeyOf::ConfigMap(..) => None,
        })
    };
    let (secret, password) = match password {
        Some(Variable::In(places)) => match places.as_slice() {
            [KeyOf::Secret(secret, key)] => (Some(secret.clone()), Part::key(key)),
            places => (first(places), Part::In(places.to_vec(), None)),
        },
        Some(Variable::Joined(parts)) => {
            let secret =
                parts.iter().find_map(|part| if let Part::In(places, _) = part { first(places) } else { None });
            (secret, Part::Joined(parts))
        }
        Some(Variable::Literal(password)) => (None, Part::Plain(Hidden(password.into()))),
        None => (None, Part::Absent),
    };
    LoginSource::new(kind, role, secret, Keys::Named { user, password, database: database_part }, database)
}

/// Where the CA of Bitnami's image is mounted from.
fn ca(server: &Container<'_>) -> Option<CaSource> {
    let Variable::In(places) = server.first(&["POSTGRESQL_TLS_CA"])? else { return None };
    places.into_iter().find_map(|place| match place {
        KeyOf::Secret(secret, key) => Some(CaSource::Secret(secret, key)),
        KeyOf::ConfigMap(..) => None,
    })
}

impl System for Workload {
    fn name(&self) -> &'static str {
        self.system
    }

    fn flavors(&self) -> &'static [&'static str] {
        &[BITNAMI, BITNAMI_HA]
    }

    fn rank(&self) -> Rank {
        Rank::Workload
    }

    fn resource(&self) -> Resource {
        self.resource.clone()
    }

    fn pod_labels(&self) -> Option<PodLabels> {
        None
    }

    /// PgBouncer's charts and manifests call it so.
    fn is_pooler(&self, labels: &Labels) -> bool {
        ["app", "app.kubernetes.io/name"]
            .iter()
            .any(|name| labels.get(*name).is_some_and(|app| app.contains("bouncer")))
    }

    /// The name itself, and what the charts make of a release's name.
    fn object_names(&self, name: &ObjectName) -> Vec<ObjectName> {
        if self.resource == DEPLOYMENTS {
            return vec![name.clone()];
        }
        ["", "-postgresql", "-primary", "-postgresql-primary", "-postgresql-ha-postgresql"]
            .iter()
            .map(|suffix| name.with(suffix))
            .collect()
    }

    fn read(&self, object: &Object) -> Option<Facts> {
        let template = object.spec.pointer("/template")?;
        let labels = template.pointer("/metadata/labels").cloned().unwrap_or_default();
        let labels: Labels = serde_json::from_value(labels).unwrap_or_default();
        if self.operators.iter().any(|operator| operator.tends(&labels)) || !object.metadata.owner_references.is_empty()
        {
            return None;
        }
        let server = Container::server(template)?;
        let chart = charts::chart(object, &server);
        let own = object.selector("/selector/matchLabels")?;
        let name = chart.as_ref().map_or(&object.metadata.name, |chart| &chart.name);
        let is_reader = chart.is_some() && object.metadata.label(charts::COMPONENT) == Some(charts::READ);
        // A replica's environment does not name the database, and tells nothing else that the primary's does not.
        let (logins, database) = if is_reader { (Vec::new(), None) } else { logins(&server) };
        let selector = chart.as_ref().and_then(|chart| chart.selector.clone()).unwrap_or(own);
        let replicated = chart.as_ref().is_some_and(|chart| chart.replicated);
        let facts = sized(Facts::of(object, name, Members::Selected(selector)), &self.resource, object, "replicas");
        let fixed = self.resource == STATEFUL_SETS && (replicated || facts.instances == 1);
        let aliases = chart.as_ref().and_then(|chart: &Chart| chart.release.clone()).into_iter().collect();
        Some(Facts {
            flavor: chart.as_ref().map(|chart| chart.flavor),
            port: Port::Number(server.port()),
            // A chart's label never moves; elsewhere only the servers know.
            leader: if replicated { Leader::Unsaid } else { Leader::Ask },
            tls: Tls { ca: ca(&server).into_iter().collect(), ..Tls::default() },
            md5: keeps_md5(server.tag()),
            logins,
            databases: database.into_iter().collect(),
            ready: Some(
                object.status.pointer("/readyReplicas").and_then(Value::as_u64).unwrap_or(0).try_into().unwrap_or(0),
            ),
            pod_prefixes: (self.resource == STATEFUL_SETS)
                .then(|| format!("{}-", object.metadata.name))
                .into_iter()
                .collect(),
            first_pod: (fixed && !is_reader).then(|| format!("{}-0", object.metadata.name)),
            aliases,
            services: services(object, name, chart.is_some()),
            ..facts
        })
    }

    fn member(&self, facts: &Facts, pod: &Pod) -> Member {
        match (facts.leader == Leader::Unsaid, pod.metadata.label(charts::COMPONENT)) {
            (true, Some(charts::READ)) => Member::Replica,
            _ => Member::Primary,
        }
    }
}

#[cfg(test)]
#[path = "workloads_tests.rs"]
mod tests;
