//! Looks at one thing again and again, by many who wait for it to change: they share each look, and however many they
//! are, the next one begins a while after the last.

use std::{
    collections::HashMap,
    fmt::{self, Debug},
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::{
    k8s::api::{error::K8sError, single_flight::Readings, throttle::BEARABLE},
    upstream::Failure,
};

/// From one look to the next: as often as one client looks that waits alone.
pub(in crate::k8s) const PACE: Duration = Duration::from_millis(250);

/// How long what was found is kept: nobody is content with what is older.
const KEPT: Duration = Duration::from_secs(2);

/// A failure that may say when to come again.
pub(in crate::k8s) trait Refusing {
    fn not_before(&self) -> Option<Instant>;
}

impl Refusing for Failure {
    /// It is a client's, who is not told by the second.
    fn not_before(&self) -> Option<Instant> {
        None
    }
}

impl Refusing for K8sError {
    fn not_before(&self) -> Option<Instant> {
        Self::not_before(self)
    }
}

/// What was found last, and from when that is.
#[derive(Clone)]
struct Found<T, E> {
    began: Instant,
    result: Result<T, E>,
}

impl<T, E: Refusing> Found<T, E> {
    /// Before when nobody is to look again, as the API server says.
    fn not_before(&self) -> Option<Instant> {
        self.result.as_ref().err().and_then(Refusing::not_before).filter(|until| *until > Instant::now())
    }
}

/// All looks.
pub(in crate::k8s) struct Looks<K, T, E> {
    flights: Readings<K, (Instant, T), E>,
    last: Mutex<HashMap<K, Found<T, E>>>,
}

impl<K, T, E> Debug for Looks<K, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Looks").finish_non_exhaustive()
    }
}

impl<K, T, E> Default for Looks<K, T, E> {
    fn default() -> Self {
        Self { flights: Readings::default(), last: Mutex::default() }
    }
}

