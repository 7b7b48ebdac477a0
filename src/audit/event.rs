//! What happens that is kept, and its parts. Nothing here can hold SQL, a token or a password: no type has a place for one.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use serde::Serialize;

use crate::upstream::{ClusterId, How, Mode, Person, Server, Upstream};

/// What of a client's own words goes into a line: PostgreSQL's names have 63 bytes at most, and whoever sends more wants to
/// fill the disk. Runtimes cut lines of containers at 16 KiB.
pub const LONGEST_TEXT: usize = 256;

/// Where a TokenReview says which token it was.
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

/// What a client, a server or a rule's author wrote, cut at [`LONGEST_TEXT`] bytes, at a character's end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Text(String);

impl Text {
    /// Of bytes that may be no text: each that is none becomes `\xHH`.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut text = String::new();
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
        }
        Self::from(text)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Text {
    fn from(mut text: String) -> Self {
        text.truncate(text.floor_char_boundary(LONGEST_TEXT));
        Self(text)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        let kept = text.split_at(text.floor_char_boundary(LONGEST_TEXT)).0;
        Self(kept.to_owned())
    }
}

/// How somebody proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// By a client certificate.
    Certificate,
    /// By a password of the configuration.
    Login,
    /// By a token that the API server knows.
    Kubernetes,
    /// The system says whose the connection is.
    Local,
}

impl From<How> for Method {
    fn from(how: How) -> Self {
        match how {
            How::Certificate => Self::Certificate,
            How::Login => Self::Login,
            How::Kubernetes => Self::Kubernetes,
        }
    }
}

/// Who.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// The name, with its prefix.
    pub name: String,
    /// What tells two of one name apart.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Which token it was, where Kubernetes says so. An identifier, worth nothing to whoever reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// How it was proved.
    pub method: Method,
}

impl Identity {
    /// A user of this machine: `uid 1000`.
    #[must_use]
    pub fn local(name: impl Into<String>) -> Self {
        let (name, method) = (name.into(), Method::Local);
        Self { name, uid: String::new(), groups: Vec::new(), credential: None, method }
    }
}

impl From<&Person> for Identity {
    fn from(person: &Person) -> Self {
        Self {
            name: person.name.clone(),
            uid: person.uid.clone(),
            groups: person.groups.clone(),

            credential: person.extra.get(CREDENTIAL).and_then(|ids| ids.first()).cloned(),
            method: person.how.into(),
        }
    }
}

/// Where from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Client {
    /// An IP address, or `unix`.
    pub address: String,
    /// The client's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The version of TLS, where there is any: `TLSv1.3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<&'static str>,
    /// The load balancer that said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
}

impl Client {
    /// Over TCP.
    #[must_use]
    pub fn tcp(peer: SocketAddr) -> Self {
        Self { address: peer.ip().to_canonical().to_string(), port: Some(peer.port()), tls: None, via: None }
    }

    /// Over a Unix socket.
    #[must_use]
    pub fn unix() -> Self {
        Self::at("unix".to_owned())
    }

    /// Of which only the address matters.
    pub(super) fn at(address: String) -> Self {
        Self { address, port: None, tls: None, via: None }
    }
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// The context.
    pub context: String,
    /// The cluster's namespace.
    pub namespace: String,
    /// The cluster's name.
    pub cluster: String,
    /// The server's pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The server's host, where it is outside Kubernetes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Which server was wanted.
    pub mode: &'static str,
}

impl Target {
    /// A cluster of which no server was chosen.
    #[must_use]
    pub fn new(cluster: &ClusterId, mode: Mode) -> Self {
        Self {
            context: cluster.context.clone(),
            namespace: cluster.namespace.clone(),
            cluster: cluster.name.clone(),
            pod: None,
            host: None,
            mode: mode.as_str(),
        }
    }
}

impl From<&Upstream> for Target {
    fn from(upstream: &Upstream) -> Self {
        let mut target = Self::new(&upstream.cluster, upstream.mode);
        let name = upstream.server.name().to_owned();
        match upstream.server {
            Server::Pod(_) => target.pod = Some(name),
            Server::External { .. } => target.host = Some(name),
        }
        target
    }
}

