//! What is written is what `docs/audit.schema.json` says, and `docs/audit.md` shows it.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value, json};

use super::*;

const DOCUMENT: &str = include_str!("../../docs/audit.md");

fn schema() -> Value {
    serde_json::from_str(include_str!("../../docs/audit.schema.json")).expect("JSON")
}

/// Why a value is none of the schema's. Knows the keywords that this schema has, and fails on others.
fn problem(root: &Value, schema: &Value, value: &Value) -> Option<String> {
    let keywords: &Map<String, Value> = schema.as_object().expect("a schema");
    keywords.iter().find_map(|(keyword, says)| {
        let valid = match keyword.as_str() {
            "$ref" => {
                let name = says.as_str()?.strip_prefix("#/$defs/").expect("a definition");
                return problem(root, &root["$defs"][name], value);
            }
            "oneOf" => says.as_array()?.iter().filter(|one| problem(root, one, value).is_none()).count() == 1,
            "const" => says == value,
            "enum" => says.as_array()?.contains(value),
            "type" => match says.as_str().expect("a type") {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "integer" => value.is_i64() || value.is_u64(),
                other => panic!("type {other}"),
            },
            "required" => says.as_array()?.iter().all(|name| value.get(name.as_str().expect("a name")).is_some()),
            "properties" => {
                let names = says.as_object()?;
                return names.into_iter().find_map(|(name, of)| problem(root, of, value.get(name)?));
            }
            "additionalProperties" => {
                assert_eq!(*says, false);
                value.as_object()?.keys().all(|name| schema["properties"].get(name).is_some())
            }
            "items" => return value.as_array()?.iter().find_map(|item| problem(root, says, item)),
            "minItems" => value.as_array()?.len() as u64 >= says.as_u64()?,
            "maxItems" => value.as_array()?.len() as u64 <= says.as_u64()?,
            "maxLength" => value.as_str()?.chars().count() as u64 <= says.as_u64()?,
            "minimum" => value.as_i64()? >= says.as_i64()?,
            "maximum" => value.as_i64()? <= says.as_i64()?,
            "pattern" => matches(says.as_str()?, value.as_str()?),
            "description" | "title" | "$schema" | "$defs" => true,
            other => panic!("keyword {other}"),
        };
        (!valid).then(|| format!("{keyword} {says}: {value}"))
    })
}

/// Whether a text is of this form: `[...]` and `{n}` and what stands for itself.
fn matches(pattern: &str, text: &str) -> bool {
    let mut pattern = pattern.trim_start_matches('^').trim_end_matches('$');
    let mut text = text.chars();
    while let Some(first) = pattern.chars().next() {
        let class = pattern.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (class, rest) = class.unwrap_or_else(|| {
            let rest = pattern.strip_prefix('\\').unwrap_or(pattern);
            rest.split_at(rest.chars().next().map_or(0, char::len_utf8))
        });
        let of_class = |character: char| match class {
            "0-9" => character.is_ascii_digit(),
            "0-9a-f" => character.is_ascii_digit() || ('a'..='f').contains(&character),
            "0-9A-Z" => character.is_ascii_digit() || character.is_ascii_uppercase(),
            literal => first != '[' && literal.starts_with(character),
        };
        let (times, rest) = match rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            Some((times, rest)) => (times.parse().expect("a number"), rest),
            None => (1, rest),
        };
        if (0..times).any(|_| !text.next().is_some_and(of_class)) {
            return false;
        }
        pattern = rest;
    }
    text.next().is_none()
}

fn alice() -> Identity {
    Identity {
        name: "alice@example.com".to_owned(),
        uid: "1b4e28ba".to_owned(),
        groups: vec!["dba".to_owned(), "oncall".to_owned()],
        credential: Some("JTI=7f1a".to_owned()),
        method: Method::Kubernetes,
    }
}

fn session() -> Arc<Session> {
    Arc::new(Session {
        id: 17,
        client: Client {
            tls: Some("TLSv1.3"),
            via: Some([10, 0, 0, 7].into()),
            ..Client::tcp(([192, 0, 2, 10], 51724).into())
        },
        identity: Some(alice()),
        asked: Some("shop.prod".into()),
        target: Some(Target {
            context: "k8s".to_owned(),
            namespace: "prod".to_owned(),
            cluster: "shop".to_owned(),
            pod: Some("shop-1".to_owned()),
            host: None,
            mode: "rw",
        }),
        role: Some("app".into()),
        database: Some("shop".into()),
        application_name: Some("psql".into()),
        rule: Some("access[2]".into()),
        reason: Some("T-1".into()),
    })
}

