//! Every way a kubeconfig says who we are and how the API server is reached.

use std::fs;

use proto_tests::{
    kubernetes::{FakeKubernetes, Request, certificates::Authority, proxies::Proxy},
    secrets,
    subject::{Start, Subject},
    wire::{Wire, startup},
};
use serde_json::{Value, json};

use crate::support::{BINARY, PACE, World, plugin, runs};

async fn with_user(api: &FakeKubernetes, user: Value) -> Subject {
    Start::new(BINARY).serve(&api.kubeconfig_with("fake", None, user, json!({}))).await
}

#[tokio::test]
async fn tokens_token_files_and_client_certificates() {
    let world = World::reading().await;
    let api = &world.api;
    let (certificate, key) = api.authority().client("carol");
    let file = api.write("token", api.token());
    let encoded = |text: &str| json!(proto_tests::cnpg::encoded(text));
    for (user, who) in [
        (json!({"token": api.token()}), "admin"),
        (json!({"tokenFile": file}), "admin"),
        (json!({"client-certificate-data": encoded(&certificate), "client-key-data": encoded(&key)}), "carol"),
    ] {
        api.forget_requests();
        let pgferry = with_user(api, user).await;
        pgferry.connect("pgferry", "shop").await.unwrap();
        // A watch of the one before may still be answered; what the connection itself needs is asked by this one.
        let requests = api.requests();
        let own = |request: &&Request| ["secrets", "pods/portforward"].contains(&request.resource.as_str());
        assert!(requests.iter().filter(own).count() >= 2, "{requests:?}");
        assert!(requests.iter().filter(own).all(|request| request.user == who), "{who}: {requests:?}");
    }
}

#[tokio::test]
async fn a_credential_plugin_runs_once_a_token() {
    let world = World::reading().await;
    let api = &world.api;
    let token = api.user("dave");
    let pgferry = with_user(api, plugin(api, &token, "2099-01-01T00:00:00Z")).await;
    let connections = (0..10).map(|_| pgferry.connect("pgferry", "shop"));
    for connected in futures_util::future::join_all(connections).await {
        connected.unwrap();
    }
    assert_eq!(runs(api), 1);
    // The API server refuses the token before its time: one more run, and no client notices.
    api.revoke(&token);
    let fresh = api.user("dave");
    let _ = plugin(api, &fresh, "2099-01-01T00:00:00Z");
    pgferry.connect("pgferry", "shop").await.unwrap();
    assert_eq!(runs(api), 2);
}

#[tokio::test]
async fn a_plugin_that_fails_says_so_without_its_output() {
    let world = World::reading().await;
    let api = &world.api;
    secrets::remember("s3cr3t-plugin-output");
    let token = api.user("dave");
    let user = plugin(api, &token, "");
    let _ = api.write("fail", "");
    let pgferry = with_user(api, user).await;
    let refusal = pgferry.refusal("pgferry", "shop").await;
    assert_eq!(refusal.code, "28000");
    assert!(refusal.message.contains("fake-login ended with exit status: 7"), "{refusal:?}");
    assert!(refusal.hint.contains("kubectl --context 'fake'"), "{refusal:?}");
    fs::remove_file(api.directory().join("fail")).unwrap();
    pgferry.connect("pgferry", "shop").await.unwrap();

    let hint = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-plugin", "installHint": "brew install it"}});
    let pgferry = with_user(api, hint).await;
    let refusal = pgferry.refusal("pgferry", "shop").await;
    assert!(
        refusal.message.contains("no-such-plugin is not installed") && refusal.hint == "brew install it",
        "{refusal:?}"
    );
}

