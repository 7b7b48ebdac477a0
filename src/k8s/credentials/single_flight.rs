//! Logins that are being read: clients that come at the same time share one request.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use crate::{
    k8s::cluster::recent::Caller,
    upstream::{ClusterId, Failure, Login, Role},
};

/// Whose login, where, for which role, or for the owner of which database.
pub(in crate::k8s) type ReadingKey = (Caller, ClusterId, Role, Option<String>);

/// All that are being read.
#[derive(Debug, Default)]
pub(in crate::k8s) struct Readings(Mutex<HashMap<ReadingKey, Arc<Reading>>>);

/// Held while it is read; what was found last, and since when.
type Reading = tokio::sync::Mutex<Option<(Instant, Result<Login, Failure>)>>;

/// A reader's share of a reading.
struct Share<'a> {
    all: &'a Readings,
    key: ReadingKey,
    reading: Arc<Reading>,
}

impl Drop for Share<'_> {
    /// The last one to leave, however it leaves, forgets the login.
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

impl Readings {
    /// What `read` finds, or what somebody else's reading found that ended meanwhile.
    pub(in crate::k8s) async fn join(
        &self,
        key: ReadingKey,
        deadline: Instant,
        read: impl Future<Output = Result<Login, Failure>> + Send,
    ) -> Result<Login, Failure> {
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

    fn all(&self) -> MutexGuard<'_, HashMap<ReadingKey, Arc<Reading>>> {
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
    use crate::{
        error::{Report, SqlState},
        upstream::Identity,
    };

    fn key() -> ReadingKey {
        let id = ClusterId {
            context: "c".to_owned(),
            namespace: "n".to_owned(),
            name: "shop".to_owned(),
            system: "x".into(),
        };
        (Caller { identity: Identity::Local, meaning: 0, credential: 0 }, id, Role::Default, None)
    }

    fn login(version: usize) -> Login {
        Login {
            user: "app".to_owned(),
            password: None,
            database: "app".to_owned(),
            superuser: false,
            source: "Secret n/shop-app".to_owned(),
            version: version.to_string(),
        }
    }

    /// A request of a second.
    async fn read(requests: &AtomicUsize) -> Result<Login, Failure> {
        let number = requests.fetch_add(1, Ordering::Relaxed) + 1;
        sleep(Duration::from_secs(1)).await;
        Ok(login(number))
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_come_together_share_a_request_and_nothing_is_kept() {
        let (readings, requests) = (Readings::default(), AtomicUsize::new(0));
        let deadline = Instant::now() + Duration::from_mins(1);
        for round in 1..=2 {
            let all = join_all((0..8).map(|_| readings.join(key(), deadline, read(&requests)))).await;
            assert!(all.iter().all(|found| found.as_ref().is_ok_and(|login| login.version == round.to_string())));
            assert!(readings.all().is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_takes_nothing_along_and_leaves_nothing() {
        let (readings, requests) = (Readings::default(), AtomicUsize::new(0));
        let deadline = Instant::now() + Duration::from_mins(1);
        let impatient = timeout(Duration::from_millis(500), readings.join(key(), deadline, read(&requests)));
        let (gone, stayed) = tokio::join!(impatient, readings.join(key(), deadline, read(&requests)));
        assert!(gone.is_err());
        assert_eq!(stayed.expect("a login").version, "2", "the next one reads itself");
        assert!(readings.all().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_whose_time_is_over_fails_alone() {
        let (readings, requests) = (Readings::default(), AtomicUsize::new(0));
        let soon = Instant::now() + Duration::from_secs(1);
        let late = async {
            sleep(Duration::from_secs(1)).await;
            Err(Report::fatal(SqlState::CONNECTION_FAILURE, "no answer in time").into())
        };
        let (first, second) = tokio::join!(
            readings.join(key(), soon, late),
            readings.join(key(), soon + Duration::from_mins(1), read(&requests)),
        );
        assert!(first.is_err());
        assert_eq!(second.expect("a login").version, "1");
    }
}
