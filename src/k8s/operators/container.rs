//! What the container of a server says in its environment, read as Kubernetes reads it: `$(OTHER)` is a variable that was
//! set before (<https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/>).

use std::collections::BTreeMap;

use serde_json::Value;

use super::login::{KeyOf, Part};
use crate::k8s::api::{names::Reference, objects::text};

/// What images of servers are called, and what images beside them are.
const SERVERS: [&str; 6] = ["postgres", "postgis", "timescale", "pgvector", "paradedb", "pgvecto"];
const BESIDE: [&str; 10] =
    ["exporter", "bouncer", "pgpool", "pgadmin", "operator", "backup", "odyssey", "postgrest", "pgcat", "-meta"];
/// A container with one of these is a client.
const CLIENTS: [&str; 4] = ["POSTGRES_HOST", "PGHOST", "DB_HOST", "POSTGRESQL_HOST"];
/// The official image's, Bitnami's and `sclorg`'s names.
pub(super) const USER: [&str; 3] = ["POSTGRES_USER", "POSTGRESQL_USERNAME", "POSTGRESQL_USER"];
pub(super) const PASSWORD: [&str; 2] = ["POSTGRES_PASSWORD", "POSTGRESQL_PASSWORD"];
pub(super) const SUPERUSER_PASSWORD: [&str; 3] =
    ["POSTGRES_POSTGRES_PASSWORD", "POSTGRESQL_POSTGRES_PASSWORD", "POSTGRESQL_ADMIN_PASSWORD"];
pub(super) const DATABASE: [&str; 3] = ["POSTGRES_DB", "POSTGRES_DATABASE", "POSTGRESQL_DATABASE"];
/// The longest text that variables make of each other: each may double the one before it. No password is longer.
const LONGEST_VALUE: usize = 65_535;
/// The most parts of a value that are read from elsewhere; each is a request.
const MOST_PARTS: usize = 8;

/// A container and the pod template around it.
pub(super) struct Container<'a> {
    json: &'a Value,
    template: &'a Value,
    /// What it sets itself; `None` is what cannot be known without the pod.
    variables: BTreeMap<&'a str, Option<Variable>>,
}

/// Where a variable's value is.
#[derive(Clone, Debug)]
pub(super) enum Variable {
    Literal(String),
    /// In the first of these that has the key.
    In(Vec<KeyOf>),
    /// One behind the other.
    Joined(Vec<Part>),
}

impl<'a> Container<'a> {
    /// The one that runs the server.
    pub(super) fn server(template: &'a Value) -> Option<Self> {
        let containers = template.pointer("/spec/containers").and_then(Value::as_array)?;
        let of = |json| Self { json, template, variables: BTreeMap::new() };
        let mut server = containers.iter().map(of).find(Self::is_server)?;
        for entry in items(server.json, "/env") {
            if let Some(name) = text(entry, "/name") {
                let value = server.value(name, entry);
                server.variables.insert(name, value);
            }
        }
        Some(server)
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
    pub(super) fn tag(&self) -> &'a str {
        super::system::tag(text(self.json, "/image").unwrap_or_default())
    }

