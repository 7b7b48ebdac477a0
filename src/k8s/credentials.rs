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
    objects::{Data, Object},
    operators::{Facts, Keys, LoginKind, LoginSource, Part, SECRETS, connection, marked},
    reads,
};
use crate::{
    error::{Report, SqlState},
    upstream::{Ask, Credentials, Failure, Login, Role, Upstream},
};

/// How long a role is left alone after two refusals with the same Secret: servers lock roles, and log every try.
const LEFT_ALONE: Duration = Duration::from_secs(30);

/// PostgreSQL reads passwords of up to 64 KiB (`PG_MAX_AUTH_TOKEN_LENGTH`).
const LONGEST: usize = 65_535;

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
            let place = (upstream.cluster.namespace.as_str(), upstream.cluster.name.as_str());
            let view = match self.systems.named(&upstream.system) {
                Some(system) => reads::view(&context, &self.systems, system, place, ask.deadline).await?,
                None => None,
            };
            Arc::new(view.ok_or_else(|| no_login(&upstream.cluster.to_string()))?)
        };
        let logins = Logins { context: &context, view: &view, deadline: ask.deadline };
        match &ask.role {
            Role::Default => logins.default().await,
            Role::Named(role) => logins.named(role).await,
        }
    }
}

/// The logins of one cluster.
struct Logins<'a> {
    context: &'a Context,
    view: &'a View,
    deadline: Instant,
}

