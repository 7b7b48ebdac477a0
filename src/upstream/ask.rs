//! The question that every call across the seam carries.

use std::{fmt, sync::Arc};

use tokio::{sync::watch, time::Instant};

use super::{conninfo::Conninfo, person::Person, server::ClusterId};

/// Who asks. Kubernetes is always asked with pgferry's own credential: what a person may reach is decided by
/// [`Review`](super::Review), not by what the person could do there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// Whoever runs pgferry: what the kubeconfig's user may do is what may be reached.
    Local,
    /// Somebody who has proved who it is.
    Person(Arc<Person>),
}

/// Which server of a cluster is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The primary.
    #[default]
    Rw,
    /// A replica.
    Ro,
    /// Any server that answers.
    Any,
}

impl Mode {
    /// As it is written behind the colon of a target.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rw => "rw",
            Self::Ro => "ro",
            Self::Any => "any",
        }
    }
}

/// `cluster["."namespace]["@"context][":"mode]`, taken apart as far as that needs no look at Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// `cluster` or `cluster.namespace`, undivided: both may hold dots as written, so only the directory, which
    /// knows what exists, can divide it (the longest known reading wins).
    pub name: String,
    /// The context, where one was named.
    pub context: Option<String>,
    /// The server that is wanted.
    pub mode: Mode,
    /// The system whose cluster is meant, where the configuration says: a name means the highest reading otherwise.
    pub system: Option<String>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(context) = &self.context {
            write!(f, "@{context}")?;
        }
        if self.mode != Mode::Rw {
            write!(f, ":{}", self.mode.as_str())?;
        }
        Ok(())
    }
}

/// Which login is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The cluster's default application login.
    Default,
    /// This role; its credential must be in the cluster's Secrets.
    Named(String),
}

/// Says what a connection is waiting for; the session turns it into a NOTICE when it takes long.
#[derive(Clone, Debug)]
pub struct Progress {
    lines: Arc<watch::Sender<String>>,
    found: Arc<watch::Sender<Option<Found>>>,
}

/// A cluster that a name means, while none of its servers is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The cluster.
    pub cluster: ClusterId,
    /// As [`crate::upstream::Upstream::meaning`].
    pub meaning: u64,
}

impl Progress {
    /// A new line of progress, and where to read it.
    #[must_use]
    pub fn new() -> (Self, watch::Receiver<String>) {
        let (sender, receiver) = watch::channel(String::new());
        (Self { lines: Arc::new(sender), found: Arc::new(watch::Sender::new(None)) }, receiver)
    }

    /// States what is waited for now, such as `waiting for a primary of shop.prod`.
    pub fn waiting_for(&self, what: impl Into<String>) {
        let what = what.into();
        // Whoever looks again and again waits for the same thing; it is told once.
        self.lines.send_if_modified(|known| {
            *known != what && {
                known.clone_from(&what);
                true
            }
        });
    }

    /// States that the name means this cluster, of which a server is waited for.
    pub fn found(&self, found: Found) {
        self.found.send_if_modified(|known| {
            let new = known.as_ref() != Some(&found);
            *known = Some(found);
            new
        });
    }

    /// The cluster, once a server of it is waited for.
    pub async fn until_found(&self) -> Found {
        let mut found = self.found.subscribe();
        loop {
            if let Some(found) = found.borrow_and_update().clone() {
                return found;
            }
            // The sender lives as long as this value.
            let _ = found.changed().await;
        }
    }
}

/// One question, as every call across the seam carries it.
#[derive(Clone, Debug)]
pub struct Ask {
    /// On whose behalf.
    pub identity: Identity,
    /// Where to.
    pub target: Target,
    /// As whom.
    pub role: Role,
    /// Into which database; `None` is the login's default.
    pub database: Option<String>,
    /// All work for this question must have ended by then.
    pub deadline: Instant,
    /// Until when a missing primary may be waited for; never later than `deadline`.
    pub wait_until: Instant,
    /// Where to say what takes long.
    pub progress: Progress,
    /// How the client came in, for hints.
    pub conninfo: Conninfo,
}