    /// The image without its registry.
    fn reference(&self) -> &'a str {
        text(self.json, "/image").unwrap_or_default().rsplit('/').next().unwrap_or_default()
    }

    fn ports(&self) -> impl Iterator<Item = (&'a str, u16)> {
        self.items("/ports").filter_map(|port| {
            let number = port.get("containerPort").and_then(Value::as_u64)?.try_into().ok()?;
            Some((text(port, "/name").unwrap_or_default(), number))
        })
    }

    pub(super) fn port(&self) -> u16 {
        let named = ["POSTGRESQL_PORT_NUMBER", "PGPORT"].iter().find_map(|name| match self.variable(name) {
            Some(Variable::Literal(port)) => port.parse().ok(),
            _ => None,
        });
        named
            .or_else(|| self.ports().find(|(name, _)| name.contains("postgres")).map(|(_, port)| port))
            .unwrap_or(super::facts::PORT)
    }

    fn items(&self, pointer: &str) -> impl Iterator<Item = &'a Value> {
        items(self.json, pointer)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }

    fn names(&self) -> impl Iterator<Item = &'a str> {
        self.items("/env").filter_map(|entry| text(entry, "/name"))
    }

    /// Whether its image is not the official one but Bitnami's, or `sclorg`'s, whose user is no superuser.
    pub(super) fn makes_owners(&self) -> bool {
        let image = text(self.json, "/image").unwrap_or_default();
        image.contains("bitnami") || self.names().any(|name| name.starts_with("POSTGRESQL_"))
    }

    /// The first of these variables that is set, directly or as a file.
    pub(super) fn first(&self, names: &[&str]) -> Option<Variable> {
        // What is empty is as good as unset to all images.
        let is_set = |variable: &Variable| !matches!(variable, Variable::Literal(text) if text.is_empty());
        let own = names.iter().find_map(|name| {
            let variable = self.variables.get(name).cloned().flatten();
            variable.filter(is_set).or_else(|| self.file(&format!("{name}_FILE")))
        });
        own.or_else(|| names.iter().find_map(|name| self.among_all(name)).map(Variable::In))
    }

    pub(super) fn variable(&self, name: &str) -> Option<Variable> {
        let own = self.variables.get(name).cloned();
        own.unwrap_or_else(|| self.among_all(name).map(Variable::In))
    }

    /// What an entry sets its variable to; those before it are known.
    fn value(&self, name: &str, entry: &Value) -> Option<Variable> {
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
        match entry.get("valueFrom") {
            Some(from) if !from.is_null() => None,
            _ => self.expanded(text(entry, "/value").unwrap_or_default()),
        }
    }

    /// A value with its references: `$$` is a dollar sign, and what was not set before stays as it is written.
    fn expanded(&self, mut rest: &str) -> Option<Variable> {
        let (mut parts, mut literal) = (Vec::new(), String::new());
        while let Some((before, behind)) = rest.split_once('$') {
            literal.push_str(before);
            let named = behind.strip_prefix('(').and_then(|behind| behind.split_once(')'));
            rest = match (behind.strip_prefix('$'), named) {
                (Some(behind), _) => {
                    literal.push('$');
                    behind
                }
                (None, Some((name, behind))) => {
                    self.refer(name, &mut literal, &mut parts)?;
                    behind
                }
                (None, None) => {
                    literal.push('$');
                    behind
                }
            };
        }
        literal.push_str(rest);
        if literal.len() > LONGEST_VALUE || parts.len() > MOST_PARTS {
            return None;
        }
        if parts.is_empty() {
            return Some(Variable::Literal(literal));
        }
        if !literal.is_empty() {
            parts.push(Part::Fixed(literal));
        }
        Some(match parts.as_slice() {
            [Part::In(places, None)] => Variable::In(places.clone()),
            _ => Variable::Joined(parts),
        })
    }

    /// Another variable in the midst of a value. `None` where what it holds cannot be known.
    fn refer(&self, name: &str, literal: &mut String, parts: &mut Vec<Part>) -> Option<()> {
        let as_written = format!("$({name})");
        let more = match (self.variables.get(name), self.among_all(name)) {
            (Some(known), _) => match known.clone()? {
                Variable::Literal(text) => {
                    literal.push_str(&text);
                    Vec::new()
                }
                Variable::In(places) => vec![Part::In(places, None)],
                Variable::Joined(parts) => parts,
            },
            (None, Some(places)) => vec![Part::In(places, Some(as_written))],
            (None, None) => {
                literal.push_str(&as_written);
                Vec::new()
            }
        };
        if literal.len() > LONGEST_VALUE || parts.len() + more.len() > MOST_PARTS {
            return None;
        }
        if !more.is_empty() {
            if !literal.is_empty() {
                parts.push(Part::Fixed(std::mem::take(literal)));
            }
            parts.extend(more);
        }
        Some(())
    }

    /// All keys of a Secret or ConfigMap, with a prefix. Whether it has this one shows when it is read; the later wins.
    fn among_all(&self, name: &str) -> Option<Vec<KeyOf>> {
        let place = |from: &Value| {
            let key = name.strip_prefix(text(from, "/prefix").unwrap_or_default())?.to_owned();
            match (text(from, "/secretRef/name"), text(from, "/configMapRef/name")) {
                (Some(secret), _) => Some(KeyOf::Secret(Reference::new(secret, "envFrom[].secretRef.name"), key)),
                (None, map) => Some(KeyOf::ConfigMap(Reference::new(map?, "envFrom[].configMapRef.name"), key)),
            }
        };
        let mut places: Vec<KeyOf> = self.items("/envFrom").filter_map(place).collect();
        places.reverse();
        (!places.is_empty()).then_some(places)
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
            Variable::In(_) | Variable::Joined(_) => None,
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

/// The entries of a list in a container.
fn items<'a>(container: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    container.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}
