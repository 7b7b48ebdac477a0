//! What breaks on the way to a server, at every state of a session. Each fault ends in an error that says what happened
//! and where, or in a reset where an error cannot be said; in time; and leaves nothing behind.

use std::time::Duration;

use proto_tests::{
    kubernetes::{Act, When, certificates::Authority},
    postgres::Setup,
    wire::message,
};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    faults::stage::{COPY, End, IN_TIME, Stage, end_with, wrong},
    support::World,
};

/// A proxy's answer, as long as the frame that its first bytes promise.
const HTTP: &[u8] = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 40\r\n\r\n\
    <html><body>502 Bad Gateway</body></html>";

/// What becomes of a fault.
#[derive(Clone, Copy, Debug)]
enum Told {
    /// This code, and this in the message.
    As(&'static str, &'static str),
    /// Nothing but a reset.
    Reset,
}

struct Fault {
    name: &'static str,
    acts: Vec<Act>,
    /// While logging in.
    login: Told,
    /// Later, between two messages.
    session: Told,
    /// Another try may succeed, and is made.
    passing: bool,
}

/// The way to the server is lost, and says why.
fn lost(name: &'static str, acts: Vec<Act>, why: &'static str) -> Fault {
    Fault { name, acts, login: Told::As("08006", why), session: Told::As("08006", why), passing: true }
}

/// The server's own bytes, none of which it may say while it logs somebody in.
fn hostile(name: &'static str, bytes: &[u8]) -> Fault {
    let acts = vec![Act::Data(bytes.to_vec()), Act::Close(None)];
    Fault { name, acts, login: Told::As("08P01", "pod shop-1"), session: Told::Reset, passing: false }
}

fn fatal(code: &str, text: &str) -> Vec<u8> {
    message(b'E', format!("SFATAL\0VFATAL\0C{code}\0M{text}\0\0").as_bytes())
}

/// A message's header that promises this many bytes, and some of them.
fn lie(tag: u8, length: u32) -> Vec<u8> {
    [&[tag][..], &length.to_be_bytes(), b"some"].concat()
}

fn closes() -> Vec<Fault> {
    let orderly = |name, acts| Fault {
        name,
        acts,
        login: Told::As("08001", "pod shop-1 closed the connection before it answered"),
        session: Told::As("08006", "pod shop-1 closed the connection without a word"),
        passing: true,
    };
    let code = |code: u16| vec![Act::Close(Some((code, "because")))];
    vec![
        orderly("a Close without a code", vec![Act::Close(None)]),
        orderly("a Close with 1000", code(1000)),
        lost("a Close with 1001", code(1001), "the tunnel to pod shop-1 was lost: it was closed with 1001: because"),
        lost("a Close with 1002", code(1002), "closed with 1002: because"),
        lost("a Close with 1003", code(1003), "closed with 1003: because"),
        lost("a Close with 1007", code(1007), "closed with 1007: because"),
        lost("a Close with 1008", code(1008), "closed with 1008: because"),
        lost("a Close with 1009", code(1009), "closed with 1009: because"),
        lost("a Close with 1011", code(1011), "closed with 1011: because"),
        lost("a Close with 1012", code(1012), "closed with 1012: because"),
        lost("a Close with 3000", code(3000), "closed with 3000: because"),
        // 1006 says that there was none, and must not be sent.
        lost("a Close with 1006", code(1006), "closed with 1002"),
        lost("a Close with half a code", vec![Act::Raw(&[0x88, 1, 3])], "the WebSocket protocol was broken"),
    ]
}

fn breaks() -> Vec<Fault> {
    let text = vec![Act::Message(Message::text("hello"))];
    let channel = vec![Act::Message(Message::binary(vec![7, 1]))];
    let empty = vec![Act::Message(Message::binary(Vec::new()))];
    // Whether an end over unread bytes is a reset is the kernel's to say.
    let without = "the tunnel to pod shop-1 was lost: ";
    vec![
        lost("the connection ends", vec![], without),
        lost("a reset", vec![Act::Reset], without),
        lost("half a frame's header", vec![Act::Raw(&[0x82])], without),
        lost("half a frame", vec![Act::Raw(&[0x82, 100, 0, 1])], without),
        lost("a frame of a terabyte", vec![Act::Raw(&[0x82, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0])], "too long"),
        lost("reserved bits", vec![Act::Raw(&[0xff; 40])], "the WebSocket protocol was broken"),
        lost("an unknown opcode", vec![Act::Raw(&[0x83, 2, 0, 0])], "the WebSocket protocol was broken"),
        lost("a masked frame", vec![Act::Raw(&[0x82, 0x81, 1, 2, 3, 4, 5])], "the WebSocket protocol was broken"),
        lost("HTTP where frames belong", vec![Act::Raw(HTTP)], "the WebSocket protocol was broken"),
        lost("a text message", text, "a text message came"),
        lost("a channel that nobody opened", channel, "channel 7"),
        lost("a message without a channel", empty, "an empty message"),
    ]
}

