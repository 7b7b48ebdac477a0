//! Secrets that say where a server is and how to log in, in the shapes that people and tools write: `PG*` variables,
//! Service Binding (<https://servicebinding.io/spec/core/1.1.0/>), Crossplane, `DATABASE_URL`, and their relatives.

use std::{collections::HashMap, sync::Arc};

use secrecy::SecretString;

use super::{
    connection_keys::{
        ATTRIBUTES, CA, DATABASE, FOREIGN_PORTS, HOST, OTHERS, PASSWORD, PORT, REPLICA_HOST, REPLICA_URI, SSLMODE, URI,
        USER,
    },
    connection_uri::{Attributes, Host, Uri, mode, paired},
};
use crate::{
    k8s::api::{access::ListQuery, secret_data::Data},
    upstream::TlsMode,
};

/// The longest value of a key that is not a certificate or a password; hosts have 253 characters, names 63.
const LONGEST_KEY: usize = 4096;

/// Secrets that may hold logins: certificates, Helm's releases and the like do not, and some are a megabyte.
pub(super) fn secrets_with_logins() -> ListQuery {
    const OTHERS: [&str; 7] = [
        "helm.sh/release.v1",
        "kubernetes.io/tls",
        "kubernetes.io/service-account-token",
        "kubernetes.io/dockercfg",
        "kubernetes.io/dockerconfigjson",
        "kubernetes.io/ssh-auth",
        "bootstrap.kubernetes.io/token",
    ];
    ListQuery::fields(OTHERS.map(|kind| format!("type!={kind}")).join(","))
}

/// What such a Secret says.
#[derive(Clone, Debug, Default)]
pub(in crate::k8s) struct Connection {
    pub(in crate::k8s) hosts: Vec<Host>,
    /// The key that holds them.
    pub(in crate::k8s) host_key: String,
    /// The hosts of replicas.
    pub(in crate::k8s) replicas: Vec<Host>,
    /// The key that holds those.
    pub(in crate::k8s) replica_key: String,
    /// The port of hosts without one of their own.
    pub(in crate::k8s) port: Option<u16>,
    pub(in crate::k8s) user: Option<String>,
    pub(in crate::k8s) password: Option<SecretString>,
    pub(in crate::k8s) database: Option<String>,
    pub(in crate::k8s) mode: Option<TlsMode>,
    /// The key that says so.
    pub(in crate::k8s) mode_key: String,
    pub(in crate::k8s) attributes: Option<Attributes>,
    pub(in crate::k8s) ca: Option<Arc<[u8]>>,
    /// What to port-forward to, as Elastisys writes it.
    pub(in crate::k8s) access: Option<String>,
    /// It is about PostgreSQL for certain, and no other kind of server.
    pub(in crate::k8s) certain: bool,
}

/// A key whose value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::k8s) struct Broken {
    pub(in crate::k8s) key: String,
    pub(in crate::k8s) why: &'static str,
}

/// A Secret's keys without case, and with `_` for `-` and `.`; a value is looked at only under a key that such Secrets use.
struct Fields<'a>(HashMap<String, (&'a str, &'a [u8])>);

impl<'a> Fields<'a> {
    fn of(data: &'a Data) -> Self {
        Self(data.iter().map(|(key, value)| (key.to_lowercase().replace(['-', '.'], "_"), (key, value))).collect())
    }

    /// The first of these that holds anything.
    fn raw(&self, names: &[&str]) -> Option<(&'a str, &'a [u8])> {
        names.iter().find_map(|name| self.0.get(*name).copied()).filter(|(_, value)| !value.is_empty())
    }

    fn text(&self, names: &[&str]) -> Result<Option<String>, Broken> {
        self.raw(names).map(|(key, value)| line(key, value)).transpose()
    }

    /// What stands under one of these, made into something else; and the key.
    fn parsed<T>(
        &self,
        names: &[&str],
        parse: impl Fn(&str) -> Result<T, &'static str>,
    ) -> Result<Option<(String, T)>, Broken> {
        let Some((key, value)) = self.raw(names) else { return Ok(None) };
        let why = |why| Broken { key: key.to_owned(), why };
        Ok(Some((key.to_owned(), parse(&line(key, value)?).map_err(why)?)))
    }

    /// Whether a key says that it is PostgreSQL.
    fn says_postgres(&self) -> bool {
        let known = |key: &String| HOST.iter().chain(USER).chain(DATABASE).any(|known| key == known);
        ["pg", "postgres"].iter().any(|prefix| self.0.keys().any(|key| key.starts_with(prefix) && known(key)))
    }
}

/// Reads a Secret.
pub(in crate::k8s) fn read(data: &Data) -> Result<Connection, Broken> {
    let fields = Fields::of(data);
    let mut connection = keys(&fields)?;
    let mut foreign = false;
    if let Some((key, value)) = fields.raw(URI) {
        let text = unquoted(utf8(key, value)?.trim());
        if let Some(uri) = Uri::parse(text) {
            connection.fill(key, &uri)?;
        } else {
            // Beside a host of its own it is some other address, such as a web page's.
            let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_lowercase());
            let other = |scheme: &str| scheme.split('+').next().is_some_and(|scheme| OTHERS.contains(&scheme));
            foreign = scheme.is_some_and(|scheme| connection.hosts.is_empty() || other(&scheme));
        }
    }
    if connection.replicas.is_empty()
        && let Some((key, value)) = fields.raw(REPLICA_URI)
        && let Some(uri) = Uri::parse(unquoted(utf8(key, value)?.trim()))
    {
        connection.replicas = uri.hosts().map_err(|why| Broken { key: key.to_owned(), why })?;
        key.clone_into(&mut connection.replica_key);
    }
    let names = |connection: &Connection| {
        connection.hosts.iter().chain(&connection.replicas).map(|host| host.name.clone()).collect::<Vec<_>>()
    };
    let (kind, postgres) = (fields.text(&["type"])?, fields.says_postgres());
    let kind = kind.filter(|kind| kind.starts_with("postgres") || OTHERS.contains(&kind.as_str()));
    foreign |= kind.as_ref().is_some_and(|kind| !kind.starts_with("postgres"));
    foreign |= kind.is_none() && !postgres && connection.port().is_some_and(|port| FOREIGN_PORTS.contains(&port));
    // `dbname` is libpq's word; others call it otherwise.
    let telling = fields.0.contains_key("dbname")
        || names(&connection).iter().chain(&connection.user).any(|text| text.contains("postgres"));
    connection.certain |=
        !foreign && (kind.is_some() || postgres || telling || connection.port() == Some(super::facts::PORT));
    if foreign {
        return Ok(Connection::default());
    }
    Ok(connection)
}