impl Logins<'_> {
    /// The application's login; where there is none, another role's; a superuser's last.
    async fn default(&self) -> Result<Login, Failure> {
        let facts = &self.view.facts;
        let mut sources: Vec<&LoginSource> = facts.logins.iter().collect();
        sources.sort_by_key(|source| source.kind);
        let mut missing: Option<Failure> = None;
        let mut listed = false;
        for source in sources {
            // Where the resource could not be read, Secrets that nothing names come before a superuser's.
            if source.kind == LoginKind::Superuser && facts.guessed && !listed {
                listed = true;
                if let Some(login) = self.only_listed().await? {
                    return Ok(login);
                }
            }
            match self.read(source).await {
                Ok(Some(login)) => return Ok(login),
                // The application's Secret should be there: nobody becomes another role because it is not.
                Ok(None) if source.kind == LoginKind::Application && !facts.standby && !facts.guessed => {
                    return Err(no_secret(facts, source).into());
                }
                // Else the next kind of login is looked for, and if there is none, the first is what is reported.
                Ok(None) => missing = missing.or_else(|| Some(no_secret(facts, source).into())),
                Err(failure) => return Err(missing.unwrap_or(failure)),
            }
        }
        if !listed && let Some(login) = self.only_listed().await? {
            return Ok(login);
        }
        Err(missing.unwrap_or_else(|| no_login(&facts.full()).into()))
    }

    /// This role's login, or an error that says which roles have one.
    async fn named(&self, role: &str) -> Result<Login, Failure> {
        let facts = &self.view.facts;
        let declared: Vec<&LoginSource> =
            facts.logins.iter().filter(|source| source.role.as_deref().is_none_or(|known| known == role)).collect();
        let mut candidates: Vec<LoginSource> = declared.into_iter().cloned().collect();
        // One whose Secret names the role itself is looked into last.
        candidates.sort_by_key(|source| source.role.is_none());
        let mut absent: Option<Report> = None;
        if candidates.iter().all(|source| source.role.is_none()) {
            candidates.extend(self.more(role).await);
        }
        for source in &candidates {
            match self.read(source).await? {
                Some(login) if is_role(&login.user, role, source) => return Ok(login),
                Some(login) if source.role.as_deref() == Some(role) => {
                    return Err(Report::fatal(
                        SqlState::INVALID_AUTHORIZATION,
                        format!("{} holds the login of \"{}\", not of \"{role}\"", login.source, login.user),
                    )
                    .hint("Correct its key of the user's name")
                    .into());
                }
                None if source.role.is_some() || !facts.guessed => {
                    absent = absent.or_else(|| Some(no_secret(facts, source)));
                }
                // A Secret whose role was not known before is another role's, or does not exist.
                Some(_) | None => {}
            }
        }
        // What the cluster's resource does not name: by the Secret's usual name, then by labels.
        if let Some(source) = self.view.system.login_of(facts, role)
            && !candidates.contains(&source)
            && let Ok(Some(login)) = self.read(&source).await
            && is_role(&login.user, role, &source)
        {
            return Ok(login);
        }
        let listed = self.listed().await;
        for (source, object) in &listed {
            if let Ok(login) = self.login(source, &object.data, &object.metadata.resource_version)
                && is_role(&login.user, role, source)
            {
                return Ok(login);
            }
        }
        match absent {
            Some(absent) => Err(absent.into()),
            None => Err(no_role(&facts.full(), role, &self.known(role, &listed).await).into()),
        }
    }

    /// The roles that have a login, but for this one.
    async fn known(&self, role: &str, listed: &[(LoginSource, Object)]) -> Vec<String> {
        let mut known: Vec<String> = Vec::new();
        for source in &self.view.facts.logins {
            match &source.role {
                Some(role) => known.push(role.clone()),
                None => known.extend(self.read(source).await.ok().flatten().map(|login| login.user)),
            }
        }
        for (source, object) in listed {
            known.extend(self.login(source, &object.data, "").ok().map(|login| login.user));
        }
        let mut seen = std::collections::BTreeSet::new();
        known.retain(|known| known != role && seen.insert(known.clone()));
        known
    }

    /// Logins that the cluster's own resource does not name, and another of the operator's does.
    async fn more(&self, role: &str) -> Vec<LoginSource> {
        let View { system, facts, .. } = self.view;
        let Some(resource) = system.more_logins() else {
            return Vec::new();
        };
        let namespace = Some(facts.namespace.as_str());
        // An older operator has none, and a caller may not be allowed to look: then there are no more.
        let query = ListQuery::default();
        let found = reads::list::<Object>(self.context, &resource, namespace, &query, self.deadline).await;
        let objects = found.map(|(objects, _)| objects).unwrap_or_default();
        let sources = objects.iter().filter_map(|object| system.more_login(facts, object));
        sources.filter(|source| source.role.as_deref() == Some(role)).collect()
    }

    /// All Secrets that labels say belong to the cluster; none where the caller may not list them.
    async fn listed(&self) -> Vec<(LoginSource, Object)> {
        let View { system, facts, .. } = self.view;
        let mut found = Vec::new();
        if let Some((selector, source)) = system.login_secrets(facts) {
            let named = |object: &Object| LoginSource { secret: object.metadata.name.clone(), ..source.clone() };
            found.extend(self.list(selector).await.into_iter().map(|object| (named(&object), object)));
        }
        let database = facts.logins.first().map_or("postgres", |login| login.database.as_str());
        let marked = self.list(marked::secrets_of(&facts.name)).await;
        found.extend(marked.into_iter().map(|object| (marked::login(&object, database), object)));
        found
    }

    async fn list(&self, selector: String) -> Vec<Object> {
        let namespace = Some(self.view.facts.namespace.as_str());
        let query = ListQuery::labels(selector);
        let found = reads::list::<Object>(self.context, &SECRETS, namespace, &query, self.deadline).await;
        found.map(|(objects, _)| objects).unwrap_or_default()
    }

    /// The one listed login that is an application's: the one that is called as the cluster, or the only one.
    async fn only_listed(&self) -> Result<Option<Login>, Report> {
        let View { system, facts, .. } = self.view;
        let listed = self.listed().await;
        let read = listed
            .iter()
            .filter_map(|(source, object)| self.login(source, &object.data, &object.metadata.resource_version).ok());
        let superuser = |login: &Login| {
            login.superuser
                || system.login_of(facts, &login.user).is_some_and(|known| known.kind == LoginKind::Superuser)
        };
        let mut logins: Vec<Login> =
            read.filter(|login| !system.is_own_role(&login.user) && !superuser(login)).collect();
        logins.sort_by_key(|login| (login.user != facts.name, login.user.clone()));
        match logins.as_slice() {
            [first, _, ..] if first.user != facts.name => {
                let roles: Vec<&str> = logins.iter().map(|login| login.user.as_str()).collect();
                let message = format!(
                    "cluster {} has several logins, and nothing that may be read says which is the \
                     application's",
                    facts.full()
                );
                let resource = system.resource();
                Err(Report::fatal(SqlState::INVALID_AUTHORIZATION, message).hint(format!(
                    "Log in as one of {}; or ask for the right to get {} in namespace {}",
                    roles.join(", "),
                    resource.qualified(),
                    facts.namespace
                )))
            }
            _ => Ok(logins.into_iter().next()),
        }
    }

    /// Reads one Secret; `None` where it does not exist.
    async fn read(&self, source: &LoginSource) -> Result<Option<Login>, Failure> {
        if source.secret.is_empty() {
            return Ok(Some(self.other_user(source, self.login(source, &Data::default(), "")?).await?));
        }
        let namespace = source.namespace.as_deref().unwrap_or(&self.view.facts.namespace);
        let Some(secret) = reads::get_secret(self.context, namespace, &source.secret, self.deadline).await? else {
            return Ok(None);
        };
        let version = format!("{}/{}", secret.metadata.uid, secret.metadata.resource_version);
        let login = self.login(source, &secret.data, &version)?;
        Ok(Some(self.other_user(source, login).await?))
    }

    /// The user's name may be in another Secret than the password.
    async fn other_user(&self, source: &LoginSource, login: Login) -> Result<Login, Failure> {
        let Keys::Named { user: Part::Other(secret, key), .. } = &source.keys else {
            return Ok(login);
        };
        let facts = &self.view.facts;
        let other = LoginSource { secret: secret.clone(), ..source.clone() };
        let found = reads::get_secret(self.context, &facts.namespace, secret, self.deadline).await?;
        let found = found.ok_or_else(|| no_secret(facts, &other))?;
        let about = About { facts, source: &other };
        Ok(Login { user: name(about.text(&found.data, key)?).to_owned(), ..login })
    }

    /// The login that a Secret's data hold.
    fn login(&self, source: &LoginSource, data: &Data, version: &str) -> Result<Login, Report> {
        let about = About { facts: &self.view.facts, source };
        let (user, password, database) = match &source.keys {
            Keys::Connection => about.connection(data)?,
            Keys::Named { user, password, database } => {
                let user = about.part(data, user)?.map(|user| name(&user).to_owned()).unwrap_or_default();
                let password = match password {
                    Part::Plain(hidden) => Some(hidden.0.clone()),
                    password => about.part(data, password)?.map(SecretString::from),
                };
                (user, password, about.optional(data, database))
            }
        };
        Ok(Login {
            user,
            password,
            database: database.unwrap_or_else(|| source.database.clone()),
            superuser: source.kind == LoginKind::Superuser,
            source: about.named(),
            version: version.to_owned(),
        })
    }
}