/// What nodes say; Kubernetes' words for it differ by runtime.
fn words() -> Vec<Fault> {
    let said = |text: &'static str| vec![Act::Error(text), Act::Close(None)];
    let refused = Fault {
        login: Told::As("08001", "nothing listens on the port in pod shop-1"),
        session: Told::As("08001", "nothing listens on the port in pod shop-1"),
        ..lost("the node says: refused", said("connect: connection refused"), "")
    };
    let data = vec![Act::Data(message(b'N', b"SNOTICE\0C00000\0Mm\0\0")), Act::Error("broken pipe"), Act::Close(None)];
    vec![
        refused,
        lost("the node says: reset", said("read: connection reset by peer"), "pod shop-1 broke the connection off"),
        lost("the node says: gone", said("network namespace for sandbox \"x\" is closed"), "pod shop-1 is gone"),
        lost("the node says something", said("exit status 1"), "the port-forward to pod shop-1 failed"),
        lost("the node says something and hangs", vec![Act::Error("exit status 1"), Act::Hang], "pod shop-1 failed"),
        lost("the node says so behind data", data, "pod shop-1 broke the connection off"),
    ]
}

fn servers() -> Vec<Fault> {
    let said = |name, code: &'static str, passing| Fault {
        name,
        acts: vec![Act::Data(fatal(code, "words of pod shop-1")), Act::Close(None)],
        login: Told::As(code, "words of pod shop-1"),
        session: Told::As(code, "words of pod shop-1"),
        passing,
    };
    vec![
        said("FATAL: too many clients", "53300", false),
        said("FATAL: the server shuts down", "57P03", true),
        hostile("HTTP from the server", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        hostile("zeros", &[0; 64]),
        hostile("a message of 16 MiB that is none", &lie(b'R', 16 << 20)),
        // Long for any state of the login; its first byte is still zero, as a short one's.
        hostile("an error of 1 MiB that is none", &lie(b'E', 1 << 20)),
        hostile("a message of 2 GiB that is none", &lie(b'E', 0x7fff_ffff)),
        hostile("a message of 4 GiB that is none", &lie(b'S', u32::MAX)),
        hostile("a length below the smallest", &lie(b'R', 3)),
        hostile("an error's length below the smallest", &lie(b'E', 3)),
    ]
}

fn all() -> Vec<Fault> {
    [closes(), breaks(), words(), servers()].into_iter().flatten().collect()
}

/// One state of the login against all faults: each is told, and one that passes is nobody's business.
async fn logging_in(stage: Stage, (place, when): (&str, When), faults: Vec<Fault>) {
    let mut all_wrong = Vec::new();
    for fault in faults {
        let what = format!("{} {place}", fault.name);
        let Told::As(code, part) = fault.login else { panic!("{what}: a login always has an answer") };
        stage.breaks(usize::MAX, when, &fault.acts);
        let refusal = timeout(IN_TIME, stage.pgferry.refusal("pgferry", "shop.prod")).await;
        all_wrong.extend(wrong(&what, &refusal.unwrap_or_else(|_| panic!("{what}: in time")), (code, part)));
        stage.works(&what).await;
        if fault.passing {
            stage.breaks(1, when, &fault.acts);
            let wire = timeout(IN_TIME, stage.pgferry.connect("pgferry", "shop.prod")).await.expect("in time");
            all_wrong.extend(wire.err().map(|error| format!("{what}, once: {error:?}")));
            stage.world.api.cut_tunnels("prod", "shop-1");
        }
    }
    assert!(all_wrong.is_empty(), "{all_wrong:#?}");
}

#[tokio::test]
async fn before_the_servers_first_byte() {
    logging_in(Stage::new(&[]).await, ("before the first byte", When::Opened), all()).await;
}

