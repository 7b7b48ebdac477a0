//! Small HTTP CONNECT and SOCKS5 proxies that count their connections, and a relay that loses them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// A running proxy.
pub struct Proxy {
    pub address: SocketAddr,
    count: Arc<AtomicUsize>,
}

impl Proxy {
    /// Connections that went through.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    pub async fn http() -> Self {
        Self::start(|socket| async move {
            let mut socket = BufReader::new(socket);
            let mut first = String::new();
            socket.read_line(&mut first).await.ok()?;
            let mut line = String::new();
            while socket.read_line(&mut line).await.ok()? > 2 {
                line.clear();
            }
            let target = first.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned();
            let server = TcpStream::connect(target).await.ok()?;
            socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
            Some((socket.into_inner(), server))
        })
        .await
    }

    pub async fn socks5() -> Self {
        Self::start(|mut socket| async move {
            let mut hello = [0; 2];
            socket.read_exact(&mut hello).await.ok()?;
            socket.read_exact(&mut vec![0; usize::from(hello[1])]).await.ok()?;
            socket.write_all(&[5, 0]).await.ok()?;
            let mut head = [0; 4];
            socket.read_exact(&mut head).await.ok()?;
            let host = if head[3] == 1 {
                let mut ip = [0; 4];
                socket.read_exact(&mut ip).await.ok()?;
                std::net::Ipv4Addr::from(ip).to_string()
            } else {
                let length = socket.read_u8().await.ok()?;
                let mut name = vec![0; usize::from(length)];
                socket.read_exact(&mut name).await.ok()?;
                String::from_utf8(name).ok()?
            };
            let port = socket.read_u16().await.ok()?;
            let server = TcpStream::connect((host, port)).await.ok()?;
            socket.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.ok()?;
            Some((socket, server))
        })
        .await
    }

    async fn start<F>(greet: impl Fn(TcpStream) -> F + Send + Sync + Clone + 'static) -> Self
    where
        F: Future<Output = Option<(TcpStream, TcpStream)>> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (greet, counted) = (greet.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    if let Some((mut client, mut server)) = greet(socket).await {
                        counted.fetch_add(1, Ordering::SeqCst);
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { address, count }
    }
}

/// What happens to the connections that are open now; later ones are not concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Both sides get a reset.
    Cut,
    /// Nothing arrives any more, and nobody is told: what a NAT that forgot, or another network, makes of them.
    Blackhole,
}

/// A plain TCP relay, for what networks do to connections.
pub struct Relay {
    pub address: SocketAddr,
    count: Arc<AtomicUsize>,
    harm: watch::Sender<Option<Harm>>,
}

impl Relay {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (count, harm) = (Arc::new(AtomicUsize::new(0)), watch::Sender::new(None));
        let (counted, harms) = (Arc::clone(&count), harm.subscribe());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let mut harms = harms.clone();
                harms.mark_unchanged();
                tokio::spawn(relay(client, server, harms));
            }
        });
        Self { address, count, harm }
    }

    /// Connections so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Harms the connections that are open.
    pub fn harm(&self, harm: Harm) {
        self.harm.send_replace(Some(harm));
    }
}

async fn relay(mut client: TcpStream, server: SocketAddr, mut harms: watch::Receiver<Option<Harm>>) {
    let _ = client.set_nodelay(true);
    // Nobody there: the client sees its connection close.
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let _ = server.set_nodelay(true);
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => return,
        _ = harms.changed() => {}
    }
    // Both sockets stay open, and nobody reads them.
    while *harms.borrow_and_update() == Some(Harm::Blackhole) {
        if harms.changed().await.is_err() {
            break;
        }
    }
    let _ = (client.set_zero_linger(), server.set_zero_linger());
}
