//! Reading logins: from Secrets in every shape, and from what workloads say in their environment.

use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    error::{Report, SqlState},
    k8s::{
        api::{
            access::ListQuery,
            names::{Namespace, ObjectName, Reference},
            objects::{ConfigMap, Data, Meta, Object},
            reader::Reader,
            resource::{CONFIG_MAPS, SECRETS},
        },
        cluster::snapshot::View,
        operators::{
            connection,
            facts::Facts,
            facts::POSTGRES,
            login::{Consent, KeyOf, Keys, LoginKind, LoginSource, Part},
            marked,
        },
    },
    upstream::{Failure, Login},
};

/// PostgreSQL's own limit on a role's name (`NAMEDATALEN`, less the zero byte): a longer one would be cut short to another.
const LONGEST_NAME: usize = 63;
/// PostgreSQL reads passwords of up to 64 KiB (`PG_MAX_AUTH_TOKEN_LENGTH`).
const LONGEST: usize = 65_535;

/// What to do about an object that says what cannot be.
const WRITTEN: &str = "Whoever may write that object wrote this: correct it, and connect again";

/// The logins of one cluster.
pub(in crate::k8s) struct Logins<'a> {
    pub(in crate::k8s) reader: Reader<'a>,
    pub(in crate::k8s) view: &'a View,
}

