//! What watches tell of one server that no operator made: of its pod, and of where the Services lead that led to it.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use futures_util::{
    StreamExt as _,
    stream::{BoxStream, select_all},
};
use kube::core::WatchEvent;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::k8s::{
    api::{
        access::ListQuery,
        client::Context,
        error::K8sError,
        jitter::jittered,
        names::Place,
        objects::text,
        resource::{ENDPOINT_SLICES, PODS, Resource},
    },
    cluster::{
        leader_objects,
        resumed::{Step, Subject},
    },
};

/// Between two looks while everything is heard that ends a server: its pod's end and its labels, and the addresses of the
/// Services that led to it. What a look can tell besides is that the object was rewritten which said where the cluster is.
/// A hundred laptops with three such sessions each ask for that in at most six requests each 10 to 15 minutes, 2.4 a
/// second together, and renew up to three watches each 400 to 600 s, 1.8 a second: below five.
pub(super) const HEARD: Duration = Duration::from_mins(10);

/// What a watch tells of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Nothing,
    /// What may end the server.
    Change,
    Interrupted,
    Resumed,
}

type Hearing = BoxStream<'static, Result<Heard, K8sError>>;

/// What of a pod may end it as a server. Its status and annotations change all the time: Patroni writes both.
fn of_pod(pod: &Value) -> Value {
    let meta = |name: &str| pod.pointer(&format!("/metadata/{name}")).cloned().unwrap_or_default();
    json!([meta("uid"), meta("deletionTimestamp"), meta("labels")])
}

/// What of a slice may lead elsewhere; not its annotations, for the same reason.
fn of_slice(slice: &Value) -> Value {
    slice.get("endpoints").cloned().unwrap_or_default()
}

/// Objects as they were last, as far as they matter.
#[derive(Default)]
struct Before(HashMap<String, Value>);

impl Before {
    fn heard(&mut self, step: Step<Value>, matters: fn(&Value) -> Value) -> Heard {
        let name = |object: &Value| text(object, "/metadata/name").unwrap_or_default().to_owned();
        match step {
            Step::Event(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                let now = matters(&object);
                let before = self.0.insert(name(&object), now.clone());
                // The first of a watch tells no change: what comes behind its opening is read, too.
                if before.is_some_and(|before| before != now) { Heard::Change } else { Heard::Nothing }
            }
            Step::Event(WatchEvent::Deleted(object)) => {
                self.0.remove(&name(&object));
                Heard::Change
            }
            Step::Event(WatchEvent::Bookmark(_)) => Heard::Nothing,
            Step::Event(WatchEvent::Error(_)) => Heard::Change,
            Step::Interrupted => Heard::Interrupted,
            Step::Resumed => Heard::Resumed,
        }
    }
}

/// The watches on the one pod, and on where the Service leads that led to it.
#[derive(Default)]
pub(super) struct PodWatch {
    heard: Option<Hearing>,
    /// Of how many things no changes are heard.
    deaf: usize,
    /// When the next look is due while everything is heard.
    due: Option<Instant>,
}

impl PodWatch {
    /// Begins to listen, deaf to what is not allowed.
    pub(super) async fn open(context: &Context, (namespace, pod): &Place, services: &[Place]) -> Self {
        let subject = |resource: &Resource, namespace, query| Subject {
            context: context.clone(),
            resource: resource.clone(),
            namespace,
            query,
        };
        let pods = subject(&PODS, namespace.clone(), ListQuery::fields(format!("metadata.name={pod}")));
        let Ok(pods) = listen(pods, of_pod).await else {
            return Self::default();
        };
        let (mut all, mut deaf) = (vec![pods], 0);
        let mut by_namespace = BTreeMap::<_, Vec<_>>::new();
        for (namespace, service) in services {
            by_namespace.entry(namespace).or_default().push(service);
        }
        for (namespace, services) in by_namespace {
            let slices = subject(&ENDPOINT_SLICES, namespace.clone(), leader_objects::slices_of(services));
            match listen(slices, of_slice).await {
                Ok(slices) => all.push(slices),
                Err(_) => deaf += 1,
            }
        }
        Self { heard: Some(select_all(all).boxed()), deaf, due: None }
    }

    pub(super) fn is_open(&self) -> bool {
        self.heard.is_some()
    }

    /// Whether nothing that ends the server can happen unheard.
    pub(super) fn hears_all(&self) -> bool {
        self.heard.is_some() && self.deaf == 0
    }

