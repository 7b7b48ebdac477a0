//! Connections that have not proved who they are yet, by address: one host that opens many and says nothing keeps nobody
//! else out.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What the log says then.
pub(super) const ONE_TOO_MANY: &str =
    "one more connection from an address that has too many who prove nothing is closed";

type Counts = Arc<Mutex<HashMap<String, usize>>>;

/// How many there are from each address. Holds no address that has none.
#[derive(Debug)]
pub(super) struct Crowd {
    most: usize,
    counts: Counts,
}

/// One of them; it counts until this is dropped.
#[derive(Debug)]
pub(super) struct OneOf {
    address: String,
    counts: Counts,
}

impl Crowd {
    /// So many from one address, at the most.
    pub(super) fn new(most: usize) -> Self {
        Self { most, counts: Arc::default() }
    }

    /// One more from this address; `None` where that is too many.
    pub(super) fn enter(&self, address: String) -> Option<OneOf> {
        let mut counts = lock(&self.counts);
        let count = counts.get(&address).copied().unwrap_or_default();
        if count >= self.most {
            return None;
        }
        counts.insert(address.clone(), count.saturating_add(1));
        Some(OneOf { address, counts: Arc::clone(&self.counts) })
    }
}

impl Drop for OneOf {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        if let Some(count) = counts.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

fn lock(counts: &Counts) -> MutexGuard<'_, HashMap<String, usize>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_few() {
        let crowd = Crowd::new(2);
        let enter = |address: &str| crowd.enter(address.to_owned());
        let (first, second) = (enter("a"), enter("a"));
        assert!(first.is_some() && second.is_some() && enter("a").is_none());
        let other = enter("b");
        assert!(other.is_some());
        drop(first);
        let third = enter("a");
        assert!(third.is_some() && enter("a").is_none());
        drop((second, third, other));
        assert!(lock(&crowd.counts).is_empty(), "nobody is remembered");
    }
}