impl Logins<'_> {
    /// The application's login; where there is none, another role's; a superuser's last.
    pub(in crate::k8s) async fn default(&self) -> Result<Login, Failure> {
        let facts = &self.view.facts;
        let mut sources: Vec<&LoginSource> = facts.logins.iter().collect();
        sources.sort_by_key(|source| source.kind);
        let mut missing: Option<Failure> = None;
        let (mut listed, mut bereft) = (false, false);
        let declared = |kind: LoginKind| facts.logins.iter().filter(move |source| source.kind == kind);
        if declared(LoginKind::Application).next().is_none() && declared(LoginKind::Managed).count() > 1 {
            let roles = declared(LoginKind::Managed).filter_map(|source| source.role.as_deref());
            return Err(several(facts, &roles.collect::<Vec<_>>()).into());
        }
        for source in sources {
            // The application's Secret should be there: nobody becomes another role because it is not.
            if bereft && source.kind != LoginKind::Application {
                break;
            }
            // Where the resource could not be read, Secrets that nothing names come before a superuser's.
            if source.kind == LoginKind::Superuser && facts.is_guessed() && !listed {
                listed = true;
                if let Some(login) = self.only_listed().await? {
                    return Ok(login);
                }
            }
            match self.read(source).await {
                Ok(Some(login)) => return Ok(login),
                // The next one is looked for, and if there is none, the first is what is reported.
                Ok(None) => {
                    bereft |= source.kind == LoginKind::Application && !facts.standby && !facts.is_guessed();
                    missing = missing.or_else(|| Some(no_secret(facts, source).into()));
                }
                Err(failure) => return Err(missing.unwrap_or(failure)),
            }
        }
        if !listed
            && !bereft
            && let Some(login) = self.only_listed().await?
        {
            return Ok(login);
        }
        if let Some(missing) = missing {
            return Err(missing);
        }
        let marked = self.marked().await;
        let roles = self.known("", &marked).await;
        Err(no_login(&facts.full(), &roles).into())
    }

    /// This role's login, or an error that says which roles have one.
    pub(in crate::k8s) async fn named(&self, role: &str) -> Result<Login, Failure> {
        let facts = &self.view.facts;
        let may_be = |source: &&LoginSource| source.role.as_deref().is_none_or(|known| known == role);
        let mut candidates: Vec<LoginSource> = facts.logins.iter().filter(may_be).cloned().collect();
        // One whose Secret names the role itself is looked into last.
        candidates.sort_by_key(|source| source.role.is_none());
        let mut absent: Option<Report> = None;
        let mut refused: Option<Failure> = None;
        if candidates.iter().all(|source| source.role.is_none()) {
            candidates.extend(self.more(role).await);
        }
        for source in &candidates {
            let found = match self.read(source).await {
                // What may be another role's is no reason to stop.
                Err(failure) if source.role.is_none() => {
                    refused = refused.or(Some(failure));
                    continue;
                }
                found => found?,
            };
            match found {
                Some(login) if is_role(&login.user, role, source) => return Ok(login),
                Some(login) if source.role.as_deref() == Some(role) => {
                    return Err(not_the_role(&login, role).into());
                }
                None if source.role.is_some() || !facts.is_guessed() => {
                    absent = absent.or_else(|| Some(no_secret(facts, source)));
                }
                // A Secret whose role was not known before is another role's, or does not exist.
                Some(_) | None => {}
            }
        }
        // What the cluster's resource does not name: by the Secret's usual name, then by labels.
        let usual = self.view.system.login_of(facts, role).filter(|source| !candidates.contains(source));
        if let Some(source) = usual.filter(|source| source.secret.as_ref().is_some_and(|secret| secret.name().is_ok()))
        {
            match self.read(&source).await {
                Ok(Some(login)) if is_role(&login.user, role, &source) => return Ok(login),
                Ok(_) => {}
                Err(failure) => refused = refused.or(Some(failure)),
            }
        }
        let mut listed = self.listed().await;
        // A mark adds roles: it takes the place of nothing that the system names, and of nothing that could not be read.
        let is_the_systems = candidates.iter().any(|source| source.role.as_deref() == Some(role)) || refused.is_some();
        if !is_the_systems {
            listed.extend(self.marked().await);
        }
        for (source, object) in &listed {
            if let Ok(login) = self.login(source, &object.data, object.metadata.resource_version.clone()).await
                && is_role(&login.user, role, source)
            {
                return Ok(login);
            }
        }
        match (absent, refused) {
            (Some(absent), _) => Err(absent.into()),
            (None, Some(refused)) => Err(refused),
            (None, None) => Err(no_role(&facts.full(), role, &self.known(role, &listed).await).into()),
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
            known.extend(self.login(source, &object.data, String::new()).await.ok().map(|login| login.user));
        }
        let mut seen = std::collections::BTreeSet::new();
        known.retain(|known| known != role && seen.insert(known.clone()));
        known
    }

    /// Logins that the cluster's own resource does not name, and another of the operator's does.
    pub(super) async fn more(&self, role: &str) -> Vec<LoginSource> {
        let View { system, facts, .. } = self.view;
        let Some(resource) = system.more_logins() else {
            return Vec::new();
        };
        let namespace = Some(&facts.namespace);
        // An older operator has none, and a caller may not be allowed to look: then there are no more.
        let query = ListQuery::default();
        let found = self.reader.list::<Object>(&resource, namespace, &query).await;
        let objects = found.map(|(objects, _)| objects).unwrap_or_default();
        let sources = objects.iter().filter_map(|object| system.more_login(facts, object));
        sources.filter(|source| source.role.as_deref() == Some(role)).collect()
    }

    /// All Secrets that the operator's labels say belong to the cluster; none where the caller may not list them.
    async fn listed(&self) -> Vec<(LoginSource, Object)> {
        let View { system, facts, .. } = self.view;
        let Some((selector, source)) = system.login_secrets(facts) else { return Vec::new() };
        let named = |object: &Object| LoginSource {
            secret: Some(Reference::computed(&object.metadata.name)),
            ..source.clone()
        };
        self.list(selector).await.into_iter().map(|object| (named(&object), object)).collect()
    }

    /// Secrets that somebody has marked as holding a login for the cluster.
    async fn marked(&self) -> Vec<(LoginSource, Object)> {
        let facts = &self.view.facts;
        let database = facts.logins.first().map_or(POSTGRES, |login| login.database.as_str());
        let marked = self.list(marked::secrets_of(&facts.name)).await;
        marked.into_iter().map(|object| (marked::login(&object, database), object)).collect()
    }

    async fn list(&self, selector: String) -> Vec<Object> {
        let namespace = Some(&self.view.facts.namespace);
        let query = ListQuery::labels(selector);
        let found = self.reader.list::<Object>(&SECRETS, namespace, &query).await;
        found.map(|(objects, _)| objects).unwrap_or_default()
    }

    /// The one listed login that is an application's: the one that is called as the cluster, or the only one.
    async fn only_listed(&self) -> Result<Option<Login>, Report> {
        let View { system, facts, .. } = self.view;
        let listed = self.listed().await;
        let mut logins: Vec<Login> = Vec::new();
        for (source, object) in &listed {
            logins.extend(self.login(source, &object.data, object.metadata.resource_version.clone()).await);
        }
        let superuser = |login: &Login| {
            login.superuser
                || system.login_of(facts, &login.user).is_some_and(|known| known.kind == LoginKind::Superuser)
        };
        logins.retain(|login| !system.is_own_role(&login.user) && !superuser(login));
        logins.sort_by_key(|login| (facts.name != *login.user, login.user.clone()));
        match logins.as_slice() {
            [first, _, ..] if facts.name != *first.user => {
                let roles: Vec<&str> = logins.iter().map(|login| login.user.as_str()).collect();
                let report = several(facts, &roles);
                let resource = system.resource();
                let right = format!("get {} in namespace {}", resource.qualified(), facts.namespace);
                let hint = format!("{}; or ask for the right to {right}", report.hint.clone().unwrap_or_default());
                Err(report.hint(hint))
            }
            _ => Ok(logins.into_iter().next()),
        }
    }

    /// Reads one Secret; `None` where it does not exist.
    pub(super) async fn read(&self, source: &LoginSource) -> Result<Option<Login>, Failure> {
        let Some(secret) = &source.secret else {
            return self.login(source, &Data::default(), String::new()).await.map(Some);
        };
        let facts = &self.view.facts;
        let place = (source.namespace.as_ref().unwrap_or(&facts.namespace), self.name(secret)?);
        let Some(secret) = self.reader.get_secret(place).await? else {
            return Ok(None);
        };
        if source.consent == Consent::Asked && !marked::is_for(&secret.metadata, &facts.name) {
            return Err(without_consent(facts, &secret.metadata).into());
        }
        let version = format!("{}/{}", secret.metadata.uid, secret.metadata.resource_version);
        self.login(source, &secret.data, version).await.map(Some)
    }

    /// The name that the cluster's object gives; what is none leads nowhere.
    fn name<'r>(&self, reference: &'r Reference) -> Result<&'r ObjectName, Report> {
        reference.name().map_err(|why| {
            Report::fatal(SqlState::INVALID_AUTHORIZATION, format!("{}: {why}", self.object())).hint(WRITTEN)
        })
    }

    /// The cluster's object, for a sentence.
    fn object(&self) -> String {
        let View { system, facts, .. } = self.view;
        format!("{} {}/{}", system.resource().qualified(), facts.namespace, facts.object)
    }

    /// The login that a Secret's data hold.
    async fn login(&self, source: &LoginSource, data: &Data, mut version: String) -> Result<Login, Failure> {
        let about = About { facts: &self.view.facts, source };
        let (user, password, database) = match &source.keys {
            Keys::Connection => about.connection(data)?,
            Keys::Named { user, password, database } => {
                let user = self.value(about, data, user, &mut version).await?;
                let password = self.value(about, data, password, &mut version).await?;
                let database = match database {
                    Part::In(..) | Part::Joined(_) => self.value(about, data, database, &mut version).await?,
                    database => about.optional(data, database)?.map(SecretString::from),
                };
                let user = user.map(|user| name(user.expose_secret()).to_owned()).unwrap_or_default();
                (user, password, database.map(|database| name(database.expose_secret()).to_owned()))
            }
        };
        let (user_part, database_part) = match &source.keys {
            Keys::Named { user, database, .. } => (Some(user), Some(database)),
            Keys::Connection => (None, None),
        };
        about.printable("user", &user, data, user_part)?;
        if let Some(database) = &database {
            about.printable("database", database, data, database_part)?;
        } else if source.database.contains(char::is_control) {
            let message = format!("{}: a database's name has a control character in it", self.object());
            return Err(Report::fatal(SqlState::INVALID_AUTHORIZATION, message).hint(WRITTEN).into());
        }
        // The official image calls the database as the user, where nothing names it.
        let database =
            database.unwrap_or_else(|| if source.database.is_empty() { user.clone() } else { source.database.clone() });
        if user.len() > LONGEST_NAME {
            return Err(about.broken(&format!("names a user of more than {LONGEST_NAME} bytes")).into());
        }
        Ok(Login {
            superuser: source.kind == LoginKind::Superuser || user == POSTGRES,
            database,
            user,
            password,
            source: about.named(),
            version,
        })
    }

    /// Parts that make up one, one behind the other.
    async fn joined(
        &self,
        about: About<'_>,
        data: &Data,
        parts: &[Part],
        version: &mut String,
    ) -> Result<Option<SecretString>, Failure> {
        let mut all = zeroize::Zeroizing::new(String::new());
        for part in parts {
            let value = Box::pin(self.value(about, data, part, version)).await?;
            all.push_str(value.as_ref().map_or("", |value| value.expose_secret()));
        }
        Ok(Some(SecretString::from(all.as_str())))
    }

    /// One part of a login.
    async fn value(
        &self,
        about: About<'_>,
        data: &Data,
        part: &Part,
        version: &mut String,
    ) -> Result<Option<SecretString>, Failure> {
        let (places, or) = match part {
            Part::Fixed(value) => return Ok(Some(SecretString::from(value.as_str()))),
            Part::Plain(hidden) => return Ok(Some(hidden.0.clone())),
            Part::Absent => return Ok(None),
            Part::Keys(keys) => {
                let present = keys.iter().find(|key| data.get(key).is_some());
                let key = present.or_else(|| keys.first()).map_or("password", |key| key);
                return Ok(Some(SecretString::from(about.text(data, key)?)));
            }
            Part::Joined(parts) => return self.joined(about, data, parts, version).await,
            Part::In(places, or) => (places, or),
        };
        let namespace = &about.facts.namespace;
        for place in places {
            match place {
                KeyOf::Secret(secret, key) if about.source.secret.as_ref() == Some(secret) => {
                    if data.get(key).is_some() {
                        return Ok(Some(SecretString::from(about.text(data, key)?)));
                    }
                }
                KeyOf::Secret(secret, key) => {
                    let place = (namespace, self.name(secret)?);
                    let found = self.reader.get_secret(place).await?;
                    let other = LoginSource { secret: Some(secret.clone()), ..about.source.clone() };
                    if let Some(found) = found.filter(|found| found.data.get(key).is_some()) {
                        version.push_str(&found.metadata.resource_version);
                        let text = About { source: &other, ..about }.text(&found.data, key)?.to_owned();
                        return Ok(Some(SecretString::from(text)));
                    }
                }
                KeyOf::ConfigMap(map, key) => {
                    let place = (namespace, self.name(map)?);
                    let found = self.reader.get::<ConfigMap>(&CONFIG_MAPS, place).await?;
                    if let Some(text) = found.and_then(|mut found| found.data.remove(key)) {
                        return Ok(Some(SecretString::from(text)));
                    }
                }
            }
        }
        match (or, places.first()) {
            (Some(or), _) => Ok(Some(SecretString::from(or.as_str()))),
            (None, Some(KeyOf::Secret(_, key) | KeyOf::ConfigMap(_, key))) => {
                Err(about.broken(&format!("has no key \"{key}\", nor has anything else there")).into())
            }
            (None, None) => Ok(None),
        }
    }
}

