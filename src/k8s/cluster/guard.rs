//! A server that sessions rely on, and which pod they really reached: the one rule for uids.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tracing::debug;

use crate::{k8s::api::objects::Pod, upstream::Lost};

/// How long a session may need from being told its pod to the stream into it, twice what is usual at the most. A stream
/// is opened by the pod's name: until then a pod that was made anew may be the one that was reached.
const CONNECTING: Duration = Duration::from_mins(1);

/// Where sessions that rely on a server hear that it is lost.
#[derive(Debug)]
pub(in crate::k8s) struct Guard {
    lost: Arc<watch::Sender<Option<Lost>>>,
    reached: Reached,
}

impl Guard {
    pub(in crate::k8s) fn new(uid: &str) -> Self {
        Self { lost: Arc::new(watch::Sender::new(None)), reached: Reached::new(uid) }
    }

    /// For one more session, which begins now.
    pub(in crate::k8s) fn subscribe(&mut self) -> watch::Receiver<Option<Lost>> {
        self.reached.since = Instant::now();
        self.lost.subscribe()
    }

    pub(in crate::k8s) fn reached(&mut self) -> &mut Reached {
        &mut self.reached
    }

    pub(in crate::k8s) fn is_relied_on(&self) -> bool {
        self.lost.receiver_count() > 0
    }

    /// Until nobody relies on it.
    pub(in crate::k8s) fn left(&self) -> impl Future<Output = ()> + use<> {
        let lost = Arc::clone(&self.lost);
        async move { lost.closed().await }
    }

    /// It has fired.
    pub(in crate::k8s) fn is_spent(&self) -> bool {
        self.lost.borrow().is_some()
    }

    pub(in crate::k8s) fn announce(&self, lost: Lost) {
        self.lost.send_replace(Some(lost));
    }
}

/// The pod that the sessions' streams lead into, as far as it is known.
#[derive(Debug)]
pub(in crate::k8s) struct Reached {
    /// Empty where an endpoint did not tell it.
    uid: String,
    /// When a session was sent there the last time.
    since: Instant,
}

impl Reached {
    pub(in crate::k8s) fn new(uid: &str) -> Self {
        Self { uid: uid.to_owned(), since: Instant::now() }
    }

    /// Whether a pod of this name, as it is now, is the one that was reached. One that was made anew while sessions
    /// connected is: what reached the one before it has ended with that one's containers.
    pub(in crate::k8s) fn is(&mut self, pod: &Pod) -> bool {
        let found = &pod.metadata.uid;
        if found.is_empty() || *found == self.uid {
            return true;
        }
        let may_be = self.uid.is_empty() || self.since.elapsed() < CONNECTING;
        if may_be {
            if !self.uid.is_empty() {
                debug!(pod = %pod.metadata.name, "a server in use was made anew before it was reached");
            }
            self.uid.clone_from(found);
        }
        may_be
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str) -> Pod {
        let meta = serde_json::json!({"metadata": {"name": "a", "namespace": "n", "uid": uid}});
        serde_json::from_value(meta).expect("a pod")
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_made_anew_is_the_one_that_was_reached_while_sessions_connect() {
        let mut guard = Guard::new("one");
        let _session = guard.subscribe();
        assert!(guard.reached().is(&pod("one")) && guard.reached().is(&pod("two")));
        tokio::time::advance(CONNECTING).await;
        assert!(
            guard.reached().is(&pod("two")) && !guard.reached().is(&pod("one")) && !guard.reached().is(&pod("three"))
        );
        assert!(guard.reached().is(&pod("")), "an endpoint that tells none");
    }

    #[tokio::test(start_paused = true)]
    async fn a_uid_that_was_not_told_is_that_of_the_first_pod_that_is_seen() {
        let mut guard = Guard::new("");
        tokio::time::advance(CONNECTING).await;
        assert!(guard.reached().is(&pod("one")) && !guard.reached().is(&pod("two")));
    }
}
