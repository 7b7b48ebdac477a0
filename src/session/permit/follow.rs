//! Open sessions are asked about again: one question for all that are alike.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{Denied, Grant, Permits, Subject};
use crate::upstream::Identity;

/// Why a session is not permitted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum Revoked {
    /// Somebody has taken the right away.
    Refused,
    /// Nobody could say for too long.
    NoAnswer,
}

impl Revoked {
    /// For the sentence "because ...".
    pub(in crate::session) const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "it is no longer allowed",
            Self::NoAnswer => "it can no longer be found out whether it is allowed",
        }
    }
}

/// Who is asked about now.
#[derive(Debug, Default)]
pub(super) struct Followed(Mutex<All>);

type All = HashMap<Subject, watch::Sender<Option<Revoked>>>;

impl Followed {
    fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permits {
    /// Says when a session is not permitted any more; `None` where nothing can change.
    pub(in crate::session) fn follow(self: &Arc<Self>, grant: &Grant) -> Option<watch::Receiver<Option<Revoked>>> {
        let nobody = matches!(grant.subject.identity, Identity::Local) && self.params().rules.0.is_empty();
        if nobody {
            return None;
        }
        let mut all = self.followed.all();
        if let Some(known) = all.get(&grant.subject) {
            return Some(known.subscribe());
        }
        let (sender, receiver) = watch::channel(None);
        all.insert(grant.subject.clone(), sender.clone());
        let (permits, subject) = (Arc::clone(self), grant.subject.clone());
        tokio::spawn(async move { permits.ask_again(&subject, &sender).await });
        Some(receiver)
    }

    /// Until nobody is interested any more, or the answer is no.
    async fn ask_again(&self, subject: &Subject, sender: &watch::Sender<Option<Revoked>>) {
        let mut answered = Instant::now();
        let mut changed = self.params.subscribe();
        loop {
            let params = Arc::clone(&changed.borrow_and_update());
            tokio::select! {
                () = sender.closed() => {
                    let mut all = self.followed.all();
                    // Somebody may have come meanwhile.
                    if sender.receiver_count() == 0 {
                        all.remove(subject);
                        return;
                    }
                }
                () = async {
                    // What is configured anew counts at once; the sender lives as long as this does.
                    tokio::select! {
                        () = sleep(params.recheck) => {}
                        _ = changed.changed() => {}
                    }
                } => {
                    let asked = Instant::now();
                    let revoked = match self.allowed(subject, asked + params.recheck).await {
                        Ok(_) => {
                            answered = asked;
                            continue;
                        }
                        Err(Denied::NoAnswer(failure)) if answered.elapsed() < params.recheck_grace => {
                            warn!(%failure, "whether sessions are still allowed could not be asked");
                            continue;
                        }
                        Err(Denied::NoAnswer(_)) => Revoked::NoAnswer,
                        Err(Denied::Refused | Denied::NoRule | Denied::But(..)) => Revoked::Refused,
                    };
                    info!(role = subject.role, clusters = ?subject.clusters, "sessions end: {}", revoked.as_str());
                    // Who comes from now on is asked about anew.
                    self.followed.all().remove(subject);
                    sender.send_replace(Some(revoked));
                    return;
                }
            }
        }
    }
}