/// While a person logs in, the client is told what it waits for.
#[tokio::test]
async fn a_login_that_takes_long_is_announced() {
    let world = World::reading().await;
    let api = &world.api;
    let token = api.user("dave");
    let fifo = api.directory().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let answer =
        json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": token}});
    // The plugin ends when somebody writes into the pipe.
    let script = format!("#!/bin/sh\nread line < '{}'\necho '{answer}'\n", fifo.display());
    let file = api.write("slow-login", &script);
    let pgferry =
        with_user(api, json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": file}})).await;
    let mut wire = Wire::tcp(pgferry.address()).await.unwrap();
    wire.send(&startup(3, 0, &[("user", "app"), ("database", "shop")])).await.unwrap();
    assert_eq!(wire.next().await.unwrap().unwrap().tag, 'R');
    let notice = wire.next().await.unwrap().unwrap().fields();
    assert!(notice.message.contains("a login to Kubernetes (context fake)"), "{notice:?}");
    tokio::task::spawn_blocking(move || fs::write(fifo, "done\n")).await.unwrap().unwrap();
    wire.until_ready().await.unwrap();
}

#[tokio::test]
async fn an_expired_login_says_what_to_type() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    pgferry.connect("pgferry", "shop").await.unwrap();
    world.api.revoke(world.api.token());
    let refusal = pgferry.refusal("pgferry", "shop").await;
    assert_eq!(refusal.code, "28000");
    assert!(
        refusal.message.contains("expired") && refusal.hint.contains("kubectl --context 'fake' get"),
        "{refusal:?}"
    );
}

#[tokio::test]
async fn http_and_socks_proxies() {
    let world = World::reading().await;
    for (proxy, scheme) in
        [(Proxy::http().await, "http"), (Proxy::socks5().await, "socks5"), (Proxy::socks5().await, "socks5h")]
    {
        let cluster = json!({"proxy-url": format!("{scheme}://{}", proxy.address)});
        let kubeconfig = world.api.kubeconfig_with("fake", None, json!({"token": world.api.token()}), cluster);
        let pgferry = Start::new(BINARY).serve(&kubeconfig).await;
        let mut wire = pgferry.connect("pgferry", "shop").await.unwrap_or_else(|error| panic!("{scheme}: {error:?}"));
        assert_eq!(wire.value("select 1").await.unwrap(), "1");
        assert!(proxy.count() > 0, "{scheme}");
    }
    let proxy = Proxy::http().await;
    let from_environment = |no_proxy: &str| {
        let url = format!("http://{}", proxy.address);
        Start::new(BINARY).env("HTTPS_PROXY", url).env("NO_PROXY", no_proxy)
    };
    let pgferry = from_environment("127.0.0.0/8").serve(&world.api.kubeconfig()).await;
    pgferry.connect("pgferry", "shop").await.unwrap();
    assert_eq!(proxy.count(), 0, "NO_PROXY names the API server");
    let pgferry = from_environment("example.org").serve(&world.api.kubeconfig()).await;
    pgferry.connect("pgferry", "shop").await.unwrap();
    assert!(proxy.count() > 0);
}

#[tokio::test]
async fn another_server_name_and_an_untrusted_certificate() {
    let world = World::reading().await;
    let token = json!({"token": world.api.token()});
    let kubeconfig =
        world.api.kubeconfig_with("fake", None, token.clone(), json!({"tls-server-name": "kubernetes.test"}));
    Start::new(BINARY).serve(&kubeconfig).await.connect("pgferry", "shop").await.unwrap();
    let stranger = Authority::new("stranger");
    let cluster = json!({"certificate-authority-data": proto_tests::cnpg::encoded(stranger.pem())});
    let kubeconfig = world.api.kubeconfig_with("fake", None, token, cluster);
    let refusal = Start::new(BINARY).serve(&kubeconfig).await.refusal("pgferry", "shop").await;
    assert_eq!(refusal.code, "08001");
    assert!(refusal.message.contains("is not trusted"), "{refusal:?}");
}

/// Certificates that the kubeconfig names are renewed without it: a CA, a client's certificate and its key.
#[tokio::test]
async fn files_that_the_kubeconfig_names_are_read_again_when_they_change() {
    let world = World::reading().await;
    let api = &world.api;
    let authority = api.write("ca.crt", Authority::new("stranger").pem());
    let (certificate, key) = api.authority().client("carol");
    let (certificate, key) = (api.write("client.crt", &certificate), api.write("client.key", &key));
    let user = json!({"client-certificate": certificate, "client-key": key});
    let cluster = json!({"certificate-authority-data": null, "certificate-authority": authority});
    let pgferry = Start::new(BINARY).serve(&api.kubeconfig_with("fake", None, user, cluster)).await;
    assert!(pgferry.refusal("pgferry", "shop").await.message.contains("is not trusted"));
    let _ = api.write("ca.crt", api.authority().pem());
    pgferry.connect("pgferry", "shop").await.unwrap();
    let (certificate, key) = api.authority().client("dora");
    let _ = (api.write("client.key", &key), api.write("client.crt", &certificate));
    api.forget_requests();
    pgferry.connect("pgferry", "shop").await.unwrap();
    let secrets: Vec<_> = api.requests().into_iter().filter(|request| request.resource == "secrets").collect();
    assert!(!secrets.is_empty() && secrets.iter().all(|request| request.user == "dora"), "{secrets:?}");
}

