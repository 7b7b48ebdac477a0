//! What a name means: from the startup packet to a target, a role and a database. Pure; the README's table of
//! names is this file's rules, in this order, first match wins.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    error::{ClientFacing, Report, SqlState},
    pg::{options, startup::Startup},
    upstream::{Mode, Role, Target},
};

/// Databases that every GUI, `createdb` and `psql -l` open by default, so that a bare one never means a cluster.
const NEVER_TARGETS: [&str; 3] = ["postgres", "template0", "template1"];

/// Our own option in the startup packet's `options`, without the prefix `pgferry.`.
pub(super) const TARGET_OPTION: &str = "target";

/// The configured part of naming.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// By database name.
    pub aliases: BTreeMap<String, Alias>,
    /// The operating-system user who runs pgferry: clients send it where the person typed no user.
    pub os_user: Option<String>,
}

/// What a configured database name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// `target` or `target/dbname`.
    pub means: String,
    /// The system whose cluster is meant, where that matters.
    pub system: Option<String>,
}

/// Where a startup packet leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The target.
    pub target: Target,
    /// The database to open; `None` is the login's default.
    pub database: Option<Bytes>,
    /// The login that is wanted.
    pub role: Role,
}

/// A startup packet that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The name is no target at all.
    #[error("\"{0}\" does not name a cluster")]
    NotATarget(String),
    /// A database that is never a target.
    #[error("database \"{0}\" does not say which cluster is meant")]
    NeverTarget(String),
    /// Replication, with the target in the database.
    #[error("a replication connection must name its cluster in the user name")]
    Replication,
    /// An alias of the configuration leads nowhere.
    #[error("the alias \"{alias}\" means \"{means}\", which does not name a cluster")]
    Alias {
        /// The alias.
        alias: String,
        /// What the configuration says it means.
        means: String,
    },
}

impl ClientFacing for RouteError {
    fn report(&self) -> Report {
        let report = Report::fatal(SqlState::UNKNOWN_TARGET, self.to_string());
        match self {
            Self::NotATarget(_) => report.hint(
                "Write the database as CLUSTER, CLUSTER.NAMESPACE or CLUSTER.NAMESPACE@CONTEXT, optionally with :ro or \
                 /DBNAME behind it. Type: pgferry list",
            ),
            Self::NeverTarget(database) => report.hint(format!(
                "Write user=ROLE@CLUSTER to open the database {database} of a cluster, such as: psql -h localhost -U \
                 @CLUSTER {database}. For the list of clusters type: pgferry list"
            )),
            Self::Replication => report.hint("Write user=ROLE@CLUSTER, such as user=streaming@shop"),
            Self::Alias { alias, .. } => report
                .hint(format!("Correct names.aliases.{alias} in the configuration; to see it type: pgferry config")),
        }
    }
}

/// `cluster["."namespace]["@"context][":"mode]`, or `None` where the text has another shape.
#[must_use]
pub fn parse_target(text: &str) -> Option<Target> {
    let (rest, mode) = match text.rsplit_once(':') {
        None => (text, Mode::Rw),
        Some((rest, "rw")) => (rest, Mode::Rw),
        Some((rest, "ro")) => (rest, Mode::Ro),
        Some((rest, "any")) => (rest, Mode::Any),
        Some(_) => return None,
    };
    let (name, context) = match rest.split_once('@') {
        None => (rest, None),
        Some((_, "")) => return None,
        Some((name, context)) => (name, Some(context.to_owned())),
    };
    is_object_name(name).then(|| Target { name: name.to_owned(), context, mode, system: None })
}

/// A Kubernetes object name, or two of them with a dot between: DNS labels (RFC 1123) divided by dots.
fn is_object_name(text: &str) -> bool {
    text.len() <= 253 + 1 + 63
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// Divides `role@target` at the leftmost `@` whose right side is a target with a known context, or with none.
fn split_user<'a>(user: &'a str, knows_context: &dyn Fn(&str) -> bool) -> Option<(&'a str, Target)> {
    user.match_indices('@').find_map(|(at, _)| {
        let (role, rest) = (user.get(..at)?, user.get(at + 1..)?);
        let target = parse_target(rest)?;
        let known = target.context.as_deref().is_none_or(knows_context);
        known.then_some((role, target))
    })
}

