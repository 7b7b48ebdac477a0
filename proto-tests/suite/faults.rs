//! What breaks on the way to a server, at every state of a session. Each fault ends in an error that says what happened
//! and where, or in a reset where an error cannot be said; in time; and leaves nothing behind.

use std::{io::ErrorKind, time::Duration};

use proto_tests::{
    cnpg::Cluster,
    kubernetes::{Act, Script, When},
    secrets,
    subject::{Start, Subject},
    wire::{Fields, Wire, message},
};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{BINARY, World, descriptors, resident};

/// No deadline of pgferry's is as long, and a busy machine needs some.
const IN_TIME: Duration = Duration::from_secs(20);

/// A world, pgferry before it, and what that has open when nothing goes on.
pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) pgferry: Subject,
    environment: Vec<(&'static str, &'static str)>,
    open: usize,
}

async fn serve(world: &World, environment: &[(&str, &str)]) -> Subject {
    let start = Start::new(BINARY).env("PGFERRY__SESSIONS__PRIMARY_WAIT", "0s");
    let start = environment.iter().fold(start, |start, (name, value)| start.env(name, value));
    start.serve(&world.api.kubeconfig()).await
}

impl Stage {
    pub(crate) async fn new(environment: &[(&'static str, &'static str)]) -> Self {
        let world = World::new().await;
        // Every connection reads for itself, so that every one can meet a fault.
        world.api.deny(None, "watch", "pods", None);
        world.api.deny(None, "watch", "clusters", None);
        let pgferry = serve(&world, environment).await;
        let environment = environment.to_vec();
        let mut stage = Self { world, pgferry, environment, open: usize::MAX };
        stage.works("at the beginning").await;
        stage.settled("at the beginning").await;
        stage.open = stage.descriptors();
        stage
    }

    /// Another pgferry, which knows nothing yet.
    pub(crate) async fn again(&self) -> Subject {
        serve(&self.world, &self.environment).await
    }

    /// The next tunnels to the pod break.
    fn breaks(&self, times: usize, when: When, acts: &[Act]) {
        self.world.api.script("prod", "shop-1", times, Script { when, acts: acts.to_vec() });
    }

    /// Nothing is left of what came before, and a client that comes now is served.
    pub(crate) async fn works(&self, after: &str) {
        self.world.api.heal();
        self.settled(after).await;
        let wire = self.pgferry.connect("pgferry", "shop.prod").await;
        let mut wire = wire.unwrap_or_else(|error| panic!("{after}: {error:?}"));
        assert_eq!(wire.value("select 1").await.unwrap(), "1", "{after}");
        // An orderly end takes a node a second.
        self.world.api.cut_tunnels("prod", "shop-1");
        assert_eq!(end(&mut wire).await, End::Said("08006".to_owned()), "{after}");
    }

    fn descriptors(&self) -> usize {
        descriptors(self.pgferry.pid(), self.world.api.address())
    }

    async fn settled(&self, after: &str) {
        let settled = async {
            self.world.api.tunnels(0).await;
            while self.descriptors() > self.open {
                tokio::task::yield_now().await;
            }
        };
        let in_time = timeout(IN_TIME, settled).await;
        assert!(in_time.is_ok(), "{after}: {} descriptors, {} at the beginning", self.descriptors(), self.open);
    }
}

/// How a session ended, as its client sees it.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// With this error's code, then the end of the stream.
    Said(String),
    /// With a reset.
    Reset,
    /// As if all were in order.
    Clean,
}

