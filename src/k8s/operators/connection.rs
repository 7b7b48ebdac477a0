//! Secrets that say where a server is and how to log in, in the shapes that people and tools write: `PG*` variables,
//! Service Binding (<https://servicebinding.io/spec/core/1.1.0/>), Crossplane, `DATABASE_URL`, and their relatives.

use std::{collections::HashMap, sync::Arc};

use secrecy::SecretString;

use super::{
    connection_keys::{CA, DATABASE, HOST, OTHERS, PASSWORD, PORT, SSLMODE, URI, USER},
    facts::{Kin, Members},
};
use crate::{
    k8s::api::{
        access::ListQuery,
        names::{Namespace, ObjectName, is_service_name},
        objects::Data,
    },
    upstream::TlsMode,
};

/// The longest value of a key that is not a certificate or a password; hosts have 253 characters, names 63.
const LONGEST: usize = 4096;

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
    pub(in crate::k8s) host: Option<String>,
    /// The key that holds it.
    pub(in crate::k8s) host_key: String,
    /// The host of replicas.
    pub(in crate::k8s) replica_host: Option<String>,
    pub(in crate::k8s) port: Option<u16>,
    pub(in crate::k8s) user: Option<String>,
    pub(in crate::k8s) password: Option<SecretString>,
    pub(in crate::k8s) database: Option<String>,
    pub(in crate::k8s) mode: Option<TlsMode>,
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

/// Reads a Secret; a value is looked at only under a key that such Secrets use.
pub(in crate::k8s) fn read(data: &Data) -> Result<Connection, Broken> {
    // Keys are compared without case, and `-` is `_`.
    let keys: HashMap<String, (&str, &[u8])> =
        data.iter().map(|(key, value)| (key.to_lowercase().replace('-', "_"), (key, value))).collect();
    let raw =
        |names: &[&str]| names.iter().find_map(|name| keys.get(*name).copied()).filter(|(_, value)| !value.is_empty());
    let text = |names: &[&str]| raw(names).map(|(key, value)| line(key, value)).transpose();
    let mut connection = Connection {
        host: text(HOST)?,
        host_key: raw(HOST).or_else(|| raw(URI)).map(|(key, _)| key.to_owned()).unwrap_or_default(),
        replica_host: text(&["pghost_replica"])?,
        user: text(USER)?,
        database: text(DATABASE)?,
        access: text(&["user_access"])?,
        ca: raw(CA).map(|(_, pem)| Arc::from(pem)).filter(|pem: &Arc<[u8]>| pem.starts_with(b"-----BEGIN")),
        ..Connection::default()
    };
    if let Some((key, value)) = raw(PORT) {
        let port = line(key, value)?.parse().ok().filter(|port| *port != 0);
        connection.port = Some(port.ok_or_else(|| Broken { key: key.to_owned(), why: "is no port number" })?);
    }
    if let Some((key, value)) = raw(PASSWORD) {
        if value.contains(&0) {
            return Err(Broken { key: key.to_owned(), why: "has a zero byte in it" });
        }
        connection.password = Some(SecretString::from(utf8(key, value)?));
    }
    if let Some((key, value)) = raw(SSLMODE) {
        connection.mode =
            Some(mode(&line(key, value)?).ok_or_else(|| Broken { key: key.to_owned(), why: "is no sslmode" })?);
    }
    let mut foreign = false;
    if let Some((key, value)) = raw(URI) {
        if let Some(uri) = parse_uri(utf8(key, value)?.trim()) {
            let parts = [&uri.host, &uri.user, &uri.database];
            if parts.into_iter().flatten().any(|part| part.contains(char::is_control)) {
                return Err(Broken { key: key.to_owned(), why: "has control characters in it" });
            }
            connection.fill(uri);
        } else {
            // Beside a host of its own it is some other address, such as a web page's.
            let scheme = utf8(key, value)?.split_once("://").map(|(scheme, _)| scheme.to_lowercase());
            let other = |scheme: &str| scheme.split('+').next().is_some_and(|scheme| OTHERS.contains(&scheme));
            foreign = scheme.is_some_and(|scheme| connection.host.is_none() || other(&scheme));
        }
    }
    let kind = text(&["type"])?.filter(|kind| kind.starts_with("postgres") || OTHERS.contains(&kind.as_str()));
    let postgres = ["pg", "postgres"].iter().any(|prefix| {
        keys.keys()
            .any(|key| key.starts_with(prefix) && HOST.iter().chain(USER).chain(DATABASE).any(|known| key == known))
    });
    foreign |= kind.as_ref().is_some_and(|kind| !kind.starts_with("postgres"));
    foreign |=
        kind.is_none() && !postgres && matches!(connection.port, Some(3306 | 6379 | 27017 | 1433 | 25 | 465 | 587));
    // `dbname` is libpq's word; others call it otherwise.
    let telling = keys.contains_key("dbname")
        || [&connection.host, &connection.user].into_iter().flatten().any(|text| text.contains("postgres"));
    connection.certain |=
        !foreign && (kind.is_some() || postgres || telling || connection.port == Some(super::facts::PORT));
    if foreign {
        return Ok(Connection::default());
    }
    Ok(connection)
}