/// Whether a login is a role's. An operator that rotates users puts the date, six digits, behind the name.
pub(super) fn is_role(user: &str, role: &str, source: &LoginSource) -> bool {
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
    /// The database, where a key names one. `*` is "any" in a superuser's Secret.
    fn optional(self, data: &Data, part: &Part) -> Result<Option<String>, Report> {
        let Part::Keys(keys) = part else { return Ok(None) };
        let present = keys.iter().find(|key| data.get(key).is_some_and(|value| !value.is_empty()));
        let found = present.map(|key| self.text(data, key)).transpose()?;
        Ok(found.map(name).filter(|name| !name.is_empty() && *name != "*").map(str::to_owned))
    }

    fn connection(self, data: &Data) -> Result<(String, Option<SecretString>, Option<String>), Report> {
        let found = connection::read(data)
            .map_err(|broken| self.broken(&format!("has a key \"{}\" that {}", broken.key, broken.why)))?;
        let user = found.user.or_else(|| self.source.role.clone());
        let user = user.ok_or_else(|| self.broken("has no key that names the user"))?;
        Ok((user, found.password, found.database))
    }

    /// A name without control characters: in the startup packet a zero byte ends it and begins a parameter, and whatever
    /// else there is goes into terminals and logs.
    fn printable(self, what: &str, text: &str, data: &Data, part: Option<&Part>) -> Result<(), Report> {
        if !text.contains(char::is_control) {
            return Ok(());
        }
        let keys = part.and_then(|part| if let Part::Keys(keys) = part { Some(keys) } else { None });
        let mut keys = keys.into_iter().flatten();
        let key = keys.find(|key| data.get(key).is_some_and(|value| !value.is_empty()));
        let place = key.map(|key| format!(", its key \"{key}\"")).unwrap_or_default();
        Err(self.broken(&format!("has a control character in the {what}'s name{place}")))
    }

    /// A key that must be there, not empty, and text.
    fn text<'d>(self, data: &'d Data, key: &str) -> Result<&'d str, Report> {
        let value = data.get(key).ok_or_else(|| self.broken(&format!("has no key \"{key}\"")))?;
        if value.is_empty() {
            return Err(self.broken(&format!("has nothing in its key \"{key}\"")));
        }
        if value.contains(&0) {
            return Err(self.broken(&format!("has a zero byte in its key \"{key}\"")));
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
            self.source.secret_name()
        ))
    }

    fn namespace(&self) -> &Namespace {
        self.source.namespace.as_ref().unwrap_or(&self.facts.namespace)
    }

    fn named(self) -> String {
        match &self.source.secret {
            None => format!("the environment of {}", self.facts.full()),
            Some(secret) => format!("Secret {}/{}", self.namespace(), secret.shown()),
        }
    }
}

