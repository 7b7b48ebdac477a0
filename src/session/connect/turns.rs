//! Whose turn it is to try a server that does not serve. A connection pool's clients come back all at once, and each try
//! is a stream through the API server and the node: one of them tries, and the others wait for what it meets.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{
    session::backoff::{QUICK, QUICK_FOR, SLOW},
    upstream::{ClusterId, Mode, Server, Upstream},
};

/// A server that nobody has tried for so long is nobody's trouble any more.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// A server, as it is asked for, reached with one credential.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    cluster: ClusterId,
    meaning: u64,
    credential: u64,
    server: Server,
    mode: Mode,
}

impl From<&Upstream> for Key {
    fn from(upstream: &Upstream) -> Self {
        Self {
            cluster: upstream.cluster.clone(),
            meaning: upstream.meaning,
            credential: upstream.credential,
            server: upstream.server.clone(),
            mode: upstream.mode,
        }
    }
}

/// A server that did not serve.
#[derive(Debug)]
struct Trouble {
    since: Instant,
    /// By whom it was tried last, and when.
    last: (Client, Instant),
    /// Whether somebody is at it.
    tried: bool,
    /// Dropped when it is over.
    over: watch::Sender<()>,
}

impl Trouble {
    /// A lone client's own pace is never too fast for it.
    fn lets(&self, client: Client) -> bool {
        let pace = if self.since.elapsed() < QUICK_FOR { QUICK } else { SLOW };
        !self.tried && (self.last.0 == client || self.last.1.elapsed() >= pace)
    }
}

/// One who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client(u64);

/// All servers that did not serve a moment ago.
#[derive(Debug, Default)]
pub(super) struct Turns {
    clients: AtomicU64,
    all: Arc<Mutex<HashMap<Key, Trouble>>>,
}

/// Somebody's turn; it ends with this.
#[derive(Debug)]
pub(super) struct Turn {
    key: Key,
    all: Arc<Mutex<HashMap<Key, Trouble>>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(trouble) = lock(&self.all).get_mut(&self.key) {
            trouble.tried = false;
        }
    }
}

fn lock(all: &Mutex<HashMap<Key, Trouble>>) -> MutexGuard<'_, HashMap<Key, Trouble>> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Turns {
    pub(super) fn client(&self) -> Client {
        Client(self.clients.fetch_add(1, Ordering::Relaxed))
    }

    /// The turn of a client whose own try has failed; `None` while it is another's.
    pub(super) fn take(&self, upstream: &Upstream, client: Client) -> Option<Turn> {
        let key = Key::from(upstream);
        if let Some(trouble) = lock(&self.all).get_mut(&key) {
            if !trouble.lets(client) {
                return None;
            }
            trouble.tried = true;
            trouble.last = (client, Instant::now());
        }
        Some(Turn { key, all: Arc::clone(&self.all) })
    }

    /// The server did not serve this client.
    pub(super) fn missed(&self, upstream: &Upstream, client: Client) {
        let mut all = lock(&self.all);
        all.retain(|_, trouble| trouble.tried || trouble.last.1.elapsed() < FORGOTTEN);
        let now = Instant::now();
        let trouble = || Trouble { since: now, last: (client, now), tried: false, over: watch::Sender::new(()) };
        all.entry(Key::from(upstream)).or_insert_with(trouble);
    }

    /// It serves: everybody may come.
    pub(super) fn served(&self, upstream: &Upstream) {
        lock(&self.all).remove(&Key::from(upstream));
    }

    /// Waits until a server serves again that did not; without end where nothing is known of it.
    pub(super) async fn over(&self, upstream: &Upstream) {
        let over = lock(&self.all).get(&Key::from(upstream)).map(|trouble| trouble.over.subscribe());
        match over {
            // The sender says nothing: it goes.
            Some(mut over) => while over.changed().await.is_ok() {},
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;
    use crate::session::connect::tests::upstream;

    #[tokio::test(start_paused = true)]
    async fn one_tries_what_does_not_serve_and_all_come_when_it_does() {
        let (turns, server) = (Turns::default(), upstream());
        let (one, other) = (turns.client(), turns.client());
        assert!(turns.take(&server, one).is_some() && turns.take(&server, other).is_some(), "nothing is known of it");
        for client in [one, other] {
            turns.missed(&server, client);
        }
        assert!(turns.take(&server, other).is_none(), "it was tried just now");
        let turn = turns.take(&server, one).expect("a lone client's pace is its own");
        advance(QUICK).await;
        assert!(turns.take(&server, other).is_none(), "somebody is at it");
        drop(turn);
        assert!(turns.take(&server, other).is_some());
        assert!(turns.take(&server, one).is_none());
        advance(QUICK_FOR).await;
        assert!(turns.take(&server, one).is_some());
        advance(SLOW / 2).await;
        assert!(turns.take(&server, other).is_none(), "it lasts");
        let waits = turns.over(&server);
        turns.served(&server);
        assert!(timeout(FORGOTTEN, waits).await.is_err(), "there is nothing to wait for");
        turns.missed(&server, one);
        let (waited, ()) = tokio::join!(timeout(FORGOTTEN, turns.over(&server)), async { turns.served(&server) });
        waited.expect("told at once");
        assert!(turns.take(&server, other).is_some());
    }
}
