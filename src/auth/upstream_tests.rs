//! Logins against a server that does not mean well; the real ones are in the protocol tests.

use std::num::NonZeroU32;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Buf as _;
use secrecy::SecretString;
use tokio::{
    io::{AsyncReadExt as _, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    auth::{
        rounds::{Hasher, hmac},
        scram::ScramError,
    },
    error::ClientFacing as _,
    upstream::{AuthFacts, Server},
};

fn login() -> Login {
    Login {
        user: "app".to_owned(),
        password: Some(SecretString::from("secret")),
        database: "app".to_owned(),
        superuser: false,
        source: "Secret prod/shop-app".to_owned(),
        version: "1".to_owned(),
    }
}

fn upstream() -> Upstream {
    Upstream::example(Server::External { host: "shop-rw".to_owned(), others: false })
}

fn weakest(weakest: AuthMethod) -> Upstream {
    Upstream { auth: AuthFacts { weakest, ..AuthFacts::default() }, ..upstream() }
}

fn tls(verified_by: Option<CaBy>) -> Channel {
    Channel::Tls { end_point: None, verified_by }
}

/// Who meets the server.
struct Meeting {
    login: Login,
    channel: Channel,
    early: Early,
    upstream: Upstream,
    memory: Memory,
}

impl Default for Meeting {
    fn default() -> Self {
        Self {
            login: login(),
            channel: Channel::Plaintext,
            early: Early::Wait,
            upstream: upstream(),
            memory: Memory::default(),
        }
    }
}

impl Meeting {
    async fn log_in(&self, mut ours: DuplexStream) -> Result<Method, LoginError> {
        let mut startup = Startup::new(ProtocolVersion::V3_0);
        startup.set("user", "app");
        let (login, channel, upstream, memory) = (&self.login, &self.channel, &self.upstream, &self.memory);
        let (version, early) = (ProtocolVersion::V3_0, self.early);
        let attempt = Attempt { startup: &startup, version, login, channel, early, upstream, memory };
        log_in(&mut ours, &mut BytesMut::new(), attempt).await
    }

    /// What becomes of a login when the server answers with these bytes, whatever it is asked.
    async fn with(&self, answer: &[u8]) -> Result<Method, LoginError> {
        let (ours, mut server) = duplex(64 * 1024);
        server.write_all(answer).await.expect("written");
        let reading = tokio::spawn(async move {
            let mut asked = Vec::new();
            let _ = server.read_to_end(&mut asked).await;
            asked
        });
        let result = self.log_in(ours).await;
        let asked = reading.await.expect("read");
        // The password is among what was sent to none but those that may have it.
        let given = matches!(result, Ok(Method::Cleartext));
        assert_eq!(asked.windows(6).any(|bytes| bytes == b"secret"), given, "the password was sent");
        result
    }

    /// A login at a server that does SCRAM, with these rounds and this last message (none: the right one).
    async fn with_scram(&self, rounds: u64, last: Option<&str>) -> Result<Method, LoginError> {
        let (ours, server) = duplex(64 * 1024);
        let serving = scram_server(server, rounds, last.map(str::to_owned));
        let (result, ()) = tokio::join!(self.log_in(ours), serving);
        result
    }
}

/// Does its part, and ends at once where the client does.
async fn scram_server(mut server: DuplexStream, rounds: u64, last: Option<String>) {
    let mut buf = BytesMut::new();
    while buf.len() < 8 || buf.len() < usize::try_from((&buf[..4]).get_u32()).expect("a length") {
        assert_ne!(server.read_buf(&mut buf).await.expect("read"), 0);
    }
    let startup = usize::try_from((&buf[..4]).get_u32()).expect("a length");
    let _ = buf.split_to(startup);
    let _ = server.write_all(&ask(10, b"SCRAM-SHA-256\0\0")).await;
    let Ok(first) = receive(&mut server, &mut buf).await else { return };
    let first = String::from_utf8_lossy(first.body()).into_owned();
    let nonce = first.split_once("r=").expect("a nonce").1.to_owned();
    let challenge = format!("r={nonce}theirs,s=c2FsdA==,i={rounds}");
    let _ = server.write_all(&ask(11, challenge.as_bytes())).await;
    let Ok(answer) = receive(&mut server, &mut buf).await else { return };
    let answer = String::from_utf8_lossy(answer.body()).into_owned();
    let rounds = u32::try_from(rounds).ok().and_then(NonZeroU32::new).expect("rounds");
    let keys = Hasher::default().keys(b"secret", b"salt", rounds).await.expect("keys");
    let (without_proof, _) = answer.split_once(",p=").expect("a proof");
    let signature = hmac(keys.server.as_slice(), &[format!("n=,r={nonce},{challenge},{without_proof}").as_bytes()]);
    let last = last.unwrap_or_else(|| format!("v={}", STANDARD.encode(signature.as_slice())));
    let _ = server.write_all(&[ask(12, last.as_bytes()), ask(0, b"")].concat()).await;
}

async fn against(answer: &[u8], login: &Login, channel: Channel, early: Early) -> Result<Method, LoginError> {
    Meeting { login: login.clone(), channel, early, ..Meeting::default() }.with(answer).await
}

fn ask(code: u32, rest: &[u8]) -> Vec<u8> {
    let body = [&code.to_be_bytes()[..], rest].concat();
    encode::to_bytes(|out| encode::message(b'R', &body, out)).to_vec()
}

#[tokio::test]
async fn cleartext_is_not_given_in_plaintext() {
    let meeting = Meeting { upstream: weakest(AuthMethod::Password), ..Meeting::default() };
    let result = meeting.with(&ask(3, b"")).await;
    assert!(matches!(&result, Err(error @ LoginError::CleartextNeedsTls) if error.needs_tls()), "{result:?}");
    // Nor is TLS tried where nothing would be given inside it either.
    let result = against(&ask(3, b""), &login(), Channel::Plaintext, Early::Wait).await;
    assert!(matches!(&result, Err(error @ LoginError::CleartextUntrusted) if !error.needs_tls()), "{result:?}");
}

#[tokio::test]
async fn a_server_that_skips_its_proof_is_refused() {
    let scram = ask(10, b"SCRAM-SHA-256\0\0");
    let result = against(&[scram, ask(0, b"")].concat(), &login(), Channel::Plaintext, Early::Wait).await;
    assert!(matches!(result, Err(LoginError::ServerSignature)), "{result:?}");
}

#[tokio::test]
async fn an_early_message_that_does_not_fit_is_a_miss() {
    for other in [ask(0, b""), ask(5, b"salt"), ask(3, b""), ask(10, b"OTHER\0\0")] {
        let result = against(&other, &login(), Channel::Plaintext, Early::Sasl).await;
        assert!(matches!(result, Err(LoginError::EarlyMissed)), "{result:?}");
    }
}

#[tokio::test]
async fn passwords_that_cannot_be_sent() {
    let without = Login { password: None, ..login() };
    let result = against(&ask(10, b"SCRAM-SHA-256\0\0"), &without, Channel::Plaintext, Early::Wait).await;
    assert!(matches!(&result, Err(LoginError::NoPassword(source)) if source == "Secret prod/shop-app"), "{result:?}");
    let zero = Login { password: Some(SecretString::from("a\0b")), ..login() };
    let result = against(&ask(10, b"SCRAM-SHA-256\0\0"), &zero, Channel::Plaintext, Early::Wait).await;
    assert!(matches!(result, Err(LoginError::ZeroByte(_))), "{result:?}");
}

/// An error whose length cannot be was taken for the bare text of a server that cannot fork, an empty one, and the login
/// was tried again and again.
#[tokio::test]
async fn an_error_that_lies_about_its_length_is_no_text() {
    for length in [0_u32, 3, 30_005, 40_000, 16 << 20, 0x2000_0000] {
        let lie = [&b"E"[..], &length.to_be_bytes(), b"some"].concat();
        let result = against(&lie, &login(), Channel::Plaintext, Early::Wait).await;
        assert!(matches!(result, Err(LoginError::Protocol(_))), "{length}: {result:?}");
    }
    let result = against(b"Ecould not fork\n\0", &login(), Channel::Plaintext, Early::Wait).await;
    assert!(matches!(&result, Err(LoginError::Overloaded(text)) if text == "could not fork"), "{result:?}");
}

/// Without a tunnel a reset is an error of the stream, and was taken for one that stays.
#[tokio::test]
async fn a_reset_ends_a_login_as_a_close_does() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let mut ours = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
    let (server, _) = listener.accept().await.expect("accepted");
    // Waits until the message is there: an end over unread bytes is a reset.
    let reset = async {
        server.readable().await.expect("readable");
        drop(server);
    };
    let mut startup = Startup::new(ProtocolVersion::V3_0);
    startup.set("user", "app");
    let Meeting { login, channel, early, upstream, memory } = &Meeting::default();
    let (version, early) = (ProtocolVersion::V3_0, *early);
    let attempt = Attempt { startup: &startup, version, login, channel, early, upstream, memory };
    let mut buf = BytesMut::new();
    let (result, ()) = tokio::join!(log_in(&mut ours, &mut buf, attempt), reset);
    assert!(matches!(&result, Err(error @ LoginError::Io(_)) if error.is_end()), "{result:?}");
}

