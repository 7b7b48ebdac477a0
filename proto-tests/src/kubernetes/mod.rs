//! A fake Kubernetes API: real TLS, real HTTP, an object store with lists, selectors, paging and watches, RBAC that
//! refuses on demand, faults, and a port-forward of its own framing.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

mod answer;
mod api;
mod asked;
mod forward;
mod kubeconfig;
mod objects;
mod reviews;
mod script;
mod selectors;
mod store;

pub mod certificates;
pub mod proxies;

use crate::ports;
use certificates::Authority;
pub use script::{Act, Script, When};
pub use store::{Backend, Fault, Request};
use store::{Denied, Order, Planted, Shared};

/// The server.
pub struct FakeKubernetes {
    pub(crate) shared: Arc<Shared>,
    address: SocketAddr,
    authority: Authority,
    directory: tempfile::TempDir,
    token: String,
    accepting: Mutex<Option<JoinHandle<()>>>,
    acceptor: TlsAcceptor,
}

impl FakeKubernetes {
    #[expect(clippy::unused_async, reason = "it needs a runtime, and says so")]
    pub async fn start() -> Self {
        let authority = Authority::new("fake kubernetes");
        let (certificate, key) = authority.server(&["localhost", "127.0.0.1", "kubernetes.test"]);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        let token = crate::secrets::make("token");
        let shared = Arc::new(Shared::new(&token));
        // It may go down, and come back where it was.
        let listener = ports::listen();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let address = listener.local_addr().unwrap();
        let it = Self {
            shared,
            address,
            authority,
            directory: tempfile::tempdir().unwrap(),
            token,
            accepting: Mutex::new(None),
            acceptor: TlsAcceptor::from(Arc::new(config)),
        };
        it.accept(listener);
        it
    }

    fn accept(&self, listener: TcpListener) {
        let (shared, acceptor) = (Arc::clone(&self.shared), self.acceptor.clone());
        let task = tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else {
                    return;
                };
                let (shared, acceptor) = (Arc::clone(&shared), acceptor.clone());
                tokio::spawn(async move {
                    let _ = socket.set_nodelay(true);
                    let mut closed = shared.closed.subscribe();
                    closed.mark_unchanged();
                    let Ok(tls) = acceptor.accept(socket).await else { return };
                    let peer = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first().cloned());
                    let certificate = peer.map(|certificate| certificates::common_name(&certificate));
                    let inside = Arc::clone(&shared);
                    let service = hyper::service::service_fn(move |request| {
                        inside.note_token(&request);
                        api::answer(Arc::clone(&inside), certificate.clone(), request)
                    });
                    let serving = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(tls), service)
                        .with_upgrades();
                    tokio::select! {
                        _ = serving => {}
                        _ = closed.changed() => {}
                    }
                });
            }
        });
        *self.accepting.lock().unwrap() = Some(task);
    }

    /// Stops listening and drops every connection, tunnels too.
    pub async fn go_down(&self) {
        self.stop_answering().await;
        self.shared.down.send_modify(|count| *count += 1);
    }

    /// Stops listening and drops every connection that is no tunnel: those lead through other API servers, say.
    pub async fn stop_answering(&self) {
        let task = self.accepting.lock().unwrap().take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
        self.shared.closed.send_modify(|count| *count += 1);
    }

    /// Listens again on the same port.
    pub async fn come_back(&self) {
        self.accept(TcpListener::bind(self.address).await.unwrap());
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Refuses a verb on a resource (`pods/portforward`) to a user, or to all; in a namespace, or in any; `Some("")` is
    /// what is asked of all at once.
    pub fn deny(&self, user: Option<&str>, verb: &'static str, resource: &str, namespace: Option<&str>) {
        self.shared.store().denied.push(Denied {
            user: user.map(str::to_owned),
            verb,
            resource: resource.to_owned(),
            namespace: namespace.map(str::to_owned),
        });
    }

    /// Refuses nothing any more.
    pub fn allow_all(&self) {
        self.shared.store().denied.clear();
    }

    /// The next `times` requests with this verb on this resource meet a fault.
    pub fn fault(&self, verb: &'static str, resource: &str, times: usize, fault: Fault) {
        self.shared.store().faults.push(Planted { verb, resource: resource.to_owned(), fault, times });
    }

    /// The next `times` tunnels to a pod follow a script.
    pub fn script(&self, namespace: &str, pod: &str, times: usize, script: Script) {
        self.shared.store().scripts.insert(format!("{namespace}/{pod}"), (script, times));
    }

    /// Nothing new meets a fault or a script any more.
    pub fn heal(&self) {
        let mut store = self.shared.store();
        store.faults.clear();
        store.scripts.clear();
    }

    /// Answers upgrades as an intermediary that knows no WebSockets.
    pub fn without_websockets(&self) {
        self.shared.store().websockets = false;
    }

    /// Ends streams on which no message was sent either way for so long, as container runtimes do after four hours.
    /// Pings are no messages there.
    pub fn end_silent_streams(&self, after: Duration) {
        self.shared.store().stream_idle = Some(after);
    }

    /// How late new tunnels report that the server has closed.
    pub fn linger(&self, linger: Duration) {
        self.shared.store().linger = linger;
    }

    /// Waits until this many messages have come that carry nothing.
    pub async fn reminders(&self, count: usize) {
        self.shared.reminders.subscribe().wait_for(|seen| *seen >= count).await.unwrap();
    }

    /// Resets the tunnels of a pod.
    pub fn cut_tunnels(&self, namespace: &str, pod: &str) {
        let _ = self.shared.orders.send(Order::Cut(format!("{namespace}/{pod}")));
    }

    /// Waits until this many tunnels are open.
    pub async fn tunnels(&self, count: usize) {
        self.shared.tunnels.subscribe().wait_for(|open| *open == count).await.unwrap();
    }
}