/// As `kind delete cluster && kind create cluster` does: another server, another CA, under the same name.
#[tokio::test]
async fn a_replaced_kubeconfig_is_used_without_a_restart() {
    let world = World::reading().await;
    let pgferry = world.pgferry().await;
    pgferry.connect("pgferry", "shop").await.unwrap();
    let other = World::reading().await;
    let file = world.api.directory().join("kubeconfig");
    fs::copy(other.api.kubeconfig(), &file).unwrap();
    pgferry.connect("pgferry", "shop").await.unwrap();
    assert!(other.api.count("get", "pods/portforward") > 0);
}

/// A session outlives the kubeconfig that it began with. The key of its query went to a pod of the same name in the
/// cluster that the context means now.
#[tokio::test]
async fn a_cancel_request_never_goes_to_another_cluster() {
    let (world, other) = (World::reading().await, World::reading().await);
    let mut pgferry = world.pgferry().await;
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    wire.message(b'Q', b"select pg_sleep(600)\0").await.unwrap();
    fs::copy(other.api.kubeconfig(), world.api.directory().join("kubeconfig")).unwrap();
    let mut cancel = Wire::tcp(pgferry.address()).await.unwrap();
    cancel.send(&wire.cancel_request()).await.unwrap();
    pgferry.says("a cancel request did not get through").await;
    assert_eq!(cancel.rest().await.unwrap(), b"");
    assert_eq!(other.api.count("get", "pods/portforward"), 0);
}

/// A kubeconfig that was truncated and not written yet at the first look had no current context: 3D000 at once, where one
/// that is written anew later is waited for.
#[tokio::test]
async fn a_first_kubeconfig_that_is_being_written_is_waited_for() {
    let world = World::reading().await;
    let file = world.api.directory().join("later");
    let mut pgferry = Start::new(BINARY).serve(&file).await;
    pgferry.says("there is no kubeconfig").await;
    let address = pgferry.address();
    let mut wire = Wire::tcp(address).await.unwrap();
    // Before the client speaks, and until it is seen: a file counts as being written for a second.
    fs::write(&file, "").unwrap();
    let seen = async {
        wire.send(&startup(3, 0, &[("user", "app"), ("database", "shop")])).await.unwrap();
        pgferry.says("it may still be being written").await;
    };
    let writing = async {
        let mut writes = tokio::time::interval(PACE);
        loop {
            writes.tick().await;
            fs::write(&file, "").unwrap();
        }
    };
    tokio::select! {
        () = seen => {}
        () = writing => {}
    }
    fs::copy(world.api.kubeconfig(), &file).unwrap();
    wire.until_ready().await.unwrap();
}

#[tokio::test]
async fn no_kubernetes_at_the_start_is_a_warning() {
    let world = World::reading().await;
    let kubeconfig = world.api.kubeconfig();
    world.api.go_down().await;
    let mut pgferry = Start::new(BINARY).serve(&kubeconfig).await;
    pgferry.says("Kubernetes does not answer yet").await;
    let refusal = pgferry.refusal("pgferry", "shop").await;
    assert_eq!(refusal.code, "08001");
    assert!(refusal.message.contains("cannot be reached"), "{refusal:?}");
    world.api.come_back().await;
    pgferry.connect("pgferry", "shop").await.unwrap();

    let missing = world.api.directory().join("nothing");
    let mut pgferry = Start::new(BINARY).serve(&missing).await;
    pgferry.says("there is no kubeconfig").await;
    let refusal = pgferry.refusal("pgferry", "shop").await;
    assert!(refusal.code == "08001" && refusal.hint.contains("--kubeconfig"), "{refusal:?}");
}
