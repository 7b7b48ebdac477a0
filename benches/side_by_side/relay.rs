//! Distance: a relay that delays bytes by half a round trip each way, and answers a connect after a whole one.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// tokio's timers fire at the next whole millisecond: half of one too late on average.
const LATE: Duration = Duration::from_micros(500);
/// Chunks under way: at 64 KiB each more than any window of a connection.
const UNDER_WAY: usize = 1024;

/// A relay to this address; the address itself where there is no distance.
pub(crate) async fn relay(to: SocketAddr, rtt: Duration) -> anyhow::Result<SocketAddr> {
    if rtt.is_zero() {
        return Ok(to);
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let connected = Instant::now() + rtt.saturating_sub(LATE);
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(to).await else { return };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                sleep_until(connected).await;
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                tokio::join!(delay(client_read, server_write, rtt / 2), delay(server_read, client_write, rtt / 2));
            });
        }
    });
    Ok(address)
}

async fn delay(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, by: Duration) {
    let by = by.saturating_sub(LATE);
    let (sender, mut queue) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let write = async move {
        while let Some((at, bytes)) = queue.recv().await {
            sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    let read = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            if sender.send((Instant::now() + by, buffer[..n].to_vec())).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(write, read);
}
