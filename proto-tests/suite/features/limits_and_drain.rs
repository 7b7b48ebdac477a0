//! Limits, listening, and stopping.

use std::{fs, os::unix::fs::PermissionsExt as _};

use proto_tests::{subject::Start, wire::Wire};
use rustix::process::Signal;

use crate::support::{BINARY, World, let_in, serve};

#[tokio::test]
async fn too_many_connections() {
    let world = World::reading().await;
    let pgferry = serve(&world.api, "[sessions]\nmax_connections = 2\n").await;
    let first = pgferry.connect("pgferry", "shop").await.unwrap();
    let _second = pgferry.connect("pgferry", "shop").await.unwrap();
    let refusal = pgferry.refusal("pgferry", "shop").await;
    assert_eq!(refusal.code, "53300");
    assert!(refusal.message.contains("2 connections") && refusal.hint.contains("max_connections"), "{refusal:?}");
    drop(first);
    let_in(&pgferry, "pgferry", "shop").await;
}

/// One cluster's limit is not another's, and a cancel request has no part in it.
#[tokio::test]
async fn too_many_connections_to_one_cluster() {
    let world = World::reading().await;
    proto_tests::cnpg::Cluster::new(&world.api, ("prod", "other"), &world.password, &[world.server.address()]);
    let pgferry = serve(&world.api, "[sessions]\nmax_per_cluster = 2\n").await;
    let first = pgferry.connect("pgferry", "shop.prod").await.unwrap();
    let _second = pgferry.connect("pgferry", "shop.prod").await.unwrap();
    let refusal = pgferry.refusal("pgferry", "shop.prod").await;
    assert_eq!(refusal.code, "53300");
    assert!(
        refusal.message.contains("2 connections to shop.prod") && refusal.hint.contains("max_per_cluster"),
        "{refusal:?}"
    );
    pgferry.connect("pgferry", "other.prod").await.unwrap();
    drop(first);
    let_in(&pgferry, "pgferry", "shop.prod").await;
}

#[tokio::test]
async fn it_listens_on_both_loopbacks_and_on_a_private_socket() {
    let world = World::reading().await;
    let directory = world.api.directory().join("sockets");
    let mut pgferry = world.pgferry_with(&["--socket-dir", directory.to_str().unwrap()]).await;
    pgferry.says(".s.PGSQL.").await;
    let port = pgferry.address().port();
    let socket = directory.join(format!(".s.PGSQL.{port}"));
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let parameters = [("user", "app"), ("database", "shop")];
    Wire::unix(&socket).await.unwrap().start(&parameters).await.unwrap();
    for address in pgferry.every_address().await {
        assert!(address.ip().is_loopback());
        Wire::tcp(address).await.unwrap().start(&parameters).await.unwrap();
    }
    pgferry.signal(Signal::TERM);
    assert!(pgferry.ended().await.success());
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_taken_port_is_an_exit_that_says_by_whom() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    let port = pgferry.address().port().to_string();
    let (code, _, error) = Start::new(BINARY).args(["serve", "--port", &port]).run().await;
    assert_eq!(code, 69);
    assert!(error.contains(&format!("port {port} is taken")), "{error}");
    if cfg!(target_os = "linux") {
        assert!(error.contains(&format!("pgferry (pid {})", pgferry.pid())), "{error}");
    }
}

