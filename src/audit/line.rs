//! An event as a line: one JSON object, of which `docs/audit.schema.json` is the definition.

use std::{io, time::SystemTime};

use serde::Serialize;
use serde_json::ser::Formatter;

use super::event::{Client, Event, Identity, Session, Target, Text};

/// Of the format; a new one is what a reader of the old one would misread. Fields may be added.
const VERSION: u8 = 1;

/// An event, and when it was.
#[derive(Clone, Debug)]
pub(super) struct Noted {
    pub(super) time: SystemTime,
    pub(super) event: Event,
}

impl Noted {
    pub(super) fn now(event: Event) -> Self {
        Self { time: SystemTime::now(), event }
    }

    /// The line with its end. `seq` counts a sink's lines; `process` tells whose count that is.
    pub(super) fn line(&self, process: &str, seq: u64) -> Result<Vec<u8>, serde_json::Error> {
        let mut out = Vec::with_capacity(512);
        let line = Line {
            version: VERSION,
            time: time(self.time),
            event: self.event.name(),
            process,
            seq,
            fields: Fields::of(&self.event),
        };
        line.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Escaping))?;
        out.push(b'\n');
        Ok(out)
    }
}

/// RFC 3339, UTC, with microseconds.
fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time).to_string()
}

#[derive(Serialize)]
struct Line<'a> {
    version: u8,
    time: String,
    event: &'static str,
    process: &'a str,
    seq: u64,
    #[serde(flatten)]
    fields: Fields<'a>,
}

/// All that a line may hold. What an event does not have is absent.
#[derive(Default, Serialize)]
struct Fields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<&'a Identity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a Client>,
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<&'a Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a Target>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<&'a Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application_name: Option<&'a Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend_pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sqlstate: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_out: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    methods: Option<&'a [Text]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    names: Option<&'a [Text]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
}

impl<'a> Fields<'a> {
    fn of(event: &'a Event) -> Self {
        match event {
            Event::Start(session) => Self::session(session),
            Event::Ready { session, backend_pid } => Self { backend_pid: *backend_pid, ..Self::session(session) },
            Event::Denied { session, sqlstate, message } => {
                Self { sqlstate: Some(sqlstate), message: message.as_ref(), ..Self::session(session) }
            }
            Event::End { session, backend_pid, bytes: (bytes_in, bytes_out), end, sqlstate } => Self {
                backend_pid: *backend_pid,
                bytes_in: Some(*bytes_in),
                bytes_out: Some(*bytes_out),
                end: Some(end),
                sqlstate: sqlstate.as_deref(),
                ..Self::session(session)
            },
            // The session's own client may be another.
            Event::Cancel { session, backend_pid, client } => {
                Self { client: Some(client), backend_pid: Some(*backend_pid), ..Self::session(session) }
            }
            Event::Reload { problem } => {
                let result = if problem.is_some() { "refused" } else { "applied" };
                Self { result: Some(result), message: problem.as_ref(), ..Self::default() }
            }
            Event::LoginFailed { client, count, since, methods, names } => Self {
                client: client.as_ref(),
                count: Some(*count),
                since: Some(time(*since)),
                methods: Some(methods),
                names: Some(names.as_slice()).filter(|names| !names.is_empty()),
                ..Self::default()
            },
            Event::Lost { count } => Self { count: Some(*count), ..Self::default() },
        }
    }

    fn session(session: &'a Session) -> Self {
        Self {
            session: Some(session.id),
            identity: session.identity.as_ref(),
            client: Some(&session.client),
            asked: session.asked.as_ref(),
            target: session.target.as_ref(),
            role: session.role.as_ref(),
            database: session.database.as_ref(),
            application_name: session.application_name.as_ref(),
            rule: session.rule.as_ref(),
            reason: session.reason.as_ref(),
            ..Self::default()
        }
    }
}

/// Escapes more than JSON must: whoever reads a line in a terminal is shown what is in it and obeys none of it.
struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        for part in fragment.split_inclusive(is_obeyed) {
            let last = part.chars().next_back().filter(|last| is_obeyed(*last));
            let plain = last.and_then(|last| part.strip_suffix(last)).unwrap_or(part);
            writer.write_all(plain.as_bytes())?;
            if let Some(last) = last {
                write!(writer, "\\u{:04x}", u32::from(last))?;
            }
        }
        Ok(())
    }
}

/// DEL, the C1 controls, line ends that JSON allows, and what turns the direction of writing. (JSON escapes C0 itself; none
/// of these is beyond the 16 bits that one escape holds.)
fn is_obeyed(character: char) -> bool {
    matches!(character, '\u{7f}'..='\u{9f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_line_is_one_json_object_that_no_terminal_obeys() {
        let wild = "a\u{1b}[31m\n\"\\\0\u{7f}\u{9b}\u{2028}\u{202e}é🐘";
        let event = Event::Reload { problem: Some(Text::from(wild)) };
        let noted = Noted { time: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_234_567_899), event };
        let line = String::from_utf8(noted.line("00ff", 7).expect("a line")).expect("text");
        let expected = concat!(
            r#"{"version":1,"time":"1970-01-01T00:00:01.234567Z","event":"reload","process":"00ff","seq":7,"#,
            r#""message":"a\u001b[31m\n\"\\\u0000\u007f\u009b\u2028\u202eé🐘","result":"refused"}"#,
            "\n"
        );
        assert_eq!(line, expected);
        let parsed: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(parsed["message"], wild);
    }

    #[test]
    fn characters_that_follow_each_other_are_all_kept() {
        let wild = "\u{9b}\u{9b}\u{9b}x\u{9b}";
        let noted = Noted::now(Event::Reload { problem: Some(Text::from(wild)) });
        let parsed: serde_json::Value = serde_json::from_slice(&noted.line("", 1).expect("a line")).expect("JSON");
        assert_eq!(parsed["message"], wild);
    }
}
