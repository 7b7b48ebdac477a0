//! Sinks that block, fail and are rotated. Writers are planted ones, and what is waited for is what they do: a paused clock
//! moves no thread.

use std::{
    collections::VecDeque,
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    sync::mpsc as std_mpsc,
};

use serde_json::Value;
use tokio::{sync::mpsc, time::resume};

use super::*;

/// Where a planted writer's lines arrive, and what lets it write.
struct Reader {
    entered: mpsc::UnboundedReceiver<()>,
    written: mpsc::UnboundedReceiver<Vec<u8>>,
    gate: std_mpsc::Sender<()>,
}

/// Blocks in each write until the gate is opened for it; for good, once the gate is gone.
struct Planted {
    entered: mpsc::UnboundedSender<()>,
    written: mpsc::UnboundedSender<Vec<u8>>,
    gate: std_mpsc::Receiver<()>,
    /// What becomes of the next writes: an error, or so many bytes.
    outcomes: VecDeque<Result<usize, io::ErrorKind>>,
}

impl Write for Planted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.entered.send(());
        let _ = self.gate.recv();
        let taken = match self.outcomes.pop_front() {
            Some(outcome) => outcome?,
            None => bytes.len(),
        };
        let _ = self.written.send(bytes[..taken].to_vec());
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn planted(outcomes: impl IntoIterator<Item = Result<usize, io::ErrorKind>>) -> (Reader, Sink) {
    let (entered, entered_of) = mpsc::unbounded_channel();
    let (written, written_of) = mpsc::unbounded_channel();
    let (gate, gate_of) = std_mpsc::channel();
    let writer = Planted { entered, written, gate: gate_of, outcomes: outcomes.into_iter().collect() };
    (Reader { entered: entered_of, written: written_of, gate }, Sink::Writer(Box::new(writer)))
}

impl Reader {
    /// Opens the gate for good.
    fn open(&mut self) {
        self.gate = std_mpsc::channel().0;
    }

    /// The next line.
    async fn line(&mut self) -> Value {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.extend(self.written.recv().await.expect("a writer"));
        }
        serde_json::from_slice(&line).expect("JSON")
    }
}

fn audit(room: usize, sink: Sink) -> Audit {
    Audit::new(Params { room, ..Params::default() }, vec![sink]).expect("it opens")
}

/// For tests in real time, on a machine that is busy.
fn patient(sink: Sink) -> Audit {
    Audit::new(Params { patience: MINUTE, room: 64 }, vec![sink]).expect("it opens")
}

fn event(number: u64) -> Event {
    Event::Start(Arc::new(Session::new(number, Client::unix())))
}