/// A startup parameter as text; names of clusters and roles in Secrets are UTF-8.
fn text<'a>(startup: &'a Startup, name: &str) -> Option<&'a str> {
    startup.get(name).and_then(|value| std::str::from_utf8(value).ok()).filter(|value| !value.is_empty())
}

/// Applies the rules. `bound` is the target of the listener, where it has one.
///
/// # Errors
/// Where the packet names no target.
pub fn route(
    startup: &Startup,
    bound: Option<&Target>,
    names: &Names,
    knows_context: &dyn Fn(&str) -> bool,
) -> Result<Route, RouteError> {
    let user = text(startup, "user").unwrap_or_default();
    let given = startup.get("database").filter(|database| !database.is_empty());
    let database = given.map(Bytes::copy_from_slice);
    let beside_user = || database.clone().filter(|database| database != user.as_bytes());

    if let Some(target) = bound {
        let role = role(user, target, names);
        let database = if role == Role::Default { beside_user() } else { database };
        return Ok(Route { target: target.clone(), database, role });
    }
    if let Some((role_name, target)) = split_user(user, knows_context) {
        let role = written_role(role_name, names);
        return Ok(Route { target, database: beside_user(), role });
    }
    if let Some(value) = startup.get("options").and_then(|given| options::take_option(given, TARGET_OPTION).0) {
        let value = String::from_utf8_lossy(&value).into_owned();
        let target = parse_target(&value).ok_or(RouteError::NotATarget(value))?;
        let role = role(user, &target, names);
        return Ok(Route { target, database: beside_user(), role });
    }
    // PostgreSQL's own default: no database means the one named like the user.
    let meant = database.unwrap_or_else(|| Bytes::copy_from_slice(user.as_bytes()));
    by_database(&String::from_utf8_lossy(&meant), user, is_replication(startup), names)
}

fn by_database(name: &str, user: &str, replication: bool, names: &Names) -> Result<Route, RouteError> {
    if replication {
        return Err(RouteError::Replication);
    }
    if NEVER_TARGETS.contains(&name) && !names.aliases.contains_key(name) {
        return Err(RouteError::NeverTarget(name.to_owned()));
    }
    let alias = names.aliases.get(name);
    let full = alias.map_or(name, |alias| alias.means.as_str());
    let (target, database) = match full.split_once('/') {
        Some((target, database)) => (target, Some(Bytes::copy_from_slice(database.as_bytes()))),
        None => (full, None),
    };
    let mut target = parse_target(target).ok_or_else(|| match alias {
        Some(alias) => RouteError::Alias { alias: name.to_owned(), means: alias.means.clone() },
        None => RouteError::NotATarget(name.to_owned()),
    })?;
    target.system = alias.and_then(|alias| alias.system.clone());
    // A client that was given only a database sends it as the user too, or the alias as the person knows it.
    let role = if user == name { Role::Default } else { role(user, &target, names) };
    Ok(Route { target, database: database.filter(|database| !database.is_empty()), role })
}

/// Which login a user name asks for that stands alone: clients send the target's name where they were given no user.
fn role(user: &str, target: &Target, names: &Names) -> Role {
    let cluster = target.name.split('.').next().unwrap_or_default();
    if user == target.name || user == cluster { Role::Default } else { written_role(user, names) }
}

/// Which login `ROLE@` asks for: this role, also where it is called as the cluster; only names that no person chose for
/// the server mean the default.
fn written_role(user: &str, names: &Names) -> Role {
    let default = user.is_empty() || user == "pgferry" || names.os_user.as_deref() == Some(user);
    if default { Role::Default } else { Role::Named(user.to_owned()) }
}

/// Whether the packet asks for a walsender: any value but PostgreSQL's spellings of false.
pub(super) fn is_replication(startup: &Startup) -> bool {
    text(startup, "replication").is_some_and(|value| {
        let value = value.to_ascii_lowercase();
        !["0", "false", "off", "no", "f", "n", "of"].contains(&value.as_str())
    })
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
