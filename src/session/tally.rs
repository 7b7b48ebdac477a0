//! How many there are of each: of a cluster's sessions, of a person's by one rule, of an address's that have proved nothing.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Counts by key. Holds no key of which there are none.
#[derive(Debug)]
pub(super) struct Tally<K>(Counts<K>);

type Counts<K> = Arc<Mutex<HashMap<K, usize>>>;

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// One of them; it counts until this is dropped.
#[derive(Debug)]
pub struct Place<K: Eq + Hash> {
    counts: Counts<K>,
    key: K,
}

impl<K: Clone + Eq + Hash> Tally<K> {
    /// One more of these; `None` where there are as many as the limit says.
    pub(super) fn enter(&self, key: K, limit: Option<usize>) -> Option<Place<K>> {
        let mut counts = lock(&self.0);
        let count = counts.get(&key).copied().unwrap_or_default();
        if limit.is_some_and(|limit| count >= limit) {
            return None;
        }
        counts.insert(key.clone(), count.saturating_add(1));
        Some(Place { counts: Arc::clone(&self.0), key })
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        if let Some(count) = counts.get_mut(&self.key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

fn lock<K>(counts: &Mutex<HashMap<K, usize>>) -> MutexGuard<'_, HashMap<K, usize>> {
    // A panic while the map was held leaves it whole: every change is one insert or remove.
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_few() {
        let tally = Tally::default();
        let enter = |key| tally.enter(key, Some(2));
        let (first, second) = (enter("a"), enter("a"));
        assert!(first.is_some() && second.is_some() && enter("a").is_none());
        let other = enter("b");
        assert!(other.is_some());
        drop(first);
        let third = enter("a");
        assert!(third.is_some() && enter("a").is_none());
        assert!(tally.enter("a", None).is_some(), "where nothing limits them");
        drop((second, third, other));
        assert!(lock(&tally.0).is_empty(), "none is remembered");
    }
}
