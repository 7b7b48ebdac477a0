//! Noticing that the machine slept, or that this process alone was stopped: what was open before is not to be trusted.
//!
//! While a machine sleeps the monotonic clock stands still and the wall clock does not. While a process is stopped
//! (SIGSTOP, a frozen container) both go on, and only a tick that comes much too late tells.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::debug;

/// More than NTP ever steps in daily life, less than the shortest nap that breaks connections.
const JUMP: Duration = Duration::from_secs(20);
/// Seldom enough for a laptop's battery.
const TICK: Duration = Duration::from_secs(5);
/// A busy machine is late by seconds; what was stopped for less than this still has its connections mostly, and `pool`
/// notices those that it has not.
const LATE: Duration = Duration::from_secs(10);

/// Both clocks, and how often they told of a break.
pub(in crate::k8s) struct Clock {
    wall: Box<dyn Fn() -> SystemTime + Send + Sync>,
    breaks: watch::Sender<u64>,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("breaks", &self.breaks).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    wall: SystemTime,
    monotonic: Instant,
}

impl Reading {
    /// Whether the two clocks have parted since.
    fn parted(&self, now: &Self) -> bool {
        let monotonic = now.monotonic.saturating_duration_since(self.monotonic);
        match now.wall.duration_since(self.wall) {
            Ok(wall) => wall.abs_diff(monotonic) > JUMP,
            Err(backwards) => backwards.duration() > JUMP,
        }
    }
}

/// A moment on both clocks.
#[derive(Clone, Debug)]
pub(in crate::k8s) struct Mark {
    clock: Arc<Clock>,
    reading: Reading,
    breaks: u64,
}

impl Mark {
    /// Whether there was a break since: what was open then is not to be trusted.
    pub(in crate::k8s) fn jumped(&self) -> bool {
        *self.clock.breaks.borrow() != self.breaks || self.reading.parted(&self.clock.read())
    }
}

impl Clock {
    /// Looks for breaks from now on, on a task that ends with the clock.
    pub(in crate::k8s) fn start() -> Arc<Self> {
        Self::with_wall(SystemTime::now)
    }

    /// The same by another wall clock, which a test can set.
    pub(in crate::k8s) fn with_wall(wall: impl Fn() -> SystemTime + Send + Sync + 'static) -> Arc<Self> {
        let clock = Arc::new(Self { wall: Box::new(wall), breaks: watch::Sender::new(0) });
        tokio::spawn(tick(Arc::downgrade(&clock)));
        clock
    }

    /// What the wall clock says.
    pub(in crate::k8s) fn wall(&self) -> SystemTime {
        (self.wall)()
    }

    /// Now.
    pub(in crate::k8s) fn mark(self: &Arc<Self>) -> Mark {
        Mark { clock: Arc::clone(self), reading: self.read(), breaks: *self.breaks.borrow() }
    }

    /// Tells of a break that no clock shows.
    pub(in crate::k8s) fn tell(&self) {
        self.breaks.send_modify(|breaks| *breaks += 1);
    }

    /// Changes at each break.
    pub(in crate::k8s) fn breaks(&self) -> watch::Receiver<u64> {
        self.breaks.subscribe()
    }

    fn read(&self) -> Reading {
        Reading { wall: self.wall(), monotonic: Instant::now() }
    }
}

async fn tick(clock: Weak<Clock>) {
    loop {
        let Some(before) = clock.upgrade().map(|clock| clock.read()) else { return };
        let due = before.monotonic + TICK;
        sleep_until(due).await;
        let Some(clock) = clock.upgrade() else { return };
        let late = due.elapsed();
        if late > LATE || before.parted(&clock.read()) {
            debug!(late = late.as_secs(), "the machine slept, or this process was stopped");
            clock.tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::{advance, sleep, timeout};

    use super::*;

    /// A wall clock that runs with tokio's, and can be set.
    fn wall(ahead: &Arc<Mutex<Duration>>) -> impl Fn() -> SystemTime + Send + Sync + 'static {
        let (began, ahead) = (Instant::now(), Arc::clone(ahead));
        move || SystemTime::UNIX_EPOCH + began.elapsed() + *ahead.lock().expect("a clock")
    }

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_that_jumps_is_a_break_at_once_and_for_whoever_waits() {
        let ahead = Arc::new(Mutex::new(Duration::from_hours(1)));
        let clock = Clock::with_wall(wall(&ahead));
        let (mark, mut breaks) = (clock.mark(), clock.breaks());
        sleep(Duration::from_mins(10)).await;
        assert!(!mark.jumped(), "time alone is none");
        // NTP.
        *ahead.lock().expect("a clock") += Duration::from_secs(10);
        assert!(!mark.jumped());
        // A lid that was closed for an hour: nothing need have run since for the next look to tell.
        *ahead.lock().expect("a clock") += Duration::from_hours(1);
        assert!(mark.jumped());
        assert!(!clock.mark().jumped(), "what is opened now is trusted");
        timeout(TICK * 2, breaks.changed()).await.expect("soon").expect("the clock runs");
        assert!(mark.jumped());
        // Set back by hand.
        let mark = clock.mark();
        *ahead.lock().expect("a clock") = Duration::ZERO;
        assert!(mark.jumped());
    }

    /// SIGSTOP for a minute: both clocks ran, we did not.
    #[tokio::test(start_paused = true)]
    async fn a_tick_that_comes_much_too_late_is_a_break() {
        let clock = Clock::with_wall(wall(&Arc::default()));
        let mark = clock.mark();
        sleep(Duration::from_mins(10)).await;
        assert!(!mark.jumped(), "ticks in time are none");
        advance(LATE / 2).await;
        sleep(TICK * 2).await;
        assert!(!mark.jumped(), "a busy machine");
        let mut breaks = clock.breaks();
        advance(Duration::from_mins(1)).await;
        timeout(TICK, breaks.changed()).await.expect("at once").expect("the clock runs");
        assert!(mark.jumped());
        assert!(!clock.mark().jumped());
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_ends_with_the_clock() {
        let clock = Clock::start();
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        tokio::task::yield_now().await;
        let before = tasks();
        drop(clock);
        sleep(TICK * 2).await;
        assert_eq!(tasks(), before - 1);
    }
}
