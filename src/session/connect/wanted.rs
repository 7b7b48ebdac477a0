//! What one client wants, and the startup packet that says so to the server.

use bytes::{Bytes, BytesMut};

use super::reports::unusable;
use crate::{
    error::Report,
    pg::{
        options,
        startup::{MAX_STARTUP, Startup},
    },
    upstream::{Ask, Login, Target, Upstream},
};

/// The question of one client.
pub(in crate::session) struct Wanted {
    pub(in crate::session) ask: Ask,
    /// The client's own packet, our options taken out.
    pub(in crate::session) startup: Startup,
    /// `None` is the login's default.
    pub(in crate::session) database: Option<Bytes>,
    /// What the same user string means if a context that is not known were.
    pub(in crate::session) otherwise: Option<Target>,
    /// Why the client connects, where it says so.
    pub(in crate::session) reason: Option<String>,
}

/// The longest name that PostgreSQL has (`NAMEDATALEN`, with its terminating zero): it would cut a longer one short and
/// let in the role that is called so.
const MAX_ROLE: usize = 63;

impl Wanted {
    /// The client's packet with the user and the database that the login means, and in the options where the session is,
    /// if the server is to be told; all else byte for byte.
    pub(super) fn startup_for(&self, login: &Login, told: Option<&Upstream>) -> Result<Startup, Report> {
        let database = self.database.clone().unwrap_or_else(|| Bytes::copy_from_slice(login.database.as_bytes()));
        // A zero ends a name in the startup message, and what follows would be parameters of the author's choice.
        let problem = if login.user.contains('\0') {
            Some("the role's name holds a zero byte")
        } else if login.user.len() > MAX_ROLE {
            Some("the role's name is longer than the 63 bytes that PostgreSQL's have")
        } else if database.contains(&0) {
            Some("the database's name holds a zero byte")
        } else {
            None
        };
        if let Some(problem) = problem {
            return Err(unusable(login, problem));
        }
        let mut startup = self.startup.clone();
        startup.set("user", Bytes::copy_from_slice(login.user.as_bytes()));
        startup.set("database", database);
        Ok(told.and_then(|upstream| telling(&startup, upstream)).unwrap_or(startup))
    }
}

/// The same with `pgferry.cluster` and the like, so that a session can be asked where it is: PostgreSQL keeps any setting
/// whose name has two parts. `None` where there is no room.
fn telling(startup: &Startup, upstream: &Upstream) -> Option<Startup> {
    let cluster = format!("{}.{}", upstream.cluster.name, upstream.cluster.namespace);
    let where_it_is = [
        ("cluster", cluster.as_str()),
        ("pod", upstream.server.name()),
        ("context", &upstream.cluster.context),
        ("mode", upstream.mode.as_str()),
    ];
    let mut told = startup.clone();
    let options = options::with_own(&where_it_is, startup.get("options").unwrap_or_default());
    told.set("options", Bytes::from(options));
    let mut packet = BytesMut::new();
    told.encode(told.spoken(), &mut packet);
    // A client that fills its packet to the last byte is served without.
    (packet.len() <= MAX_STARTUP).then_some(told)
}