#[tokio::test]
async fn hostile_answers_are_errors() {
    let nonce = ask(11, b"r=other,s=AAAA,i=4096");
    let iterations = ask(11, b"r=x,s=AAAA,i=2000000000");
    let scram = ask(10, b"SCRAM-SHA-256\0\0");
    for hostile in [
        b"R\0\0\0\x02".to_vec(),
        b"R\x7f\xff\xff\xff".to_vec(),
        b"T\0\0\0\x04".to_vec(),
        ask(11, b"x"),
        ask(12, b"x"),
        ask(7, b""),
        [scram.clone(), nonce].concat(),
        [scram, iterations].concat(),
        Vec::new(),
    ] {
        let (ours, mut server) = duplex(64 * 1024);
        server.write_all(&hostile).await.expect("written");
        server.shutdown().await.expect("ended");
        assert!(Meeting::default().log_in(ours).await.is_err(), "{hostile:?}");
    }
}

/// A server could ask for one hash after the other, or begin SCRAM again with a salt of its choice.
#[tokio::test]
async fn a_server_asks_once() {
    let scram = || ask(10, b"SCRAM-SHA-256\0\0");
    let meeting = Meeting { channel: tls(None), upstream: weakest(AuthMethod::Password), ..Meeting::default() };
    for twice in [
        [scram(), scram()],
        [ask(5, b"salt"), ask(5, b"tlas")],
        [ask(3, b""), ask(5, b"salt")],
        [scram(), ask(3, b"")],
        [scram(), ask(5, b"salt")],
        [scram(), ask(12, b"v=AAAA")],
        [ask(11, b"r=x,s=AAAA,i=4096"), scram()],
    ] {
        let (ours, mut server) = duplex(64 * 1024);
        server.write_all(&twice.concat()).await.expect("written");
        let result = meeting.log_in(ours).await;
        assert!(matches!(result, Err(LoginError::Protocol(_))), "{twice:?}: {result:?}");
    }
}

