//! What is being read: those who want the same at the same time share one request.

use std::{
    collections::HashMap,
    fmt::{self, Debug},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

/// All that are being read.
pub(in crate::k8s) struct Readings<K, T, E>(Mutex<HashMap<K, Arc<Reading<T, E>>>>);

impl<K, T, E> Default for Readings<K, T, E> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// Nothing of what is read: it may be a login.
impl<K, T, E> Debug for Readings<K, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readings").finish_non_exhaustive()
    }
}

/// Held while it is read; what was found last, and since when.
type Reading<T, E> = tokio::sync::Mutex<Option<(Instant, Result<T, E>)>>;

/// A reader's share of a reading.
struct Share<'a, K: Eq + Hash, T, E> {
    all: &'a Readings<K, T, E>,
    key: K,
    reading: Arc<Reading<T, E>>,
}

impl<K: Eq + Hash, T, E> Drop for Share<'_, K, T, E> {
    /// The last one to leave, however it leaves, forgets what was found.
    fn drop(&mut self) {
        let mut all = self.all.all();
        // The map's and this one.
        if Arc::strong_count(&self.reading) <= 2 {
            all.remove(&self.key);
        }
        // Under the lock, so that of two who leave at once one is the last.
        self.reading = Arc::default();
    }
}

impl<K: Clone + Eq + Hash, T: Clone, E: Clone> Readings<K, T, E> {
    /// What `read` finds, or what somebody else's reading found that ended meanwhile.
    pub(in crate::k8s) async fn join(
        &self,
        key: K,
        deadline: Instant,
        read: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, E> {
        let asked = Instant::now();
        let reading = Arc::clone(self.all().entry(key.clone()).or_default());
        let share = Share { all: self, key, reading };
        let mut found = share.reading.lock().await;
        if let Some((_, result)) = found.as_ref().filter(|(at, _)| *at >= asked) {
            return result.clone();
        }
        let result = read.await;
        // A reader whose own time is over says nothing about the others' reading.
        if result.is_ok() || Instant::now() < deadline {
            *found = Some((Instant::now(), result.clone()));
        }
        result
    }
}

impl<K, T, E> Readings<K, T, E> {
    fn all(&self) -> MutexGuard<'_, HashMap<K, Arc<Reading<T, E>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use futures_util::future::join_all;
    use tokio::time::{sleep, timeout};

    use super::*;

    type Found = Result<usize, &'static str>;

    fn readings() -> (Readings<&'static str, usize, &'static str>, AtomicUsize) {
        (Readings::default(), AtomicUsize::new(0))
    }

    /// A request of a second.
    async fn read(requests: &AtomicUsize) -> Found {
        let number = requests.fetch_add(1, Ordering::Relaxed) + 1;
        sleep(Duration::from_secs(1)).await;
        Ok(number)
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_come_together_share_a_request_and_nothing_is_kept() {
        let (readings, requests) = readings();
        let deadline = Instant::now() + Duration::from_mins(1);
        for round in 1..=2 {
            let all = join_all((0..8).map(|_| readings.join("shop", deadline, read(&requests)))).await;
            assert_eq!(all, [Ok(round); 8]);
            assert!(readings.all().is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_takes_nothing_along_and_leaves_nothing() {
        let (readings, requests) = readings();
        let deadline = Instant::now() + Duration::from_mins(1);
        let impatient = timeout(Duration::from_millis(500), readings.join("shop", deadline, read(&requests)));
        let (gone, stayed) = tokio::join!(impatient, readings.join("shop", deadline, read(&requests)));
        assert!(gone.is_err());
        assert_eq!(stayed, Ok(2), "the next one reads itself");
        assert!(readings.all().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_whose_time_is_over_fails_alone() {
        let (readings, requests) = readings();
        let soon = Instant::now() + Duration::from_secs(1);
        let late = async {
            sleep(Duration::from_secs(1)).await;
            Err("no answer in time")
        };
        let (first, second) = tokio::join!(
            readings.join("shop", soon, late),
            readings.join("shop", soon + Duration::from_mins(1), read(&requests)),
        );
        assert!(first.is_err());
        assert_eq!(second, Ok(1));
    }
}