/// What a server says that is asked for TLS; all else on the way there is as without.
#[tokio::test]
async fn when_asked_for_tls() {
    let said = |name, bytes: &[u8], (code, part), passing| Fault {
        name,
        acts: vec![Act::Data(bytes.to_vec()), Act::Close(None)],
        login: Told::As(code, part),
        session: Told::Reset,
        passing,
    };
    let closed = ("08001", "pod shop-1 closed the connection before it answered");
    let broken = ("08P01", "pod shop-1: the server broke the protocol when asked for TLS");
    let failed = ("08006", "pod shop-1: the TLS handshake failed");
    let unwilling = ("08006", "pod shop-1: the server answered the request for TLS with an error");
    let tls = vec![
        said("no TLS", b"N", ("08001", "pod shop-1: the server does not support TLS, which sslmode demands"), false),
        said("an error", &fatal("53300", "too many"), unwilling, true),
        said("a bare text", b"Ecould not fork\n\0", unwilling, true),
        said("zeros", &[0; 64], broken, false),
        said("HTTP from the server", HTTP, broken, false),
        said("an end in the handshake", b"S", closed, true),
        said("half a record", b"S\x16\x03\x03\x01\0half", closed, true),
        said("no handshake", &[&b"S"[..], HTTP].concat(), failed, false),
        said("a record that lies", b"S\x16\x03\x03\xff\xffsome", failed, false),
    ];
    let faults = [closes(), breaks(), tls].into_iter().flatten().collect();
    let world = World::with(|setup| Setup { tls: Some(Authority::new("ca").server(&["shop-rw"])), ..setup }).await;
    let stage = Stage::of(world, &[("PGFERRY__CLUSTERS__SHOP__SSLMODE", "require")]).await;
    logging_in(stage, ("when asked for TLS", When::Opened), faults).await;
}

#[tokio::test]
async fn in_the_middle_of_the_login() {
    logging_in(Stage::new(&[]).await, ("behind AuthenticationSASL", When::After(b"R")), all()).await;
}

#[tokio::test]
async fn between_authentication_ok_and_ready_for_query() {
    logging_in(Stage::new(&[]).await, ("behind AuthenticationOk", When::After(b"R\0\0\0\x08\0\0\0\0")), all()).await;
}

/// One state of a session against all faults. What is running when it comes may be nothing.
async fn in_session(place: &str, when: When, query: Option<&str>) {
    let stage = Stage::new(&[]).await;
    let mut all_wrong = Vec::new();
    for fault in all() {
        let what = format!("{} {place}", fault.name);
        let told = match (when, &fault.acts[..]) {
            // Inside a message all bytes are the message's.
            (When::Inside(_), [Act::Data(_), ..]) => continue,
            (When::Inside(_), _) => Told::Reset,
            _ => fault.session,
        };
        stage.breaks(1, when, &fault.acts);
        let mut wire = stage.pgferry.connect("pgferry", "shop.prod").await.unwrap_or_else(|e| panic!("{what}: {e:?}"));
        if let Some(query) = query {
            wire.message(b'Q', &[query.as_bytes(), &[0]].concat()).await.unwrap();
        }
        let (end, fields) = end_with(&mut wire).await;
        drop(wire);
        match (told, end) {
            (Told::As(code, part), End::Said(_)) => all_wrong.extend(wrong(&what, &fields, (code, part))),
            (Told::Reset, End::Reset) => {}
            (told, end) => all_wrong.push(format!("{what}: not {told:?}, but {end:?} {fields:?}")),
        }
        stage.works(&what).await;
    }
    assert!(all_wrong.is_empty(), "{all_wrong:#?}");
}

#[tokio::test]
async fn in_an_idle_session() {
    in_session("when idle", When::After(b"Z"), None).await;
}

#[tokio::test]
async fn in_a_result_between_two_messages() {
    in_session("behind RowDescription", When::After(b"T"), Some("select 1")).await;
}

#[tokio::test]
async fn in_a_result_inside_a_message() {
    in_session("inside DataRow", When::Inside(b"D"), Some("select 'a value'")).await;
}

#[tokio::test]
async fn in_copy_in() {
    in_session("behind CopyInResponse", When::After(b"G"), Some(COPY)).await;
}

/// A postmaster that cannot fork says so in a bare text, which was told as "a packet of 1668248944 bytes is longer than
/// the limit of 30000".
#[tokio::test]
async fn a_server_that_cannot_fork_is_heard() {
    let stage = Stage::new(&[]).await;
    let text = "could not fork new process for connection: Cannot allocate memory";
    let acts = [Act::Data(format!("E{text}\n\0").into_bytes()), Act::Close(None)];
    stage.breaks(usize::MAX, When::Opened, &acts);
    let fields = stage.pgferry.refusal("pgferry", "shop.prod").await;
    let whole = format!("pod shop-1: the server cannot take the connection: {text}");
    assert_eq!(wrong("no process", &fields, ("57P03", &whole)), None);
    stage.works("no process").await;
    stage.breaks(1, When::Opened, &acts);
    stage.pgferry.connect("pgferry", "shop.prod").await.unwrap();
}

