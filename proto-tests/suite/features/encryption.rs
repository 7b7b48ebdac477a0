//! TLS from clients, and to servers.

use proto_tests::{
    kubernetes::certificates::Authority,
    postgres::{Hba, Setup},
    wire::{SSL_REQUEST, Wire, startup},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{World, serve};

#[tokio::test]
async fn clients_may_encrypt_negotiated_or_direct() {
    let world = World::reading().await;
    let mut pgferry = world.pgferry().await;
    let parameters = [("user", "app"), ("database", "shop")];
    for address in pgferry.every_address().await {
        let mut wire = Wire::tls(address).await.unwrap();
        wire.start(&parameters).await.unwrap();
        assert_eq!(wire.value("select 1").await.unwrap(), "1");
    }
    let mut wire = Wire::direct_tls(pgferry.address(), true).await.unwrap();
    wire.start(&parameters).await.unwrap();
}

/// Without ALPN a direct connection could be another protocol's, tricked into this one (ALPACA). It was closed without a
/// word, to the client and in the log.
#[tokio::test]
async fn direct_tls_without_alpn_hears_why() {
    let world = World::reading().await;
    let mut pgferry = world.pgferry().await;
    let mut wire = Wire::direct_tls(pgferry.address(), false).await.unwrap();
    let refusal = wire.start(&[("user", "app"), ("database", "shop")]).await.unwrap_err();
    assert_eq!(refusal.code, "08P01", "{refusal:?}");
    assert!(refusal.message.contains("ALPN") && refusal.hint.contains("sslnegotiation=postgres"), "{refusal:?}");
    pgferry.says("INFO connection refused: a direct TLS connection must offer the ALPN protocol").await;
    // Where there is no TLS, nothing can be said to a client that speaks nothing else.
    let mut off = world.pgferry_with(&["--tls", "off"]).await;
    assert!(Wire::direct_tls(off.address(), true).await.is_err());
    off.says("INFO connection refused: the client opened TLS").await;
}

/// CVE-2021-23214: bytes that came before the handshake must not be taken for the client's own inside TLS.
#[tokio::test]
async fn plaintext_glued_to_the_request_is_refused() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    let mut socket = tokio::net::TcpStream::connect(pgferry.address()).await.unwrap();
    let glued = [&SSL_REQUEST[..], &startup(3, 0, &[("user", "app"), ("database", "shop")])].concat();
    socket.write_all(&glued).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer.first(), Some(&b'E'));
    assert!(String::from_utf8_lossy(&answer).contains("received unencrypted data"));
    assert_eq!(world.api.count("get", "pods/portforward"), 0);
}

