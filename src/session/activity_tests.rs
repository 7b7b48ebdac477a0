//! Activity against sequences of messages, and against a small PostgreSQL that answers them.

use proptest::prelude::*;

use super::*;

fn ready(activity: &mut Activity, status: TransactionStatus) {
    activity.server_sends(Seen::Ready(status));
}

#[test]
fn a_simple_query_is_one_turn() {
    let mut activity = Activity::new();
    assert!(activity.idle());
    activity.client_sends(b'Q');
    assert!(activity.running() && !activity.idle());
    ready(&mut activity, TransactionStatus::InTransaction);
    assert!(!activity.running() && !activity.idle(), "a transaction is open");
    activity.client_sends(b'Q');
    ready(&mut activity, TransactionStatus::Idle);
    assert!(activity.idle());
}

#[test]
fn pipelined_turns_are_counted() {
    let mut activity = Activity::new();
    for tag in *b"PBESPBES" {
        activity.client_sends(tag);
    }
    ready(&mut activity, TransactionStatus::Idle);
    assert!(!activity.idle(), "the second Sync is not answered");
    ready(&mut activity, TransactionStatus::Idle);
    assert!(activity.idle());
    activity.client_sends(b'P');
    activity.server_sends(Seen::Message { tag: b'1', len: 4 });
    assert!(!activity.idle() && !activity.running(), "parsed, and no Sync yet");
}

#[test]
fn a_sync_before_copy_data_is_not_answered() {
    let mut activity = Activity::new();
    for tag in *b"BES" {
        activity.client_sends(tag);
    }
    activity.server_sends(Seen::Message { tag: b'G', len: 7 });
    for tag in *b"ddcS" {
        activity.client_sends(tag);
    }
    ready(&mut activity, TransactionStatus::Idle);
    assert!(activity.idle());
}

#[test]
fn a_simple_copy_is_one_turn() {
    let mut activity = Activity::new();
    activity.client_sends(b'Q');
    activity.server_sends(Seen::Message { tag: b'G', len: 7 });
    for tag in *b"ddc" {
        activity.client_sends(tag);
    }
    assert!(activity.running());
    ready(&mut activity, TransactionStatus::Idle);
    assert!(activity.idle());
}

/// COPY IN by the extended protocol passed for idle as soon as the server had asked for the data: a failover or a
/// drain ended the load, and nobody cancelled it when its client was gone.
#[test]
fn copy_in_by_the_extended_protocol_is_work() {
    let mut activity = Activity::new();
    for tag in *b"PBES" {
        activity.client_sends(tag);
    }
    for tag in *b"12G" {
        activity.server_sends(Seen::Message { tag, len: 7 });
    }
    for tag in *b"ddd" {
        assert!(activity.running() && !activity.idle());
        activity.client_sends(tag);
    }
    for tag in *b"cS" {
        activity.client_sends(tag);
        assert!(activity.running() && !activity.idle());
    }
    activity.server_sends(Seen::Message { tag: b'C', len: 7 });
    assert!(!activity.idle());
    ready(&mut activity, TransactionStatus::Idle);
    assert!(activity.idle() && !activity.running());
}

/// The end of a second COPY was taken for that of the first, which had failed before the server read what breaks the
/// protocol: a client with messages under way and no Sync behind them passed for idle.
#[test]
fn what_breaks_a_copy_is_behind_its_failure() {
    let mut activity = Activity::new();
    activity.client_sends(b'Q');
    activity.server_sends(Seen::Message { tag: b'G', len: 7 });
    for tag in *b"dEfSP" {
        activity.client_sends(tag);
    }
    let error = Seen::Error { fatal: false, sqlstate: *b"22P02" };
    activity.server_sends(error);
    ready(&mut activity, TransactionStatus::Idle);
    activity.server_sends(Seen::Message { tag: b'G', len: 7 });
    activity.server_sends(error);
    ready(&mut activity, TransactionStatus::Idle);
    activity.server_sends(Seen::Message { tag: b'1', len: 4 });
    assert!(!activity.idle(), "parsed, and no Sync yet");
}

