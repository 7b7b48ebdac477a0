//! What must pass through unchanged, and what is answered on the way.

use proto_tests::wire::{GSSENC_REQUEST, SSL_REQUEST, Wire, message, startup};

use crate::support::World;

#[tokio::test]
async fn startup_parameters_arrive_unchanged() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
    let parameters = [
        ("user", "app"),
        ("database", "shop"),
        ("client_encoding", "'utf-8'"),
        ("application_name", "ünï \"quoted\""),
        ("options", "-c statement_timeout=12345 -c search_path=\"a\\ b\""),
        ("DateStyle", "German"),
        ("extra_float_digits", "2"),
    ];
    wire.start(&parameters).await.unwrap();
    for (name, value) in [("statement_timeout", "12345ms"), ("search_path", "\"a b\""), ("extra_float_digits", "2")] {
        assert_eq!(wire.value(&format!("show {name}")).await.unwrap(), value);
    }
    assert!(wire.value("show datestyle").await.unwrap().starts_with("German"));
    let reported: Vec<&str> = wire.parameters.iter().map(|(name, _)| name.as_str()).collect();
    for name in ["server_version", "client_encoding", "in_hot_standby", "integer_datetimes", "TimeZone"] {
        assert!(reported.contains(&name), "{name} of {reported:?}");
    }
}

#[tokio::test]
async fn the_backends_pid_is_its_own() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    let pid = wire.value("select pg_backend_pid()").await.unwrap();
    assert_eq!(wire.key.as_ref().unwrap().0.to_string(), pid);
}

#[tokio::test]
async fn protocol_versions() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    let parameters = [("user", "app"), ("database", "shop")];
    // 3.2 gives long cancel keys, 3.0 exactly four bytes.
    for (minor, length, negotiated) in [(0, 4, false), (2, 32, false), (9999, 32, true)] {
        let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
        wire.send(&startup(3, minor, &parameters)).await.unwrap();
        let messages = wire.until_ready().await.unwrap();
        assert_eq!(messages[0].tag == 'v', negotiated, "3.{minor}");
        assert_eq!(wire.key.as_ref().unwrap().1.len(), length, "3.{minor}");
    }
    let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
    wire.send(&startup(3, 0, &[("user", "app"), ("database", "shop"), ("_pq_.grease", "")])).await.unwrap();
    let first = wire.next().await.unwrap().unwrap();
    assert_eq!(first.tag, 'v');
    assert!(String::from_utf8_lossy(&first.body).contains("_pq_.grease"));
    wire.until_ready().await.unwrap();
    let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
    wire.send(&startup(2, 0, &parameters)).await.unwrap();
    let refusal = wire.next().await.unwrap().unwrap().fields();
    assert_eq!(refusal.code, "0A000");
}

#[tokio::test]
async fn encryption_requests_in_any_order() {
    let world = World::reading().await;
    let pgferry = world.pgferry_with(&["--tls", "off"]).await;
    for order in [[SSL_REQUEST, GSSENC_REQUEST], [GSSENC_REQUEST, SSL_REQUEST]] {
        let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
        for request in order {
            wire.send(&request).await.unwrap();
            assert_eq!(wire.byte().await.unwrap(), b'N');
        }
        wire.start(&[("user", "app"), ("database", "shop")]).await.unwrap();
    }
}

#[tokio::test]
async fn a_startup_message_byte_by_byte() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
    for byte in startup(3, 0, &[("user", "app"), ("database", "shop")]) {
        wire.send(&[byte]).await.unwrap();
    }
    wire.until_ready().await.unwrap();
}

/// A client that needs no password may send its first query with the startup message.
#[tokio::test]
async fn queries_sent_early_are_kept() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
    let mut all = startup(3, 0, &[("user", "app"), ("database", "shop")]);
    all.extend(message(b'Q', b"select 41 + 1\0"));
    wire.send(&all).await.unwrap();
    wire.until_ready().await.unwrap();
    let answer = wire.until_ready().await.unwrap();
    assert!(answer.iter().any(|message| message.tag == 'D' && message.body.ends_with(b"42")));
}

#[tokio::test]
async fn copy_both_ways_and_large_values() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    wire.query("create table t (x text)").await.unwrap();
    wire.message(b'Q', b"copy t from stdin\0").await.unwrap();
    assert_eq!(wire.next().await.unwrap().unwrap().tag, 'G');
    let line = format!("{}\n", "x".repeat(999));
    for _ in 0..200 {
        wire.message(b'd', line.repeat(100).as_bytes()).await.unwrap();
    }
    wire.message(b'c', b"").await.unwrap();
    wire.until_ready().await.unwrap();
    assert_eq!(wire.value("select count(*) || ' ' || sum(length(x)) from t").await.unwrap(), "20000 19980000");
    wire.message(b'Q', b"copy t to stdout\0").await.unwrap();
    let messages = wire.until_ready().await.unwrap();
    let bytes: usize = messages.iter().filter(|message| message.tag == 'd').map(|message| message.body.len()).sum();
    assert_eq!(bytes, 20_000_000);
    assert_eq!(wire.value("select repeat('y', 20000000)").await.unwrap().len(), 20_000_000);
}

#[tokio::test]
async fn notifications_reach_an_idle_session() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    let mut listener = pgferry.connect("pgferry", "shop").await.unwrap();
    listener.query("listen news").await.unwrap();
    let mut teller = pgferry.connect("pgferry", "shop").await.unwrap();
    teller.query("notify news, 'hello'").await.unwrap();
    let message = listener.next().await.unwrap().unwrap();
    assert_eq!(message.tag, 'A');
    assert!(message.body.ends_with(b"news\0hello\0"));
}

#[tokio::test]
async fn large_objects_by_function_call() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    // FunctionCall of lo_creat(-1), binary.
    let oid: u32 = wire.value("select 'lo_creat(integer)'::regprocedure::oid").await.unwrap().parse().unwrap();
    let body = [&oid.to_be_bytes()[..], &[0, 1, 0, 1, 0, 1, 0, 0, 0, 4, 255, 255, 255, 255, 0, 1]].concat();
    wire.message(b'F', &body).await.unwrap();
    let messages = wire.until_ready().await.unwrap();
    assert!(messages.iter().any(|message| message.tag == 'V'));
}

#[tokio::test]
async fn tokio_postgres_works_through_it() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    let config = format!("host=127.0.0.1 port={} user=app@shop dbname=app", pgferry.address().port());
    let (client, connection) = tokio_postgres::connect(&config, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let rows = client.query("select $1::int + n from generate_series(1, 10) n", &[&32_i32]).await.unwrap();
    assert_eq!(rows[9].get::<_, i32>(0), 42);
    drop(client);
    connection.await.unwrap().unwrap();
}
