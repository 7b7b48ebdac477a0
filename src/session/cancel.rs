//! Cancel requests: to the same pod, over a stream of their own.

use std::time::Duration;

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

/// Keys are the servers' own: 32 bits in protocol 3.0. Whoever guesses gets so many tries a minute for nothing...
pub(super) const FREE: usize = 10;
/// ...and waits so long for the close after each one more. A client that cancels what has just ended comes never so far.
pub(super) const COSTS: Duration = Duration::from_secs(1);

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
