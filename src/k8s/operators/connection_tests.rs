use k8s_openapi::ByteString;
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::*;
use crate::k8s::{
    api::names::{Namespace, ObjectName},
    operators::{
        connection_hosts::members,
        facts::{Kin, Members},
    },
};

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
        &[("PGHOST", "db.prod"), ("PGUSER", "app"), ("PGPASSWORD", "x@/y"), ("PGDATABASE", "shop"), ("PGPORT", "5432")],
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
        assert_eq!(found.hosts.first().map(|host| host.name.as_str()), Some("db.prod"), "{shape:?}");
        assert_eq!(
            (found.user.as_deref(), found.database.as_deref(), found.port()),
            (Some("app"), Some("shop"), Some(5432))
        );
        assert_eq!(found.password.expect("a password").expose_secret(), "x@/y", "{shape:?}");
        assert!(found.certain);
    }
}

#[test]
fn keys_are_believed_before_uris() {
    let stale =
        of(&[("host", "db"), ("username", "app"), ("password", "new"), ("uri", "postgresql://app:old@db:5433/shop")]);
    assert_eq!((stale.port(), stale.database.as_deref()), (Some(5433), Some("shop")));
    assert_eq!(stale.password.expect("a password").expose_secret(), "new");
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
    let external = |host: &str| Members::External(vec![(host.to_owned(), 5432)]);
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

fn names(hosts: &[Host]) -> Vec<(&str, Option<u16>)> {
    hosts.iter().map(|host| (host.name.as_str(), host.port)).collect()
}

/// Secrets for `SQLAlchemy`, Spring and `.env` files, and URIs with everything behind the question mark, were no connections.
#[test]
fn more_shapes_say_the_same() {
    let url = "postgresql+psycopg2://app:x%40y@db.prod:5433/shop";
    let behind = "postgresql:///shop?host=db.prod&port=5433&user=app&password=x@y";
    let shapes: [&[(&str, &str)]; 6] = [
        &[("SQLALCHEMY_DATABASE_URI", url)],
        &[("DATABASE_URL", &format!("\"{url}\"\n"))],
        &[("DATABASE_URL", &format!("'{url}'"))],
        &[
            ("SPRING_DATASOURCE_URL", "jdbc:postgresql://db.prod:5433/shop"),
            ("SPRING_DATASOURCE_USERNAME", "app"),
            ("SPRING_DATASOURCE_PASSWORD", "x@y"),
        ],
        &[("spring.datasource.url", "jdbc:postgresql://db.prod:5433/shop?user=app&password=x%40y")],
        &[("POSTGRES_DSN", behind)],
    ];
    for shape in shapes {
        let found = of(shape);
        assert_eq!(names(&found.hosts), [("db.prod", Some(5433))], "{shape:?}");
        assert_eq!((found.user.as_deref(), found.database.as_deref()), (Some("app"), Some("shop")), "{shape:?}");
        assert_eq!(found.password.expect("a password").expose_secret(), "x@y", "{shape:?}");
        assert!(found.certain);
    }
    // A password of its own is taken as it stands.
    let quoted = of(&[("PGHOST", "db"), ("PGUSER", "app"), ("PGPASSWORD", "\"x\"")]);
    assert_eq!(quoted.password.expect("a password").expose_secret(), "\"x\"");
}

#[test]
fn a_percent_sequence_that_is_none_is_told() {
    let broken = read(&data(&[("DATABASE_URL", "postgres://app:ten%zz1@db/shop")])).expect_err("no encoding");
    assert_eq!((broken.key.as_str(), broken.why.contains("percent-encoding")), ("DATABASE_URL", true));
    // What has keys of its own does not matter in the URI: those who do not encode have them.
    let own = of(&[("uri", "postgres://app:ten%zz1@db/shop"), ("password", "ten%zz1")]);
    assert_eq!(own.password.expect("a password").expose_secret(), "ten%zz1");
}

#[test]
fn several_hosts_are_all_kept() {
    let several = of(&[("DATABASE_URL", "postgres://app@a.x.svc,b.x.svc:5433/shop?target_session_attrs=standby")]);
    assert_eq!(names(&several.hosts), [("a.x.svc", None), ("b.x.svc", Some(5433))]);
    assert_eq!(several.attributes, Some(Attributes::Standby));
    let keys =
        of(&[("PGHOST", "a,b"), ("PGPORT", "5432,5433"), ("PGUSER", "app"), ("DATABASE_URL_RO", "postgres://c/x")]);
    assert_eq!(names(&keys.hosts), [("a", Some(5432)), ("b", Some(5433))]);
    assert_eq!((names(&keys.replicas), keys.replica_key.as_str()), (vec![("c", None)], "DATABASE_URL_RO"));
    let uneven = read(&data(&[("PGHOST", "a,b"), ("PGPORT", "1,2,3"), ("PGUSER", "app")])).expect_err("uneven");
    assert_eq!(uneven.key, "PGPORT");
    assert_eq!(read(&data(&[("target_session_attrs", "x")])).expect_err("no word").key, "target_session_attrs");
}
