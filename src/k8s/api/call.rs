//! One call to an API server: with a deadline, one renewed login, and again when the server has asked for it.

use std::time::Duration;

use http::Request;
use kube::{Client, client::Body, core::Status};
use tokio::time::{Instant, sleep_until, timeout_at};
use zeroize::Zeroizing;

use crate::k8s::api::{
    access::Access,
    body,
    client::Context,
    error::K8sError,
    hedge::Later,
    status::FOREIGN,
    throttle::{BEARABLE, Question, asked_wait},
};

impl Context {
    pub(super) async fn text(
        &self,
        access: &Access<'_>,
        path: &str,
        body: Option<Vec<u8>>,
        deadline: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, K8sError> {
        let method = if body.is_some() { "POST" } else { "GET" };
        let request = Self::request(method, path, body.unwrap_or_default())?;
        self.retrying(access, deadline, &request, |client, request| async move { answer(&client, request).await }).await
    }

    /// A call with its deadline; once more after 401 with a new login, and once more where the server asks for it soon.
    /// What it has asked to be asked later is not asked before.
    pub(super) async fn retrying<T, F>(
        &self,
        access: &Access<'_>,
        deadline: Instant,
        request: &Request<Vec<u8>>,
        call: impl Fn(Client, Request<Vec<u8>>) -> F + Send + Sync,
    ) -> Result<T, K8sError>
    where
        F: Future<Output = Result<T, kube::Error>> + Send,
    {
        let deadline = deadline.min(Instant::now() + self.shared().params.request_timeout);
        let question = Question::of(self.built.meaning, access);
        let mut built = self.fresh();
        let (mut renewed, mut waited) = (false, false);
        loop {
            waited |= self.waits_its_turn(&question, deadline, waited).await?;
            let (mut request, later) = (request.clone(), Later::default());
            request.extensions_mut().insert(later.clone());
            let error = match self.timely(deadline, call(built.client.clone(), request)).await? {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            match &error {
                kube::Error::Api(status) if status.code == 401 && !renewed => {
                    renewed = true;
                    built = self.shared().renew(built.made, self.wanted).await?;
                    if built.meaning != self.built.meaning {
                        return Err(K8sError::OtherCluster { context: self.name().to_owned() });
                    }
                }
                kube::Error::Api(status) if status.code == 401 => {
                    let error = self.explain(access, error);
                    self.shared().give_up(built.made, &error);
                    return Err(error);
                }
                kube::Error::Api(status) => {
                    let wait = asked_wait(status, later.seconds());
                    let error = self.explain(access, error);
                    let Some(wait) = wait.filter(|wait| !(waited && wait.is_zero())) else { return Err(error) };
                    waited |= wait.is_zero();
                    // Nobody asks before; the next turn of this loop waits, or gives the error.
                    self.shared().throttle.close(question.clone(), Instant::now() + wait, error);
                }
                _ => return Err(self.explain(access, error)),
            }
        }
    }

    /// Waits where the server has asked to be asked later, once in a call and where that is soon; whether it did.
    async fn waits_its_turn(&self, question: &Question, deadline: Instant, waited: bool) -> Result<bool, K8sError> {
        let Some((until, error)) = self.shared().throttle.closed(question) else { return Ok(false) };
        // Waiting out the deadline would only hide what the server says.
        if waited || until >= deadline || until > Instant::now() + BEARABLE {
            return Err(error);
        }
        sleep_until(until).await;
        Ok(true)
    }

    pub(super) async fn timely<T>(
        &self,
        deadline: Instant,
        call: impl Future<Output = T> + Send,
    ) -> Result<T, K8sError> {
        let started = Instant::now();
        timeout_at(deadline, call).await.map_err(|_| K8sError::Timeout {
            server: self.server().to_owned(),
            // To the nearest: a deadline of three seconds is told as three.
            seconds: (started.elapsed() + Duration::from_millis(500)).as_secs(),
        })
    }
}

/// An answer's body. Not kube's `request`, which logs what it cannot parse: that may be a Secret.
async fn answer(client: &Client, request: Request<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, kube::Error> {
    let (head, body) = client.send(request.map(Body::from)).await?.into_parts();
    let body = Box::pin(body::read(body)).await?;
    if head.status.is_success() {
        return Ok(body);
    }
    let known: Option<Status> = serde_json::from_slice(&body).ok();
    let said = || String::from_utf8_lossy(body.trim_ascii()).into_owned();
    let status = known.unwrap_or_else(|| Status::failure(&said(), FOREIGN)).with_code(head.status.as_u16());
    Err(kube::Error::Api(status.boxed()))
}