#[tokio::test]
async fn a_server_proves_that_it_knows_the_password() {
    for early in [Early::Wait, Early::Sasl] {
        let meeting = Meeting { early, ..Meeting::default() };
        let result = meeting.with_scram(4096, None).await;
        assert!(matches!(result, Ok(Method::ScramSha256)), "{result:?}");
        for wrong in ["v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", "v=", "e=other-error", ""] {
            let result = meeting.with_scram(4096, Some(wrong)).await;
            assert!(matches!(result, Err(LoginError::ServerSignature)), "{wrong}: {result:?}");
        }
    }
}

#[tokio::test]
async fn a_million_rounds_are_refused_unhashed() {
    let meeting = Meeting { memory: Memory::without_cores(), ..Meeting::default() };
    let refused = meeting.with_scram(1_000_000, None).await.expect_err("refused");
    assert!(
        matches!(refused, LoginError::Scram(ScramError::Rounds { asked: 1_000_000, least: 4096, most: 100_000 })),
        "{refused:?}"
    );
    let report = refused.report();
    assert!(report.message.contains("1000000 rounds"), "{report:?}");
    assert!(report.hint.is_some_and(|hint| hint.contains("clusters.\"NAME\".scram_iterations")));
    let auth = AuthFacts { scram_iterations: 5000, ..AuthFacts::default() };
    let meeting = Meeting { upstream: Upstream { auth, ..upstream() }, ..Meeting::default() };
    assert!(matches!(meeting.with_scram(5001, None).await, Err(LoginError::Scram(ScramError::Rounds { .. }))));
    assert!(meeting.with_scram(5000, None).await.is_ok());
}

#[tokio::test]
async fn a_password_beyond_a_kilobyte_is_not_hashed() {
    let scram = ask(10, b"SCRAM-SHA-256\0\0");
    let long = |length| Login { password: Some(SecretString::from("x".repeat(length))), ..login() };
    let result = against(&scram, &long(1025), Channel::Plaintext, Early::Wait).await;
    let named = matches!(&result, Err(LoginError::PasswordTooLong(source)) if source == "Secret prod/shop-app");
    assert!(named, "{result:?}");
    let skipped = [scram, ask(0, b"")].concat();
    let result = against(&skipped, &long(1024), Channel::Plaintext, Early::Wait).await;
    assert!(matches!(result, Err(LoginError::ServerSignature)), "{result:?}");
}

