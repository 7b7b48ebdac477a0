//! Cancel requests: to the same pod, over a stream of their own.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout_at},
};

use super::registry::Live;
use crate::{
    error::ClientFacing,
    tls,
    upstream::{BoxedStream, Dial, Failure, TlsMode},
};

/// A server answers a cancel request by closing; one that has not after this long will not.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keys are the servers' own: 32 bits in protocol 3.0. Whoever guesses gets this many tries in this time for nothing...
const FREE: usize = 10;
const WHILE: Duration = Duration::from_mins(1);
/// ...and waits so long for the close after each one more. A client that cancels what has just ended comes never so far.
const COSTS: Duration = Duration::from_secs(1);

/// Requests with keys that no session has, by who sent them.
#[derive(Debug, Default)]
pub(super) struct Misses(Mutex<HashMap<String, VecDeque<Instant>>>);

impl Misses {
    /// Notes one. Gives how long its sender waits for the close.
    pub(super) fn note(&self, who: &str) -> Duration {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, misses| misses.back().is_some_and(|last| now.duration_since(*last) < WHILE));
        let misses = all.entry(who.to_owned()).or_default();
        misses.push_back(now);
        while misses.len() > FREE + 1 {
            misses.pop_front();
        }
        let early = misses.iter().filter(|miss| now.duration_since(**miss) < WHILE).count();
        if early > FREE { COSTS } else { Duration::ZERO }
    }
}

/// Passes the request on, and waits until the server has closed or the session has shown that it worked: clients
/// wait for the close, and a port-forward reports it a second late.
///
/// # Errors
/// Where the pod cannot be reached. PostgreSQL itself never answers a cancel request.
pub(super) async fn forward(dial: &dyn Dial, live: &Live) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    let mut cancelled = live.cancelled.subscribe();
    cancelled.mark_unchanged();
    let send = async {
        let stream = dial.dial(&live.upstream, deadline).await?;
        let mut stream = encrypted_alike(stream, live).await?;
        let sent = async {
            stream.write_all(&live.key.encode_request()).await?;
            stream.flush().await?;
            let mut nothing = [0; 64];
            while stream.read(&mut nothing).await? > 0 {}
            std::io::Result::Ok(())
        };
        tokio::select! {
            // An error here is how the server's close can look; the request is out.
            _ = sent => {}
            _ = cancelled.changed() => {}
        }
        Ok(())
    };
    timeout_at(deadline, send).await.unwrap_or(Ok(()))
}

/// The same kind of stream as the session's own: where that was worth TLS, the key is too.
async fn encrypted_alike(stream: BoxedStream, live: &Live) -> Result<BoxedStream, Failure> {
    if !live.encrypted {
        return Ok(stream);
    }
    let mut facts = live.upstream.tls.clone();
    if facts.mode == TlsMode::Allow {
        facts.mode = TlsMode::Require;
    }
    match tls::connect::connect(stream, &facts).await {
        Ok(encrypted) => Ok(Box::new(encrypted.stream)),
        Err(error) => Err(error.report().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn guessing_costs_time() {
        let misses = Misses::default();
        for _ in 0..FREE {
            assert_eq!(misses.note("uid 1"), Duration::ZERO);
        }
        assert_eq!((misses.note("uid 1"), misses.note("uid 2")), (COSTS, Duration::ZERO));
        tokio::time::advance(WHILE).await;
        assert_eq!(misses.note("uid 1"), Duration::ZERO);
    }
}