/// What a message of the client's makes the server do.
#[derive(Clone, Copy, Debug)]
enum Does {
    Works,
    Fails,
    CopiesIn,
    CopiesOut,
    /// Execute stops at its limit of rows, Query is empty.
    Stops,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    tag: u8,
    does: Does,
    /// What the next ReadyForQuery says.
    status: TransactionStatus,
}

/// The loop in PostgreSQL's `PostgresMain`, with `CopyGetData` where it copies.
#[derive(Debug)]
struct Postgres {
    /// COPY IN, and by which message; `W` is a Query of a walsender, where both sides copy.
    copying: Option<u8>,
    skipping: bool,
    /// In the middle of what a Sync ends.
    unsynced: bool,
    dead: bool,
    status: TransactionStatus,
    says: VecDeque<Seen>,
}

impl Postgres {
    fn new() -> Self {
        Self {
            copying: None,
            skipping: false,
            unsynced: false,
            dead: false,
            status: TransactionStatus::Idle,
            says: VecDeque::new(),
        }
    }

    fn say(&mut self, tags: &[u8]) {
        self.says.extend(tags.iter().map(|tag| Seen::Message { tag: *tag, len: 4 }));
    }

    fn ready(&mut self, status: TransactionStatus) {
        self.status = status;
        self.unsynced = false;
        self.say(b"Z");
        self.says.push_back(Seen::Ready(status));
    }

    fn fail(&mut self, by: u8, status: TransactionStatus) {
        self.copying = None;
        self.say(b"E");
        self.says.push_back(Seen::Error { fatal: false, sqlstate: *b"22P02" });
        match by {
            b'Q' | b'W' | b'F' | b'S' => self.ready(status),
            _ => self.skipping = true,
        }
    }

    fn die(&mut self) {
        self.says.push_back(Seen::Error { fatal: true, sqlstate: *b"08P01" });
        self.dead = true;
    }

    fn read(&mut self, sent: Sent) {
        if self.dead {
            return;
        }
        if let Some(by) = self.copying {
            return self.copy(by, sent);
        }
        match sent.tag {
            b'X' => self.dead = true,
            b'S' => {
                self.skipping = false;
                if matches!(sent.does, Does::Fails) { self.fail(b'S', sent.status) } else { self.ready(sent.status) }
            }
            // A Query is skipped as well.
            _ if self.skipping => {}
            b'd' | b'c' | b'f' | b'H' => {}
            b'Q' | b'E' => self.execute(sent),
            b'F' if matches!(sent.does, Does::Fails) => self.fail(b'F', sent.status),
            b'F' => {
                self.say(b"V");
                self.ready(sent.status);
            }
            tag => {
                self.unsynced = true;
                match (sent.does, tag) {
                    (Does::Fails, _) => self.fail(tag, sent.status),
                    (_, b'P') => self.say(b"1"),
                    (_, b'B') => self.say(b"2"),
                    (_, b'C') => self.say(b"3"),
                    (Does::Works, b'D') => self.say(b"tT"),
                    (_, b'D') => self.say(b"n"),
                    _ => unreachable!("{tag}"),
                }
            }
        }
    }

    fn execute(&mut self, sent: Sent) {
        self.unsynced |= sent.tag == b'E';
        let simple = sent.tag == b'Q';
        match sent.does {
            Does::Works if simple => self.say(b"TDDCTDC"),
            Does::Works => self.say(b"DDC"),
            Does::CopiesOut => self.say(b"HddcC"),
            Does::Stops if simple => self.say(b"I"),
            Does::Stops => self.say(b"Ds"),
            Does::Fails => return self.fail(sent.tag, sent.status),
            Does::CopiesIn => {
                let both = simple && sent.status == TransactionStatus::Failed;
                self.say(if both { b"W" } else { b"G" });
                self.copying = Some(if both { b'W' } else { sent.tag });
                return;
            }
        }
        if simple {
            self.ready(sent.status);
        }
    }

    fn copy(&mut self, by: u8, sent: Sent) {
        let both = by == b'W';
        match sent.tag {
            b'd' if matches!(sent.does, Does::Fails) && !both => self.fail(by, sent.status),
            b'd' if both => self.say(b"d"),
            b'd' => {}
            b'H' | b'S' if !both => {}
            b'f' if !both => self.fail(by, sent.status),
            b'c' if matches!(sent.does, Does::Fails) => self.fail(by, sent.status),
            b'c' => {
                self.copying = None;
                self.say(if both { b"cC" } else { b"C" });
                if by != b'E' {
                    self.ready(sent.status);
                }
            }
            _ => self.die(),
        }
    }