#[tokio::test]
async fn certificate_files_are_read_again_when_they_change() {
    let world = World::reading().await;
    let write = |authority: &Authority| {
        let (certificate, key) = authority.server(&["localhost"]);
        (world.api.write("tls.crt", &certificate), world.api.write("tls.key", &key))
    };
    let (certificate, key) = write(&Authority::new("one"));
    let args = ["--tls", "files", "--tls-cert", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let mut pgferry = world.pgferry_with(&args).await;
    let parameters = [("user", "app"), ("database", "shop")];
    Wire::tls(pgferry.address()).await.unwrap().start(&parameters).await.unwrap();
    // A broken file keeps the old certificate.
    let broken = world.api.write("tls.crt", "broken");
    Wire::tls(pgferry.address()).await.unwrap().start(&parameters).await.unwrap();
    pgferry.says("the old one stays").await;
    assert_eq!(broken, certificate);
    write(&Authority::new("two"));
    Wire::tls(pgferry.address()).await.unwrap().start(&parameters).await.unwrap();
}

/// A server that takes only TLS, verified: by its CA, by its name, and never downgraded.
#[tokio::test]
async fn servers_are_verified_as_configured() {
    let authority = Authority::new("the cluster's CA");
    let pair = authority.server(&["shop-rw", "shop-rw.prod"]);
    let world = World::with(|setup| Setup { hba: Hba::TlsOnly, tls: Some(pair), ..setup }).await;
    let stranger = Authority::new("a stranger");
    let right = world.api.write("right.pem", authority.pem());
    let wrong = world.api.write("wrong.pem", stranger.pem());
    let other = authority.server(&["elsewhere"]);
    for (mode, ca, error) in [
        ("require", None, None),
        ("prefer", None, None),
        ("verify-ca", Some(&right), None),
        ("verify-full", Some(&right), None),
        ("verify-ca", Some(&wrong), Some("not signed by the CA")),
        ("verify-full", Some(&wrong), Some("not signed by the CA")),
        ("verify-full", None, Some("no CA is known")),
        ("disable", None, Some("no pg_hba.conf entry")),
    ] {
        let ca = ca.map(|file| format!("sslrootcert = \"{}\"", file.display())).unwrap_or_default();
        let text = format!("[clusters.\"shop.prod\"]\nsslmode = \"{mode}\"\n{ca}\n");
        let pgferry = serve(&world.api, &text).await;
        match (pgferry.connect("pgferry", "shop").await, error) {
            (Ok(_), None) => {}
            (Err(refusal), Some(part)) => assert!(refusal.message.contains(part), "{mode}: {refusal:?}"),
            (Ok(_), Some(_)) => panic!("{mode}: let in"),
            (Err(refusal), None) => panic!("{mode}: {refusal:?}"),
        }
    }
    // The operator's own CA Secret, read where the caller may read it.
    world.api.put("secrets", proto_tests::cnpg::secret("prod", "shop-ca", &[("ca.crt", authority.pem())]));
    let pgferry = serve(&world.api, "[clusters.shop]\nsslmode = \"verify-full\"\n").await;
    pgferry.connect("pgferry", "shop").await.unwrap();
    drop(other);
}

/// Whoever may write a cluster chooses what its servers ask for, and its CA: what that CA has signed proves nothing to
/// a password that others have chosen.
#[tokio::test]
async fn cleartext_is_given_only_under_a_ca_of_the_configuration() {
    let authority = Authority::new("the cluster's CA");
    let pair = authority.server(&["shop-rw", "shop-rw.prod"]);
    let world = World::with(|setup| Setup { hba: Hba::Password, tls: Some(pair), ..setup }).await;
    world.api.put("secrets", proto_tests::cnpg::secret("prod", "shop-ca", &[("ca.crt", authority.pem())]));
    let ours = format!("sslrootcert = \"{}\"", world.api.write("ours.pem", authority.pem()).display());
    for (configuration, given) in [
        (String::new(), false),
        ("sslmode = \"require\"".to_owned(), false),
        ("sslmode = \"verify-full\"".to_owned(), false),
        (format!("sslmode = \"verify-ca\"\n{ours}"), true),
        (format!("sslmode = \"verify-full\"\n{ours}"), true),
        ("auth = \"password\"".to_owned(), true),
    ] {
        let pgferry = serve(&world.api, &format!("[clusters.\"shop.prod\"]\n{configuration}\n")).await;
        match pgferry.connect("pgferry", "shop").await {
            Ok(_) => assert!(given, "{configuration}"),
            Err(refusal) => {
                assert!(!given && refusal.code == "28000", "{configuration}: {refusal:?}");
                assert!(refusal.message.contains("asks for a cleartext password"), "{refusal:?}");
                assert!(refusal.hint.contains("clusters.\"shop.prod\".auth = \"password\""), "{refusal:?}");
            }
        }
    }
}

/// `prefer` is TLS where the server has it, and plaintext where it has none.
#[tokio::test]
async fn preferred_tls_is_used_where_there_is_any() {
    let (certificate, key) = Authority::new("x").server(&["shop-rw"]);
    for (tls, encrypted) in [(Some((certificate, key)), "t"), (None, "f")] {
        let world = World::with(|setup| Setup { tls, ..setup }).await;
        let pgferry = serve(&world.api, "[clusters.shop]\nsslmode = \"prefer\"\n").await;
        let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
        let ssl = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        assert_eq!(wire.value(ssl).await.unwrap(), encrypted);
    }
}

#[tokio::test]
async fn a_wrong_name_is_refused_by_verify_full_alone() {
    let authority = Authority::new("the cluster's CA");
    let pair = authority.server(&["elsewhere"]);
    let world = World::with(|setup| Setup { tls: Some(pair), ..setup }).await;
    let right = world.api.write("right.pem", authority.pem());
    for (mode, works) in [("verify-ca", true), ("verify-full", false)] {
        let text = format!("[clusters.shop]\nsslmode = \"{mode}\"\nsslrootcert = \"{}\"\n", right.display());
        let pgferry = serve(&world.api, &text).await;
        match pgferry.connect("pgferry", "shop").await {
            Ok(_) => assert!(works),
            Err(refusal) => assert!(!works && refusal.message.contains("not for the name \"shop-rw\""), "{refusal:?}"),
        }
    }
}

/// The story: PostgreSQL answers a TLS close with a reset, and kubectl's port-forward dies of the first one.
#[tokio::test]
async fn three_hundred_sessions_with_tls_to_the_server_one_after_the_other() {
    let (certificate, key) = Authority::new("x").server(&["shop-rw"]);
    let world = World::with(|setup| Setup { hba: Hba::TlsOnly, tls: Some((certificate, key)), ..setup }).await;
    let pgferry = world.pgferry().await;
    for number in 0..300 {
        let mut wire = pgferry.connect("pgferry", "shop").await.unwrap_or_else(|error| panic!("{number}: {error:?}"));
        assert_eq!(wire.value("select 1").await.unwrap(), "1");
        wire.message(b'X', b"").await.unwrap();
    }
}
