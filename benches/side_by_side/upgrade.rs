//! What Kubernetes itself takes for a port-forward: one upgrade, on a connection that is open. No way of ours is faster
//! than this and the server's own login together.

use std::sync::Arc;

use anyhow::{Context, ensure};
use kube::{
    Config,
    client::ConfigExt as _,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::ways::Server;

/// Opens connections to the API server.
pub(crate) struct Upgrades {
    connector: TlsConnector,
    name: rustls::pki_types::ServerName<'static>,
    authority: String,
    path: String,
}

impl Upgrades {
    pub(crate) async fn new(server: &Server) -> anyhow::Result<Self> {
        let kubeconfig = Kubeconfig::read_from(&server.kubeconfig)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let name = config.tls_server_name.clone().context("a server name")?;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config.rustls_client_config()?)),
            name: name.try_into()?,
            authority: config.cluster_url.authority().context("an authority")?.to_string(),
            path: format!("/api/v1/namespaces/{}/pods/{}/portforward?ports=5432", server.namespace, server.pod),
        })
    }

    /// Milliseconds.
    pub(crate) async fn one(&self) -> anyhow::Result<f64> {
        let socket = TcpStream::connect(&self.authority).await?;
        socket.set_nodelay(true)?;
        let mut stream = self.connector.connect(self.name.clone(), socket).await?;
        let warm = ask(&mut stream, "/livez", "").await?;
        ensure!(warm.starts_with("HTTP/1.1 200"), "{warm}");
        let started = Instant::now();
        let headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n";
        let answer = ask(&mut stream, &self.path, headers).await?;
        let took = started.elapsed().as_secs_f64() * 1000.0;
        ensure!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        Ok(took)
    }
}

/// A GET and what the server says first: short answers come in one piece.
async fn ask(stream: &mut TlsStream<TcpStream>, path: &str, headers: &str) -> anyhow::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: kubernetes\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut buffer = vec![0; 4096];
    let read = stream.read(&mut buffer).await?;
    buffer.truncate(read);
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}
