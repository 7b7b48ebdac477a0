//! Core dumps and debuggers: both show whatever the process knows, passwords and tokens among it.

use rustix::process::{Resource, Rlimit, setrlimit};
use tracing::{debug, warn};

/// Switches core dumps off, and on Linux keeps other processes of the same user out of this one's memory.
///
/// The limit alone does not suffice: where the kernel hands cores to a program (`core_pattern` in core(5)), it is not
/// looked at.
pub fn forbid() {
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        warn!(%error, "core dumps could not be switched off");
    }
    keep_out();
}

#[cfg(target_os = "linux")]
fn keep_out() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    match set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        Ok(()) => debug!("core dumps are off, and no debugger may attach (process.core_dumps)"),
        Err(error) => warn!(%error, "the process could not be made undumpable"),
    }
}

#[cfg(not(target_os = "linux"))]
fn keep_out() {
    debug!("core dumps are off; this system has no way to keep debuggers of the same user out");
}
