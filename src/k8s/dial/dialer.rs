//! Opening byte streams to servers: through a port-forward, or straight to the pod where we are in its network.

use std::{net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::Deserialize;
use socket2::SockRef;
use tokio::{
    io::BufStream,
    net::{TcpStream, ToSocketAddrs},
    time::{Instant, timeout_at},
};

use crate::{
    error::{Report, SqlState},
    k8s::{
        api::{
            contexts::Contexts,
            error::K8sError,
            http::TCP_KEEPALIVE,
            names::{Namespace, ObjectName},
            resource::PODS,
        },
        dial::tunnel::{Liveness, Tunnel},
    },
    upstream::{BoxedStream, Dial, Failure, PodId, Retry, Server, Upstream},
};

/// What a plain TCP stream reads at a time: measured, this is where larger buffers stop saving CPU.
const TCP_BUFFER: usize = 256 * 1024;

/// How servers are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Through the API server.
    #[default]
    PortForward,
    /// To the pod's address, which must be reachable from here.
    Direct,
}

/// Opens streams.
#[derive(Debug)]
pub struct Dialer {
    contexts: Arc<Contexts>,
    transport: Transport,
    liveness: Liveness,
    connect_timeout: Duration,
}

impl Dialer {
    /// Over these contexts. `connect_timeout` is for one TCP connection to a pod.
    #[must_use]
    pub fn new(contexts: Arc<Contexts>, transport: Transport, liveness: Liveness, connect_timeout: Duration) -> Self {
        Self { contexts, transport, liveness, connect_timeout }
    }
}

#[async_trait]
impl Dial for Dialer {
    async fn dial(&self, upstream: &Upstream, deadline: Instant) -> Result<BoxedStream, Failure> {
        let pod = match &upstream.server {
            Server::External { host, .. } => return self.tcp(upstream, (host.as_str(), upstream.port), deadline).await,
            Server::Pod(pod) => pod,
        };
        let context = self.contexts.get(Some(&upstream.cluster.context), None).await?;
        // A pod is addressed by its name, and one of another cluster may well be called so: no login or cancel key is
        // for that one.
        if context.meaning() != upstream.meaning {
            return Err(elsewhere(upstream));
        }
        match self.transport {
            Transport::PortForward => {
                let breaks = context.shared().clock.breaks();
                let raw = context.upgrade(pod, upstream.port, deadline).await?;
                context.replenish();
                Ok(Box::new(Tunnel::new(raw, pod.clone(), upstream.port, self.liveness, breaks)))
            }
            Transport::Direct => {
                let address = address(&context, pod, deadline).await?;
                self.tcp(upstream, (address, upstream.port), deadline).await
            }
        }
    }
}

impl Dialer {
    async fn tcp(
        &self,
        upstream: &Upstream,
        to: impl ToSocketAddrs + Send,
        deadline: Instant,
    ) -> Result<BoxedStream, Failure> {
        let deadline = deadline.min(Instant::now() + self.connect_timeout);
        let stream = match timeout_at(deadline, TcpStream::connect(to)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(upstream, &error.to_string())),
            Err(_) => return Err(unreachable(upstream, "no answer in time")),
        };
        let set = stream.set_nodelay(true).and_then(|()| SockRef::from(&stream).set_tcp_keepalive(&TCP_KEEPALIVE));
        set.map_err(|error| unreachable(upstream, &error.to_string()))?;
        Ok(Box::new(BufStream::with_capacity(TCP_BUFFER, 0, stream)))
    }
}

#[derive(Deserialize)]
struct PodAddress {
    metadata: Meta,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Meta {
    uid: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(rename = "podIP")]
    pod_ip: Option<IpAddr>,
}

/// The pod's address now; names come back with another address, uids do not come back.
async fn address(
    context: &crate::k8s::api::client::Context,
    pod: &PodId,
    deadline: Instant,
) -> Result<IpAddr, K8sError> {
    let (namespace, name) = (Namespace::parse(&pod.namespace)?, ObjectName::parse(&pod.name)?);
    let access = context.access("get", &PODS, Some(&namespace), Some(&name));
    let found: Option<PodAddress> = context.get_object(&access, deadline).await?;
    let found = found.filter(|found| found.metadata.uid == pod.uid);
    let address = found.and_then(|found| found.status.pod_ip);
    address.ok_or_else(|| K8sError::NotFound { what: format!("pod {} with an address", pod.name) })
}

fn elsewhere(upstream: &Upstream) -> Failure {
    let report = Report::fatal(
        SqlState::UNABLE_TO_CONNECT,
        format!("the context of {} means another cluster now than when it was resolved", upstream.cluster),
    )
    .hint("The kubeconfig was replaced meanwhile: connect again");
    // Who connects finds the one that is meant now; a cancel request ends here.
    Failure { report, retry: Retry::Resolve }
}

fn unreachable(upstream: &Upstream, why: &str) -> Failure {
    let report = Report::fatal(
        SqlState::UNABLE_TO_CONNECT,
        format!("{} cannot be reached directly on port {}: {why}", upstream.server, upstream.port),
    );
    match &upstream.server {
        Server::Pod(_) => Failure {
            report: report.hint("Where pod addresses are not reachable, use kubernetes.transport = \"port-forward\""),
            retry: Retry::Resolve,
        },
        Server::External { others, .. } => Failure {
            report: report.hint("See whether the network or VPN leads there"),
            retry: if *others { Retry::Resolve } else { Retry::No },
        },
    }
}
