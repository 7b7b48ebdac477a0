//! How servers take logins, from the last time.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::wanted::Wanted;
use crate::{
    auth::upstream::{Channel, Method},
    upstream::{ClusterId, Role, Upstream},
};

/// What is known about how a server takes a login, from the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    /// SCRAM in plaintext: its first message may ride with the startup message.
    PlaintextScram,
    /// Plaintext is refused.
    NeedsTls,
}

/// Whose habit it is. What one Kubernetes credential has seen serves no other, and a name may come to mean
/// another cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct HabitKey {
    cluster: ClusterId,
    meaning: u64,
    credential: u64,
    role: Role,
    database: Option<Bytes>,
}

impl HabitKey {
    pub(super) fn of(wanted: &Wanted, upstream: &Upstream) -> Self {
        Self {
            cluster: upstream.cluster.clone(),
            meaning: upstream.meaning,
            credential: upstream.credential,
            role: wanted.ask.role.clone(),
            database: wanted.database.clone(),
        }
    }
}

/// Servers that took no options of ours: poolers that nothing else tells from PostgreSQL.
#[derive(Default)]
pub(super) struct Untold(Mutex<HashSet<HabitKey>>);

impl Untold {
    pub(super) fn knows(&self, key: &HabitKey) -> bool {
        self.all().contains(key)
    }

    pub(super) fn remember(&self, key: HabitKey) {
        let mut all = self.all();
        if all.len() >= MOST_HABITS {
            all.clear();
        }
        all.insert(key);
    }

    fn all(&self) -> MutexGuard<'_, HashSet<HabitKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever asks for databases that do not exist is not remembered for ever.
const MOST_HABITS: usize = 4096;

/// All that is known.
#[derive(Default)]
pub(super) struct Habits(Mutex<HashMap<HabitKey, Habit>>);

impl Habits {
    pub(super) fn get(&self, key: &HabitKey) -> Option<Habit> {
        self.all().get(key).copied()
    }

    /// From a login that worked.
    pub(super) fn learn(&self, key: HabitKey, channel: &Channel, method: Method) {
        match (channel, method) {
            (Channel::Plaintext, Method::ScramSha256) => self.remember(key, Habit::PlaintextScram),
            (Channel::Plaintext, _) => self.forget(&key),
            (Channel::Tls { .. }, _) => {}
        }
    }

    pub(super) fn remember(&self, key: HabitKey, habit: Habit) {
        let mut habits = self.all();
        if habits.len() >= MOST_HABITS {
            habits.clear();
        }
        habits.insert(key, habit);
    }

    pub(super) fn forget(&self, key: &HabitKey) {
        self.all().remove(key);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<HabitKey, Habit>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