/// A server that hangs while it logs somebody in has until `sessions.connect_timeout`, in every state.
#[tokio::test]
async fn a_login_that_hangs_ends_at_the_connect_timeout() {
    let limit = Duration::from_secs(5);
    let stage = &Stage::new(&[("PGFERRY__SESSIONS__CONNECT_TIMEOUT", "5s")]).await;
    let half = message(b'R', &[0; 8])[..7].to_vec();
    let cases = [
        (When::Opened, vec![Act::Hang]),
        (When::Opened, vec![Act::Raw(&[0x82, 100, 0, 1]), Act::Hang]),
        (When::Opened, vec![Act::Data(half), Act::Hang]),
        (When::After(b"R"), vec![Act::Hang]),
        (When::After(b"R\0\0\0\x08\0\0\0\0"), vec![Act::Hang]),
        (When::Inside(b"K"), vec![Act::Hang]),
    ];
    let broken = cases.into_iter().enumerate().map(|(number, (when, acts))| stage.broken(number, when, acts));
    let names: Vec<String> = broken.collect();
    let started = Instant::now();
    let refusals = names.iter().map(|name| async move { stage.pgferry.refusal("pgferry", name).await });
    let refusals = timeout(IN_TIME, futures_util::future::join_all(refusals)).await.expect("in time");
    assert!(started.elapsed() >= limit, "the limit is not undercut");
    for (name, fields) in names.iter().zip(refusals) {
        let part = format!("connecting to {name} took longer than the limit");
        assert_eq!(wrong(name, &fields, ("08006", &part)), None);
    }
    stage.works("a login that hung").await;
}

/// What a session passes on is not kept, however much a header promises.
#[tokio::test]
async fn messages_that_lie_about_their_length_are_passed_on_and_not_kept() {
    let stage = &Stage::new(&[]).await;
    let before = stage.pgferry.resident();
    let much = &vec![b'x'; 24 << 20];
    let sessions = [16 << 20, 0x7fff_ffff, u32::MAX, 3].into_iter().enumerate().map(|(number, length)| async move {
        let bytes = [&lie(b'D', length)[..], much].concat();
        let name = stage.broken(number, When::After(b"Z"), vec![Act::Data(bytes.clone()), Act::Hang]);
        let mut wire = stage.pgferry.connect("pgferry", &name).await.unwrap();
        let passed = timeout(IN_TIME, wire.bytes(bytes.len())).await.expect("in time").unwrap();
        assert!(passed == bytes, "{length}: other bytes");
    });
    futures_util::future::join_all(sessions).await;
    let after = stage.pgferry.resident();
    assert!(after < before + 16 * 1024, "from {before} to {after} KiB");
    stage.works("messages that lie").await;
}

/// A COPY that waits for a lock longer than a minute was ended: the node reads nothing meanwhile, and to the kernel's
/// `TCP_USER_TIMEOUT` that is a dead link.
#[tokio::test]
#[ignore = "takes three minutes: cargo test --test proto -- --ignored"]
async fn a_copy_that_waits_for_a_lock_is_not_a_dead_link() {
    let stage = Stage::of(World::new().await, &[]).await;
    let mut holder = stage.pgferry.connect("pgferry", "shop.prod").await.unwrap();
    holder.query("create table t (a int primary key, b text)").await.unwrap();
    holder.query("begin").await.unwrap();
    holder.query("insert into t values (0, '')").await.unwrap();
    let mut waiting = stage.pgferry.connect("pgferry", "shop.prod").await.unwrap();
    waiting.message(b'Q', b"copy t from stdin\0").await.unwrap();
    while waiting.next().await.unwrap().unwrap().tag != 'G' {}
    let copy = async {
        for row in 0..2000 {
            waiting.message(b'd', format!("{row}\t{}\n", "x".repeat(20_000)).as_bytes()).await.unwrap();
        }
        waiting.message(b'c', &[]).await.unwrap();
        waiting.until_ready().await
    };
    let release = async {
        holder.query("select pg_sleep(185)").await.unwrap();
        holder.query("rollback").await.unwrap();
    };
    let (copied, ()) = tokio::join!(copy, release);
    copied.unwrap();
}