/// Each event with all that it can have.
fn full() -> Vec<Event> {
    let (session, day) = (session(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_600_000));
    vec![
        Event::Start(Arc::clone(&session)),
        Event::Ready { session: Arc::clone(&session), backend_pid: Some(4242) },
        Event::Denied {
            session: Arc::clone(&session),
            sqlstate: "42501".to_owned(),
            message: Some("there is no shop.prod that alice@example.com may connect to as role app".into()),
        },
        Event::End {
            session: Arc::clone(&session),
            backend_pid: Some(4242),
            bytes: (1834, 90_210),
            end: "revoked",
            sqlstate: Some("57P01".to_owned()),
        },
        Event::Cancel { session, backend_pid: 4242, client: Client::tcp(([192, 0, 2, 10], 51730).into()) },
        Event::Reload { problem: Some("access[2]: no such target".into()) },
        Event::LoginFailed {
            client: Some(Client::at("2001:db8:7::/64".to_owned())),
            count: 240,
            since: day,
            methods: vec!["login".into()],
            names: vec!["login:carol".into()],
        },
        Event::Lost { count: 12 },
    ]
}

/// Each event with as little as it can have.
fn bare() -> Vec<Event> {
    let session = Arc::new(Session::new(0, Client::unix()));
    vec![
        Event::Start(Arc::clone(&session)),
        Event::Ready { session: Arc::clone(&session), backend_pid: None },
        Event::Denied { session: Arc::clone(&session), sqlstate: "57P03".to_owned(), message: None },
        Event::End { session: Arc::clone(&session), backend_pid: None, bytes: (0, 0), end: "drained", sqlstate: None },
        Event::Cancel { session, backend_pid: 0, client: Client::unix() },
        Event::Reload { problem: None },
        Event::LoginFailed {
            client: None,
            count: 1,
            since: SystemTime::now(),
            methods: vec!["certificate".into()],
            names: Vec::new(),
        },
        Event::Lost { count: 1 },
    ]
}

fn value(event: &Event) -> Value {
    let line = Noted::now(event.clone()).line("00c0ffee00c0ffee", 1).expect("a line");
    serde_json::from_slice(&line).expect("JSON")
}

#[test]
fn every_event_is_as_the_schema_says() {
    let schema = schema();
    for event in full().into_iter().chain(bare()) {
        let value = value(&event);
        let own = &schema["$defs"][event.name()];
        assert_eq!(problem(&schema, own, &value), None, "{value}");
        assert_eq!(problem(&schema, &schema, &value), None, "{value}");
        assert!(!value.to_string().contains("null"), "{value}");
    }
}

#[test]
fn the_schema_has_nothing_that_no_event_has() {
    let schema = schema();
    let named: BTreeSet<&str> = full().iter().map(Event::name).collect();
    let listed = schema["oneOf"].as_array().expect("a list");
    let listed: BTreeSet<&str> =
        listed.iter().filter_map(|one| one["$ref"].as_str()?.strip_prefix("#/$defs/")).collect();
    assert_eq!(listed, named);
    for (full, bare) in full().iter().zip(bare()) {
        let own = &schema["$defs"][full.name()];
        let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<BTreeSet<String>>();
        assert_eq!(keys(&own["properties"]), keys(&value(full)), "{}", full.name());
        let required: BTreeSet<String> = own["required"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|name| Some(name.as_str()?.to_owned()))
            .collect();
        assert_eq!(required, keys(&value(&bare)), "{}", full.name());
    }
}

#[test]
fn planted_mistakes_are_none_of_the_schema() {
    let schema = schema();
    for event in full() {
        let right = value(&event);
        for name in ["version", "time", "event", "process", "seq"] {
            let mut wrong = right.clone();
            wrong.as_object_mut().expect("an object").remove(name);
            assert!(problem(&schema, &schema, &wrong).is_some(), "without {name}");
        }
        for (name, put) in [
            ("version", json!(2)),
            ("time", json!("2026-11-24 10:00:00")),
            ("time", json!("2026-11-24T10:00:00.123456Z ")),
            ("process", json!("00C0FFEE00C0FFEE")),
            ("seq", json!(0)),
            ("event", json!("session.begin")),
            ("query", json!("SELECT 1")),
            ("role", json!(null)),
            ("role", json!("x".repeat(257))),
            ("identity", json!({ "name": "alice" })),
            ("identity", json!({ "name": "alice", "method": "guess" })),
            ("client", json!({ "address": "192.0.2.1", "port": 65536 })),
            ("target", json!({ "context": "a", "namespace": "b", "cluster": "c", "mode": "rw", "pod": null })),
        ] {
            let mut wrong = right.clone();
            wrong.as_object_mut().expect("an object").insert(name.to_owned(), put.clone());
            assert!(problem(&schema, &schema, &wrong).is_some(), "{name} {put}");
        }
    }
}

/// The document's examples are lines that pgferry writes; in it they are broken for the reader's eye.
#[test]
fn the_document_shows_every_event() {
    let schema = schema();
    let blocks = DOCUMENT.split("```json\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0));
    let shown: Vec<Value> = blocks.map(|block| serde_json::from_str(block).expect(block)).collect();
    for example in &shown {
        assert_eq!(problem(&schema, &schema, example), None, "{example}");
    }
    for event in full() {
        let expected = value(&event);
        let fields = |value: &Value| {
            let mut fields = value.as_object().expect("an object").clone();
            fields.retain(|name, _| !["time", "since", "process", "seq"].contains(&name.as_str()));
            fields
        };
        let found = shown.iter().any(|example| fields(example) == fields(&expected));
        assert!(found, "docs/audit.md does not show {expected:#}");
    }
}
