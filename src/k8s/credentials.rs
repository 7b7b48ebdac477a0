//! Logins from Secrets: the seam's `Credentials`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use secrecy::SecretString;
use tokio::time::Instant;

use super::{
    choose::View,
    client::{Context, ListQuery},
    directory::Kubernetes,
    objects::{Custom, Secret},
    operators::{Facts, LoginKind, LoginSource},
    reads,
};
use crate::{
    error::{Report, SqlState},
    upstream::{Ask, Credentials, Failure, Login, Role, Upstream},
};

/// How long a role is left alone after two refusals with the same Secret: servers lock roles, and log every try.
const LEFT_ALONE: Duration = Duration::from_secs(30);

/// A login, as a key of what is remembered.
type Refused = (String, String);

/// Secrets whose passwords a server has refused, by their name and the role.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<Refused, Refusal>>);

#[derive(Clone, Debug)]
struct Refusal {
    version: String,
    at: Instant,
}

impl Refusals {
    /// Notes that the login was refused, and its Secret has not changed.
    fn note(&self, login: &Login) {
        let refusal = Refusal { version: login.version.clone(), at: Instant::now() };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, refusal| refusal.at.elapsed() < LEFT_ALONE);
        all.insert((login.source.clone(), login.user.clone()), refusal);
    }

    /// Refuses a login that was refused a moment ago.
    fn check(&self, login: &Login) -> Result<(), Report> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(refusal) = all.get(&(login.source.clone(), login.user.clone())) else {
            return Ok(());
        };
        let rest = LEFT_ALONE.saturating_sub(refusal.at.elapsed());
        if refusal.version != login.version || rest.is_zero() {
            return Ok(());
        }
        Err(Report::fatal(
            SqlState::INVALID_PASSWORD,
            format!("the server refused the password of {} in {}", login.user, login.source),
        )
        .detail(format!("It is not tried again for {} s, or until the Secret changes.", rest.as_secs() + 1))
        .hint("If the role's password was changed in the database, change it in the Secret too"))
    }
}

#[async_trait]
impl Credentials for Kubernetes {
    async fn login(&self, ask: &Ask, upstream: &Upstream) -> Result<Login, Failure> {
        let login = self.find_login(ask, upstream).await?;
        self.refusals.check(&login)?;
        Ok(login)
    }

    async fn fresh_login(&self, ask: &Ask, upstream: &Upstream, refused: &Login) -> Result<Option<Login>, Failure> {
        let login = self.find_login(ask, upstream).await?;
        if login.source == refused.source && login.version == refused.version {
            self.refusals.note(refused);
            return Ok(None);
        }
        Ok(Some(login))
    }
}

impl Kubernetes {
    async fn find_login(&self, ask: &Ask, upstream: &Upstream) -> Result<Login, Failure> {
        let context = self.contexts.get(Some(&upstream.cluster.context), &ask.identity, Some(&ask.progress)).await?;
        let seen = {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.get(&(ask.identity.clone(), upstream.cluster.clone())).cloned()
        };
        let view = if let Some(view) = seen {
            view
        } else {
            let operator = super::operators::all().into_iter().find(|known| known.system() == upstream.system);
            let place = (upstream.cluster.namespace.as_str(), upstream.cluster.name.as_str());
            let view = match operator {
                Some(operator) => reads::view(&context, operator, place, ask.deadline).await?,
                None => None,
            };
            Arc::new(view.ok_or_else(|| no_login(&upstream.cluster.to_string()))?)
        };
        match &ask.role {
            Role::Default => default_login(&context, &view.facts, ask.deadline).await,
            Role::Named(role) => named_login(&context, &view, role, ask.deadline).await,
        }
    }
}

/// The application's login; where there is none, another role's; a superuser's last.
async fn default_login(context: &Context, facts: &Facts, deadline: Instant) -> Result<Login, Failure> {
    let mut sources: Vec<&LoginSource> = facts.logins.iter().collect();
    sources.sort_by_key(|source| source.kind);
    let mut missing: Option<Failure> = None;
    for source in sources {
        match read(context, facts, source, deadline).await {
            Ok(Some(login)) => return Ok(login),
            // A Secret that should be there and is not: the next kind of login is looked for, and if there is none,
            // the first is what is reported.
            Ok(None) => missing = missing.or_else(|| Some(no_secret(facts, source).into())),
            Err(failure) => return Err(missing.unwrap_or(failure)),
        }
    }
    Err(missing.unwrap_or_else(|| no_login(&full(facts)).into()))
}