impl<K, T, E> Looks<K, T, E>
where
    K: Clone + Eq + Hash + Send + Sync,
    T: Clone + Send + Sync,
    E: Clone + Send + Sync + Refusing,
{
    /// What a look finds that begins at `since` or later, be it somebody else's; a failure is anybody's. One more begins
    /// no sooner than [`PACE`] after the last, and no sooner than the API server wants to be asked: where that is long,
    /// its refusal is told again.
    pub(in crate::k8s) async fn look<F>(
        &self,
        key: &K,
        (since, deadline): (Instant, Instant),
        read: impl Fn() -> F + Send + Sync,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>> + Send,
    {
        loop {
            if let Some(found) = self.kept(key).filter(|found| found.began >= since) {
                return found.result;
            }
            let (began, found) = self.flight(key, (PACE, deadline), &read).await?;
            if began >= since {
                return Ok(found);
            }
        }
    }

    /// The same for who has not looked yet: what somebody's look finds that ends meanwhile. It begins at once, unless the
    /// last one did not find what `is_good`.
    pub(in crate::k8s) async fn first_look<F>(
        &self,
        key: &K,
        deadline: Instant,
        is_good: impl Fn(&T) -> bool + Send,
        read: impl Fn() -> F + Send + Sync,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>> + Send,
    {
        let was_good = self.kept(key).is_none_or(|found| found.result.as_ref().is_ok_and(is_good));
        let pace = if was_good { Duration::ZERO } else { PACE };
        self.flight(key, (pace, deadline), &read).await.map(|(_, found)| found)
    }

    async fn flight<F>(
        &self,
        key: &K,
        (pace, deadline): (Duration, Instant),
        read: &(impl Fn() -> F + Send + Sync),
    ) -> Result<(Instant, T), E>
    where
        F: Future<Output = Result<T, E>> + Send,
    {
        let look = async {
            if let Some(last) = self.kept(key) {
                let until = last.not_before().unwrap_or(last.began + pace);
                match last.result {
                    Err(refused) if until >= deadline.min(Instant::now() + BEARABLE) => return Err(refused),
                    _ => sleep_until(until).await,
                }
            }
            let began = Instant::now();
            let result = read().await;
            // A reader whose own time is over says nothing about the others' reading.
            if result.is_ok() || Instant::now() < deadline {
                self.keep(key, Found { began, result: result.clone() });
            }
            result.map(|found| (began, found))
        };
        self.flights.join(key.clone(), deadline, look).await
    }

    fn kept(&self, key: &K) -> Option<Found<T, E>> {
        self.last().get(key).cloned()
    }

    fn keep(&self, key: &K, found: Found<T, E>) {
        let mut last = self.last();
        last.retain(|_, found| found.began.elapsed() < KEPT || found.not_before().is_some());
        last.insert(key.clone(), found);
    }

    fn last(&self) -> MutexGuard<'_, HashMap<K, Found<T, E>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::time::sleep;

    use super::*;

    const LASTS: Duration = Duration::from_millis(5);

    #[derive(Default)]
    struct Cluster {
        looks: Looks<&'static str, usize, K8sError>,
        read: AtomicUsize,
    }

    impl Cluster {
        async fn read(&self) -> Result<usize, K8sError> {
            let number = self.read.fetch_add(1, Ordering::Relaxed) + 1;
            sleep(LASTS).await;
            Ok(number)
        }

        async fn look(&self, since: Instant) -> usize {
            let times = (since, Instant::now() + Duration::from_mins(1));
            self.looks.look(&"shop", times, || self.read()).await.expect("a look")
        }

        fn read_so_far(&self) -> usize {
            self.read.load(Ordering::Relaxed)
        }
    }

    /// Fifty clients that waited for one primary read the cluster fifty times in each quarter of a second.
    #[tokio::test(start_paused = true)]
    async fn however_many_look_it_is_read_as_often_as_by_one() {
        let began = Instant::now();
        for clients in [1, 50] {
            let cluster = Cluster::default();
            let clients = (0..clients).map(|number| {
                let cluster = &cluster;
                async move {
                    sleep(Duration::from_millis(number * 7)).await;
                    for _ in 0..20 {
                        let asked = Instant::now();
                        cluster.look(asked).await;
                        assert!(asked.elapsed() <= PACE + 2 * LASTS, "nobody waits for long: {:?}", asked.elapsed());
                        sleep(PACE.saturating_sub(asked.elapsed())).await;
                    }
                }
            });
            let started = Instant::now();
            join_all(clients).await;
            let most = started.elapsed().as_millis() / PACE.as_millis() + 1;
            assert!(cluster.read_so_far() as u128 <= most, "{} of {most}", cluster.read_so_far());
        }
        assert!(began.elapsed() > Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_gets_what_was_read_before_it_asked_for_that() {
        let cluster = Cluster::default();
        let before = Instant::now();
        let (_, late) = tokio::join!(cluster.look(before), async {
            sleep(LASTS / 2).await;
            cluster.look(Instant::now()).await
        });
        assert_eq!(late, 2);
        assert_eq!(cluster.look(Instant::now() - PACE).await, 2, "what is young enough is not read again");
    }

    /// Who opens one connection opens more, and none of them waits for a pace.
    #[tokio::test(start_paused = true)]
    async fn a_first_look_waits_only_where_the_last_was_in_vain() {
        let cluster = Cluster::default();
        for (is_good, waits) in [(true, Duration::ZERO), (true, Duration::ZERO), (false, PACE.saturating_sub(LASTS))] {
            let (started, deadline) = (Instant::now(), Instant::now() + PACE * 4);
            let looked = cluster.looks.first_look(&"shop", deadline, |_| is_good, || cluster.read()).await;
            looked.expect("a look");
            assert!(started.elapsed() >= waits && started.elapsed() < waits + LASTS * 2, "{:?}", started.elapsed());
        }
    }

    /// An API server that said 429, and when to come again, was asked by each client at its own pace all the same.
    #[tokio::test(start_paused = true)]
    async fn nobody_looks_before_the_time_that_the_api_server_told() {
        let (looks, asked) = (Looks::<&str, usize, K8sError>::default(), AtomicUsize::new(0));
        let until = Instant::now() + Duration::from_secs(30);
        let answer = K8sError::Status { server: "it".to_owned(), code: 429, message: "no".to_owned() };
        let refused = || async {
            asked.fetch_add(1, Ordering::Relaxed);
            Err(K8sError::Throttled { until, error: Box::new(answer.clone()) })
        };
        while Instant::now() + BEARABLE + PACE < until {
            let times = (Instant::now(), Instant::now() + Duration::from_mins(1));
            let (one, other) = tokio::join!(
                looks.look(&"shop", times, refused),
                looks.first_look(&"shop", times.1, |_| true, refused)
            );
            assert!(one.is_err() && other.is_err());
            sleep(PACE).await;
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        sleep_until(until).await;
        let times = (Instant::now(), Instant::now() + Duration::from_mins(1));
        assert_eq!(looks.look(&"shop", times, || async { Ok(7) }).await.expect("a look"), 7);
    }
}