/// What stands in keys of its own.
fn keys(fields: &Fields<'_>) -> Result<Connection, Broken> {
    let mut connection = Connection {
        user: fields.text(USER)?,
        database: fields.text(DATABASE)?,
        access: fields.text(&["user_access"])?,
        ca: fields.raw(CA).map(|(_, pem)| Arc::from(pem)).filter(|pem: &Arc<[u8]>| pem.starts_with(b"-----BEGIN")),
        ..Connection::default()
    };
    let ports = fields.text(PORT)?.unwrap_or_default();
    if let Some((key, hosts)) = fields.parsed(HOST, |hosts| Ok(hosts.to_owned()))? {
        let of = fields.raw(PORT).map_or(key.as_str(), |(key, _)| key);
        connection.hosts = paired(&hosts, &ports).map_err(|why| Broken { key: of.to_owned(), why })?;
        connection.host_key = key;
    }
    if let Some((key, number)) =
        fields.parsed(PORT, |ports| paired("one", ports.split(',').next().unwrap_or_default()))?
    {
        let none = Broken { key, why: "is no port number" };
        connection.port = Some(number.first().and_then(|host| host.port).ok_or(none)?);
    }
    if let Some((key, hosts)) = fields.parsed(REPLICA_HOST, |hosts| paired(hosts, ""))? {
        (connection.replica_key, connection.replicas) = (key, hosts);
    }
    if let Some((key, value)) = fields.raw(PASSWORD) {
        if value.contains(&0) {
            return Err(Broken { key: key.to_owned(), why: "has a zero byte in it" });
        }
        connection.password = Some(SecretString::from(utf8(key, value)?));
    }
    if let Some((key, value)) = fields.parsed(SSLMODE, |text| mode(text).ok_or("is no sslmode"))? {
        (connection.mode_key, connection.mode) = (key, Some(value));
    }
    let attributes = fields.parsed(ATTRIBUTES, |text| Attributes::parse(text).ok_or("is no target_session_attrs"))?;
    connection.attributes = attributes.map(|(_, attributes)| attributes);
    Ok(connection)
}

impl Connection {
    /// Keys of their own are believed before a URI: operators leave old passwords there.
    fn fill(&mut self, key: &str, uri: &Uri<'_>) -> Result<(), Broken> {
        let broken = |why| Broken { key: key.to_owned(), why };
        if self.hosts.is_empty() {
            self.hosts = uri.hosts().map_err(broken)?;
            key.clone_into(&mut self.host_key);
        } else if self.port.is_none() {
            self.port = uri.hosts().ok().and_then(|hosts| hosts.first().and_then(|host| host.port));
        }
        if self.user.is_none() {
            self.user = uri.user().map_err(broken)?;
        }
        if self.password.is_none() {
            self.password = uri.password().map_err(broken)?.map(SecretString::from);
        }
        if self.database.is_none() {
            self.database = uri.database().map_err(broken)?;
        }
        if let (None, Some(mode)) = (self.mode, uri.mode()) {
            self.mode = Some(mode);
            key.clone_into(&mut self.mode_key);
        }
        self.attributes = self.attributes.or(uri.attributes());
        self.certain = true;
        let hosts = self.hosts.iter().map(|host| &host.name);
        if hosts.chain(&self.user).chain(&self.database).any(|part| part.contains(char::is_control)) {
            return Err(broken("has control characters in it"));
        }
        Ok(())
    }

    /// The first host's port.
    pub(in crate::k8s) fn port(&self) -> Option<u16> {
        self.hosts.first().and_then(|host| host.port).or(self.port)
    }

    /// Enough to connect with.
    pub(in crate::k8s) fn is_complete(&self) -> bool {
        (!self.hosts.is_empty() || self.access.is_some()) && self.user.is_some()
    }
}

/// One line, without the line break that `echo` leaves behind, and the quotes that an `.env` file has.
fn line(key: &str, value: &[u8]) -> Result<String, Broken> {
    let text = unquoted(utf8(key, value)?.trim());
    let broken = |why| Broken { key: key.to_owned(), why };
    if text.is_empty() {
        return Err(broken("is empty"));
    }
    if text.len() > LONGEST_KEY {
        return Err(broken("is longer than 4096 bytes"));
    }
    if text.contains(|c: char| c.is_control()) {
        return Err(broken("has control characters in it"));
    }
    Ok(text.to_owned())
}

/// Without quotes of a kind at both ends.
fn unquoted(text: &str) -> &str {
    let within = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    within('"').or_else(|| within('\'')).unwrap_or(text)
}

fn utf8<'a>(key: &str, value: &'a [u8]) -> Result<&'a str, Broken> {
    std::str::from_utf8(value).map_err(|_| Broken { key: key.to_owned(), why: "is no UTF-8 text" })
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
