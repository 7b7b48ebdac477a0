//! What an API server has asked not to be asked again before a time (`Retry-After`, RFC 9110, section 10.2.3): nobody
//! does, whoever it was that it said so to.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kube::core::Status;
use tokio::time::Instant;

use crate::k8s::api::{access::Access, error::K8sError};

/// What API Priority and Fairness asks for at the least; nobody is throttled for nothing.
const USUAL: u32 = 1;
/// A gateway that says a day means its own maintenance, and nobody is to restart pgferry when that has ended early.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// The longest wait that somebody is kept for before the API server is asked once more.
pub(in crate::k8s) const BEARABLE: Duration = Duration::from_secs(2);

/// What was asked, of which of the clusters that the context's name has meant: a verb on a resource. An API server
/// throttles by user and kind of request, not by object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::k8s) struct Question {
    meaning: u64,
    verb: &'static str,
    group: String,
    resource: String,
}

impl Question {
    pub(in crate::k8s) fn of(meaning: u64, access: &Access<'_>) -> Self {
        Self { meaning, verb: access.verb, group: access.group.to_owned(), resource: access.kind() }
    }
}

/// What one API server is not to be asked now, and with which error it said so.
#[derive(Debug, Default)]
pub(in crate::k8s) struct Throttle(Mutex<HashMap<Question, (Instant, K8sError)>>);

impl Throttle {
    pub(in crate::k8s) fn close(&self, question: Question, until: Instant, error: K8sError) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (until, _)| *until > Instant::now());
        all.insert(question, (until, K8sError::Throttled { until, error: Box::new(error) }));
    }

    /// Until when a question is not to be asked, and what it would be answered.
    pub(in crate::k8s) fn closed(&self, question: &Question) -> Option<(Instant, K8sError)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(question).filter(|(until, _)| *until > Instant::now()).cloned()
    }
}

/// How long the server asks to wait, where it asks for that: in its Status, or in the header alone.
pub(in crate::k8s) fn asked_wait(status: &Status, header: Option<u32>) -> Option<Duration> {
    let told = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    let seconds = match (status.code, header.unwrap_or(0).max(told)) {
        (429, 0) => USUAL,
        (429 | 503, seconds) => seconds,
        _ => return None,
    };
    Some(Duration::from_secs(seconds.into()).min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_a_wait_is_asked_later() {
        let status = |code| Status::failure("no", "no").with_code(code);
        let seconds = |code, header| asked_wait(&status(code), header).map(|wait| wait.as_secs());
        for (code, header, waits) in [
            (429, None, Some(1)),
            (429, Some(7), Some(7)),
            // Another API server behind the same balancer may serve.
            (503, None, Some(0)),
            (503, Some(7), Some(7)),
            (503, Some(86_400), Some(300)),
            (500, Some(7), None),
        ] {
            assert_eq!(seconds(code, header), waits, "{code} {header:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_was_asked_is_closed_and_only_for_so_long() {
        let throttle = Throttle::default();
        let asked = |meaning, url| Question::of(meaning, &Access::to(url));
        let error = K8sError::NotFound { what: "it".to_owned() };
        throttle.close(asked(0, "apis"), Instant::now() + Duration::from_secs(7), error);
        for other in [asked(1, "apis"), asked(0, "version")] {
            assert!(throttle.closed(&other).is_none(), "{other:?}");
        }
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(throttle.closed(&asked(0, "apis")).is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(throttle.closed(&asked(0, "apis")).is_none());
    }
}
