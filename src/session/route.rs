//! What a name means: from the startup packet to a target, a role and a database. Pure; the README's table of
//! names is this file's rules, in this order, first match wins.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    route_error::RouteError,
    target::{Mistake, divide, parse_target},
};
use crate::{
    pg::{options::Own, startup::Startup},
    upstream::{Form, Role, Target},
};

/// Databases that every GUI, `createdb` and `psql -l` open by default, so that a bare one never means a cluster.
const NEVER_TARGETS: [&str; 3] = ["postgres", "template0", "template1"];

/// Our own option in the startup packet's `options`, without the prefix `pgferry.`.
pub(super) const TARGET_OPTION: &str = "target";

/// Why the client connects, likewise.
pub(super) const REASON_OPTION: &str = "reason";

/// The configured part of naming.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// By database name.
    pub aliases: BTreeMap<String, Alias>,
    /// The operating-system user who runs pgferry: clients send it where the person typed no user.
    pub os_user: Option<String>,
    /// Whether a client that names no cluster means the only one there is.
    pub single: bool,
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
    /// Where the packet says so.
    pub form: Form,
    /// What the same text means if a context that is not known were: said where `target` does not exist.
    pub otherwise: Option<Target>,
}

impl Alias {
    /// Where it leads, and into which database.
    ///
    /// # Errors
    /// Where the configuration names no target.
    pub fn parse(&self) -> Result<(Target, Option<&str>), Mistake> {
        let (target, database) = divide(&self.means);
        Ok((Target { system: self.system.clone(), ..parse_target(target)? }, database))
    }
}

/// A packet that leads nowhere, and where in it the target would stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoRoute {
    /// Why.
    pub error: Box<RouteError>,
    /// Where the target would stand.
    pub form: Form,
}

impl NoRoute {
    fn new(error: RouteError, form: Form) -> Self {
        Self { error: Box::new(error), form }
    }
}

/// `role@target`, divided.
struct UserTarget<'a> {
    role: &'a str,
    target: Target,
    otherwise: Option<Target>,
}

/// Divides `role@target` at the leftmost `@` whose right side is a target with a known context, or with none; else at the
/// leftmost whose right side is a target at all, so that its context is called unknown.
fn split_user<'a>(user: &'a str, knows_context: &dyn Fn(&str) -> bool) -> Option<UserTarget<'a>> {
    let mut unknown: Option<UserTarget<'a>> = None;
    for (at, _) in user.match_indices('@') {
        let (Some(role), Some(rest)) = (user.get(..at), user.get(at + 1..)) else { continue };
        let Ok(target) = parse_target(rest) else { continue };
        if target.context.as_deref().is_none_or(knows_context) {
            return Some(UserTarget { role, target, otherwise: unknown.map(|unknown| unknown.target) });
        }
        unknown = unknown.or(Some(UserTarget { role, target, otherwise: None }));
    }
    unknown
}

/// What is wrong behind the first `@` of a user that is no `role@target`.
fn user_mistake(user: &str, database: Option<&[u8]>) -> Option<NoRoute> {
    let (role, rest) = user.split_once('@')?;
    let mistake = parse_target(rest).err()?;
    let form = Form::User { role: role.to_owned(), database: database.map(lossy) };
    Some(NoRoute::new(RouteError::User { user: user.to_owned(), mistake }, form))
}