/// A cluster's author chooses its `pg_hba.conf` and its CA, and would read passwords that others have chosen.
#[tokio::test]
async fn cleartext_is_given_only_where_somebody_else_vouches() {
    let clear = [ask(3, b""), ask(0, b"")].concat();
    let ours = CaBy::Secret("Secret prod/shop-app".to_owned());
    let theirs = CaBy::Secret("Secret prod/other".to_owned());
    for (verified_by, weak, given) in [
        (None, AuthMethod::ScramSha256, false),
        (None, AuthMethod::Md5, false),
        (None, AuthMethod::Password, true),
        (Some(CaBy::Cluster), AuthMethod::Md5, false),
        (Some(CaBy::Cluster), AuthMethod::Password, true),
        (Some(CaBy::Configuration), AuthMethod::ScramSha256, true),
        (Some(ours), AuthMethod::ScramSha256, true),
        (Some(theirs), AuthMethod::ScramSha256, false),
    ] {
        let what = format!("{verified_by:?} {weak:?}");
        let meeting = Meeting { channel: tls(verified_by), upstream: weakest(weak), ..Meeting::default() };
        match meeting.with(&clear).await {
            Ok(method) => assert!(given && method == Method::Cleartext, "{what}: {method:?}"),
            Err(LoginError::CleartextUntrusted) => assert!(!given, "{what}"),
            Err(error) => panic!("{what}: {error:?}"),
        }
        // Whatever is configured: never in plaintext.
        let meeting = Meeting { upstream: weakest(weak), ..Meeting::default() };
        let refused = meeting.with(&clear).await;
        assert!(matches!(refused, Err(LoginError::CleartextNeedsTls | LoginError::CleartextUntrusted)), "{what}");
    }
    let report = LoginError::CleartextUntrusted.report();
    assert_eq!(report.sqlstate.as_str(), "28000");
    assert!(report.hint.is_some_and(|hint| hint.contains("clusters.\"NAME\".auth = \"password\"")));
}

#[tokio::test]
async fn md5_is_given_only_where_it_is_usual() {
    let md5 = [ask(5, b"salt"), ask(0, b"")].concat();
    for (weak, given) in [(AuthMethod::ScramSha256, false), (AuthMethod::Md5, true), (AuthMethod::Password, true)] {
        let meeting = Meeting { upstream: weakest(weak), ..Meeting::default() };
        match meeting.with(&md5).await {
            Ok(method) => assert!(given && method == Method::Md5, "{weak:?}: {method:?}"),
            Err(LoginError::Md5Untrusted) => assert!(!given, "{weak:?}"),
            Err(error) => panic!("{weak:?}: {error:?}"),
        }
    }
    let hint = LoginError::Md5Untrusted.report().hint.unwrap_or_default();
    assert!(hint.contains("clusters.\"NAME\".auth = \"md5\"") && hint.contains("scram-sha-256"), "{hint}");
}

/// A server that could do SCRAM with a role has its verifier, and wants something weaker for no good reason.
#[tokio::test]
async fn md5_is_never_given_after_scram() {
    let md5 = [ask(5, b"salt"), ask(0, b"")].concat();
    let mut meeting = Meeting { upstream: weakest(AuthMethod::Password), ..Meeting::default() };
    // A server that has not proven itself says nothing about the role.
    assert!(meeting.with_scram(4096, Some("v=AAAA")).await.is_err());
    assert!(matches!(meeting.with(&md5).await, Ok(Method::Md5)));
    // Not even where its keys are not kept.
    meeting.login.version = String::new();
    assert!(meeting.with_scram(4096, None).await.is_ok());
    let result = meeting.with(&md5).await;
    assert!(matches!(&result, Err(LoginError::Md5AfterScram(user)) if user == "app"), "{result:?}");
    assert_eq!(result.err().map(|error| error.report().sqlstate.as_str()), Some("28000"));
    for other in
        [Upstream { meaning: 2, ..meeting.upstream.clone() }, Upstream { credential: 2, ..meeting.upstream.clone() }]
    {
        let before = std::mem::replace(&mut meeting.upstream, other);
        assert!(matches!(meeting.with(&md5).await, Ok(Method::Md5)), "another cluster, or seen by others");
        meeting.upstream = before;
    }
}

/// What a server says goes into logs and terminals.
#[tokio::test]
async fn what_a_server_says_is_printable_in_reports() {
    let mut body = b"SFATAL\0C28000\0Mno \x1b[2J\nlogin\0\0".to_vec();
    let mut frame = [&b"E"[..], &u32::try_from(body.len() + 4).expect("short").to_be_bytes()].concat();
    frame.append(&mut body);
    for answer in [frame, ask(10, b"EVIL\x1b]0;x\x07\0\0")] {
        let error = Meeting::default().with(&answer).await.expect_err("refused");
        let report = error.report();
        assert!(!report.message.contains(char::is_control), "{report:?}");
        if let LoginError::Refused { frame, .. } = error {
            assert_eq!(frame.raw, answer, "the client reads it as it came");
        }
    }
}
