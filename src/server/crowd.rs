//! Places among the connections that have not proved who they are, by where they come from: one host that opens many and
//! says nothing keeps nobody else out.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// One host's share of all places.
const SHARE: usize = 4;

/// Who is here, and how often.
#[derive(Debug)]
pub(super) struct Crowd {
    most: usize,
    here: Mutex<HashMap<String, usize>>,
}

/// One place, left when dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    from: String,
}

impl Crowd {
    /// With a share of so many places for each host, one at the least.
    pub(super) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { most: (places / SHARE).max(1), here: Mutex::default() })
    }

    /// `None` where this host has as many as it may.
    pub(super) fn enter(self: &Arc<Self>, from: String) -> Option<Place> {
        let mut here = self.here.lock().unwrap_or_else(PoisonError::into_inner);
        let count = here.entry(from.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place { crowd: Arc::clone(self), from })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut here = self.crowd.here.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = here.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                here.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_has_a_quarter() {
        let crowd = Crowd::new(8);
        let enter = |from: &str| crowd.enter(from.to_owned());
        let (first, second) = (enter("a"), enter("a"));
        assert!(first.is_some() && second.is_some() && enter("a").is_none() && enter("b").is_some());
        drop(first);
        assert!(enter("a").is_some());
        drop(second);
        assert!(crowd.here.lock().is_ok_and(|here| here.is_empty()));
        assert!(Crowd::new(1).enter("a".to_owned()).is_some());
    }
}