/// On Linux another user of the machine is told so, and Kubernetes is never asked.
#[tokio::test]
async fn another_user_of_this_machine_is_refused() {
    if !cfg!(target_os = "linux") || !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    let port = pgferry.address().port();
    // A client as another user: bash's own sockets, so that nothing need be installed.
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port}; printf '\\0\\0\\0\\x20\\0\\x03\\0\\0user\\0app\\0database\\0shop\\0\\0' >&3; cat <&3"
    );
    let output = tokio::process::Command::new("bash").args(["-c", &script]).uid(65534).output().await.unwrap();
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(answer.contains("28000") && answer.contains("belongs to uid 65534"), "{answer:?} {output:?}");
    assert_eq!(world.api.count("get", "clusters"), 0);
    let pgferry = serve(&world.api, "[listen]\nallowed_uids = [65534]\n").await;
    let script = script.replace(&port.to_string(), &pgferry.address().port().to_string());
    let mut child = tokio::process::Command::new("bash")
        .args(["-c", &script])
        .uid(65534)
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut first = [0; 1];
    tokio::io::AsyncReadExt::read_exact(child.stdout.as_mut().unwrap(), &mut first).await.unwrap();
    assert_eq!(first, [b'R']);
}

#[tokio::test]
async fn a_drain_ends_idle_sessions_and_lets_running_ones_finish() {
    let world = World::reading().await;
    let mut pgferry = world.pgferry_with(&["--drain", "1h"]).await;
    let mut idle = pgferry.connect("pgferry", "shop").await.unwrap();
    let mut busy = pgferry.connect("pgferry", "shop").await.unwrap();
    busy.query("begin").await.unwrap();
    pgferry.signal(Signal::TERM);
    assert_eq!(idle.next().await.unwrap().unwrap().fields().code, "57P01");
    assert_eq!(pgferry.refusal("pgferry", "shop").await.code, "57P03");
    assert_eq!(busy.value("select 1").await.unwrap(), "1");
    busy.query("commit").await.unwrap();
    assert_eq!(busy.next().await.unwrap().unwrap().fields().code, "57P01");
    assert!(pgferry.ended().await.success());
    world.api.tunnels(0).await;
}

#[tokio::test]
async fn the_drain_has_an_end_and_a_second_signal_is_faster() {
    let world = World::reading().await;
    let mut pgferry = world.pgferry_with(&["--drain", "1s"]).await;
    let mut busy = pgferry.connect("pgferry", "shop").await.unwrap();
    busy.query("begin").await.unwrap();
    pgferry.signal(Signal::INT);
    assert_eq!(busy.next().await.unwrap().unwrap().fields().code, "57P01");
    assert!(pgferry.ended().await.success());

    let mut pgferry = world.pgferry_with(&["--drain", "1h"]).await;
    let mut busy = pgferry.connect("pgferry", "shop").await.unwrap();
    busy.query("begin").await.unwrap();
    pgferry.signal(Signal::TERM);
    pgferry.says("draining").await;
    pgferry.signal(Signal::TERM);
    assert_eq!(busy.next().await.unwrap().unwrap().fields().code, "57P01");
    assert!(pgferry.ended().await.success());
    world.api.tunnels(0).await;
}

#[tokio::test]
async fn the_log_has_two_lines_a_session() {
    let world = World::reading().await;
    let mut pgferry = world.pgferry_with(&["--log-format", "json"]).await;
    let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
    wire.start(&[("user", "app"), ("database", "shop"), ("application_name", "te\u{1b}[31mst")]).await.unwrap();
    wire.value("select repeat('x', 1000)").await.unwrap();
    wire.message(b'X', b"").await.unwrap();
    pgferry.says("session ended").await;
    let output = pgferry.output();
    let line = |what: &str| {
        let line = output.lines().find(|line| line.contains(what)).unwrap();
        serde_json::from_str::<serde_json::Value>(line).unwrap()
    };
    let opened = line("session opened");
    for (name, value) in [
        ("context", "fake"),
        ("target", "shop"),
        ("pod", "shop-1"),
        ("role", "app"),
        ("application", "te\\u{1b}[31mst"),
    ] {
        assert_eq!(opened[name], value, "{opened}");
    }
    let ended = line("session ended");
    assert_eq!(ended["why"], "client terminated");
    assert!(ended["bytes_down"].as_u64().unwrap() > 1000 && ended["bytes_up"].as_u64().unwrap() > 20, "{ended}");
}