impl Connection {
    /// Keys of their own are believed before a URI: operators leave old passwords there.
    fn fill(&mut self, uri: Self) {
        self.host = self.host.take().or(uri.host);
        self.port = self.port.or(uri.port);
        self.user = self.user.take().or(uri.user);
        self.password = self.password.take().or(uri.password);
        self.database = self.database.take().or(uri.database);
        self.mode = self.mode.or(uri.mode);
        self.certain = true;
    }

    /// Enough to connect with.
    pub(in crate::k8s) fn is_complete(&self) -> bool {
        (self.host.is_some() || self.access.is_some()) && self.user.is_some()
    }
}

/// One line, without the line break that `echo` leaves behind.
fn line(key: &str, value: &[u8]) -> Result<String, Broken> {
    let text = utf8(key, value)?.trim();
    let broken = |why| Broken { key: key.to_owned(), why };
    if text.is_empty() {
        return Err(broken("is empty"));
    }
    if text.len() > LONGEST {
        return Err(broken("is longer than 4096 bytes"));
    }
    if text.contains(|c: char| c.is_control()) {
        return Err(broken("has control characters in it"));
    }
    Ok(text.to_owned())
}

fn utf8<'a>(key: &str, value: &'a [u8]) -> Result<&'a str, Broken> {
    std::str::from_utf8(value).map_err(|_| Broken { key: key.to_owned(), why: "is no UTF-8 text" })
}

/// libpq's modes; `no-verify` is node-postgres'. Inside a port-forward `prefer` is `allow`.
fn mode(text: &str) -> Option<TlsMode> {
    Some(match text {
        "disable" => TlsMode::Disable,
        "allow" | "prefer" => TlsMode::Allow,
        "require" | "no-verify" => TlsMode::Require,
        "verify-ca" => TlsMode::VerifyCa,
        "verify-full" => TlsMode::VerifyFull,
        _ => return None,
    })
}

/// `postgres://user:password@host:port/database?sslmode=...`. Some producers encode, some do not: so the user's part
/// ends at the *last* `@`, and what is no encoding is taken as it stands.
fn parse_uri(text: &str) -> Option<Connection> {
    let (scheme, rest) = text.strip_prefix("jdbc:").unwrap_or(text).split_once("://")?;
    // SQLAlchemy names its driver behind a plus.
    if !matches!(scheme.split('+').next(), Some("postgres" | "postgresql")) {
        return None;
    }
    // A query may hold an `@`, and so may a password that is not encoded: the query's does not count.
    let (rest, query) = match rest.rsplit_once('?') {
        Some((before, query)) if before.contains('@') || !query.contains('@') => (before, query),
        _ => (rest, ""),
    };
    let (login, place) = rest.rsplit_once('@').map_or((None, rest), |(login, place)| (Some(login), place));
    let (hosts, database) = place.split_once('/').unwrap_or((place, ""));
    let host = hosts.split(',').next().unwrap_or_default();
    let (host, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (address, port.strip_prefix(':')),
        None => host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port))),
    };
    let (user, password) = login.map_or((None, None), |login| {
        login.split_once(':').map_or((Some(login), None), |(user, password)| (Some(user), Some(password)))
    });
    let some = |text: &str| Some(decoded(text)).filter(|text| !text.is_empty());
    let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let (user, password) = (user.or_else(|| parameter("user")), password.or_else(|| parameter("password")));
    Some(Connection {
        host: some(host),
        port: port.and_then(|port| port.parse().ok()),
        user: user.and_then(some),
        password: password.and_then(some).map(SecretString::from),
        // CloudNativePG writes `*` for "any".
        database: some(database).filter(|database| database != "*"),
        mode: parameter("sslmode").and_then(mode),
        ..Connection::default()
    })
}

