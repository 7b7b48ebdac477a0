//! Noticing that the machine slept: the monotonic clock stands still meanwhile, the wall clock does not.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// More than NTP ever steps in daily life, less than the shortest nap that breaks connections.
const JUMP: Duration = Duration::from_secs(20);

/// A moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    wall: SystemTime,
    monotonic: Instant,
}

impl Mark {
    pub(super) fn now() -> Self {
        Self { wall: SystemTime::now(), monotonic: Instant::now() }
    }

    /// Whether the two clocks have parted since: what was open then is not to be trusted.
    pub(super) fn jumped(&self) -> bool {
        let monotonic = self.monotonic.elapsed();
        match self.wall.elapsed() {
            Ok(wall) => wall.abs_diff(monotonic) > JUMP,
            Err(backwards) => backwards.duration() > JUMP,
        }
    }
}