async fn end_with(wire: &mut Wire) -> (End, Fields) {
    let mut last = None;
    loop {
        let mut next = timeout(IN_TIME, wire.next()).await.expect("in time");
        if next.as_ref().is_err_and(|error| error.kind() == ErrorKind::InvalidData) {
            // What is no message any more is only bytes.
            next = timeout(IN_TIME, wire.rest()).await.expect("in time").map(|_| None);
        }
        match next {
            Ok(Some(message)) if message.tag == 'E' => last = Some(message.fields()),
            Ok(Some(_)) => {}
            Ok(None) => {
                let fields = last.unwrap_or_default();
                let end = if fields.code.is_empty() { End::Clean } else { End::Said(fields.code.clone()) };
                return (end, fields);
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                return (End::Reset, last.unwrap_or_default());
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn end(wire: &mut Wire) -> End {
    end_with(wire).await.0
}

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
        hostile("a message of 2 GiB that is none", &lie(b'E', 0x7fff_ffff)),
        hostile("a message of 4 GiB that is none", &lie(b'S', u32::MAX)),
        hostile("a length below the smallest", &lie(b'R', 3)),
    ]
}

fn all() -> Vec<Fault> {
    [closes(), breaks(), words(), servers()].into_iter().flatten().collect()
}

/// What is wrong with an error that a client read.
pub(crate) fn wrong(what: &str, fields: &Fields, (code, part): (&str, &str)) -> Option<String> {
    let right = fields.severity == "FATAL" && fields.code == code && fields.message.contains(part);
    let leaked = secrets::leaked(&format!("{fields:?}"));
    (!right || leaked.is_some()).then(|| format!("{what}: not {code} {part:?}, but {fields:?}"))
}

/// One state of the login against all faults: each is told, and one that passes is nobody's business.
async fn logging_in(place: &str, when: When) {
    let stage = Stage::new(&[]).await;
    let mut all_wrong = Vec::new();
    for fault in all() {
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
    logging_in("before the first byte", When::Opened).await;
}

#[tokio::test]
async fn in_the_middle_of_the_login() {
    logging_in("behind AuthenticationSASL", When::After(b"R")).await;
}

#[tokio::test]
async fn between_authentication_ok_and_ready_for_query() {
    logging_in("behind AuthenticationOk", When::After(b"R\0\0\0\x08\0\0\0\0")).await;
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
    let query = "create temp table t (a int); copy t from stdin";
    in_session("behind CopyInResponse", When::After(b"G"), Some(query)).await;
}

/// A server that hangs while it logs somebody in has until `sessions.connect_timeout`, in every state.
#[tokio::test]
async fn a_login_that_hangs_ends_at_the_connect_timeout() {
    let limit = Duration::from_millis(1500);
    let stage = &Stage::new(&[("PGFERRY__SESSIONS__CONNECT_TIMEOUT", "1500ms")]).await;
    let half = message(b'R', &[0; 8])[..7].to_vec();
    let cases = [
        (When::Opened, vec![Act::Hang]),
        (When::Opened, vec![Act::Raw(&[0x82, 100, 0, 1]), Act::Hang]),
        (When::Opened, vec![Act::Data(half), Act::Hang]),
        (When::After(b"R"), vec![Act::Hang]),
        (When::After(b"R\0\0\0\x08\0\0\0\0"), vec![Act::Hang]),
        (When::Inside(b"K"), vec![Act::Hang]),
    ];
    let api = &stage.world.api;
    let names: Vec<String> = (0..cases.len()).map(|number| format!("shop{number}")).collect();
    for (name, (when, acts)) in names.iter().zip(cases) {
        Cluster::new(api, ("prod", name), &stage.world.password, &[stage.world.server.address()]);
        api.script("prod", &format!("{name}-1"), usize::MAX, Script { when, acts });
    }
    let started = Instant::now();
    let refusals =
        names.iter().map(|name| async move { stage.pgferry.refusal("pgferry", &format!("{name}.prod")).await });
    let refusals = timeout(IN_TIME, futures_util::future::join_all(refusals)).await.expect("in time");
    assert!(started.elapsed() >= limit, "the limit is not undercut");
    for (name, fields) in names.iter().zip(refusals) {
        let part = format!("connecting to {name}.prod took longer than the limit");
        assert_eq!(wrong(name, &fields, ("08006", &part)), None);
    }
    stage.works("a login that hung").await;
}

/// A session whose server hangs is the client's to end, and nothing is left of it then.
#[tokio::test]
async fn a_session_whose_server_hangs_ends_with_its_client() {
    let stage = Stage::new(&[]).await;
    let copy = "create temp table t (a int); copy t from stdin";
    for (when, query) in [
        (When::After(b"Z"), None),
        (When::After(b"T"), Some("select 1")),
        (When::Inside(b"D"), Some("select 'a value'")),
        (When::After(b"G"), Some(copy)),
    ] {
        stage.breaks(1, when, &[Act::Hang]);
        let mut wire = stage.pgferry.connect("pgferry", "shop.prod").await.unwrap();
        if let Some(query) = query {
            wire.message(b'Q', &[query.as_bytes(), &[0]].concat()).await.unwrap();
        }
        drop(wire);
        stage.works(&format!("a server that hung {when:?}")).await;
    }
}

/// What a session passes on is not kept, however much a header promises.
#[tokio::test]
async fn messages_that_lie_about_their_length_are_passed_on_and_not_kept() {
    let stage = Stage::new(&[]).await;
    let much = vec![b'x'; 24 << 20];
    for length in [16 << 20, 0x7fff_ffff, u32::MAX, 3] {
        let bytes = [&lie(b'D', length)[..], &much].concat();
        stage.breaks(1, When::After(b"Z"), &[Act::Data(bytes.clone()), Act::Hang]);
        let mut wire = stage.pgferry.connect("pgferry", "shop.prod").await.unwrap();
        let before = resident(stage.pgferry.pid());
        let passed = timeout(IN_TIME, wire.bytes(bytes.len())).await.expect("in time").unwrap();
        assert!(passed == bytes, "{length}: other bytes");
        let after = resident(stage.pgferry.pid());
        assert!(after < before + 8 * 1024, "{length}: from {before} to {after} KiB");
        drop(wire);
        stage.works(&format!("a message of {length} bytes")).await;
    }
}
