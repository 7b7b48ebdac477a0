//! The fake's port-forward: its own framing, with the real one's habits (port checks first, errors as text on channel
//! 1, one second of linger at the server's end).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

use super::{
    answer::Body,
    api::Target,
    script::{Node, Onset, Script},
    store::{Backend, Order, Shared},
};

/// As measured with containerd and CRI-O.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// Answers the upgrade and serves the tunnel on a task of its own.
pub(super) fn upgrade(
    shared: &Arc<Shared>,
    target: &Target,
    ports: Option<String>,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let text = |code: u16, text: &str| {
        Response::builder().status(code).body(Full::new(Bytes::from(text.to_owned())).boxed()).unwrap()
    };
    let namespace = target.namespace.clone().unwrap_or_default();
    let pod = target.name.clone().unwrap_or_default();
    let mut store = shared.store();
    if !store.websockets {
        return text(400, "<html>Bad Request</html>");
    }
    let key = ("pods".to_owned(), namespace.clone(), pod.clone());
    let Some(object) = store.objects.get(&key) else {
        let message = format!("pods \"{pod}\" not found");
        let status = serde_json::json!({"kind": "Status", "status": "Failure", "message": message, "reason": "NotFound", "code": 404});
        return text(404, &status.to_string());
    };
    let uid = object["metadata"]["uid"].as_str().unwrap_or("").to_owned();
    let Some(port) = ports.and_then(|ports| ports.parse().ok()) else {
        return text(400, "no port");
    };
    let (idle, linger) = (store.stream_idle, store.linger);
    let backend = store.backends.get(&(namespace.clone(), pod.clone(), port)).copied().unwrap_or(Backend::Refuse);
    let pod = format!("{namespace}/{pod}");
    let script = store.script(&pod);
    drop(store);
    let stream = Stream { pod, uid, port, backend, idle, linger, script };
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let offered = header("sec-websocket-protocol");
    assert!(offered.split(',').any(|name| name.trim() == "v4.channel.k8s.io"), "offered: {offered}");
    let accept = derive_accept_key(header("sec-websocket-key").as_bytes());
    let upgraded = hyper::upgrade::on(&mut request);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        // Down to the socket, which faults are done to.
        let inner = upgraded.downcast::<TokioIo<TlsStream<TcpStream>>>().expect("what was accepted");
        let (io, read) = (inner.io.into_inner(), inner.read_buf.to_vec());
        let ws = WebSocketStream::from_partially_read(io, read, Role::Server, None).await;
        shared.tunnels.send_modify(|open| *open += 1);
        let mut orders = shared.orders.subscribe();
        let mut down = shared.down.subscribe();
        down.mark_unchanged();
        tokio::select! {
            () = serve(ws, stream, &shared.reminders, &mut orders) => {}
            _ = down.changed() => {}
        }
        shared.tunnels.send_modify(|open| *open -= 1);
    });
    Response::builder()
        .status(101)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", accept)
        .header("sec-websocket-protocol", "v4.channel.k8s.io")
        .body(Full::new(Bytes::new()).boxed())
        .unwrap()
}

pub(super) fn message(channel: u8, payload: &[u8]) -> Message {
    Message::Binary([&[channel], payload].concat().into())
}

/// What the runtime says where nothing listens.
async fn refuse(mut ws: Node, pod: &str, uid: &str, port: u16) {
    let text = format!(
        "error forwarding port {port} to pod {pod}, uid {uid}: failed to execute portforward in network namespace \
         \"/var/run/netns/cni-1\": failed to connect to localhost:{port} inside namespace \"1\", IPv4: dial tcp4 \
         127.0.0.1:{port}: connect: connection refused IPv6 dial tcp6: address localhost: no suitable address found"
    );
    let _ = ws.send(message(1, text.as_bytes())).await;
    let _ = ws.close(None).await;
}

/// One stream to a port of a pod.
struct Stream {
    /// `namespace/name`.
    pod: String,
    uid: String,
    port: u16,
    backend: Backend,
    /// The runtime's limit on streams without data.
    idle: Option<Duration>,
    linger: Duration,
    script: Option<Script>,
}

async fn serve(
    mut ws: Node,
    Stream { pod, uid, port, backend, idle, linger, script }: Stream,
    reminders: &watch::Sender<usize>,
    orders: &mut tokio::sync::broadcast::Receiver<Order>,
) {
    for channel in [0, 1] {
        if ws.send(message(channel, &port.to_le_bytes())).await.is_err() {
            return;
        }
    }
    if let Some(script) = script.as_ref().filter(|script| script.is_due_at_once()) {
        return script.play(ws).await;
    }
    let Backend::To(address) = backend else { return refuse(ws, &pod, &uid, port).await };
    let Ok(mut server) = TcpStream::connect(address).await else { return refuse(ws, &pod, &uid, port).await };
    let _ = server.set_nodelay(true);
    let mut script = script.map(|script| (Onset::of(&script), script));
    let mut buffer = vec![0; 32 * 1024];
    let mut heard = Instant::now();
    loop {
        let silent = async {
            match idle {
                Some(limit) => sleep_until(heard + limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = silent => {
                let _ = ws.close(None).await;
                return;
            }
            read = server.read(&mut buffer) => match read {
                Ok(0) => {
                    // The other direction gets a second, whatever happens.
                    let _ = tokio::time::timeout(linger, async { while let Some(Ok(_)) = ws.next().await {} }).await;
                    let _ = ws.close(None).await;
                    return;
                }
                Ok(n) => {
                    heard = Instant::now();
                    let onset = script.as_mut().and_then(|(onset, _)| onset.within(&buffer[..n]));
                    if ws.send(message(0, &buffer[..onset.unwrap_or(n)])).await.is_err() { return }
                    if let (Some(_), Some((_, script))) = (onset, &script) {
                        return script.play(ws).await;
                    }
                }
                Err(error) => {
                    let text = format!("error forwarding port {port} to pod {pod}: read tcp4: {error}: connection reset by peer");
                    let _ = ws.send(message(1, text.as_bytes())).await;
                    let _ = ws.close(None).await;
                    return;
                }
            },
            received = ws.next() => match received {
                Some(Ok(Message::Binary(bytes))) => match bytes.split_first() {
                    Some((0, payload)) => {
                        if server.write_all(payload).await.is_err() { return }
                        heard = Instant::now();
                    }
                    Some((1, [])) => {
                        heard = Instant::now();
                        reminders.send_modify(|seen| *seen += 1);
                    }
                    other => panic!("a message that no client may send: {other:?}"),
                },
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
            order = orders.recv() => match order {
                // The socket is dropped without a Close: the other side sees its connection break.
                Ok(Order::Cut(name)) if name == pod => return,
                Ok(Order::End(name)) if name == pod => {
                    let _ = ws.close(None).await;
                    return;
                }
                _ => {}
            },
        }
    }
}
