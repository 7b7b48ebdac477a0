//! `show pgferry.cluster`: where a session is, asked from inside.

use proto_tests::{
    kubernetes::Backend,
    subject::Start,
    wire::{Wire, message},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    support::{BINARY, World, serve},
    trust::stage::{secret, service},
};

async fn told(wire: &mut Wire, what: &str) -> String {
    wire.value(&format!("SHOW pgferry.{what}")).await.unwrap_or_else(|error| panic!("{what}: {error:?}"))
}

/// Two windows of one tool look alike, and one of them is production.
#[tokio::test]
async fn a_session_says_where_it_is() {
    let world = World::reading().await;
    let user = json!({"token": world.api.token()});
    let name = r"my \laptop's context";
    let kubeconfig = world.api.kubeconfig_with(name, None, user, json!({}));
    let pgferry = Start::new(BINARY).serve(&kubeconfig).await;
    for (database, mode) in [("shop", "rw"), ("shop.prod:any", "any")] {
        let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
        let options = "-c search_path=\"a\\ b\" --statement_timeout=7s";
        wire.start(&[("user", "app"), ("database", database), ("options", options)]).await.unwrap();
        for (what, value) in [("cluster", "shop.prod"), ("pod", "shop-1"), ("context", name), ("mode", mode)] {
            assert_eq!(told(&mut wire, what).await, value, "{database}");
        }
        assert_eq!(wire.value("show search_path").await.unwrap(), "\"a b\"");
        assert_eq!(wire.value("show statement_timeout").await.unwrap(), "7s");
        wire.query("discard all").await.unwrap();
        assert_eq!(told(&mut wire, "pod").await, "shop-1", "it outlives what pools do between their users");
    }
}

#[tokio::test]
async fn a_spare_session_and_a_replication_connection_say_so_too() {
    let world = World::with(|mut setup| {
        setup.sql.push("ALTER ROLE app REPLICATION".to_owned());
        setup
    })
    .await;
    let mut pgferry = serve(&world.api, "[sessions]\nspare = \"10m\"\n").await;
    let mut first = pgferry.connect("pgferry", "shop").await.unwrap();
    let sql = "select count(*) = 2 from pg_stat_activity where usename = 'app'";
    crate::support::until_true(&mut first, sql).await;
    let mut second = pgferry.connect("pgferry", "shop").await.unwrap();
    pgferry.says("a session that was logged in ahead is taken").await;
    assert_eq!(told(&mut second, "pod").await, "shop-1");
    for replication in ["database", "true"] {
        let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
        let parameters = [("user", "app@shop"), ("database", "app"), ("replication", replication)];
        wire.start(&parameters).await.unwrap_or_else(|error| panic!("{replication}: {error:?}"));
        assert_eq!(told(&mut wire, "cluster").await, "shop.prod", "{replication}");
    }
}

/// A startup packet that is full stays as it is: PostgreSQL takes 10,000 bytes, and not one more.
#[tokio::test]
async fn a_full_startup_packet_is_not_made_longer() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
    let long = "x".repeat(9_900);
    wire.start(&[("user", "app"), ("database", "shop"), ("application_name", &long)]).await.unwrap();
    assert_eq!(wire.query("show pgferry.pod").await.unwrap_err().code, "42704");
}

/// Something that refuses options it does not know, as PgBouncer does, and leads on to a server. Gives its address; what is
/// sent to it says whether it was asked.
async fn pooler(world: &World) -> (std::net::SocketAddr, tokio::sync::mpsc::UnboundedReceiver<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, server) = (listener.local_addr().unwrap(), world.server.address());
    let (sender, asked) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let length = client.read_u32().await.unwrap();
                let mut packet = vec![0; length as usize - 4];
                client.read_exact(&mut packet).await.unwrap();
                let ours = packet.windows(8).any(|window| window == b"pgferry.");
                sender.send(ours).unwrap();
                if ours {
                    let fields =
                        b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter in options: pgferry.cluster\0\0";
                    client.write_all(&message(b'E', fields)).await.unwrap();
                    return;
                }
                let mut server = TcpStream::connect(server).await.unwrap();
                server.write_all(&[&length.to_be_bytes()[..], &packet].concat()).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, asked)
}

#[tokio::test]
async fn a_pooler_is_not_told_and_one_that_looks_like_a_server_once() {
    let world = World::reading().await;
    let (address, mut asked) = pooler(&world).await;
    world.api.backend("prod", "shop-1", 5432, Backend::To(address));
    let pgferry = world.pgferry().await;
    for ours in [&[true, false][..], &[false]] {
        let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
        assert_eq!(wire.value("select 1").await.unwrap(), "1");
        for ours in ours {
            assert_eq!(asked.recv().await, Some(*ours));
        }
    }
    // One that its labels tell is never asked.
    let login = [("host", "pool"), ("username", "app"), ("password", &world.password), ("dbname", "app")];
    world.api.put("secrets", secret(("prod", "pooled"), &login));
    world.api.put("services", service(("prod", "pool"), json!({"app": "pgbouncer"}), json!({})));
    crate::trust::stage::pod(&world.api, ("prod", "pool-0"), &json!({"app": "pgbouncer"}), address);
    let mut wire = pgferry.connect("pgferry", "pooled").await.unwrap();
    assert_eq!(wire.value("select 1").await.unwrap(), "1");
    assert_eq!(asked.recv().await, Some(false));
}
