//! Whether servers that sessions rely on are lost: what a watch sees is read once more before it is said.

use std::{collections::HashMap, convert::Infallible, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::{
    k8s::{
        api::{client::Context, error::K8sError, reader::Reader},
        cluster::{
            cache::{OperatedServer, READ, REFUSED},
            read,
            reflector::Watched,
            resumed::rest,
        },
    },
    upstream::Lost,
};

/// How often changes are looked at: a blocked failover of CloudNativePG changes its resource ten times a second.
const SETTLE: Duration = Duration::from_millis(50);
/// Before what could not be confirmed is read again: sessions hang on a server that is lost meanwhile.
const AGAIN: Duration = Duration::from_secs(2);

/// A server that is read once more, and what comes of it.
type Read<'a> = BoxFuture<'a, (OperatedServer, Result<Option<Lost>, K8sError>)>;

/// The servers that are being read once more.
#[derive(Default)]
struct Confirming<'a> {
    reads: FuturesUnordered<Read<'a>>,
    /// Whether there was a change meanwhile, which the read may have been too early for.
    outdated: HashMap<OperatedServer, bool>,
}

impl Watched {
    /// Looks soon after each change of what is known, and again where it could not be confirmed. Each server is read
    /// for itself: one that nobody answers for keeps no other one waiting.
    pub(super) async fn look_after(&self, context: &Context) -> Infallible {
        let mut state = self.state.subscribe();
        let mut confirming = Confirming::default();
        let mut due: Option<Instant> = None;
        loop {
            let pause = tokio::select! {
                // It cannot end: its sender is ours.
                _ = state.changed() => SETTLE,
                Some((guarded, found)) = confirming.reads.next(), if !confirming.reads.is_empty() => {
                    let outdated = confirming.outdated.remove(&guarded).unwrap_or_default();
                    match found {
                        Ok(Some(lost)) if !context.is_left() => {
                            self.announce(&guarded, lost);
                            continue;
                        }
                        Ok(_) if outdated => SETTLE,
                        Ok(_) => continue,
                        Err(error) => {
                            debug!(pod = %guarded.pod, %error, "whether the server is lost could not be read");
                            rest(&error, if error.is_lasting() { REFUSED } else { AGAIN })
                        }
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = None;
                    self.look(context, &mut confirming);
                    continue;
                }
            };
            let next = Instant::now() + pause;
            due = Some(due.map_or(next, |due| due.min(next)));
        }
    }

    /// Begins to read once more what seems to be lost.
    fn look<'a>(&'a self, context: &'a Context, confirming: &mut Confirming<'a>) {
        let state = self.state.borrow();
        let mut guards = self.guards();
        for (guarded, guard) in guards.tidy().iter_mut().filter(|(_, guard)| !guard.is_spent()) {
            let view = state.last_seen(&self.system, (&self.key.namespace, &guarded.cluster));
            if guarded.judge(guard.reached(), view.as_ref(), state.pods.get(&guarded.pod)).is_none() {
                continue;
            }
            if let Some(outdated) = confirming.outdated.get_mut(guarded) {
                *outdated = true;
                continue;
            }
            confirming.outdated.insert(guarded.clone(), false);
            let guarded = guarded.clone();
            let read = async move {
                let found = self.confirm(context, &guarded).await;
                (guarded, found)
            };
            confirming.reads.push(read.boxed());
        }
    }

    async fn confirm(&self, context: &Context, guarded: &OperatedServer) -> Result<Option<Lost>, K8sError> {
        let place = (&self.key.namespace, &guarded.cluster);
        let reader = Reader::new(context, Instant::now() + READ);
        let (pod, view) = tokio::join!(
            reader.get_pod((place.0, &guarded.pod)),
            read::view(reader, &self.systems, &self.system, place),
        );
        let (view, pod) = (view?, pod?);
        let mut guards = self.guards();
        let guard = guards.all.get_mut(guarded);
        Ok(guard.and_then(|guard| guarded.judge(guard.reached(), view.as_ref(), pod.as_ref())))
    }

    fn announce(&self, guarded: &OperatedServer, lost: Lost) {
        debug!(pod = %guarded.pod, cluster = %guarded.cluster, "a server in use {}", lost.as_str());
        if let Some(guard) = self.guards().all.get(guarded) {
            guard.announce(lost);
        }
    }
}
