//! What of ours has not arrived yet, as far as the other side lets us know.

use std::time::Duration;

use tokio::time::Instant;

/// A message of the server's may have been under way for as long: it says nothing of what was written since.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// Bytes of ours of which nobody has said that they arrived.
pub(super) struct OnTheWay {
    pub(super) bytes: usize,
    /// What was written since `turned`, and in the time before that.
    latest: [usize; 2],
    turned: Instant,
}

impl OnTheWay {
    pub(super) fn new(now: Instant) -> Self {
        Self { bytes: 0, latest: [0; 2], turned: now }
    }

    pub(super) fn written(&mut self, bytes: usize, now: Instant) {
        self.turn(now);
        let [latest, _] = &mut self.latest;
        *latest = latest.saturating_add(bytes);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// The node reads on: all has arrived but for the latest.
    pub(super) fn heard(&mut self, now: Instant) {
        self.turn(now);
        let [latest, before] = self.latest;
        self.bytes = latest.saturating_add(before);
    }

    fn turn(&mut self, now: Instant) {
        let age = now.duration_since(self.turned);
        if age >= UNDER_WAY {
            let [latest, _] = self.latest;
            self.latest = [0, if age < UNDER_WAY * 2 { latest } else { 0 }];
            self.turned = now;
        }
    }
}
