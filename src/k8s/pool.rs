//! The idle connections to an API server, and noticing that one leads nowhere any more.
//!
//! A VPN that reconnects, a laptop that changes networks, and a NAT that forgets leave connections that look open and
//! swallow what is written to them. hyper reuses such a one, and its request waits until the call's deadline. A GET, an
//! upgrade too, may be asked twice: one that gets no answer on a connection that was idle is asked again on a new one.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Either, select},
};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connect, capture_connection},
    },
    rt::{TokioExecutor, TokioTimer},
};
use kube::client::Body;
use tokio::time::{Instant, timeout};
use tower::{BoxError, Service};
use tracing::debug;

/// Below the API server's 90 s, at which it closes while we may be writing.
const IDLE: Duration = Duration::from_mins(1);
/// How long the first byte of an answer is waited for on a connection that was idle. An API server answers within
/// milliseconds, and within some hundred over bad links; a person does not notice a second.
const PROMPT: Duration = Duration::from_secs(1);
/// Between two suspicions that are only slowness: an overloaded API server is not to be asked everything twice.
const TRUSTED: Duration = Duration::from_secs(10);

/// Sends requests over connections that are kept for the next.
pub(super) struct Pool<C> {
    connector: C,
    current: Arc<Mutex<Generation<C>>>,
}

impl<C: Clone> Clone for Pool<C> {
    fn clone(&self) -> Self {
        Self { connector: self.connector.clone(), current: Arc::clone(&self.current) }
    }
}

/// Connections that are trusted, or given up, together.
struct Generation<C> {
    client: Client<C, Body>,
    number: u64,
    /// When it took another's place; nothing for the first one.
    since: Option<Instant>,
}

impl<C: Clone> Clone for Generation<C> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), ..*self }
    }
}

/// Why a connection is not trusted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suspicion {
    /// It has broken under a request.
    Broken,
    /// It does not answer.
    Silent,
}

impl<C: Connect + Clone + Send + Sync + 'static> Pool<C> {
    pub(super) fn new(connector: C) -> Self {
        let first = Generation { client: client(connector.clone()), number: 0, since: None };
        Self { connector, current: Arc::new(Mutex::new(first)) }
    }

    /// The connections to ask on instead of those of a generation that is suspected; `None` where it is to be waited
    /// for.
    fn instead_of(&self, suspected: u64, suspicion: Suspicion) -> Option<Generation<C>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.number == suspected {
            let young = current.since.is_some_and(|since| since.elapsed() < TRUSTED);
            if young && suspicion == Suspicion::Silent {
                return None;
            }
            debug!(?suspicion, "idle connections to the API server are given up");
            let (client, number) = (client(self.connector.clone()), suspected + 1);
            *current = Generation { client, number, since: Some(Instant::now()) };
        }
        Some(current.clone())
    }

    async fn send(self, mut request: Request<Body>) -> Result<Response<Incoming>, BoxError> {
        let generation = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(again) = repeatable(&request) else { return Ok(generation.client.request(request).await?) };
        let captured = capture_connection(&mut request);
        let mut first = pin!(generation.client.request(request));
        // A connection that was idle is there at the first look; one that must be opened is not.
        let looked = first.as_mut().now_or_never();
        if captured.connection_metadata().is_none() {
            return Ok(match looked {
                Some(answer) => answer?,
                None => first.await?,
            });
        }
        let number = generation.number;
        let answer = match looked {
            Some(answer) => Ok(answer),
            None => timeout(PROMPT, first.as_mut()).await,
        };
        let fresh = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => {
                let fresh = self.instead_of(number, Suspicion::Broken).ok_or(error)?;
                return Ok(fresh.client.request(again).await?);
            }
            Err(_) => match self.instead_of(number, Suspicion::Silent) {
                Some(fresh) => fresh,
                None => return Ok(first.await?),
            },
        };
        match select(first, fresh.client.request(again)).await {
            Either::Left((Ok(answer), _)) => Ok(answer),
            Either::Left((Err(_), second)) => Ok(second.await?),
            // What a new connection meets, be it an error, is how things stand.
            Either::Right((answer, _)) => Ok(answer?),
        }
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
        self.clone().send(request).boxed()
    }
}

fn client<C: Connect + Clone>(connector: C) -> Client<C, Body> {
    Client::builder(TokioExecutor::new()).pool_idle_timeout(IDLE).pool_timer(TokioTimer::new()).build(connector)
}

/// The same request once more, where asking twice is no harm.
fn repeatable(request: &Request<Body>) -> Option<Request<Body>> {
    if request.method() != Method::GET {
        return None;
    }
    let mut again = Request::new(request.body().try_clone()?);
    request.method().clone_into(again.method_mut());
    request.uri().clone_into(again.uri_mut());
    request.headers().clone_into(again.headers_mut());
    *again.version_mut() = request.version();
    Some(again)
}
