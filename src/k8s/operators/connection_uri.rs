//! The words of connection strings, and URIs as libpq reads them
//! (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>), and as those write them who build
//! them of strings; JDBC's, too.

use crate::upstream::TlsMode;

/// A server that a Secret names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::k8s) struct Host {
    pub(in crate::k8s) name: String,
    pub(in crate::k8s) port: Option<u16>,
}

/// libpq's `target_session_attrs`: which of several servers is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::k8s) enum Attributes {
    Any,
    Primary,
    Standby,
    PreferStandby,
}

impl Attributes {
    /// libpq's words, and JDBC's (`targetServerType`).
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "any" => Self::Any,
            "read-write" | "primary" | "master" => Self::Primary,
            "read-only" | "standby" | "secondary" | "slave" => Self::Standby,
            "prefer-standby" | "preferSecondary" | "preferSlave" => Self::PreferStandby,
            _ => return None,
        })
    }
}

/// The parts of a URI as they stand in it: an encoding is looked at where the part is used.
#[derive(Debug, Default)]
pub(super) struct Uri<'a> {
    hosts: Vec<(&'a str, Option<&'a str>)>,
    user: Option<&'a str>,
    password: Option<&'a str>,
    database: Option<&'a str>,
    query: &'a str,
}

/// Why a URI cannot be used.
pub(super) const NO_ENCODING: &str = "has a % that begins no percent-encoding: % itself is %25";
const NO_PORT: &str = "has a port that is no number";

impl<'a> Uri<'a> {
    /// `postgres://user:password@host:port/database?sslmode=...`. Some producers encode, some do not: so the user's part
    /// ends at the *last* `@`. `None` where it is no URI of PostgreSQL's.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.strip_prefix("jdbc:").unwrap_or(text).split_once("://")?;
        // SQLAlchemy names its driver behind a plus.
        let scheme = scheme.split('+').next().unwrap_or_default();
        if !["postgres", "postgresql"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return None;
        }
        // A query may hold an `@`, and so may a password that is not encoded: the query's does not count.
        let (rest, query) = match (rest.rsplit_once('?'), rest.split_once('?')) {
            // Where there is no authority, there is nothing before the query that could hold one.
            (_, Some((before, query))) if before.starts_with('/') || before.is_empty() => (before, query),
            (Some((before, query)), _) if before.contains('@') || !query.contains('@') => (before, query),
            _ => (rest, ""),
        };
        let (login, place) = rest.rsplit_once('@').map_or((None, rest), |(login, place)| (Some(login), place));
        let (hosts, database) = place.split_once('/').unwrap_or((place, ""));
        let hosts = hosts.split(',').filter(|host| !host.is_empty()).map(host_and_port).collect();
        let (user, password) = login.map_or((None, None), |login| {
            login.split_once(':').map_or((Some(login), None), |(user, password)| (Some(user), Some(password)))
        });
        Some(Self { hosts, user, password, database: Some(database), query })
    }

    fn parameter(&self, name: &str) -> Option<&'a str> {
        let found = self.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        found.filter(|text| !text.is_empty())
    }

    pub(super) fn hosts(&self) -> Result<Vec<Host>, &'static str> {
        let named = self.parameter("host").or_else(|| self.parameter("hostaddr"));
        if self.hosts.is_empty() {
            let hosts = named.map(decoded).transpose()?.unwrap_or_default();
            let ports = self.parameter("port").map(decoded).transpose()?.unwrap_or_default();
            return paired(&hosts, &ports);
        }
        let port = |port: Option<&str>| port.map(|port| port.parse().map_err(|_| NO_PORT)).transpose();
        self.hosts.iter().map(|(host, at)| Ok(Host { name: decoded(host)?, port: port(*at)? })).collect()
    }

    pub(super) fn user(&self) -> Result<Option<String>, &'static str> {
        some(self.user.or_else(|| self.parameter("user")))
    }

    pub(super) fn password(&self) -> Result<Option<String>, &'static str> {
        some(self.password.or_else(|| self.parameter("password")))
    }

    pub(super) fn database(&self) -> Result<Option<String>, &'static str> {
        let named = self.database.filter(|database| !database.is_empty()).or_else(|| self.parameter("dbname"));
        // CloudNativePG writes `*` for "any".
        Ok(some(named)?.filter(|database| database != "*"))
    }

    pub(super) fn mode(&self) -> Option<TlsMode> {
        self.parameter("sslmode").and_then(mode)
    }

    /// libpq's word, else JDBC's.
    pub(super) fn attributes(&self) -> Option<Attributes> {
        let named = self.parameter("target_session_attrs").or_else(|| self.parameter("targetServerType"));
        named.and_then(Attributes::parse)
    }
}

/// libpq's modes; `no-verify` is node-postgres'. Inside a port-forward `prefer` is `allow`.
pub(super) fn mode(text: &str) -> Option<TlsMode> {
    Some(match text {
        "disable" => TlsMode::Disable,
        "allow" | "prefer" => TlsMode::Allow,
        "require" | "no-verify" => TlsMode::Require,
        "verify-ca" => TlsMode::VerifyCa,
        "verify-full" => TlsMode::VerifyFull,
        _ => return None,
    })
}

fn host_and_port(host: &str) -> (&str, Option<&str>) {
    let (host, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (address, port.strip_prefix(':')),
        None => host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port))),
    };
    (host, port.filter(|port| !port.is_empty()))
}

/// Lists with commas between: as many ports as hosts, or one for all.
pub(super) fn paired(hosts: &str, ports: &str) -> Result<Vec<Host>, &'static str> {
    let ports: Vec<Option<u16>> = ports
        .split(',')
        .map(|port| match port.trim() {
            "" => Ok(None),
            port => port.parse().ok().filter(|port| *port != 0).map(Some).ok_or("is no port number"),
        })
        .collect::<Result<_, _>>()?;
    let hosts: Vec<&str> = hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).collect();
    if ports.len() > 1 && ports.len() != hosts.len() {
        return Err("names more or fewer ports than there are hosts");
    }
    let port = |number: usize| ports.get(number).or_else(|| ports.first()).copied().flatten();
    Ok(hosts.iter().enumerate().map(|(n, host)| Host { name: (*host).to_owned(), port: port(n) }).collect())
}

fn some(text: Option<&str>) -> Result<Option<String>, &'static str> {
    Ok(text.map(decoded).transpose()?.filter(|text| !text.is_empty()))
}

/// Percent-decoded. What is no encoding is an error, as it is to libpq: a password with a sign too many or too few is refused
/// by the server, and nobody knows why.
fn decoded(text: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = digit(rest.next()).zip(digit(rest.next())).ok_or(NO_ENCODING)?;
        bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    String::from_utf8(bytes).map_err(|_| "is no UTF-8 text")
}
