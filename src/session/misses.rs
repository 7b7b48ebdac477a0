//! Whoever guesses: counted by who it is, and slowed down after the first few.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// What is older is forgotten.
const WHILE: Duration = Duration::from_mins(1);
/// Names that are remembered at the most: whoever can have more of them, as a whole network can, is one of many strangers.
const MOST_GUESSERS: usize = 10_000;

/// Wrong guesses, by who made them.
#[derive(Debug)]
pub(super) struct Misses {
    free: usize,
    costs: Duration,
    all: Mutex<HashMap<String, VecDeque<Instant>>>,
}

impl Misses {
    /// So many in a minute cost nothing, and each one more this much time.
    pub(super) fn new(free: usize, costs: Duration) -> Self {
        Self { free, costs, all: Mutex::default() }
    }

    /// Notes one. Gives how long who made it waits for the answer.
    pub(super) fn note(&self, who: &str) -> Duration {
        let now = Instant::now();
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, misses| misses.back().is_some_and(|last| now.duration_since(*last) < WHILE));
        if all.len() >= MOST_GUESSERS && !all.contains_key(who) {
            return self.costs;
        }
        let misses = all.entry(who.to_owned()).or_default();
        misses.push_back(now);
        while misses.len() > self.free + 1 {
            misses.pop_front();
        }
        let early = misses.iter().filter(|miss| now.duration_since(**miss) < WHILE).count();
        if early > self.free { self.costs } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_guesser_has_its_own_few() {
        let misses = Misses::new(2, Duration::from_secs(1));
        let cost = |who: &str| misses.note(who).as_secs();
        assert_eq!([cost("a"), cost("a"), cost("a"), cost("b")], [0, 0, 1, 0]);
        tokio::time::advance(WHILE).await;
        assert_eq!(cost("a"), 0);
        for number in 0..2 * MOST_GUESSERS {
            misses.note(&number.to_string());
        }
        assert!(misses.all.lock().is_ok_and(|all| all.len() <= MOST_GUESSERS));
        assert_eq!(cost("somebody new"), 1);
    }
}
