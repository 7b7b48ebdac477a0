//! A person who has proved who it is, and the question what that person may.

use std::{collections::BTreeMap, fmt, sync::Arc, time::SystemTime};

use super::server::ClusterId;

/// Somebody who has proved who it is. Kubernetes' authorizers get all of it but the last three.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Person {
    /// The user's name. One that a TokenReview did not give carries a prefix (`cert:`, `login:`).
    pub name: String,
    /// The user's groups, with the same prefix.
    pub groups: Vec<String>,
    /// What tells two users of one name apart; empty where nothing does.
    pub uid: String,
    /// Whatever else a TokenReview said.
    pub extra: BTreeMap<String, Vec<String>>,
    /// How it was proved.
    pub how: How,
    /// When the proof ends, where it says so.
    pub until: Option<SystemTime>,
    /// The one context in which it counts; `None`: in all of them.
    pub context: Option<String>,
}

/// How somebody proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum How {
    /// By a client certificate.
    Certificate,
    /// By a password, against a verifier of the configuration.
    Login,
    /// By a token that the API server knows.
    Kubernetes,
}

impl How {
    /// As `auth.methods` writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Login => "login",
            Self::Kubernetes => "kubernetes",
        }
    }
}

impl fmt::Display for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// What somebody may do in a cluster: verbs of the group `pgferry.dev`, which exist in RBAC rules alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Log in.
    Connect,
    /// Log in where the server says that the role is a superuser.
    ConnectSuperuser,
}

impl Verb {
    /// As RBAC rules write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ConnectSuperuser => "connect-superuser",
        }
    }
}

/// Whether a person may log in to a cluster as a role.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Who.
    pub person: Arc<Person>,
    /// What.
    pub verb: Verb,
    /// As which role.
    pub role: String,
    /// Where.
    pub cluster: ClusterId,
}

/// The answer to a [`Question`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Yes.
    Allowed,
    /// No.
    Refused,
}