/// This role's login, or an error that says which roles have one.
async fn named_login(context: &Context, view: &View, role: &str, deadline: Instant) -> Result<Login, Failure> {
    let facts = &view.facts;
    let mut candidates: Vec<LoginSource> = facts
        .logins
        .iter()
        .filter(|source| source.role.as_deref().is_none_or(|known| known == role))
        .cloned()
        .collect();
    // One whose Secret names the role itself is looked into last.
    candidates.sort_by_key(|source| source.role.is_none());
    if candidates.iter().all(|source| source.role.is_none()) {
        candidates.extend(more_logins(context, view, role, deadline).await);
    }
    for source in &candidates {
        match read(context, facts, source, deadline).await? {
            Some(login) if login.user == role => return Ok(login),
            Some(login) if source.role.as_deref() == Some(role) => {
                return Err(Report::fatal(
                    SqlState::INVALID_AUTHORIZATION,
                    format!("{} holds the login of \"{}\", not of \"{role}\"", login.source, login.user),
                )
                .hint(format!("Correct its key {}", source.user_key))
                .into());
            }
            None if source.role.is_some() => return Err(no_secret(facts, source).into()),
            // A Secret whose role was not known before is another role's, or does not exist.
            Some(_) | None => {}
        }
    }
    let mut known: Vec<String> = Vec::new();
    for source in &facts.logins {
        match &source.role {
            Some(role) => known.push(role.clone()),
            None => known.extend(read(context, facts, source, deadline).await.ok().flatten().map(|login| login.user)),
        }
    }
    known.retain(|known| known != role);
    Err(no_role(&full(facts), role, &known).into())
}

/// Logins that the cluster's own resource does not name.
async fn more_logins(context: &Context, view: &View, role: &str, deadline: Instant) -> Vec<LoginSource> {
    let Some(resource) = view.operator.more_logins() else {
        return Vec::new();
    };
    let namespace = Some(view.facts.namespace.as_str());
    // An older operator has none, and a caller may not be allowed to look: then there are no more.
    let found = reads::list::<Custom>(context, resource, namespace, &ListQuery::default(), deadline).await;
    let objects = found.map(|(objects, _)| objects).unwrap_or_default();
    let sources = objects.iter().filter_map(|object| view.operator.more_login(&view.facts, object));
    sources.filter(|source| source.role.as_deref() == Some(role)).collect()
}

/// Reads one Secret; `None` where it does not exist.
async fn read(
    context: &Context,
    facts: &Facts,
    source: &LoginSource,
    deadline: Instant,
) -> Result<Option<Login>, Failure> {
    let Some(secret) = reads::get_secret(context, &facts.namespace, &source.secret, deadline).await? else {
        return Ok(None);
    };
    let user = text(&secret, facts, source, source.user_key)?.trim_end_matches(['\r', '\n']);
    let password = text(&secret, facts, source, source.password_key)?;
    // `*` is "any database" in a superuser's Secret.
    let database = secret.get(source.database_key).and_then(|value| std::str::from_utf8(value).ok());
    let database =
        database.map(|name| name.trim_end_matches(['\r', '\n'])).filter(|name| !name.is_empty() && *name != "*");
    Ok(Some(Login {
        user: user.to_owned(),
        password: Some(SecretString::from(password)),
        database: database.unwrap_or(&source.database).to_owned(),
        superuser: source.kind == LoginKind::Superuser,
        source: named(facts, source),
        version: format!("{}/{}", secret.metadata.uid, secret.metadata.resource_version),
    }))
}

/// A key that must be there, not empty, and text.
fn text<'a>(secret: &'a Secret, facts: &Facts, source: &LoginSource, key: &str) -> Result<&'a str, Report> {
    let broken = |what: &str| {
        Report::fatal(SqlState::INVALID_AUTHORIZATION, format!("{} {what} \"{key}\"", named(facts, source)))
            .hint(format!("See which keys it has: kubectl describe secret -n {} {}", facts.namespace, source.secret))
    };
    let value = secret.get(key).ok_or_else(|| broken("has no key"))?;
    if value.is_empty() {
        return Err(broken("has nothing in its key"));
    }
    std::str::from_utf8(value).map_err(|_| broken("has something that is no UTF-8 text in its key"))
}

fn named(facts: &Facts, source: &LoginSource) -> String {
    format!("Secret {}/{}", facts.namespace, source.secret)
}

fn full(facts: &Facts) -> String {
    format!("{}.{}", facts.name, facts.namespace)
}

fn no_secret(facts: &Facts, source: &LoginSource) -> Report {
    Report::fatal(
        SqlState::INVALID_AUTHORIZATION,
        format!("{}, which holds the login for cluster {}, does not exist", named(facts, source), full(facts)),
    )
    .hint(format!("See which there are: kubectl get secrets -n {}", facts.namespace))
}

fn no_role(cluster: &str, role: &str, known: &[String]) -> Report {
    let report = Report::fatal(
        SqlState::INVALID_AUTHORIZATION,
        format!("no login for role \"{role}\" in the Secrets of cluster {cluster}"),
    );
    match known {
        [] => report.hint("Leave the user name out to use the cluster's default login"),
        known => report.hint(format!("There are logins for: {}", known.join(", "))),
    }
}

fn no_login(cluster: &str) -> Report {
    Report::fatal(SqlState::INVALID_AUTHORIZATION, format!("cluster {cluster} has no Secret with a login"))
        .hint("Give a role a passwordSecret in the cluster's resource (spec.managed.roles), or enable superuser access")
}