async fn until(audit: &Audit, healthy: bool) {
    audit.watch().wait_for(|now| *now == healthy).await.expect("a sender");
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn numbers(lines: &[Value], field: &str) -> Vec<u64> {
    lines.iter().map(|line| line[field].as_u64().unwrap_or_default()).collect()
}

#[tokio::test]
async fn nothing_is_kept_where_it_is_off() {
    let audit = Audit::off();
    assert_eq!(audit.record(event(1)).await, Ok(()));
    audit.note(event(2));
    audit.login_failed([192, 0, 2, 1].into(), "login", None);
    audit.reopen();
    audit.drain().await;
    assert!(audit.healthy() && *audit.watch().borrow() && !audit.is_on());
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_blocks_refuses_after_two_seconds_and_then_at_once() {
    let (mut reader, sink) = planted([]);
    let audit = audit(8, sink);
    let started = Instant::now();
    assert_eq!(audit.record(event(1)).await, Err(Blocked));
    assert_eq!(started.elapsed(), PATIENCE);
    assert!(!audit.healthy());
    assert_eq!(audit.record(event(2)).await, Err(Blocked));
    assert_eq!(started.elapsed(), PATIENCE, "a sink that is known to block is not waited for");
    resume();
    reader.open();
    until(&audit, true).await;
    audit.note(event(3));
    for number in 1..=3 {
        assert_eq!(reader.line().await["session"], number, "what was refused is written late, and in order");
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_two_sinks_is_not_enough() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("audit");
    let (_reader, sink) = planted([]);
    let audit = Audit::new(Params::default(), vec![Sink::File(file.clone()), sink]).expect("they open");
    assert_eq!(audit.record(event(1)).await, Err(Blocked));
    resume();
    // The other has it all the same; its thread may be a moment behind.
    audit.0.as_ref().expect("on").lanes[0].deliver(None).await;
    assert_eq!(lines(&fs::read_to_string(&file).expect("a file")).len(), 1);
}

#[tokio::test]
async fn what_finds_no_room_is_counted_where_it_is_missing() {
    let (mut reader, sink) = planted([]);
    let audit = Audit::new(Params { patience: MINUTE, room: 2 }, vec![sink]).expect("it opens");
    audit.note(event(1));
    reader.entered.recv().await.expect("the thread has the first, and is stuck with it");
    for number in 2..=5 {
        audit.note(event(number));
    }
    assert!(!audit.healthy());
    reader.open();
    audit.drain().await;
    assert!(audit.healthy());
    audit.note(event(6));
    let mut found = Vec::new();
    for _ in 0..5 {
        found.push(reader.line().await);
    }
    assert_eq!(numbers(&found, "seq"), [1, 2, 3, 4, 5]);
    assert_eq!(numbers(&found, "session"), [1, 2, 3, 0, 6]);
    assert_eq!((&found[3]["event"], &found[3]["count"]), (&"audit.lost".into(), &2.into()));
}

#[tokio::test]
async fn a_full_disk_is_tried_again_and_no_line_is_torn() {
    let (mut reader, sink) = planted([Ok(20), Err(io::ErrorKind::StorageFull), Ok(5)]);
    let audit = patient(sink);
    audit.note(event(1));
    for _ in 0..2 {
        reader.gate.send(()).expect("the writer");
    }
    until(&audit, false).await;
    reader.open();
    until(&audit, true).await;
    assert_eq!(reader.line().await["session"], 1);
    assert_eq!(audit.record(event(2)).await, Ok(()));
}

#[tokio::test]
async fn a_file_is_private_is_appended_to_and_is_opened_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, rotated) = (folder.path().join("audit"), folder.path().join("audit.1"));
    let first = patient(Sink::File(file.clone()));
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    for number in 1..=20 {
        if number % 2 == 0 { first.note(event(number)) } else { first.record(event(number)).await.expect("written") }
    }
    first.drain().await;
    fs::rename(&file, &rotated).expect("renamed");
    first.record(event(21)).await.expect("written");
    first.reopen();
    first.record(event(22)).await.expect("written");
    let before = lines(&fs::read_to_string(&rotated).expect("the old one"));
    assert_eq!(numbers(&before, "session"), (1..=21).collect::<Vec<u64>>());
    assert_eq!(numbers(&before, "seq"), numbers(&before, "session"));
    let after = lines(&fs::read_to_string(&file).expect("the new one"));
    assert_eq!((numbers(&after, "session"), numbers(&after, "seq")), (vec![22], vec![22]));

    // The next run begins behind the last; half a line of a process that was killed stays by itself.
    fs::write(&file, format!("{}\n{{\"version\":1", after[0])).expect("half a line");
    let second = patient(Sink::File(file.clone()));
    second.record(event(23)).await.expect("written");
    let text = fs::read_to_string(&file).expect("the file");
    let rest: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(rest[0], "{\"version\":1");
    let line: Value = serde_json::from_str(rest[1]).expect("JSON");
    assert_eq!((&line["session"], &line["seq"]), (&23.into(), &1.into()));
    assert_ne!(line["process"], after[0]["process"]);
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_anew_is_no_sink() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, moved) = (folder.path().join("log/audit"), folder.path().join("moved"));
    let missing = Audit::new(Params::default(), vec![Sink::File(file.clone())]).err().expect("no folder");
    assert_eq!(missing.to_string(), format!("audit events cannot be written to {}", file.display()));
    fs::create_dir(file.parent().expect("a folder")).expect("made");
    let audit = patient(Sink::File(file.clone()));
    fs::rename(file.parent().expect("a folder"), &moved).expect("moved");
    audit.reopen();
    audit.note(event(1));
    until(&audit, false).await;
    fs::rename(&moved, file.parent().expect("a folder")).expect("moved back");
    until(&audit, true).await;
    audit.drain().await;
    assert_eq!(lines(&fs::read_to_string(&file).expect("a file")).len(), 1);
}

#[tokio::test]
async fn a_pipe_that_nobody_reads_is_no_sink() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    assert!(Audit::new(Params::default(), vec![Sink::File(pipe)]).is_err());
}

#[tokio::test(start_paused = true)]
async fn failed_logins_are_written_each_minute() {
    let (mut reader, sink) = planted([]);
    reader.open();
    let audit = audit(8, sink);
    let started = Instant::now();
    for name in ["alice", "bob", "alice"] {
        audit.login_failed([192, 0, 2, 1].into(), "login", Some(name));
    }
    let line = reader.line().await;
    assert_eq!(started.elapsed(), MINUTE);
    assert_eq!((&line["event"], &line["count"]), (&"login.failed".into(), &3.into()));
    assert_eq!(line["client"], serde_json::json!({ "address": "192.0.2.1" }));
    assert_eq!(line["names"], serde_json::json!(["alice", "bob"]));
    audit.login_failed([192, 0, 2, 1].into(), "login", None);
    assert_eq!(reader.line().await["count"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_failed_logins_takes_one_place() {
    const ROOM: usize = 3;
    let (mut reader, sink) = planted([]);
    let audit = audit(ROOM, sink);
    for address in 0..100 {
        audit.login_failed([192, 0, 2, address].into(), "login", None);
    }
    reader.entered.recv().await.expect("the minute is over, and the thread is stuck with the first of them");
    for number in 0..3 {
        audit.note(event(number));
    }
    assert!(audit.healthy(), "none was lost");
    resume();
    reader.open();
    let mut events = Vec::new();
    for _ in 0..103 {
        events.push(reader.line().await["event"].as_str().expect("a name").to_owned());
    }
    assert_eq!(events[1..=3], ["session.start"; 3].map(str::to_owned), "they wait for one of a hundred");
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_for_what_is_left_but_not_for_ever() {
    let (mut reader, sink) = planted([]);
    let audit = audit(8, sink);
    audit.note(event(1));
    audit.login_failed([192, 0, 2, 1].into(), "login", None);
    let started = Instant::now();
    audit.drain().await;
    assert_eq!(started.elapsed(), PATIENCE);
    resume();
    reader.open();
    for address in ["unix", "192.0.2.1"] {
        assert_eq!(reader.line().await["client"]["address"], address);
    }
}
