use std::time::Duration;

use bytes::Bytes;
use secrecy::SecretString;
use tokio::time::Instant;

use super::*;
use crate::{
    auth::upstream::Method,
    pg::{backend::ErrorFields, startup::Startup},
    upstream::{Conninfo, Form, Identity, Mode, PodId, Progress, Role, Server, Target},
};

pub(super) fn upstream() -> Upstream {
    let server = PodId { namespace: "prod".to_owned(), name: "shop-1".to_owned(), uid: "6c5a".to_owned() };
    Upstream::example(Server::Pod(server))
}

pub(super) fn login() -> Login {
    Login {
        user: "app".to_owned(),
        password: Some(SecretString::from("secret")),
        database: "books".to_owned(),
        superuser: false,
        source: "Secret prod/shop-app".to_owned(),
        version: "1".to_owned(),
    }
}

fn wanted() -> Wanted {
    let target = Target { name: "shop".to_owned(), context: None, mode: Mode::Rw, system: None };
    let deadline = Instant::now() + Duration::from_mins(1);
    let ask = Ask {
        identity: Identity::Local,
        target,
        role: Role::Default,
        database: None,
        deadline,
        wait_until: deadline,
        progress: Progress::new().0,
        conninfo: Conninfo { host: "localhost".to_owned(), port: 10000, form: Form::Nowhere },
    };
    let mut startup = Startup::new(ProtocolVersion::V3_0);
    startup.set("user", "somebody");
    startup.set("application_name", "psql");
    Wanted { ask, startup, database: None, otherwise: None, reason: None }
}

/// A role's name with a zero in it went into the startup message as it was, and what stood behind the zero became
/// parameters: `app\0options\0-c ...`.
#[tokio::test]
async fn names_that_would_be_more_than_names_are_not_sent() {
    let long = "r".repeat(64);
    for (user, database, part) in [
        ("app\0options\0-c role=admin", "books", "the role's name holds a zero byte"),
        (long.as_str(), "books", "the role's name is longer than the 63 bytes"),
        ("app", "books\0options\0-c role=admin", "the database's name holds a zero byte"),
    ] {
        let login = Login { user: user.to_owned(), database: database.to_owned(), ..login() };
        let Err(report) = wanted().startup_for(&login, None) else { panic!("{part}") };
        assert_eq!(report.sqlstate.as_str(), "28000");
        assert!(report.message.contains(part) && report.message.contains("Secret prod/shop-app"), "{report:?}");
    }
    let longest = Login { user: "r".repeat(63), ..login() };
    let Ok(startup) = wanted().startup_for(&longest, None) else { panic!("63 bytes are a name") };
    let sent: Vec<_> = startup.parameters().collect();
    let expected: [(&[u8], &[u8]); 3] =
        [(b"user", longest.user.as_bytes()), (b"application_name", b"psql"), (b"database", b"books")];
    assert_eq!(sent, expected);
}

#[test]
fn a_server_that_takes_no_plaintext_is_verified_where_it_can_be() {
    let ca: Arc<[u8]> = Arc::from(&b"PEM"[..]);
    let secret = CaBy::Secret("Secret prod/shop-app".to_owned());
    for (mode, ca_pem, ca_by, habit, becomes) in [
        (TlsMode::Allow, Some(&ca), CaBy::Configuration, Some(Habit::NeedsTls), TlsMode::VerifyCa),
        (TlsMode::Allow, Some(&ca), secret, Some(Habit::NeedsTls), TlsMode::VerifyCa),
        (TlsMode::Allow, Some(&ca), CaBy::Cluster, Some(Habit::NeedsTls), TlsMode::Require),
        (TlsMode::Allow, None, CaBy::Configuration, Some(Habit::NeedsTls), TlsMode::Require),
        (TlsMode::Allow, Some(&ca), CaBy::Configuration, Some(Habit::PlaintextScram), TlsMode::Allow),
        (TlsMode::Allow, Some(&ca), CaBy::Configuration, None, TlsMode::Allow),
        (TlsMode::Disable, Some(&ca), CaBy::Configuration, Some(Habit::NeedsTls), TlsMode::Disable),
        (TlsMode::VerifyFull, Some(&ca), CaBy::Cluster, Some(Habit::NeedsTls), TlsMode::VerifyFull),
    ] {
        let what = format!("{mode:?} {ca_by:?} {habit:?}");
        let tls = TlsFacts { mode, ca_pem: ca_pem.cloned(), ca_by, ..TlsFacts::default() };
        assert_eq!(facts(&Upstream { tls, ..upstream() }, habit).mode, becomes, "{what}");
    }
}

#[tokio::test]
async fn habits_are_nobody_elses() {
    let habits = Habits::default();
    habits.learn(HabitKey::of(&wanted(), &upstream()), &Channel::Plaintext, Method::ScramSha256);
    let known = |wanted: &Wanted, upstream: &Upstream| habits.get(&HabitKey::of(wanted, upstream));
    assert_eq!(known(&wanted(), &upstream()), Some(Habit::PlaintextScram));
    assert_eq!(known(&wanted(), &Upstream { meaning: 2, ..upstream() }), None);
    assert_eq!(known(&wanted(), &Upstream { credential: 2, ..upstream() }), None);
    let mut other = wanted();
    other.ask.role = Role::Named("app".to_owned());
    assert_eq!(known(&other, &upstream()), None);
    other = Wanted { database: Some(Bytes::from_static(b"books")), ..wanted() };
    assert_eq!(known(&other, &upstream()), None);
}

#[test]
fn hints_name_the_cluster() {
    for report in [
        LoginError::CleartextUntrusted.report(),
        LoginError::CleartextNeedsTls.report(),
        LoginError::Md5Untrusted.report(),
        tls::TlsError::NoCa.report(),
    ] {
        let placed = placed(&upstream(), report);
        let hint = placed.hint.unwrap_or_default();
        assert!(hint.contains("clusters.\"shop.prod\"") && !hint.contains("NAME"), "{hint}");
        assert!(placed.message.starts_with("pod shop-1: "), "{}", placed.message);
    }
}

/// What a Secret holds goes into terminals, with a server's refusal.
#[test]
fn hints_of_ours_are_printable() {
    let mut frame = BytesMut::new();
    crate::pg::encode::report(&Report::fatal(SqlState::INVALID_PASSWORD, "no"), &mut frame);
    let refusal = Refusal::Server { frame: frame.freeze(), fields: ErrorFields::default() };
    let login = Login { user: "a\u{1b}[2Jb".to_owned(), ..login() };
    let Refusal::Server { frame, .. } = explained(refusal, &login) else { panic!("another refusal") };
    assert!(!frame.contains(&0x1b) && String::from_utf8_lossy(&frame).contains("a\u{fffd}[2Jb"));
}