/// What a Secret says that is said to hold a role's login, and holds another's.
pub(super) fn not_the_role(login: &Login, role: &str) -> Report {
    let message = format!("{} holds the login of \"{}\", not of \"{role}\"", login.source, login.user);
    Report::fatal(SqlState::INVALID_AUTHORIZATION, message).hint("Correct its key of the user's name")
}

pub(super) fn no_secret(facts: &Facts, source: &LoginSource) -> Report {
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

/// A Secret that somebody else names, and that does not say itself that it is for this cluster.
fn without_consent(facts: &Facts, secret: &Meta) -> Report {
    let (namespace, name) = (&secret.namespace, &secret.name);
    let message = format!(
        "Secret {namespace}/{name}, which a Service of cluster {} names, does not agree: it does not carry {}={}",
        facts.full(),
        marked::CLUSTER,
        facts.name
    );
    Report::fatal(SqlState::INVALID_AUTHORIZATION, message).hint(format!(
        "Whoever may write that Secret lets it: kubectl annotate secret {name} -n {namespace} {}={}; or you, in your own \
         configuration: clusters.\"{}\".secret = \"{name}\"",
        marked::CLUSTER,
        facts.name,
        facts.full()
    ))
}

/// Nobody is given one of several roles that nothing prefers.
fn several(facts: &Facts, roles: &[&str]) -> Report {
    let message = format!("cluster {} has several logins, and nothing says which is the application's", facts.full());
    let report = Report::fatal(SqlState::INVALID_AUTHORIZATION, message);
    report.hint(format!("Log in as one of {}", roles.join(", ")))
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

/// Roles that only a mark gives are nobody's default.
pub(in crate::k8s) fn no_login(cluster: &str, roles: &[String]) -> Report {
    let report =
        Report::fatal(SqlState::INVALID_AUTHORIZATION, format!("cluster {cluster} has no Secret with a default login"));
    match roles {
        [] => report.hint(
            "Give the operator a user to make (its documentation says where); or mark a Secret that has a user and a \
             password (kubectl label secret NAME pgferry.dev/cluster=CLUSTER), and log in as that user by name",
        ),
        roles => report.hint(format!("Log in as one of {}", roles.join(", "))),
    }
}
