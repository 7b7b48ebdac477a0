//! PostgreSQL without an operator: StatefulSets and Deployments of the official image
//! (<https://github.com/docker-library/docs/tree/master/postgres>) or one like it, and Bitnami's charts postgresql and
//! postgresql-ha (<https://github.com/bitnami/charts>). The environment of their containers says who logs in.

use serde_json::Value;

use super::{
    facts::POSTGRES,
    facts::{CaSource, Facts, Members, Port, Tls},
    leader::Leader,
    login::{Hidden, KeyOf, Keys, LoginKind, LoginSource, Part},
    system::{Labels, Member, PodLabels, Rank, System, SystemRef},
};
use crate::k8s::api::{
    names::{ObjectName, Reference, is_label_value},
    objects::{Object, Pod, text},
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

/// What images of servers are called, and what images beside them are.
const SERVERS: [&str; 6] = ["postgres", "postgis", "timescale", "pgvector", "paradedb", "pgvecto"];
const BESIDE: [&str; 10] =
    ["exporter", "bouncer", "pgpool", "pgadmin", "operator", "backup", "odyssey", "postgrest", "pgcat", "-meta"];
/// A container with one of these is a client.
const CLIENTS: [&str; 4] = ["POSTGRES_HOST", "PGHOST", "DB_HOST", "POSTGRESQL_HOST"];
const USER: [&str; 2] = ["POSTGRES_USER", "POSTGRESQL_USERNAME"];
const PASSWORD: [&str; 2] = ["POSTGRES_PASSWORD", "POSTGRESQL_PASSWORD"];
const SUPERUSER_PASSWORD: [&str; 2] = ["POSTGRES_POSTGRES_PASSWORD", "POSTGRESQL_POSTGRES_PASSWORD"];
const DATABASE: [&str; 3] = ["POSTGRES_DB", "POSTGRES_DATABASE", "POSTGRESQL_DATABASE"];

/// A container and the pod template around it.
struct Container<'a> {
    container: &'a Value,
    template: &'a Value,
}

/// Where a variable's value is.
enum Variable {
    Literal(String),
    /// In the first of these that has the key.
    In(Vec<KeyOf>),
}

impl<'a> Container<'a> {
    /// The one that runs the server.
    fn server(template: &'a Value) -> Option<Self> {
        let containers = template.pointer("/spec/containers").and_then(Value::as_array)?;
        containers.iter().map(|container| Self { container, template }).find(Self::is_server)
    }

    fn is_server(&self) -> bool {
        let image = self.image();
        if BESIDE.iter().any(|word| image.contains(word)) || CLIENTS.iter().any(|name| self.has(name)) {
            return false;
        }
        let listens = self.ports().any(|(_, port)| port == super::facts::PORT);
        // Without a password, or word that none is wanted, the official image does not start.
        let told = PASSWORD.iter().chain(&USER).chain(&["POSTGRES_HOST_AUTH_METHOD", "ALLOW_EMPTY_PASSWORD"]);
        let told = told.into_iter().any(|name| self.has(name) || self.has(&format!("{name}_FILE")))
            || self.items("/envFrom").next().is_some();
        told && (listens || SERVERS.iter().any(|word| image.contains(word)))
    }