/// A startup parameter as text; names of clusters and roles in Secrets are UTF-8.
fn text<'a>(startup: &'a Startup, name: &str) -> Option<&'a str> {
    startup.get(name).and_then(|value| std::str::from_utf8(value).ok()).filter(|value| !value.is_empty())
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Applies the rules. `bound` is the target of the listener, where it has one; `own` are the packet's options that are
/// ours.
///
/// # Errors
/// Where the packet names no target.
pub fn route(
    startup: &Startup,
    own: &Own,
    bound: Option<&Target>,
    names: &Names,
    knows_context: &dyn Fn(&str) -> bool,
) -> Result<Route, NoRoute> {
    let user = text(startup, "user").unwrap_or_default();
    let given = startup.get("database").filter(|database| !database.is_empty());
    let database = given.map(Bytes::copy_from_slice);
    let beside_user = || database.clone().filter(|database| database != user.as_bytes());

    if let Some(name) = own.unknown([TARGET_OPTION, REASON_OPTION]) {
        return Err(NoRoute::new(RouteError::Option(name), Form::Nowhere));
    }
    if let Some(target) = bound {
        let role = role(user, target, names);
        let database = if role == Role::Default { beside_user() } else { database };
        return Ok(Route { target: target.clone(), database, role, form: Form::Bound, otherwise: None });
    }
    if let Some(UserTarget { role, target, otherwise }) = split_user(user, knows_context) {
        let database = beside_user();
        let form = Form::User { role: role.to_owned(), database: database.as_deref().map(lossy) };
        return Ok(Route { target, database, role: written_role(role, names), form, otherwise });
    }
    if let Some(value) = own.get(TARGET_OPTION) {
        let database = beside_user();
        let form = |user| Form::Option { user, database: database.as_deref().map(lossy) };
        let target =
            parse_target(&lossy(value)).map_err(|mistake| NoRoute::new(mistake.into(), form(chosen(user, names))))?;
        let role = role(user, &target, names);
        let form = form(named(&role));
        return Ok(Route { target, database, role, form, otherwise: None });
    }
    if let Some(mistake) = user_mistake(user, beside_user().as_deref()) {
        return Err(mistake);
    }
    // PostgreSQL's own default: no database means the one named like the user.
    let meant = database.unwrap_or_else(|| Bytes::copy_from_slice(user.as_bytes()));
    by_database(&lossy(&meant), user, is_replication(startup), names)
}

fn by_database(name: &str, user: &str, replication: bool, names: &Names) -> Result<Route, NoRoute> {
    let chosen = chosen(user, names);
    let form = if name == user { Form::Nowhere } else { Form::Database { user: chosen.clone(), database: None } };
    let no = |error| Err(NoRoute::new(error, form.clone()));
    if replication {
        return no(RouteError::Replication);
    }
    let alias = names.aliases.get(name);
    if name.is_empty() {
        return no(RouteError::Nothing);
    }
    if NEVER_TARGETS.contains(&name) && alias.is_none() {
        return no(RouteError::NeverTarget { database: name.to_owned(), user: chosen });
    }
    let bare = Alias { means: name.to_owned(), system: None };
    let (target, database) = match (alias.unwrap_or(&bare).parse(), alias) {
        (Ok(route), _) => route,
        (Err(_), Some(alias)) => return no(RouteError::Alias { alias: name.to_owned(), means: alias.means.clone() }),
        (Err(mistake), None) => return no(mistake.into()),
    };
    // A client that was given only a database sends it as the user too, or the alias as the person knows it.
    let role = if user == name { Role::Default } else { role(user, &target, names) };
    let form = match form {
        Form::Database { .. } => Form::Database { user: named(&role), database: database.map(str::to_owned) },
        form => form,
    };
    let database = database.map(|database| Bytes::copy_from_slice(database.as_bytes()));
    Ok(Route { target, database, role, form, otherwise: None })
}

/// A client that names no cluster, where there is one alone: the database passes through.
pub(super) fn only(startup: &Startup, target: Target, names: &Names) -> Route {
    let user = text(startup, "user").unwrap_or_default();
    let role = role(user, &target, names);
    let database = startup.get("database").filter(|database| !database.is_empty() && *database != user.as_bytes());
    let form = Form::Database { user: named(&role), database: None };
    Route { target, database: database.map(Bytes::copy_from_slice), role, form, otherwise: None }
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

/// The user, where a person chose one.
fn chosen(user: &str, names: &Names) -> Option<String> {
    named(&written_role(user, names))
}

fn named(role: &Role) -> Option<String> {
    match role {
        Role::Default => None,
        Role::Named(name) => Some(name.clone()),
    }
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
