//! File descriptors: a session takes two, and a desktop's default limit of 1024 is soon reached.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// Raises the limit on open descriptors to what the system allows this process.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => debug!(from = limit.current, to = limit.maximum, "raised the limit on open descriptors"),
        Err(error) => warn!(%error, limit = limit.current, "the limit on open descriptors could not be raised"),
    }
}