    /// The image's last part, without registry and tag.
    fn image(&self) -> &'a str {
        self.reference().split([':', '@']).next().unwrap_or_default()
    }

    /// The image's tag; empty where it has none.
    fn tag(&self) -> &'a str {
        let tagged = self.reference().split('@').next().and_then(|image| image.split_once(':'));
        tagged.map(|(_, tag)| tag).unwrap_or_default()
    }

    /// The image without its registry.
    fn reference(&self) -> &'a str {
        text(self.container, "/image").unwrap_or_default().rsplit('/').next().unwrap_or_default()
    }

    fn ports(&self) -> impl Iterator<Item = (&'a str, u16)> {
        let ports = self.container.pointer("/ports").and_then(Value::as_array);
        ports.into_iter().flatten().filter_map(|port| {
            let number = port.get("containerPort").and_then(Value::as_u64)?.try_into().ok()?;
            Some((text(port, "/name").unwrap_or_default(), number))
        })
    }

    fn port(&self) -> u16 {
        let named = ["POSTGRESQL_PORT_NUMBER", "PGPORT"].iter().find_map(|name| match self.variable(name) {
            Some(Variable::Literal(port)) => port.parse().ok(),
            _ => None,
        });
        named
            .or_else(|| self.ports().find(|(name, _)| name.contains("postgres")).map(|(_, port)| port))
            .unwrap_or(super::facts::PORT)
    }

    fn items(&self, pointer: &str) -> impl Iterator<Item = &'a Value> {
        self.container.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
    }

    fn has(&self, name: &str) -> bool {
        self.items("/env").any(|entry| text(entry, "/name") == Some(name))
    }

    /// The first of these variables that is set, directly or as a file.
    fn first(&self, names: &[&str]) -> Option<Variable> {
        let own = names.iter().find_map(|name| {
            let variable = if self.has(name) { self.variable(name) } else { None };
            variable.or_else(|| self.file(&format!("{name}_FILE")))
        });
        own.or_else(|| names.iter().find_map(|name| self.among_all(name)))
    }

    fn variable(&self, name: &str) -> Option<Variable> {
        let Some(entry) = self.items("/env").find(|entry| text(entry, "/name") == Some(name)) else {
            return self.among_all(name);
        };
        let reference = |kind: &str| {
            let reference = entry.pointer(&format!("/valueFrom/{kind}"))?;
            let name = Reference::new(text(reference, "/name")?, format!("{name}.valueFrom.{kind}.name"));
            Some((name, text(reference, "/key")?.to_owned()))
        };
        if let Some((secret, key)) = reference("secretKeyRef") {
            return Some(Variable::In(vec![KeyOf::Secret(secret, key)]));
        }
        if let Some((map, key)) = reference("configMapKeyRef") {
            return Some(Variable::In(vec![KeyOf::ConfigMap(map, key)]));
        }
        let value = text(entry, "/value")?;
        // `$(OTHER)` is another variable, and never this one again.
        match value.strip_prefix("$(").and_then(|rest| rest.strip_suffix(')')) {
            Some(other) if other != name && !other.contains('$') => self.variable(other),
            _ => Some(Variable::Literal(value.to_owned())),
        }
    }

    /// All keys of a Secret or ConfigMap, with a prefix. Whether it has this one shows when it is read; the later wins.
    fn among_all(&self, name: &str) -> Option<Variable> {
        let place = |from: &Value| {
            let key = name.strip_prefix(text(from, "/prefix").unwrap_or_default())?.to_owned();
            match (text(from, "/secretRef/name"), text(from, "/configMapRef/name")) {
                (Some(secret), _) => Some(KeyOf::Secret(Reference::new(secret, "envFrom[].secretRef.name"), key)),
                (None, map) => Some(KeyOf::ConfigMap(Reference::new(map?, "envFrom[].configMapRef.name"), key)),
            }
        };
        let mut places: Vec<KeyOf> = self.items("/envFrom").filter_map(place).collect();
        places.reverse();
        (!places.is_empty()).then_some(Variable::In(places))
    }

    /// A variable that names a file, which a volume holds.
    fn file(&self, name: &str) -> Option<Variable> {
        // Only one that is set by itself: anything may or may not be among all keys of a Secret.
        if !self.has(name) {
            return None;
        }
        match self.variable(name)? {
            Variable::Literal(path) => {
                self.mounted(&path).map(|(secret, key)| Variable::In(vec![KeyOf::Secret(secret, key)]))
            }
            Variable::In(_) => None,
        }
    }

    /// The Secret and key that are mounted at a path.
    fn mounted(&self, path: &str) -> Option<(Reference, String)> {
        self.items("/volumeMounts").find_map(|mount| {
            let inside = path.strip_prefix(text(mount, "/mountPath")?.trim_end_matches('/'))?;
            let inside = match (inside.strip_prefix('/'), text(mount, "/subPath")) {
                (Some(inside), _) => inside,
                (None, Some(sub)) if inside.is_empty() => sub,
                _ => return None,
            };
            let volumes = self.template.pointer("/spec/volumes").and_then(Value::as_array)?;
            let volume = volumes.iter().find(|volume| text(volume, "/name") == text(mount, "/name"))?;
            let projected = volume.pointer("/projected/sources").and_then(Value::as_array).into_iter().flatten();
            let secrets = volume.get("secret").into_iter().chain(projected.filter_map(|source| source.get("secret")));
            secrets.into_iter().find_map(|secret| {
                let name = text(secret, "/secretName").or_else(|| text(secret, "/name"))?;
                let items = secret.get("items").and_then(Value::as_array);
                let item = items.into_iter().flatten().find(|item| text(item, "/path") == Some(inside));
                let key = match (items, item) {
                    (None, _) => inside,
                    (Some(_), item) => text(item?, "/key")?,
                };
                Some((Reference::new(name, "volumes[].secret.secretName"), key.to_owned()))
            })
        })
    }
}

