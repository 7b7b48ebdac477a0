//! The idle connections to an API server, and noticing that one leads nowhere any more.
//!
//! A VPN that reconnects, a laptop that changes networks, and a NAT that forgets leave connections that look open and
//! swallow what is written to them. hyper reuses such a one, and its request waits until the call's deadline. A GET, an
//! upgrade too, may be asked twice: one that gets no answer on a connection that was idle is asked again on a new one.

use std::{
    pin::pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Either, select},
};
use http::{HeaderMap, Method, Request, Response, header::RETRY_AFTER};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connect, capture_connection},
    },
    rt::{TokioExecutor, TokioTimer},
};
use kube::client::Body;
use tokio::{
    sync::{AcquireError, Semaphore, SemaphorePermit, watch},
    time::{sleep, timeout},
};
use tower::{BoxError, Service};
use tracing::debug;

/// Below the API server's 90 s, at which it closes while we may be writing.
const IDLE: Duration = Duration::from_mins(1);
/// How long the first byte of an answer is waited for on a connection that was idle. An API server answers within
/// milliseconds, and within some hundred over bad links; a person does not notice a second.
const PROMPT: Duration = Duration::from_secs(1);
/// The same for lists, which an API server may have to gather; less where new connections have answered meanwhile.
const GATHERED: Duration = Duration::from_secs(3);
/// Requests that are asked again at a time: an API server that is only slow, or overloaded, is not to be asked everything
/// twice. A connect needs two, and what is answered makes room for the next.
const AGAIN: usize = 4;

/// Sends requests over connections that are kept for the next.
pub(in crate::k8s) struct Pool<C> {
    connector: C,
    current: Arc<watch::Sender<Generation<C>>>,
    again: Arc<Semaphore>,
}

impl<C: Clone> Clone for Pool<C> {
    fn clone(&self) -> Self {
        let (current, again) = (Arc::clone(&self.current), Arc::clone(&self.again));
        Self { connector: self.connector.clone(), current, again }
    }
}

/// Connections that are trusted, or given up, together.
struct Generation<C> {
    client: Client<C, Body>,
    number: u64,
}

impl<C: Clone> Clone for Generation<C> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), number: self.number }
    }
}

impl<C: Connect + Clone + Send + Sync + 'static> Pool<C> {
    pub(in crate::k8s) fn new(connector: C) -> Self {
        let first = Generation { client: client(connector.clone()), number: 0 };
        Self { connector, current: Arc::new(watch::Sender::new(first)), again: Arc::new(Semaphore::new(AGAIN)) }
    }

    /// Where to ask again what a generation does not answer: those that took its place, or new ones.
    fn instead_of(&self, silent: u64) -> Generation<C> {
        let current = self.current.borrow();
        if current.number != silent {
            return current.clone();
        }
        Generation { client: client(self.connector.clone()), number: silent + 1 }
    }

    /// New connections have answered where older ones did not: those are given up.
    fn take_over(&self, fresh: Generation<C>) {
        self.current.send_if_modified(|current| {
            let newer = current.number < fresh.number;
            if newer {
                debug!("new connections to the API server answer, idle ones do not and are given up");
                *current = fresh;
            }
            newer
        });
    }

    /// Waits until an answer is overdue, and may be asked for again.
    async fn overdue(&self, is_list: bool) -> Result<SemaphorePermit<'_>, AcquireError> {
        let mut current = self.current.subscribe();
        sleep(PROMPT).await;
        if is_list {
            let _ = timeout(GATHERED.saturating_sub(PROMPT), current.changed()).await;
        }
        self.again.acquire().await
    }

    async fn send(self, mut request: Request<Body>) -> Result<Response<Incoming>, BoxError> {
        let used = self.current.borrow().clone();
        let Some(again) = repeatable(&request) else { return Ok(used.client.request(request).await?) };
        let is_list = again.uri().query().is_some_and(|query| query.contains("limit="));
        let captured = capture_connection(&mut request);
        let mut first = pin!(used.client.request(request));
        // A connection that was idle is there at the first look; one that must be opened is not.
        let looked = first.as_mut().now_or_never();
        if captured.connection_metadata().is_none() {
            return Ok(match looked {
                Some(answer) => answer?,
                None => first.await?,
            });
        }
        let (answer, _permit) = match looked {
            Some(answer) => (Some(answer), None),
            // Ends with this statement: were it kept, it would keep its place among those who wait for a permit, and
            // might be given one that nobody uses.
            None => match select(first.as_mut(), pin!(self.overdue(is_list))).await {
                Either::Left((answer, _)) => (Some(answer), None),
                Either::Right((permit, _)) => (None, Some(permit?)),
            },
        };
        if let Some(Ok(answer)) = answer {
            return Ok(answer);
        }
        let fresh = self.instead_of(used.number);
        let second = fresh.client.request(again);
        let answer = if answer.is_some() {
            // The connection broke under the request.
            second.await?
        } else {
            match select(first, second).await {
                Either::Left((Ok(answer), _)) => return Ok(answer),
                Either::Left((Err(_), second)) => second.await?,
                // What a new connection meets, be it an error, is how things stand.
                Either::Right((answer, _)) => answer?,
            }
        };
        self.take_over(fresh);
        Ok(answer)
    }
}

impl<C: Connect + Clone + Send + Sync + 'static> Service<Request<Body>> for Pool<C> {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Incoming>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let pool = self.clone();
        let later = request.extensions().get::<Later>().cloned();
        async move {
            let answer = pool.send(request).await?;
            if let Some(later) = later {
                later.note(answer.headers());
            }
            Ok(answer)
        }
        .boxed()
    }
}

fn client<C: Connect + Clone>(connector: C) -> Client<C, Body> {
    Client::builder(TokioExecutor::new()).pool_idle_timeout(IDLE).pool_timer(TokioTimer::new()).build(connector)
}

/// Marks a request whose answer nobody waits for: it takes no room from those that people wait for.
#[derive(Clone, Copy, Debug)]
pub(in crate::k8s) struct Once;

/// Where an answer says when it is to be asked again; goes with the request as an extension. kube's upgrades and watches
/// drop the header, and API Priority and Fairness says it nowhere else.
#[derive(Clone, Debug, Default)]
pub(in crate::k8s) struct Later(Arc<OnceLock<u32>>);

impl Later {
    fn note(&self, headers: &HeaderMap) {
        let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(seconds) = seconds {
            // Of two answers to one request the first counts.
            let _ = self.0.set(seconds);
        }
    }

    /// In seconds; `None` where the answer did not say.
    pub(in crate::k8s) fn seconds(&self) -> Option<u32> {
        self.0.get().copied()
    }
}

/// The same request once more, where asking twice is no harm.
fn repeatable(request: &Request<Body>) -> Option<Request<Body>> {
    if request.method() != Method::GET || request.extensions().get::<Once>().is_some() {
        return None;
    }
    let mut again = Request::new(request.body().try_clone()?);
    request.method().clone_into(again.method_mut());
    request.uri().clone_into(again.uri_mut());
    request.headers().clone_into(again.headers_mut());
    *again.version_mut() = request.version();
    Some(again)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_again() {
        let request = |method| Request::builder().method(method).uri("/version").body(Body::empty()).expect("valid");
        assert!(repeatable(&request(Method::GET)).is_some());
        assert!(repeatable(&request(Method::POST)).is_none());
        let mut touch = request(Method::GET);
        touch.extensions_mut().insert(Once);
        assert!(repeatable(&touch).is_none());
    }
}