/// Percent-decoded, where every `%` begins an encoding and the result is text.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => bytes.push(u8::try_from(high * 16 + low).unwrap_or_default()),
            _ => return text.to_owned(),
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// Where a host leads, as names resolve in a pod of this namespace; `None` where it is no host's name.
pub(in crate::k8s) fn members(host: &str, port: u16, namespace: &Namespace) -> Option<Members> {
    // The names of hosts have no case.
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let outside = || Members::External { host: name.clone(), port };
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Some(outside());
    }
    let place = |namespace: &str, service: &str| {
        let service = ObjectName::parse(service).ok().filter(|service| is_service_name(service))?;
        Some(vec![(Namespace::parse(namespace).ok()?, service)])
    };
    let inside = |places| Members::Service { places, port, outside: None, kin: Kin::Operator };
    let labels: Vec<&str> = name.split('.').collect();
    Some(match labels.as_slice() {
        [service] => inside(place(namespace, service)?),
        [service, namespace, "svc", ..] => inside(place(namespace, service)?),
        // A StatefulSet's pod behind its headless Service.
        [pod, service, namespace, "svc", ..] => Members::Pod {
            namespace: Namespace::parse(namespace).ok()?,
            pod: ObjectName::parse(pod).ok()?,
            service: Some(ObjectName::parse(service).ok()?),
        },
        // `db.prod` may be a Service in `prod`, and a host as well.
        [service, namespace] => {
            // It may be a host outside that is called as no Service can be.
            let Some(places) = place(namespace, service) else {
                return labels.iter().all(|label| is_host_label(label)).then(outside);
            };
            Members::Service { places, port, outside: Some(name.clone()), kin: Kin::Operator }
        }
        // Hosts outside may have an underscore, and a resolver takes no more than that.
        _ if labels.iter().all(|label| is_host_label(label)) => outside(),
        _ => return None,
    })
}

