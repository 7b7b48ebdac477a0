//! What was read lately, and for whom.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    k8s::{api::client::Context, cluster::snapshot::View},
    upstream::ClusterId,
};

/// How something was read: from which of the clusters that a context's name has meant, and with which of its
/// credentials: what one may see another may not, so that whatever is remembered is remembered for one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::k8s) struct Caller {
    pub(in crate::k8s) meaning: u64,
    pub(in crate::k8s) credential: u64,
}

impl Caller {
    pub(in crate::k8s) fn of(context: &Context) -> Self {
        Self { meaning: context.meaning(), credential: context.credential() }
    }
}

/// What is known of each cluster that was resolved, for its login.
#[derive(Debug, Default)]
pub struct Recent(Mutex<HashMap<(Caller, ClusterId), Arc<View>>>);

impl Recent {
    pub(in crate::k8s) fn keep(&self, context: &Context, id: ClusterId, view: View) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tidy(&mut seen);
        seen.insert((Caller::of(context), id), Arc::new(view));
    }

    pub(in crate::k8s) fn of(&self, context: &Context, id: &ClusterId) -> Option<Arc<View>> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&(Caller::of(context), id.clone())).cloned()
    }
}

/// What is only remembered to save a look may be forgotten.
pub(in crate::k8s) fn tidy<K, V>(remembered: &mut HashMap<K, V>) {
    /// More clusters than anybody uses at a time.
    const MOST_REMEMBERED: usize = 4096;
    if remembered.len() >= MOST_REMEMBERED {
        remembered.clear();
    }
}
