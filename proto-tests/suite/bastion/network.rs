//! Clients that want nothing but places.

use proto_tests::wire::{SSL_REQUEST, Wire, startup};
use tokio::net::{TcpSocket, TcpStream};

use super::stage::{Bastion, TOKENS};

/// A connection from another address of this machine.
async fn from(source: &str, bastion: &Bastion) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    socket.connect(bastion.pgferry.address()).await.unwrap()
}

/// One host that opens more connections than there are places, and says nothing, keeps nobody else out.
#[tokio::test]
async fn a_host_that_says_nothing_keeps_nobody_out() {
    let bastion = Bastion::new(&format!("[sessions]\nstartup_deadline = \"3m\"\nmax_startups = 8\n{TOKENS}")).await;
    let kim = bastion.token("kim", &[]);
    bastion.bind("kim", "app");
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(from("127.0.0.2", &bastion).await);
    }
    assert!(bastion.connect(&kim, "app@shop.prod", "app").await.is_ok());
    drop(silent);
}

/// Whoever stops half-way, wherever that is, is gone when its time is over.
#[tokio::test]
async fn whoever_stops_half_way_is_closed() {
    let bastion = Bastion::new(&format!("[sessions]\nstartup_deadline = \"5s\"\n{TOKENS}")).await;
    let packet = startup(3, 0, &[("user", "app@shop.prod"), ("database", "app")]);
    let silent = async |part: &[u8]| {
        let mut wire = Wire::tcp(bastion.pgferry.address()).await.unwrap();
        wire.send(part).await.unwrap();
        wire.rest().await.unwrap();
    };
    let unproved = async |part: &[u8]| {
        let mut wire = Wire::tls(bastion.pgferry.address()).await.unwrap();
        wire.send(&packet).await.unwrap();
        assert_eq!(wire.next().await.unwrap().unwrap().body, [0, 0, 0, 3]);
        wire.send(part).await.unwrap();
        // Without TLS' goodbye, as there is nobody to say it to.
        let _ = wire.rest().await;
    };
    tokio::join!(
        silent(&SSL_REQUEST[..1]),
        silent(&SSL_REQUEST),
        silent(&packet[..20]),
        unproved(b""),
        unproved(b"p"),
        unproved(b"p\0\0\x01\0half a pass"),
    );
}