    /// When to look next, if nothing is heard: after a long while, and `pause` from now where not all can be. What was
    /// interrupted for a moment does not put it off.
    pub(super) fn next_look(&mut self, (pause, rare): (Duration, Duration)) -> Instant {
        let due = *self.due.get_or_insert_with(|| Instant::now() + jittered(rare));
        if self.hears_all() { due } else { due.min(Instant::now() + pause) }
    }

    /// A look was taken; one that failed is to be taken again after so long.
    pub(super) fn looked(&mut self, again: Option<Duration>) {
        self.due = again.map(|pause| Instant::now() + pause);
    }

    /// The next that is heard; `None` at the end of a watch that cannot go on.
    pub(super) async fn next(&mut self) -> Option<Heard> {
        let Some(heard) = &mut self.heard else { return std::future::pending().await };
        let Some(Ok(heard)) = heard.next().await else {
            *self = Self::default();
            return None;
        };
        match heard {
            Heard::Interrupted => self.deaf += 1,
            Heard::Resumed => self.deaf -= 1,
            Heard::Nothing | Heard::Change => {}
        }
        Some(heard)
    }
}

async fn listen(subject: Subject, matters: fn(&Value) -> Value) -> Result<Hearing, K8sError> {
    // From any version on: the first events are the objects as they are.
    let steps = subject.follow::<Value>("0".to_owned()).await?;
    let mut before = Before::default();
    Ok(steps.map(move |step| Ok(before.heard(step?, matters))).boxed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening() -> PodWatch {
        PodWatch { heard: Some(futures_util::stream::pending().boxed()), ..PodWatch::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn looks_are_rare_and_not_all_at_once_while_everything_is_heard() {
        let pause = (Duration::from_secs(5), HEARD);
        let looks: Vec<Duration> = (0..100).map(|_| listening().next_look(pause) - Instant::now()).collect();
        assert!(looks.iter().all(|look| (HEARD..=HEARD * 3 / 2).contains(look)), "{looks:?}");
        assert!(looks.iter().any(|look| Some(look) != looks.first()), "not all at once");
    }

    /// Each renewal of a watch began the wait for the next look anew: there would have been none.
    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_interrupted_puts_no_look_off() {
        let pause = Duration::from_secs(5);
        let mut watch = listening();
        let due = watch.next_look((pause, HEARD));
        watch.deaf = 1;
        assert_eq!(watch.next_look((pause, HEARD)), Instant::now() + pause);
        tokio::time::advance(pause).await;
        watch.deaf = 0;
        assert_eq!(watch.next_look((pause, HEARD)), due);
        watch.looked(None);
        assert!(watch.next_look((pause, HEARD)) >= Instant::now() + HEARD, "as long again");
        watch.looked(Some(pause * 2));
        assert_eq!(watch.next_look((pause, HEARD)), Instant::now() + pause * 2);
    }

    /// Patroni notes its position in the pod's annotations, and in those of its Services' endpoints, each ten seconds:
    /// each was a change, after which the cluster was read.
    #[test]
    fn only_what_may_end_a_server_is_a_change() {
        let pod = |uid: &str, role: &str, annotation: &str, deleted: Option<&str>| {
            json!({"metadata": {"name": "shop-0", "uid": uid, "labels": {"role": role}, "annotations": {"status": annotation},
                "deletionTimestamp": deleted}, "status": {"phase": annotation}})
        };
        let slice = |address: &str, annotation: &str| {
            json!({"metadata": {"name": "shop-x", "annotations": {"optime": annotation}},
                "endpoints": [{"addresses": [address]}]})
        };
        let (modified, same) = (|object| Step::Event(WatchEvent::Modified(object)), Heard::Nothing);
        let mut before = Before::default();
        let first = Step::Event(WatchEvent::Added(pod("a", "primary", "1", None)));
        assert_eq!(before.heard(first, of_pod), Heard::Nothing, "as it is");
        assert_eq!(before.heard(modified(pod("a", "primary", "2", None)), of_pod), same);
        assert_eq!(before.heard(modified(pod("a", "replica", "2", None)), of_pod), Heard::Change);
        assert_eq!(before.heard(modified(pod("a", "replica", "2", Some("now"))), of_pod), Heard::Change);
        assert_eq!(before.heard(modified(pod("b", "replica", "2", Some("now"))), of_pod), Heard::Change);
        assert_eq!(before.heard(Step::Event(WatchEvent::Deleted(pod("b", "", "", None))), of_pod), Heard::Change);

        assert_eq!(before.heard(modified(slice("10.0.0.1", "1")), of_slice), same);
        assert_eq!(before.heard(modified(slice("10.0.0.1", "2")), of_slice), same);
        assert_eq!(before.heard(modified(slice("10.0.0.2", "2")), of_slice), Heard::Change);
    }
}
