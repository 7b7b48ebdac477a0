//! Bytes before authentication: an error or a close, within the deadline, in bounded memory, and never a session.

use proto_tests::wire::{SSL_REQUEST, Wire, message, startup};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::support::{PATIENCE, World, serve};

/// What comes back, until the close.
async fn answer(address: std::net::SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).await.unwrap();
    // The other side may close before all is written.
    let _ = socket.write_all(bytes).await;
    let _ = socket.shutdown().await;
    let mut answer = Vec::new();
    let ended = timeout(PATIENCE, socket.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "no close for {:?}", &bytes[..bytes.len().min(40)]);
    answer
}

#[tokio::test]
async fn every_broken_beginning_ends() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    let good = startup(3, 0, &[("user", "app"), ("database", "shop")]);
    let mut cases: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"SSH-2.0-x\r\n".to_vec(),
        vec![0; 100],
        vec![0xff; 100],
        vec![0, 0, 0, 7, 0, 3, 0, 0],
        vec![0, 0, 0x27, 0x11, 0, 3, 0, 0],
        vec![0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5],
        [&SSL_REQUEST[..], &[0x16, 3, 1, 0xff, 0xff]].concat(),
        startup(3, 0, &[("database", "shop")]),
        startup(3, 0, &[("user", "a"), ("user", "b")]),
        startup(9, 9, &[("user", "a")]),
        [&[0, 0, 0, 9, 0, 3, 0, 0][..], b"x"].concat(),
        message(b'p', &[]),
        vec![b'p', 0, 0, 0, 2],
        vec![b'Q', 0x7f, 0xff, 0xff, 0xff],
    ];
    cases.extend((0..good.len()).map(|end| good[..end].to_vec()));
    for case in &cases {
        let answer = answer(pgferry.address(), case).await;
        assert!(answer.is_empty() || matches!(answer[0], b'E' | b'S' | b'N' | 0x15), "{case:?}: {answer:?}");
        assert!(!answer.contains(&b'Z'), "{case:?}");
    }
    assert_eq!(world.api.count("get", "pods/portforward"), 0, "nothing is opened for them");
    assert!(!pgferry.output().contains("panicked"), "{}", pgferry.output());
    pgferry.connect("pgferry", "shop").await.unwrap();
}

#[tokio::test]
async fn a_slow_client_is_closed_at_the_deadline() {
    let world = World::reading().await;
    let pgferry = serve(&world.api, "[sessions]\nstartup_deadline = \"1s\"\n").await;
    let mut silent = Wire::tcp(pgferry.address()).await.unwrap();
    let mut halfway = Wire::tcp(pgferry.address()).await.unwrap();
    halfway.send(&[0, 0, 0, 50, 0, 3]).await.unwrap();
    let mut in_tls = TcpStream::connect(pgferry.address()).await.unwrap();
    in_tls.write_all(&SSL_REQUEST).await.unwrap();
    let closed = async {
        let _ = silent.rest().await;
        let _ = halfway.rest().await;
        let mut answer = Vec::new();
        let _ = in_tls.read_to_end(&mut answer).await;
    };
    timeout(PATIENCE, closed).await.expect("all are closed");
}

#[tokio::test]
async fn floods_before_authentication_are_not_kept() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    pgferry.connect("pgferry", "shop").await.unwrap();
    let before = pgferry.resident();
    let flood = vec![b'x'; 8 * 1024 * 1024];
    for _ in 0..10 {
        let mut bytes = startup(3, 0, &[("user", "app"), ("database", "no-such-cluster")]);
        bytes.extend_from_slice(&flood);
        answer(pgferry.address(), &bytes).await;
    }
    let after = pgferry.resident();
    assert!(after < before + 30 * 1024, "from {before} to {after} KiB");
}
