//! How often a cluster whose server does not serve yet is looked at again.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Between two looks at first: often enough for a failover of two seconds, which is not to be prolonged.
pub(super) const QUICK: Duration = Duration::from_millis(250);
/// How long the looks stay quick: a switchover's two seconds, and one more.
pub(super) const QUICK_FOR: Duration = Duration::from_secs(3);
/// Between two looks at last. What lasts longer is a restart, or a server or gateway that is overloaded, which is not
/// to be asked forty times by each client; to a person who waits this long already, two seconds more are little.
pub(super) const SLOW: Duration = Duration::from_secs(2);

/// The looks of one client.
#[derive(Debug)]
pub(super) struct Backoff {
    until: Instant,
    /// When it was looked at again for the first time.
    began: Option<Instant>,
    due: Option<Instant>,
    pace: Duration,
    looks: u32,
}

impl Backoff {
    pub(super) fn until(until: Instant) -> Self {
        Self { until, began: None, due: None, pace: QUICK, looks: 0 }
    }

    /// Whether there is time for more than the one look.
    pub(super) fn is_patient(&self) -> bool {
        self.began.is_none_or(|began| began < self.until)
    }

    /// What the look that is due may be content with: the first one with nothing from before, later ones with somebody
    /// else's that is young for their pace.
    pub(super) fn since(&self) -> Instant {
        let now = Instant::now();
        if self.looks > 1 { now - self.pace / 2 } else { now }
    }

    /// Waits for the next look; false where the wait is over. What a watch remembers may be old: one look is always
    /// taken, and at once. The last one is at the very end.
    pub(super) async fn next(&mut self) -> bool {
        if let Some(due) = self.due {
            if due > self.until {
                return false;
            }
            sleep_until(due).await;
        }
        self.looks += 1;
        let now = Instant::now();
        let began = *self.began.get_or_insert(now);
        if now.duration_since(began) >= QUICK_FOR {
            self.pace = (self.pace * 2).min(SLOW);
        }
        let due = now + self.pace;
        self.due = Some(if now < self.until { due.min(self.until) } else { due });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn looks(wait: Duration) -> Vec<u128> {
        let started = Instant::now();
        let mut backoff = Backoff::until(started + wait);
        let mut looks = Vec::new();
        while backoff.next().await {
            looks.push(started.elapsed().as_millis());
        }
        looks
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_slows_down() {
        let all = looks(Duration::from_secs(10)).await;
        let (quick, slow) = all.split_at(13);
        assert!(quick.iter().zip((0..).step_by(250)).all(|(at, expected)| at.abs_diff(expected) < 50), "{all:?}");
        // The timer's wheel turns by milliseconds.
        let seconds: Vec<u128> = slow.iter().map(|at| (at + 50) / 100).collect();
        assert_eq!(seconds, [35, 45, 65, 85, 100], "{all:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_look_is_taken_without_any_wait() {
        assert_eq!(looks(Duration::ZERO).await, [0]);
    }
}
