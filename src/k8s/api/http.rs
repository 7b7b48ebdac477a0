//! The HTTP stack to an API server: kube's own leaves `TCP_NODELAY` off (40 ms on each new connection and on every
//! pair of small writes), sends no keepalive, and retries for minutes.

use std::{env, time::Duration};

use http::{HeaderValue, Uri};
use hyper_util::client::legacy::connect::{
    HttpConnector,
    proxy::{SocksV5, Tunnel},
};
use kube::{Client, Config, client::ConfigExt};
use socket2::TcpKeepalive;
use tower::ServiceBuilder;

use crate::k8s::api::{
    error::{K8sError, innermost},
    hedge::Pool,
    no_proxy,
};

/// NATs and load balancers forget a silent connection after a few minutes.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// So many probes at this distance, and the connection is dead.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

/// The same, for connections that do not lead to an API server.
pub(in crate::k8s) const TCP_KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_RETRIES);

/// Builds the stack that a configuration describes. `connect_timeout` is for TCP alone.
///
/// # Errors
/// Where certificates, keys or the proxy cannot be used.
pub(in crate::k8s) fn build(config: &Config, connect_timeout: Duration) -> Result<Client, K8sError> {
    let http = tcp(connect_timeout);
    let Some(proxy) = proxy(config) else {
        return with(config, http);
    };
    let unusable = || K8sError::Kubeconfig(format!("the proxy {} is not usable", shown(&proxy)));
    match proxy.scheme_str() {
        // The proxy resolves names in both: SOCKS5 as hyper speaks it sends the name.
        Some("socks5" | "socks5h") => with(config, SocksV5::new(proxy.clone(), http)),
        Some("http") => with(config, with_login(&proxy, Tunnel::new(proxy.clone(), http))?),
        Some("https") => {
            let tls = config.rustls_https_connector_with_connector(http).map_err(|error| material(&error))?;
            with(config, with_login(&proxy, Tunnel::new(proxy.clone(), tls))?)
        }
        _ => Err(unusable()),
    }
}

/// TCP, to the API server or to a proxy.
fn tcp(connect_timeout: Duration) -> HttpConnector {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_keepalive(Some(KEEPALIVE));
    http.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    http.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    // No TCP_USER_TIMEOUT: Linux counts it for a peer that acknowledges every probe and has no room, too, and a COPY
    // that waits for a lock is just that.
    http.set_connect_timeout(Some(connect_timeout));
    http
}

fn with<H>(config: &Config, connector: H) -> Result<Client, K8sError>
where
    H: tower::Service<Uri> + Clone + Send + Sync + 'static,
    H::Response: hyper_util::client::legacy::connect::Connection + hyper::rt::Read + hyper::rt::Write + Send + Unpin,
    H::Future: Send + 'static,
    H::Error: std::error::Error + Send + Sync + 'static,
{
    let connector = config.rustls_https_connector_with_connector(connector).map_err(|error| material(&error))?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(|error| material(&error))?)
        .layer(config.extra_headers_layer().map_err(|error| material(&error))?)
        .service(Pool::new(connector));
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// The innermost cause: what a person can act on, and never a key or token.
fn material(error: &(dyn std::error::Error + 'static)) -> K8sError {
    K8sError::Kubeconfig(innermost(error))
}

fn with_login<C>(proxy: &Uri, tunnel: Tunnel<C>) -> Result<Tunnel<C>, K8sError> {
    let login = proxy.authority().and_then(|authority| authority.as_str().rsplit_once('@')).map(|(login, _)| login);
    let Some(login) = login else { return Ok(tunnel) };
    // kube's own layer makes the header value, percent-decoding included, from a name and a password.
    let header = HeaderValue::from_str(&basic(login))
        .map_err(|_| K8sError::Kubeconfig("the proxy's login holds characters that no header can".to_owned()))?;
    Ok(tunnel.with_auth(header))
}

/// `Basic` and the login in base64, percent-decoded.
fn basic(login: &str) -> String {
    let mut decoded = Vec::new();
    let mut bytes = login.bytes();
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        let digits = (ahead.next(), ahead.next());
        let hex = |digit: Option<u8>| digit.and_then(|digit| char::from(digit).to_digit(16));
        match (byte, hex(digits.0), hex(digits.1)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap_or(byte));
                bytes = ahead;
            }
            _ => decoded.push(byte),
        }
    }
    format!("Basic {}", base64(&decoded))
}

/// Base64, as Kubernetes' own types encode bytes.
pub(in crate::k8s) fn base64(bytes: &[u8]) -> String {
    let quoted = serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec())).unwrap_or_default();
    quoted.as_str().unwrap_or_default().to_owned()
}

/// A proxy's address without its login.
fn shown(proxy: &Uri) -> String {
    format!("{}://{}", proxy.scheme_str().unwrap_or_default(), proxy.host().unwrap_or_default())
}

/// The proxy for this cluster: the kubeconfig's own, else the environment's unless `NO_PROXY` names the cluster.
fn proxy(config: &Config) -> Option<Uri> {
    // kube has read the environment too, but matches NO_PROXY against the proxy instead of the cluster.
    let from_environment = || ["HTTPS_PROXY", "https_proxy"].iter().find_map(|name| env::var(name).ok());
    let environment: Option<Uri> = from_environment().and_then(|text| text.trim().parse().ok());
    let proxy = config.proxy_url.clone()?;
    if environment.as_ref() != Some(&proxy) {
        return Some(proxy);
    }
    let no_proxy = ["NO_PROXY", "no_proxy"].iter().find_map(|name| env::var(name).ok()).unwrap_or_default();
    let host = config.cluster_url.host().unwrap_or_default();
    (!no_proxy::exempts(&no_proxy, host)).then_some(proxy)
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tower::Service as _;

    use super::*;

    /// A COPY that waited a minute for a lock lost its tunnel: `TCP_USER_TIMEOUT` was set to that.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_peer_without_room_is_no_dead_peer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let uri = format!("http://{}", listener.local_addr().expect("an address")).parse().expect("an address");
        let io = tcp(Duration::from_secs(5)).call(uri).await.expect("connected");
        let socket = SockRef::from(io.inner());
        assert_eq!(socket.tcp_user_timeout().expect("Linux has it"), None);
        assert!(socket.keepalive().expect("set") && socket.tcp_nodelay().expect("set"));
    }

    #[test]
    fn a_proxy_login_is_percent_decoded() {
        assert_eq!(basic("user:pa%40ss"), format!("Basic {}", base64(b"user:pa@ss")));
        assert_eq!(basic("a%zz%4"), format!("Basic {}", base64(b"a%zz%4")));
    }
}
