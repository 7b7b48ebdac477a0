//! The login of a database's owner: what somebody wants who names a database and no role.

use crate::{
    error::Report,
    k8s::{
        api::{access::ListQuery, objects::Object},
        cluster::snapshot::View,
        credentials::{
            parts::{Logins, is_role},
            refusals::{no_secret, not_the_role},
        },
        operators::{
            facts::{OwnedDatabase, POSTGRES},
            login::{Keys, LoginKind, LoginSource},
        },
    },
    upstream::{Failure, Login},
};

/// Databases that every server has: nobody's application lives there, and no resource can stand for one.
const EVERYWHERE: [&str; 3] = [POSTGRES, "template0", "template1"];

/// The login of the role that owns a database. `None` where the system does not know the owner, or knows no login of its:
/// then the cluster's default is meant. A superuser owns nothing here that it would be preferred for.
///
/// # Errors
/// Where the owner's Secret cannot be used: nobody becomes another role because of that.
pub(super) async fn login(logins: &Logins<'_>, database: &str) -> Result<Option<Login>, Failure> {
    let View { system, facts, .. } = logins.view;
    // Only the configuration adds such a default to what an operator says: then that is the login.
    if facts.logins.first().is_some_and(|login| login.keys == Keys::Connection) {
        return Ok(None);
    }
    let owner = match facts.owner_of(database) {
        Some(owner) => Some(owner.to_owned()),
        None => declared_owner(logins, database).await,
    };
    let Some(owner) = owner.filter(|owner| !system.is_own_role(owner)) else { return Ok(None) };
    let is_owners = |source: &LoginSource| source.role.as_deref() == Some(&*owner);
    let mut sources: Vec<LoginSource> = facts.logins.iter().filter(|source| is_owners(source)).cloned().collect();
    if sources.is_empty() {
        sources = logins.more(&owner).await;
    }
    if sources.is_empty() || sources.iter().any(|source| source.kind == LoginKind::Superuser) {
        return Ok(None);
    }
    let mut missing: Option<Report> = None;
    for source in &sources {
        match logins.read(source).await? {
            Some(login) if is_role(&login.user, &owner, source) => return Ok(Some(login).filter(|it| !it.superuser)),
            Some(login) => return Err(not_the_role(&login, &owner).into()),
            None => missing = missing.or_else(|| Some(no_secret(facts, source))),
        }
    }
    // A replica cluster may lack its source's Secrets.
    missing.filter(|_| !facts.standby).map_or(Ok(None), |missing| Err(missing.into()))
}

/// What the operator's further resources say, where the cluster's own does not know the database.
async fn declared_owner(logins: &Logins<'_>, database: &str) -> Option<String> {
    let View { system, facts, .. } = logins.view;
    if EVERYWHERE.contains(&database) || facts.databases.iter().any(|known| known == database) {
        return None;
    }
    let resource = system.more_databases()?;
    let (namespace, query) = (Some(&facts.namespace), ListQuery::default());
    // An older operator has none, and a caller may not be allowed to look: then nobody owns it.
    let found = logins.reader.list::<Object>(&resource, namespace, &query).await;
    let (objects, _) = found.ok()?;
    let owned = objects.iter().filter_map(|object| system.more_database(facts, object));
    agreed(owned.filter(|owned| owned.database == database))
}

/// The owner that all name: of several none is preferred.
fn agreed(owned: impl Iterator<Item = OwnedDatabase>) -> Option<String> {
    let mut owners: Vec<String> = owned.map(|owned| owned.owner).collect();
    owners.dedup();
    owners.pop().filter(|_| owners.is_empty())
}