/// Whether a login is a role's. An operator that rotates users puts the date, six digits, behind the name.
fn is_role(user: &str, role: &str, source: &LoginSource) -> bool {
    let digits = |rest: &str| rest.len() == 6 && rest.bytes().all(|byte| byte.is_ascii_digit());
    user == role || (source.rotates && user.strip_prefix(role).is_some_and(digits))
}

/// A name without the line break that `echo` leaves behind.
fn name(text: &str) -> &str {
    text.trim_end_matches(['\r', '\n'])
}

/// One Secret of one cluster.
#[derive(Clone, Copy)]
struct About<'a> {
    facts: &'a Facts,
    source: &'a LoginSource,
}

impl About<'_> {
    fn part(self, data: &Data, part: &Part) -> Result<Option<String>, Report> {
        match part {
            Part::Fixed(value) => Ok(Some(value.clone())),
            Part::Keys(keys) => {
                let present = keys.iter().find(|key| data.get(key).is_some());
                let key = present.or_else(|| keys.first()).map_or("password", |key| key);
                self.text(data, key).map(|text| Some(text.to_owned()))
            }
            Part::Absent | Part::Other(..) | Part::Plain(_) => Ok(None),
        }
    }

    /// The database, where a key names one. `*` is "any" in a superuser's Secret.
    fn optional(self, data: &Data, part: &Part) -> Option<String> {
        let Part::Keys(keys) = part else { return None };
        let found = keys.iter().find_map(|key| std::str::from_utf8(data.get(key)?).ok());
        found.map(name).filter(|name| !name.is_empty() && *name != "*").map(str::to_owned)
    }

    fn connection(self, data: &Data) -> Result<(String, Option<SecretString>, Option<String>), Report> {
        let found = connection::read(data)
            .map_err(|broken| self.broken(&format!("has a key \"{}\" that {}", broken.key, broken.why)))?;
        let user = found.user.or_else(|| self.source.role.clone());
        let user = user.ok_or_else(|| self.broken("has no key that names the user"))?;
        Ok((user, found.password, found.database))
    }

    /// A key that must be there, not empty, and text.
    fn text<'d>(self, data: &'d Data, key: &str) -> Result<&'d str, Report> {
        let value = data.get(key).ok_or_else(|| self.broken(&format!("has no key \"{key}\"")))?;
        if value.is_empty() {
            return Err(self.broken(&format!("has nothing in its key \"{key}\"")));
        }
        if value.len() > LONGEST {
            return Err(self.broken(&format!("has more than {LONGEST} bytes in its key \"{key}\"")));
        }
        std::str::from_utf8(value)
            .map_err(|_| self.broken(&format!("has something that is no UTF-8 text in its key \"{key}\"")))
    }

    fn broken(self, what: &str) -> Report {
        Report::fatal(SqlState::INVALID_AUTHORIZATION, format!("{} {what}", self.named())).hint(format!(
            "See which keys it has: kubectl describe secret -n {} {}",
            self.namespace(),
            self.source.secret
        ))
    }

    fn namespace(&self) -> &str {
        self.source.namespace.as_deref().unwrap_or(&self.facts.namespace)
    }

    fn named(self) -> String {
        if self.source.secret.is_empty() {
            return format!("the environment of {}", self.facts.full());
        }
        format!("Secret {}/{}", self.namespace(), self.source.secret)
    }
}

fn no_secret(facts: &Facts, source: &LoginSource) -> Report {
    Report::fatal(
        SqlState::INVALID_AUTHORIZATION,
        format!(
            "{}, which holds the login for cluster {}, does not exist",
            About { facts, source }.named(),
            facts.full()
        ),
    )
    .hint(format!("See which there are: kubectl get secrets -n {}", About { facts, source }.namespace()))
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
    Report::fatal(SqlState::INVALID_AUTHORIZATION, format!("cluster {cluster} has no Secret with a login")).hint(
        "Give the operator a user to make (its documentation says where), or mark a Secret that has a user and a \
             password: kubectl label secret NAME pgferry.dev/cluster=CLUSTER",
    )
}