fn is_host_label(label: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=63).contains(&label.len()) && label.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use secrecy::ExposeSecret as _;
    use serde_json::json;

    use super::*;

    fn data(pairs: &[(&str, &str)]) -> Data {
        let encode = |value: &str| ByteString(value.into());
        let map: serde_json::Map<String, serde_json::Value> =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(encode(value)))).collect();
        serde_json::from_value(json!(map)).expect("data")
    }

    fn of(pairs: &[(&str, &str)]) -> Connection {
        read(&data(pairs)).expect("a connection")
    }

    #[test]
    fn many_shapes_say_the_same() {
        let shapes: [&[(&str, &str)]; 6] = [
            &[
                ("PGHOST", "db.prod"),
                ("PGUSER", "app"),
                ("PGPASSWORD", "x@/y"),
                ("PGDATABASE", "shop"),
                ("PGPORT", "5432"),
            ],
            &[
                ("type", "postgresql"),
                ("host", "db.prod\r\n"),
                ("username", "app"),
                ("password", "x@/y"),
                ("database", "shop"),
                ("port", "5432"),
            ],
            &[("endpoint", "db.prod"), ("username", "app"), ("password", "x@/y"), ("port", "5432"), ("dbname", "shop")],
            &[("DATABASE_URL", "postgres://app:x%40%2Fy@db.prod:5432/shop?sslmode=require")],
            &[("url", "postgresql+asyncpg://app:x@/y@db.prod:5432/shop")],
            &[
                ("postgres-host", "db.prod"),
                ("postgres-user", "app"),
                ("postgres-password", "x@/y"),
                ("postgres-db", "shop"),
                ("postgres-port", "5432"),
            ],
        ];
        for shape in shapes {
            let found = of(shape);
            assert_eq!(found.host.as_deref(), Some("db.prod"), "{shape:?}");
            assert_eq!(
                (found.user.as_deref(), found.database.as_deref(), found.port),
                (Some("app"), Some("shop"), Some(5432))
            );
            assert_eq!(found.password.expect("a password").expose_secret(), "x@/y", "{shape:?}");
            assert!(found.certain);
        }
    }

    #[test]
    fn keys_are_believed_before_uris() {
        let stale = of(&[
            ("host", "db"),
            ("username", "app"),
            ("password", "new"),
            ("uri", "postgresql://app:old@db:5433/shop"),
        ]);
        assert_eq!(stale.password.expect("a password").expose_secret(), "new");
        assert_eq!((stale.port, stale.database.as_deref()), (Some(5433), Some("shop")));
    }

    #[test]
    fn other_servers_secrets_are_not_postgresql() {
        for foreign in [
            &[("type", "mysql"), ("host", "db"), ("username", "app"), ("password", "x")] as &[(&str, &str)],
            &[("uri", "mongodb://app:x@db/shop"), ("username", "app"), ("host", "db")],
            &[("host", "smtp.example.com"), ("port", "587"), ("username", "app"), ("password", "x")],
        ] {
            assert!(!of(foreign).is_complete(), "{foreign:?}");
        }
        assert!(!of(&[("host", "db"), ("username", "app"), ("password", "x")]).certain);
        assert!(of(&[("host", "db"), ("username", "app"), ("password", "x"), ("dbname", "shop")]).certain);
        assert!(of(&[("host", "postgres.prod"), ("username", "app"), ("password", "x")]).certain);
    }

    #[test]
    fn broken_values_name_their_key() {
        let broken = |pairs: &[(&str, &str)]| read(&data(pairs)).expect_err("broken");
        assert_eq!(broken(&[("PGPORT", "many")]), Broken { key: "PGPORT".to_owned(), why: "is no port number" });
        assert_eq!(broken(&[("host", "a\0b")]).why, "has control characters in it");
        assert_eq!(broken(&[("user", " \r\n")]).why, "is empty");
        assert_eq!(broken(&[("sslmode", "maybe")]).why, "is no sslmode");
        assert_eq!(broken(&[("host", &"x".repeat(1 << 20))]).key, "host");
        let binary = json!({"username": ByteString(vec![0xff, 0xfe])});
        assert_eq!(read(&serde_json::from_value(binary).expect("data")).expect_err("broken").why, "is no UTF-8 text");
    }

    #[test]
    fn hosts_lead_to_services_pods_or_outside() {
        let namespace = |text: &str| Namespace::parse(text).expect("a namespace");
        let object = |text: &str| ObjectName::parse(text).expect("a name");
        let service = |place: &str, name: &str, outside: Option<&str>| Members::Service {
            places: vec![(namespace(place), object(name))],
            port: 5432,
            outside: outside.map(str::to_owned),
            kin: Kin::Operator,
        };
        let lead = |host: &str, port, from: &str| members(host, port, &namespace(from));
        let members = |host: &str, port, from: &str| lead(host, port, from).expect("a host");
        assert_eq!(members("db", 5432, "prod"), service("prod", "db", None));
        assert_eq!(members("db.other.svc", 5432, "prod"), service("other", "db", None));
        assert_eq!(members("db.other.svc.cluster.local.", 5432, "prod"), service("other", "db", None));
        assert_eq!(members("db.other", 5432, "prod"), service("other", "db", Some("db.other")));
        assert_eq!(
            members("db-0.db.x.svc.cluster.local", 5432, "prod"),
            Members::Pod { namespace: namespace("x"), pod: object("db-0"), service: Some(object("db")) }
        );
        let external = |host: &str| Members::External { host: host.to_owned(), port: 5432 };
        assert_eq!(
            members("shop.abc.eu-north-1.rds.amazonaws.com", 5432, "prod"),
            external("shop.abc.eu-north-1.rds.amazonaws.com")
        );
        assert_eq!(members("10.0.0.5", 5432, "prod"), external("10.0.0.5"));
        assert_eq!(members("DB.Other.svc", 5432, "prod"), service("other", "db", None));
        for host in ["x.kube-system/services/y", "a b", "x/../y", "", ".", "a..b", "x?y.z.w", "db_1"] {
            assert_eq!(lead(host, 5432, "prod"), None, "{host}");
        }
    }
}
