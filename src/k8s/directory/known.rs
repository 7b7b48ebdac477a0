//! Where names led, and which pod was the primary where only the servers know; and what tells one asker from another.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    k8s::{
        api::{client::Context, names::Place},
        cluster::{
            recent::{Caller, tidy},
            snapshot::View,
        },
        operators::system::SystemRef,
    },
    upstream::{Ask, ClusterId, Conninfo, Mode},
};

/// How long a name that no watch confirms need not be looked up anew: whoever opens one connection opens more.
const MOMENT: Duration = Duration::from_secs(30);

/// Who asked, in which context, for which name, and of which system.
type NameKey = (Caller, String, String, Option<String>);

fn name_key(ask: &Ask, context: &Context) -> NameKey {
    (Caller::of(context), context.name().to_owned(), ask.target.name.clone(), ask.target.system.clone())
}

/// Who looks for a name, and how it was typed: an answer that is an error says what that client is to type.
pub(super) type FindKey = (NameKey, Mode, Conninfo);

pub(super) fn find_key(ask: &Ask, context: &Context) -> FindKey {
    (name_key(ask, context), ask.target.mode, ask.conninfo.clone())
}

/// A cluster, and who looks at it: what one may see another may not.
pub(super) type LookKey = (Caller, String, Place, String);

pub(super) fn look_key(context: &Context, place: &Place, system: &SystemRef) -> LookKey {
    (Caller::of(context), context.name().to_owned(), place.clone(), system.name().to_owned())
}

/// Where a name led last, and when it was looked up; believed while a watch confirms it, or for a moment.
#[derive(Clone, Debug)]
pub(super) struct Led {
    pub(super) place: Place,
    pub(super) system: SystemRef,
    at: Instant,
}

impl Led {
    /// Only just: whatever is not watched need not be looked up anew.
    pub(super) fn is_fresh(&self) -> bool {
        self.at.elapsed() < MOMENT
    }
}

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Known {
    names: Mutex<HashMap<NameKey, Led>>,
    /// By cluster.
    primaries: Mutex<HashMap<(Caller, ClusterId), String>>,
}

impl Known {
    pub(super) fn led(&self, ask: &Ask, context: &Context) -> Option<Led> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).get(&name_key(ask, context)).cloned()
    }

    pub(super) fn remember(&self, ask: &Ask, context: &Context, view: &View) {
        let led = Led { place: view.place(), system: view.system.clone(), at: Instant::now() };
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        tidy(&mut names);
        names.insert(name_key(ask, context), led);
    }

    /// The pod that was a cluster's primary the last time.
    pub(super) fn primary(&self, context: &Context, cluster: &ClusterId) -> Option<String> {
        let key = (Caller::of(context), cluster.clone());
        self.primaries.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    pub(super) fn remember_primary(&self, context: &Context, cluster: &ClusterId, pod: &str) {
        let mut primaries = self.primaries.lock().unwrap_or_else(PoisonError::into_inner);
        tidy(&mut primaries);
        primaries.insert((Caller::of(context), cluster.clone()), pod.to_owned());
    }
}
