//! `/livez`, `/readyz` and `/metrics`, on a listener of their own: for kubelets, load balancers and Prometheus. They show no
//! names, and take nothing.

use std::{
    collections::VecDeque, convert::Infallible, fmt::Write as _, future::ready, pin::pin, sync::Arc, time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use crate::metrics::CONTENT_TYPE;

/// Two replicas of Prometheus, a kubelet and a load balancer need ten. Beyond that the oldest connection makes way, not the
/// newest: who holds connections open does not keep a probe out, whose failure restarts the pod.
const CONNECTIONS: usize = 64;
/// A scraper's request is one packet.
const HEAD: Duration = Duration::from_secs(5);
/// The longest life of a connection. Scrapes come each 15 to 60 s, and a new connection costs one nothing.
const LIFE: Duration = Duration::from_secs(30);
/// For the answer that is under way when that is over.
const LAST_ANSWER: Duration = Duration::from_secs(5);
/// The request line and all headers: hyper's least.
const HEAD_BYTES: usize = 8192;
/// Browsers and scrapers send a dozen.
const HEADERS: usize = 32;
/// After a failed accept, for want of descriptors mostly.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// How far the process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It does not accept clients yet.
    Starting,
    /// It accepts clients.
    Serving,
    /// It refuses new ones.
    Draining,
}

/// Says what is wrong: a line for people, with no names in it.
pub type Check = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// What the answers are made of.
pub struct Endpoints {
    /// How far the process has come. It is ready while it serves.
    pub phase: Box<dyn Fn() -> Phase + Send + Sync>,
    /// What else must be right for new clients: never a database or the API server, which no other replica has either.
    pub checks: Vec<Check>,
    /// The metrics, as [`CONTENT_TYPE`] says.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
}

impl Endpoints {
    /// Why no new clients should come; empty where they should.
    fn reasons(&self) -> Vec<String> {
        let phase = match (self.phase)() {
            Phase::Starting => Some("starting".to_owned()),
            Phase::Serving => None,
            Phase::Draining => Some("draining".to_owned()),
        };
        phase.into_iter().chain(self.checks.iter().filter_map(|check| check())).collect()
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if !["/livez", "/readyz", "/metrics"].contains(&path) {
            return text(StatusCode::NOT_FOUND, "/livez, /readyz and /metrics are here\n".to_owned());
        }
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD alone\n".to_owned());
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match path {
            "/livez" => text(StatusCode::OK, "alive\n".to_owned()),
            "/readyz" => {
                let reasons = self.reasons();
                if reasons.is_empty() {
                    return text(StatusCode::OK, "ready\n".to_owned());
                }
                let mut lines = String::new();
                for reason in reasons {
                    let _ = writeln!(lines, "{reason}");
                }
                text(StatusCode::SERVICE_UNAVAILABLE, lines)
            }
            _ => {
                let mut answer = text(StatusCode::OK, (self.metrics)());
                answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
                answer
            }
        }
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Answers for as long as it is polled: during the drain, too. Connections end with the future.
pub async fn serve(listener: TcpListener, endpoints: Arc<Endpoints>) {
    let (mut running, mut oldest) = (JoinSet::new(), VecDeque::<AbortHandle>::new());
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    // A slow answer is all that a socket which refuses it has.
                    let _ = socket.set_nodelay(true);
                    oldest.retain(|connection| !connection.is_finished());
                    if oldest.len() >= CONNECTIONS && let Some(connection) = oldest.pop_front() {
                        debug!("too many connections to the admin listener: the oldest is closed");
                        connection.abort();
                    }
                    oldest.push_back(running.spawn(connection(socket, Arc::clone(&endpoints))));
                }
                Err(error) => {
                    warn!(%error, "a connection to the admin listener could not be accepted");
                    sleep(ACCEPT_BACKOFF).await;
                }
            },
            Some(_) = running.join_next() => {}
        }
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin>(socket: S, endpoints: Arc<Endpoints>) {
    let service = service_fn(|request: Request<Incoming>| ready(Ok::<_, Infallible>(endpoints.answer(&request))));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_headers(HEADERS).max_buf_size(HEAD_BYTES);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    let ended = if let Ok(ended) = timeout(LIFE, connection.as_mut()).await {
        ended
    } else {
        connection.as_mut().graceful_shutdown();
        timeout(LAST_ANSWER, connection).await.unwrap_or(Ok(()))
    };
    if let Err(error) = ended {
        debug!(%error, "a connection to the admin listener broke");
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
