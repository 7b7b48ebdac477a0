//! What an API server can be asked for. How one call is made, and made again, is in `call`.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use http::Request;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use kube::{Client, core::WatchEvent};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::protocol::{Role, WebSocketConfig},
};

use crate::{
    k8s::api::{
        access::{Access, ListQuery},
        connection::{Built, Shared},
        error::K8sError,
        hedge::Once,
        jitter::jittered,
        names::{Namespace, ObjectName},
        plugin::For,
        resource::PODS,
    },
    upstream::PodId,
};

/// client-go's page size: small enough for an API server's memory, large enough for few round trips.
const PAGE: u32 = 500;
/// An idle session must stay small; the API server sends 32 KiB at a time.
const READ_BUFFER: usize = 32 * 1024;
/// How long a watch runs before it is opened anew, up to half as much longer: client-go's five to ten minutes, so that
/// three watches of each of 300 clusters are opened less than twice a second.
const WATCH: Duration = Duration::from_secs(400);
/// A watch of which nothing is heard for so long is opened anew: load balancers forget a silent one after some minutes,
/// and it never says so. API servers send a bookmark each minute.
const SILENT: Duration = Duration::from_secs(200);
/// How late an end or a bookmark may come.
const OVERDUE: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Page<K> {
    metadata: PageMeta,
    #[serde(default = "Vec::new")]
    items: Vec<K>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PageMeta {
    resource_version: String,
    r#continue: Option<String>,
}

/// Where the API server tells its version.
const VERSION: Access<'static> = Access::to("version");

/// The raw stream of a port-forward.
pub(in crate::k8s) type Raw = WebSocketStream<TokioIo<Upgraded>>;

/// A context, for somebody who waits or for work in the background.
#[derive(Clone, Debug)]
pub struct Context {
    shared: Arc<Shared>,
    pub(super) built: Built,
    pub(super) wanted: For,
}

impl Context {
    pub(in crate::k8s) fn new(shared: Arc<Shared>, built: Built, wanted: For) -> Self {
        Self { shared, built, wanted }
    }

    pub(in crate::k8s) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Whether the kubeconfig was replaced, and the context's name means another cluster than this one.
    pub(in crate::k8s) fn is_left(&self) -> bool {
        self.shared.has_left(&self.built)
    }

    /// Waits until [`Self::is_left`].
    pub(in crate::k8s) async fn left(&self) {
        // An error would be the end of what `self` holds.
        let _ = self.shared.meanings.subscribe().wait_for(|meaning| *meaning != self.built.meaning).await;
    }

    /// Which of the clusters that the context's name has meant this is.
    pub(in crate::k8s) fn meaning(&self) -> u64 {
        self.built.meaning
    }

    /// Which of the Kubernetes credentials that the context has had this is: what was read with one is not another's to
    /// see. A token that its plugin renews is the same credential.
    #[must_use]
    pub fn credential(&self) -> u64 {
        self.built.credential
    }

    /// As the person writes it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.shown
    }

    /// The namespace in force.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.built.namespace
    }

    /// The same, parsed.
    pub(in crate::k8s) fn own_namespace(&self) -> Result<Namespace, K8sError> {
        Namespace::parse(&self.built.namespace)
            .map_err(|error| K8sError::Kubeconfig(format!("the namespace of context {}: {error}", self.name())))
    }

    /// The API server's address.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.built.server
    }

    /// One object; `None` where it does not exist.
    ///
    /// # Errors
    /// Where RBAC refuses, the API has no such resource, or the server does not answer.
    pub async fn get_object<K: DeserializeOwned>(
        &self,
        access: &Access<'_>,
        deadline: Instant,
    ) -> Result<Option<K>, K8sError> {
        match self.text(access, &access.path(&[]), None, deadline).await {
            Ok(body) => self.parse(access, &body).map(Some),
            Err(K8sError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for something to be made that is no object but a question, such as a review, and gives the answer.
    ///
    /// # Errors
    /// As for [`Self::get_object`].
    pub(in crate::k8s) async fn ask<T: Serialize, K: DeserializeOwned>(
        &self,
        access: &Access<'_>,
        question: &T,
        deadline: Instant,
    ) -> Result<K, K8sError> {
        let malformed = |error: serde_json::Error| K8sError::Malformed {
            what: access.to_string(),
            why: format!("it cannot be asked: {:?}", error.classify()),
        };
        let body = serde_json::to_vec(question).map_err(malformed)?;
        let answer = self.text(access, &access.path(&[]), Some(body), deadline).await?;
        self.parse(access, &answer)
    }

    /// All objects of a list, page by page, and the version to watch from.
    ///
    /// # Errors
    /// As for [`Self::get_object`].
    pub async fn list_objects<K: DeserializeOwned>(
        &self,
        access: &Access<'_>,
        query: &ListQuery,
        deadline: Instant,
    ) -> Result<(Vec<K>, String), K8sError> {
        self.filter_objects(access, query, deadline, Some).await
    }

    /// As [`Self::list_objects`], but each page is cut down to what `keep` makes of its objects before the next is
    /// fetched: what is not kept takes no memory.
    ///
    /// # Errors
    /// As for [`Self::get_object`].
    pub async fn filter_objects<K: DeserializeOwned, T>(
        &self,
        access: &Access<'_>,
        query: &ListQuery,
        deadline: Instant,
        keep: impl Fn(K) -> Option<T>,
    ) -> Result<(Vec<T>, String), K8sError> {
        let mut all = Vec::new();
        let mut from: Option<String> = None;
        let mut restarted = false;
        loop {
            let mut parameters = vec![("limit", PAGE.to_string())];
            query.write(&mut parameters);
            parameters.extend(from.clone().map(|token| ("continue", token)));
            let page: Page<K> = match self.text(access, &access.path(&parameters), None, deadline).await {
                Ok(body) => self.parse(access, &body)?,
                // The list took longer than the server remembers it: once more from the beginning.
                Err(K8sError::Gone) if from.is_some() && !restarted => {
                    restarted = true;
                    from = None;
                    all.clear();
                    continue;
                }
                Err(error) => return Err(error),
            };
            all.extend(page.items.into_iter().filter_map(&keep));
            from = page.metadata.r#continue.filter(|token| !token.is_empty());
            if from.is_none() {
                return Ok((all, page.metadata.resource_version));
            }
        }
    }

    /// Changes since a version, until the server ends the watch after some minutes.
    ///
    /// # Errors
    /// As for [`Self::get_object`], at the beginning and in the stream.
    pub async fn watch_objects<K>(
        &self,
        access: &Access<'_>,
        query: &ListQuery,
        version: &str,
    ) -> Result<impl Stream<Item = Result<WatchEvent<K>, K8sError>> + Send + use<K>, K8sError>
    where
        K: DeserializeOwned + Clone + Send + 'static,
    {
        let runs = jittered(WATCH);
        let mut parameters = vec![
            ("watch", "true".to_owned()),
            ("allowWatchBookmarks", "true".to_owned()),
            ("resourceVersion", version.to_owned()),
            ("timeoutSeconds", runs.as_secs().to_string()),
        ];
        query.write(&mut parameters);
        let path = access.path(&parameters);
        let deadline = Instant::now() + self.shared.params.request_timeout;
        let request = Self::request("GET", &path, Vec::new())?;
        let ask = |client: Client, request| async move { client.request_events::<K>(request).await };
        let events = self.retrying(access, deadline, &request, ask).await?;
        let (context, access) = (self.clone(), access.owned());
        let ends = Instant::now() + runs + OVERDUE;
        let events = stream::unfold(Box::pin(events), move |mut events| async move {
            let overdue = ends.min(Instant::now() + SILENT + OVERDUE);
            Some((timeout_at(overdue, events.next()).await.ok()??, events))
        });
        Ok(events.map(move |event| event.map_err(|error| context.explain(&access.borrow(), error))))
    }

    /// Opens a port-forward to one port of a pod.
    ///
    /// # Errors
    /// As for [`Self::get_object`]; that the port answers shows later, in the stream.
    pub(in crate::k8s) async fn upgrade(&self, pod: &PodId, port: u16, deadline: Instant) -> Result<Raw, K8sError> {
        let (namespace, name) = (Namespace::parse(&pod.namespace)?, ObjectName::parse(&pod.name)?);
        let pod = self.access("create", &PODS, Some(&namespace), Some(&name));
        let access = Access { subresource: Some("portforward"), ..pod };
        let path = access.path(&[("ports", port.to_string())]);
        let request = Self::request("GET", &path, Vec::new())?;
        let ask = |client: Client, request| async move { client.connect(request).await };
        let connection = self.retrying(&access, deadline, &request, ask).await?;
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER).write_buffer_size(0);
        // Nothing has been read yet, so nothing is lost by taking the stream out of kube's larger buffers.
        let io = connection.into_stream().into_inner();
        Ok(WebSocketStream::from_raw_socket(io, Role::Client, Some(config)).await)
    }

    /// The API server's version, such as `v1.35.2`: the cheapest question there is.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn version(&self, deadline: Instant) -> Result<String, K8sError> {
        let text = self.text(&VERSION, &VERSION.path(&[]), None, deadline).await?;
        let version: serde_json::Value = self.parse(&VERSION, &text)?;
        Ok(version.get("gitVersion").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned())
    }

    /// Asks for the version once, whatever the answer: nobody waits for it, so that no login is renewed for it, which may
    /// open a browser, and it takes no room from what people wait for.
    pub(in crate::k8s) async fn greet(&self) -> Result<(), K8sError> {
        let mut request = Self::request("GET", &VERSION.path(&[]), Vec::new())?;
        request.extensions_mut().insert(Once);
        let client = self.fresh().client;
        let deadline = Instant::now() + self.shared.params.request_timeout;
        match self.timely(deadline, client.request_text(request)).await? {
            Ok(_) | Err(kube::Error::Api(_)) => Ok(()),
            Err(error) => Err(self.explain(&VERSION, error)),
        }
    }

    /// The context's client as it is now, while that is the same cluster's and reaches it as the same user.
    pub(super) fn fresh(&self) -> Built {
        let same = |built: &Built| (built.meaning, built.credential) == (self.built.meaning, self.built.credential);
        self.shared.fresh().filter(same).unwrap_or_else(|| self.built.clone())
    }

    pub(super) fn request(method: &str, path: &str, body: Vec<u8>) -> Result<Request<Vec<u8>>, K8sError> {
        Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| K8sError::Malformed { what: format!("the request {path}"), why: error.to_string() })
    }

    /// Parses an object. Nothing of it is quoted in an error: it may be a Secret.
    fn parse<K: DeserializeOwned>(&self, access: &Access<'_>, body: &[u8]) -> Result<K, K8sError> {
        // A login page may well come with 200.
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(K8sError::NotKubernetes { server: self.server().to_owned(), code: 200 });
        }
        serde_json::from_slice(body).map_err(|error| K8sError::Malformed {
            what: access.to_string(),
            why: format!("line {}, column {}", error.line(), error.column()),
        })
    }
}