/// What is known of a session; less of one that was denied early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its number in this process.
    pub id: u64,
    /// Where the client is.
    pub client: Client,
    /// Who it is, where that is proved.
    pub identity: Option<Identity>,
    /// The target as the client wrote it.
    pub asked: Option<Text>,
    /// What that meant.
    pub target: Option<Target>,
    /// The role that logs in.
    pub role: Option<Text>,
    /// The database.
    pub database: Option<Text>,
    /// The client's own name for itself.
    pub application_name: Option<Text>,
    /// The rule that decided.
    pub rule: Option<Text>,
    /// The reason that the person gave.
    pub reason: Option<Text>,
}

impl Session {
    /// A session of which no more is known than where it comes from.
    #[must_use]
    pub fn new(id: u64, client: Client) -> Self {
        Self {
            id,
            client,
            identity: None,
            asked: None,
            target: None,
            role: None,
            database: None,
            application_name: None,
            rule: None,
            reason: None,
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session is about to begin: written before the client hears AuthenticationOk.
    Start(Arc<Session>),
    /// The server has greeted it.
    Ready {
        /// Which session.
        session: Arc<Session>,
        /// The server's process, which PostgreSQL's own log and pgaudit name; none where something before the server gives none.
        backend_pid: Option<i32>,
    },
    /// A client was refused; not for a failed login, which [`Event::LoginFailed`] counts.
    Denied {
        /// Which session.
        session: Arc<Session>,
        /// The code that the client was sent.
        sqlstate: String,
        /// The message that the client was sent.
        message: Option<Text>,
    },
    /// A session ended.
    End {
        /// Which session.
        session: Arc<Session>,
        /// The server's process, where it said so.
        backend_pid: Option<i32>,
        /// Bytes from the client and to it.
        bytes: (u64, u64),
        /// Why: a word or two.
        end: &'static str,
        /// The code that the client was sent, where pgferry ended it.
        sqlstate: Option<String>,
    },
    /// A client asked for a session's query to be cancelled, with that session's key.
    Cancel {
        /// The session whose query it is.
        session: Arc<Session>,
        /// Its server process.
        backend_pid: i32,
        /// Who asks; the key is all that is known.
        client: Client,
    },
    /// The configuration was read again.
    Reload {
        /// Why the old one stays, where it does.
        problem: Option<Text>,
    },
    /// Logins that failed within a minute, from one address.
    LoginFailed {
        /// The address alone, or a network's (`2001:db8::/64`); none where there were too many.
        client: Option<Client>,
        /// How many.
        count: u64,
        /// When the first was.
        since: SystemTime,
        /// By which methods, each once.
        methods: Vec<Text>,
        /// Names that were claimed, the first few.
        names: Vec<Text>,
    },
    /// Lines that are missing here: nothing took them in time.
    Lost {
        /// How many.
        count: u64,
    },
}

impl Event {
    /// As `event` says it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "session.start",
            Self::Ready { .. } => "session.ready",
            Self::Denied { .. } => "session.denied",
            Self::End { .. } => "session.end",
            Self::Cancel { .. } => "cancel",
            Self::Reload { .. } => "reload",
            Self::LoginFailed { .. } => "login.failed",
            Self::Lost { .. } => "audit.lost",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_a_characters_end_and_lose_nothing_else() {
        let long = "é".repeat(LONGEST_TEXT);
        for text in [Text::from(long.as_str()), Text::from(long.clone()), Text::from_bytes(long.as_bytes())] {
            assert_eq!(text.as_str(), "é".repeat(LONGEST_TEXT / 2));
        }
        let odd = Text::from(format!("x{}", "é".repeat(LONGEST_TEXT)));
        assert_eq!(odd.as_str().len(), LONGEST_TEXT - 1);
        assert_eq!(Text::from("a\nb\0").as_str(), "a\nb\0");
        assert_eq!(Text::from_bytes(b"a\xff\xfeb\xc3").as_str(), "a\\xff\\xfeb\\xc3");
    }
}
