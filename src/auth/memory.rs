//! What earlier logins leave for later ones: that an account has done SCRAM, after which no weaker hash is given for it,
//! and the keys of that login, so that the next one hashes nothing.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::rounds::{Hasher, Keys};
use super::scram::{Challenge, prepared};
use super::upstream_error::LoginError;
use crate::upstream::{ClusterId, Login, Upstream};

/// More accounts than anybody uses in one process; the oldest goes first.
const MOST_ACCOUNTS: usize = 4096;
/// PostgreSQL's salts have 16 bytes; longer ones are not worth keeping.
const LONGEST_SALT: usize = 64;

/// A role of a cluster, as one Kubernetes credential sees it: what was filled with one serves no other, and a name in
/// a kubeconfig may come to mean another cluster.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Account {
    cluster: ClusterId,
    meaning: u64,
    credential: u64,
    /// A pooler may let in by MD5 whom the server behind it knows by SCRAM.
    pooled: bool,
    user: String,
}

impl Account {
    pub(super) fn of(upstream: &Upstream, login: &Login) -> Self {
        Self {
            cluster: upstream.cluster.clone(),
            meaning: upstream.meaning,
            credential: upstream.credential,
            pooled: upstream.pooled,
            user: login.user.clone(),
        }
    }
}

/// What a login was hashed with, and to.
pub(super) struct Hashed {
    source: String,
    version: String,
    salt: Vec<u8>,
    iterations: u32,
    pub(super) keys: Arc<Keys>,
}

impl Hashed {
    fn new(login: &Login, challenge: &Challenge, keys: Arc<Keys>) -> Self {
        Self {
            source: login.source.clone(),
            version: login.version.clone(),
            salt: challenge.salt.clone(),
            iterations: challenge.iterations.get(),
            keys,
        }
    }

    fn fits(&self, login: &Login, challenge: &Challenge) -> bool {
        (&self.source, &self.version) == (&login.source, &login.version)
            && self.salt == challenge.salt
            && self.iterations == challenge.iterations.get()
    }

    /// Without a version nobody knows whether the password is still the same.
    fn is_worth_keeping(&self) -> bool {
        !self.version.is_empty() && self.salt.len() <= LONGEST_SALT
    }
}

/// The accounts that have done SCRAM, and the last login of each where it can be kept.
#[derive(Default)]
struct Known {
    accounts: HashMap<Account, Option<Hashed>>,
    order: VecDeque<Account>,
}

/// What earlier logins of this process leave for later ones.
#[derive(Default)]
pub struct Memory {
    hasher: Hasher,
    known: Mutex<Known>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl Memory {
    /// The keys that a challenge asks for: remembered, or hashed now.
    pub(super) async fn hashed(
        &self,
        account: &Account,
        (login, password): (&Login, &str),
        challenge: &Challenge,
    ) -> Result<Hashed, LoginError> {
        let keys = match self.remembered(account, login, challenge) {
            Some(keys) => keys,
            None => Arc::new(self.hasher.keys(&prepared(password), &challenge.salt, challenge.iterations).await?),
        };
        Ok(Hashed::new(login, challenge, keys))
    }

    fn remembered(&self, account: &Account, login: &Login, challenge: &Challenge) -> Option<Arc<Keys>> {
        let known = self.known();
        let hashed = known.accounts.get(account)?.as_ref()?;
        hashed.fits(login, challenge).then(|| Arc::clone(&hashed.keys))
    }

    /// Whether this account has done SCRAM.
    pub(super) fn has_done_scram(&self, account: &Account) -> bool {
        self.known().accounts.contains_key(account)
    }

    /// Remembers a login that server and client have both proven. No other is: a server could fill this with anything.
    pub(super) fn proven(&self, account: Account, hashed: Hashed) {
        let mut known = self.known();
        let hashed = Some(hashed).filter(Hashed::is_worth_keeping);
        if known.accounts.insert(account.clone(), hashed).is_none() {
            known.order.push_back(account);
        }
        if known.order.len() > MOST_ACCOUNTS
            && let Some(oldest) = known.order.pop_front()
        {
            known.accounts.remove(&oldest);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
