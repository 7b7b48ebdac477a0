//! Who the client is, and logging in upstream.

use std::{net::IpAddr, sync::Arc};

use crate::{
    error::{ClientFacing, Report, SqlState},
    upstream::{Identity, Person},
};

pub mod claimed;
pub mod client;
pub mod memory;
#[cfg(target_os = "linux")]
mod owner;
pub mod peer;
mod rounds;
mod scram;
pub mod upstream;
mod upstream_error;

/// A client that may connect. Only this layer makes one, and nothing upstream is opened without it.
#[derive(Clone, Debug)]
pub struct Authenticated {
    identity: Identity,
    who: String,
}

impl Authenticated {
    /// On whose behalf Kubernetes is asked.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    fn person(person: Person) -> Self {
        let who = person.name.clone();
        Self { identity: Identity::Person(Arc::new(person)), who }
    }

    /// For a log line: `uid 1000`, or a person's name.
    #[must_use]
    pub fn who(&self) -> &str {
        &self.who
    }
}

/// A client that may not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// It belongs to another user of this machine.
    #[error("this pgferry serves uid {own}, and the client belongs to uid {uid}")]
    OtherUser {
        /// The client's.
        uid: u32,
        /// The one that runs pgferry.
        own: u32,
    },
    /// The system does not say whose it is.
    #[error("the system does not say which user this connection belongs to")]
    Unknown,
    /// It comes over a network, where nobody says who it is.
    #[error("this pgferry serves this machine alone, and {address} is no loopback address")]
    NotLoopback {
        /// The end that is not.
        address: IpAddr,
    },
}

impl ClientFacing for AuthError {
    fn report(&self) -> Report {
        let report = Report::fatal(SqlState::INVALID_AUTHORIZATION, self.to_string());
        match self {
            Self::OtherUser { uid, .. } => report.hint(format!(
                "Run a pgferry of your own, or let its owner add {uid} to listen.allowed_uids in the configuration"
            )),
            Self::Unknown => report.hint("Connect again; over a Unix socket (--socket-dir) the system always says"),
            Self::NotLoopback { .. } => report.hint(
                "Connect to 127.0.0.1 or ::1 on the machine where pgferry runs, or run one on your own: pgferry serve",
            ),
        }
    }
}
