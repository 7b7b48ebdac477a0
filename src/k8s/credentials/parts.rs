//! A login out of its parts: in Secrets of every shape, and in what workloads say in their environment.

use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    error::{Report, SqlState},
    k8s::{
        api::{
            names::{ObjectName, Reference},
            objects::ConfigMap,
            reader::Reader,
            resource::CONFIG_MAPS,
            secret_data::Data,
        },
        cluster::snapshot::View,
        credentials::refusals::{named, namespace, without_consent},
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
const LONGEST_PASSWORD: usize = 65_535;

/// What to do about an object that says what cannot be.
const WRITTEN: &str = "Whoever may write that object wrote this: correct it, and connect again";

/// The logins of one cluster.
pub(in crate::k8s) struct Logins<'a> {
    pub(in crate::k8s) reader: Reader<'a>,
    pub(in crate::k8s) view: &'a View,
}

impl Logins<'_> {
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
    pub(super) async fn login(&self, source: &LoginSource, data: &Data, mut version: String) -> Result<Login, Failure> {
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
            source: named(about.facts, about.source),
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
        for place in places {
            if let Some(value) = self.at(about, data, place, version).await? {
                return Ok(Some(value));
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

    /// What one place holds, where it holds anything.
    async fn at(
        &self,
        about: About<'_>,
        data: &Data,
        place: &KeyOf,
        version: &mut String,
    ) -> Result<Option<SecretString>, Failure> {
        let namespace = &about.facts.namespace;
        match place {
            KeyOf::Secret(secret, key) if about.source.secret.as_ref() == Some(secret) => {
                let present = data.get(key).is_some();
                Ok(present.then(|| about.text(data, key)).transpose()?.map(SecretString::from))
            }
            KeyOf::Secret(secret, key) => {
                let found = self.reader.get_secret((namespace, self.name(secret)?)).await?;
                let Some(found) = found.filter(|found| found.data.get(key).is_some()) else { return Ok(None) };
                version.push_str(&found.metadata.resource_version);
                let other = LoginSource { secret: Some(secret.clone()), ..about.source.clone() };
                let text = About { source: &other, ..about }.text(&found.data, key)?.to_owned();
                Ok(Some(SecretString::from(text)))
            }
            KeyOf::ConfigMap(map, key) => {
                let found = self.reader.get::<ConfigMap>(&CONFIG_MAPS, (namespace, self.name(map)?)).await?;
                Ok(found.and_then(|mut found| found.data.remove(key)).map(SecretString::from))
            }
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
        if value.len() > LONGEST_PASSWORD {
            return Err(self.broken(&format!("has more than {LONGEST_PASSWORD} bytes in its key \"{key}\"")));
        }
        std::str::from_utf8(value)
            .map_err(|_| self.broken(&format!("has something that is no UTF-8 text in its key \"{key}\"")))
    }

    fn broken(self, what: &str) -> Report {
        Report::fatal(SqlState::INVALID_AUTHORIZATION, format!("{} {what}", named(self.facts, self.source))).hint(
            format!(
                "See which keys it has: kubectl describe secret -n {} {}",
                namespace(self.facts, self.source),
                self.source.secret_name()
            ),
        )
    }
}