const BITNAMI: &str = "bitnami";
const BITNAMI_HA: &str = "bitnami-ha";

/// What a chart's labels say, where a chart made it.
struct Chart {
    flavor: &'static str,
    /// The cluster's name, as the chart makes it of the release's.
    name: ObjectName,
    release: Option<String>,
    selector: Option<String>,
    replicated: bool,
}

fn chart(object: &Object) -> Option<Chart> {
    let meta = &object.metadata;
    let release = meta.label("app.kubernetes.io/instance");
    let component = meta.label("app.kubernetes.io/component");
    let release = release.filter(|release| is_label_value(release));
    let strip = |suffix: &str| {
        let stripped = meta.name.strip_suffix(suffix).and_then(|name| ObjectName::parse(name).ok());
        stripped.unwrap_or_else(|| meta.name.clone())
    };
    match (meta.label("app.kubernetes.io/name")?, component) {
        ("postgresql", Some(component @ ("primary" | "read"))) => Some(Chart {
            flavor: BITNAMI,
            name: strip(&format!("-{component}")),
            release: release.map(str::to_owned),
            selector: release.map(|release| {
                format!(
                    "app.kubernetes.io/name=postgresql,app.kubernetes.io/instance={release},\
                     app.kubernetes.io/component in (primary,read)"
                )
            }),
            replicated: true,
        }),
        ("postgresql-ha", Some("postgresql")) => Some(Chart {
            flavor: BITNAMI_HA,
            name: strip("-postgresql"),
            release: release.map(str::to_owned),
            selector: None,
            replicated: false,
        }),
        _ => None,
    }
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

/// The logins that a container's environment tells.
fn logins(server: &Container<'_>, bitnami: bool) -> (Vec<LoginSource>, Option<String>) {
    let name = match server.first(&USER) {
        Some(Variable::Literal(name)) => Some(name),
        Some(Variable::In(_)) => None,
        None => Some(POSTGRES.to_owned()),
    };
    let user = part(server.first(&USER), Some(POSTGRES));
    let database = match server.first(&DATABASE) {
        Some(Variable::Literal(database)) => Some(database),
        _ => None,
    };
    let database_part = match server.first(&DATABASE) {
        // What is not there is called as the user.
        Some(Variable::In(places)) => Part::In(places, Some(String::new())),
        _ => Part::Absent,
    };
    // The official image's user is a superuser, whatever its name. Bitnami's is not.
    let owner = bitnami && name.as_deref() != Some(POSTGRES);
    let kind = if owner { LoginKind::Application } else { LoginKind::Superuser };
    let default = database.clone().or_else(|| name.clone()).unwrap_or_default();
    let mut all = vec![source(kind, (name.as_deref(), user), server.first(&PASSWORD), database_part, &default)];
    if let Some(password) = server.first(&SUPERUSER_PASSWORD).filter(|_| owner) {
        let user = Part::Fixed(POSTGRES.to_owned());
        all.push(source(LoginKind::Superuser, (Some(POSTGRES), user), Some(password), Part::Absent, POSTGRES));
    }
    let shown = database.or(name).filter(|database| database != POSTGRES);
    (all, shown)
}

fn part(variable: Option<Variable>, or: Option<&str>) -> Part {
    let or = or.map(str::to_owned);
    match variable {
        Some(Variable::Literal(value)) => Part::Fixed(value),
        Some(Variable::In(places)) => Part::In(places, or),
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
    let (secret, password) = match password {
        Some(Variable::In(places)) => match places.as_slice() {
            [KeyOf::Secret(secret, key)] => (Some(secret.clone()), Part::key(key)),
            // A Secret that is read for one part is not read again for another.
            places => {
                let secret = places.iter().find_map(|place| match place {
                    KeyOf::Secret(secret, _) => Some(secret.clone()),
                    KeyOf::ConfigMap(..) => None,
                });
                (secret, Part::In(places.to_vec(), None))
            }
        },
        Some(Variable::Literal(password)) => (None, Part::Plain(Hidden(password.into()))),
        None => (None, Part::Absent),
    };
    LoginSource::new(kind, role, secret, Keys::Named { user, password, database: database_part }, database)
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
        let chart = chart(object);
        let own = object.selector("/selector/matchLabels")?;
        let name = chart.as_ref().map_or(&object.metadata.name, |chart| &chart.name);
        let (logins, database) = logins(&server, chart.is_some());
        let instances = object.number("/replicas").unwrap_or(1);
        let ca = server.first(&["POSTGRESQL_TLS_CA"]).and_then(|ca| match ca {
            Variable::In(places) => places.into_iter().find_map(|place| match place {
                KeyOf::Secret(secret, key) => Some(CaSource::Secret(secret, key)),
                KeyOf::ConfigMap(..) => None,
            }),
            Variable::Literal(_) => None,
        });
        let selector = chart.as_ref().and_then(|chart| chart.selector.clone()).unwrap_or(own);
        let replicated = chart.as_ref().is_some_and(|chart| chart.replicated);
        let facts = Facts::of(object, name, Members::Selected(selector));
        let fixed = self.resource == STATEFUL_SETS && (replicated || instances == 1);
        let is_reader = object.metadata.label("app.kubernetes.io/component") == Some("read");
        let aliases = chart.as_ref().and_then(|chart| chart.release.clone()).into_iter().collect();
        Some(Facts {
            flavor: chart.as_ref().map(|chart| chart.flavor),
            port: Port::Number(server.port()),
            // A chart's label never moves; elsewhere only the servers know.
            leader: if replicated { Leader::Unsaid } else { Leader::Ask },
            halt: facts
                .halt
                .clone()
                .or_else(|| super::system::scaled_to_zero(&self.resource, object, instances, "replicas")),
            tls: Tls { ca: ca.into_iter().collect(), ..Tls::default() },
            md5: super::system::keeps_md5(server.tag()),
            logins,
            databases: database.into_iter().collect(),
            instances: instances.try_into().unwrap_or(1),
            ready: Some(
                object.status.pointer("/readyReplicas").and_then(Value::as_u64).unwrap_or(0).try_into().unwrap_or(0),
            ),
            pod_prefix: (self.resource == STATEFUL_SETS).then(|| format!("{}-", object.metadata.name)),
            first_pod: (fixed && !is_reader).then(|| format!("{}-0", object.metadata.name)),
            aliases,
            services: services(object, name, chart.is_some()),
            ..facts
        })
    }

    fn member(&self, facts: &Facts, pod: &Pod) -> Member {
        match (facts.leader == Leader::Unsaid, pod.metadata.label("app.kubernetes.io/component")) {
            (true, Some("read")) => Member::Replica,
            _ => Member::Primary,
        }
    }
}

#[cfg(test)]
#[path = "workloads_tests.rs"]
mod tests;