    fn idle(&self) -> bool {
        self.copying.is_none() && !self.skipping && !self.unsynced && self.status == TransactionStatus::Idle
    }
}

/// One step of a conversation: which side's next message moves on.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The client sends, and the message passes the proxy.
    Send(Sent),
    /// The server reads.
    Read,
    /// A message of the server's passes the proxy.
    Pass,
}

fn sent() -> impl Strategy<Value = Sent> {
    let tag = prop_oneof![
        4 => proptest::sample::select(b"PBDCE".to_vec()),
        4 => proptest::sample::select(b"ESQ".to_vec()),
        4 => proptest::sample::select(b"ddcf".to_vec()),
        1 => proptest::sample::select(b"FH".to_vec()),
    ];
    let does = prop_oneof![
        3 => Just(Does::Works),
        1 => Just(Does::Fails),
        3 => Just(Does::CopiesIn),
        1 => Just(Does::CopiesOut),
        1 => Just(Does::Stops),
    ];
    let status = prop_oneof![
        4 => Just(TransactionStatus::Idle),
        1 => Just(TransactionStatus::InTransaction),
        1 => Just(TransactionStatus::Failed),
    ];
    (tag, does, status).prop_map(|(tag, does, status)| Sent { tag, does, status })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![3 => sent().prop_map(Step::Send), 2 => Just(Step::Read), 5 => Just(Step::Pass)]
}

/// A client, a server, and the proxy between them.
struct Conversation {
    activity: Activity,
    server: Postgres,
    to_server: VecDeque<Sent>,
    /// CopyData without an end yet. Which Syncs among it a COPY has swallowed that fails cannot be seen from outside: as
    /// all clients do, ours ends its data before it sends Sync.
    data: bool,
}

impl Conversation {
    fn new() -> Self {
        Self { activity: Activity::new(), server: Postgres::new(), to_server: VecDeque::new(), data: false }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send(sent) => {
                if sent.tag == b'S' && self.data {
                    self.send(Sent { tag: b'f', ..sent });
                }
                self.send(sent);
            }
            Step::Read => {
                if let Some(sent) = self.to_server.pop_front() {
                    self.server.read(sent);
                }
            }
            Step::Pass => {
                if let Some(seen) = self.server.says.pop_front() {
                    self.activity.server_sends(seen);
                }
            }
        }
    }

    fn send(&mut self, sent: Sent) {
        match sent.tag {
            b'd' => self.data = true,
            b'c' | b'f' => self.data = false,
            _ => {}
        }
        self.activity.client_sends(sent.tag);
        self.to_server.push_back(sent);
    }

    /// Something that matters is on its way, or the server is at work. CopyData and its end are nothing to a server that
    /// does not copy and will not.
    fn is_idle(&self) -> bool {
        let matters = |sent: &Sent| !matches!(sent.tag, b'd' | b'c' | b'f' | b'H');
        !self.to_server.iter().any(matters) && self.server.says.is_empty() && self.server.idle()
    }

    fn settle(&mut self) {
        while !self.to_server.is_empty() {
            self.step(Step::Read);
        }
        while !self.server.says.is_empty() {
            self.step(Step::Pass);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// Between every two messages: who is said to be idle is. And when all has passed, who is idle is said to be.
    #[test]
    fn it_is_idle_as_postgresql_is(steps in proptest::collection::vec(step(), 0..60)) {
        let mut it = Conversation::new();
        for step in steps {
            it.step(step);
            if it.activity.fatal() {
                return Ok(());
            }
            if !it.server.dead {
                prop_assert!(!it.activity.idle() || it.is_idle(), "idle: {:?} {:?}", it.activity, it.server);
                let copies = it.server.copying.is_some();
                prop_assert!(!copies || it.activity.running(), "a COPY: {:?} {:?}", it.activity, it.server);
            }
        }
        it.settle();
        if !it.server.dead {
            prop_assert_eq!(it.activity.idle(), it.server.idle(), "{:?} {:?}", it.activity, it.server);
        }
    }
}
