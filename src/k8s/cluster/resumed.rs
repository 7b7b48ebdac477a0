//! A watch that goes on where it ended: the server ends each after some minutes, and networks do.

use std::time::Duration;

use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use kube::core::WatchEvent;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::k8s::api::{
    access::ListQuery,
    client::Context,
    error::K8sError,
    jitter::jittered,
    names::Namespace,
    objects::{Object, Pod, text},
    resource::Resource,
};

/// Before the first try to open a watch that failed.
pub(super) const BACKOFF: Duration = Duration::from_secs(2);
/// With its jitter a minute: a server that comes back is not to be missed for longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(40);

/// Pauses that grow, and are not everybody's at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// 2 to 60 seconds.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = BACKOFF.saturating_mul(1 << self.failures.min(5)).min(LONGEST_PAUSE);
        self.failures += 1;
        jittered(pause)
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// How long to rest after an error: this long, or until the API server wants to be asked again, and then not all at once.
pub(super) fn rest(error: &K8sError, pause: Duration) -> Duration {
    let told = error.not_before().map(|until| until.saturating_duration_since(Instant::now()));
    told.map_or(pause, |told| pause.max(jittered(told)))
}

/// An object whose version a watch can go on from.
pub(super) trait Versioned {
    fn version(&self) -> Option<&str>;
}

impl Versioned for Pod {
    fn version(&self) -> Option<&str> {
        Some(&self.metadata.resource_version).filter(|version| !version.is_empty()).map(String::as_str)
    }
}

impl Versioned for Object {
    fn version(&self) -> Option<&str> {
        Some(&self.metadata.resource_version).filter(|version| !version.is_empty()).map(String::as_str)
    }
}

impl Versioned for Value {
    fn version(&self) -> Option<&str> {
        text(self, "/metadata/resourceVersion")
    }
}

/// What happens to a watch.
pub(super) enum Step<K> {
    Event(WatchEvent<K>),
    /// Nothing is heard of changes until it is resumed.
    Interrupted,
    Resumed,
}

type Events<K> = BoxStream<'static, Result<WatchEvent<K>, K8sError>>;
pub(super) type Steps<K> = BoxStream<'static, Result<Step<K>, K8sError>>;

/// What is watched.
pub(super) struct Subject {
    pub(super) context: Context,
    pub(super) resource: Resource,
    pub(super) namespace: Namespace,
    pub(super) query: ListQuery,
}

impl Subject {
    async fn open<K: DeserializeOwned + Clone + Send + 'static>(&self, version: &str) -> Result<Events<K>, K8sError> {
        let access = self.context.access("watch", &self.resource, Some(&self.namespace), None);
        Ok(self.context.watch_objects(&access, &self.query, version).await?.boxed())
    }

    /// Changes since a version. An error is one that only a new list helps against, or nothing.
    pub(super) async fn follow<K>(self, version: String) -> Result<Steps<K>, K8sError>
    where
        K: Versioned + DeserializeOwned + Clone + Send + 'static,
    {
        let events = Some(self.open(&version).await?);
        let following =
            Following { subject: self, version, events, began: Instant::now(), backoff: Backoff::default() };
        let steps = stream::unfold(following, |mut following| async {
            let step = following.step().await;
            Some((step, following))
        });
        Ok(steps.boxed())
    }
}

struct Following<K> {
    subject: Subject,
    version: String,
    events: Option<Events<K>>,
    began: Instant,
    backoff: Backoff,
}

impl<K: Versioned + DeserializeOwned + Clone + Send + 'static> Following<K> {
    async fn step(&mut self) -> Result<Step<K>, K8sError> {
        let Some(events) = &mut self.events else {
            return self.resume().await;
        };
        match events.next().await {
            Some(Ok(WatchEvent::Error(status))) if status.code == 410 => return Err(K8sError::Gone),
            Some(Ok(WatchEvent::Error(status))) => debug!(code = status.code, "the watch is interrupted"),
            Some(Ok(event)) => {
                self.note(&event);
                self.backoff.reset();
                return Ok(Step::Event(event));
            }
            Some(Err(error)) if is_final(&error) => return Err(error),
            Some(Err(error)) => debug!(%error, "the watch is interrupted"),
            None if self.began.elapsed() >= BACKOFF => self.backoff.reset(),
            // Something that ends every watch at once is not to be asked at full speed.
            None => debug!("the watch ended as soon as it had begun"),
        }
        self.events = None;
        Ok(Step::Interrupted)
    }

    async fn resume(&mut self) -> Result<Step<K>, K8sError> {
        // At once where the server has only ended it, as it does after some minutes.
        if self.began.elapsed() < BACKOFF || self.backoff.failures > 0 {
            sleep(self.backoff.pause()).await;
        }
        loop {
            match self.subject.open(&self.version).await {
                Ok(events) => {
                    self.began = Instant::now();
                    self.events = Some(events);
                    return Ok(Step::Resumed);
                }
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => {
                    debug!(%error, "the watch is interrupted");
                    sleep(rest(&error, self.backoff.pause())).await;
                }
            }
        }
    }

    fn note(&mut self, event: &WatchEvent<K>) {
        let version = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => object.version(),
            WatchEvent::Bookmark(bookmark) => Some(&*bookmark.metadata.resource_version),
            WatchEvent::Error(_) => None,
        };
        if let Some(version) = version {
            version.clone_into(&mut self.version);
        }
    }
}

/// Asking again from the same version is of no use.
fn is_final(error: &K8sError) -> bool {
    matches!(error, K8sError::Gone | K8sError::OtherCluster { .. }) || error.is_lasting() || error.is_absent()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute() {
        let mut backoff = Backoff::default();
        for least in [2, 4, 8, 16, 32, 40, 40] {
            let (least, pause) = (Duration::from_secs(least), backoff.pause());
            assert!((least..=least * 3 / 2).contains(&pause), "{pause:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_secs(3));
    }

    /// Watches and lists in the background knew of no `Retry-After` that was longer than two seconds.
    #[tokio::test(start_paused = true)]
    async fn a_time_that_the_server_told_is_waited_for() {
        let answer = K8sError::Status { server: "it".to_owned(), code: 429, message: "no".to_owned() };
        assert_eq!(rest(&answer, BACKOFF), BACKOFF);
        for (told, least) in [(1, BACKOFF), (30, Duration::from_secs(30))] {
            let until = Instant::now() + Duration::from_secs(told);
            let rested = rest(&K8sError::Throttled { until, error: Box::new(answer.clone()) }, BACKOFF);
            assert!((least..=least * 3 / 2).contains(&rested), "{rested:?}");
        }
    }
}
