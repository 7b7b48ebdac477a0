//! Which credential a context has, counted.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use super::*;

/// A kubeconfig whose server nobody asks.
fn write(file: &Path, user: &Value, server: &str, namespace: &str) {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "fake",
        "clusters": [{"name": "c", "cluster": {"server": server, "insecure-skip-tls-verify": true}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "fake", "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
    });
    // In one piece; each has another length than the one before, so that it is seen however coarse the clock is.
    let beside = file.with_extension("new");
    std::fs::write(&beside, config.to_string()).expect("written");
    std::fs::rename(beside, file).expect("renamed");
}

fn contexts(kubeconfig: PathBuf) -> Contexts {
    Contexts::new(ClientParams {
        kubeconfig: Some(kubeconfig),
        context: None,
        namespace: None,
        short_names: BTreeMap::new(),
        request_timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(10),
        exec_timeout: Duration::from_mins(1),
    })
}

async fn now(contexts: &Contexts) -> (u64, u64) {
    let context = contexts.get(None, &Identity::Local, None).await.expect("a client");
    (context.meaning(), context.credential())
}

#[tokio::test]
async fn another_user_is_another_credential() {
    // Another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("config");
    let token = |token: &str| json!({"token": token});
    write(&file, &token("one"), "https://127.0.0.1:1", "a");
    let contexts = contexts(file.clone());
    assert_eq!(now(&contexts).await, (0, 0));
    assert!(contexts.still_holds("fake", 0, 0));
    for (user, server, namespace, expected) in [
        ("one", "https://127.0.0.1:1", "another-namespace", (0, 0)),
        ("two-two", "https://127.0.0.1:1", "a", (0, 1)),
        ("one", "https://127.0.0.1:1", "ab", (0, 2)),
        ("one", "https://127.0.0.1:22", "abc", (1, 3)),
    ] {
        write(&file, &token(user), server, namespace);
        assert!(!contexts.still_holds("fake", expected.0, expected.1), "nobody has looked yet");
        assert_eq!(now(&contexts).await, expected, "{user} {server}");
        assert!(contexts.still_holds("fake", expected.0, expected.1));
        assert!(!contexts.still_holds("fake", expected.0, expected.1 + 1));
    }
}

#[tokio::test]
async fn a_renewed_token_is_the_same_credential() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let directory = tempfile::tempdir().expect("a directory");
    let (file, login, runs) =
        (directory.path().join("config"), directory.path().join("login"), directory.path().join("runs"));
    let answer = json!({
        "kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1",
        "status": {"token": "t", "expirationTimestamp": "2001-01-01T00:00:00Z"},
    });
    let script = format!("#!/bin/sh\necho run >> '{}'\necho '{answer}'\n", runs.display());
    std::fs::write(&login, script).expect("written");
    std::fs::set_permissions(&login, std::fs::Permissions::from_mode(0o700)).expect("set");
    let user = |argument: &str| json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": login, "args": [argument]}});
    write(&file, &user("one"), "https://127.0.0.1:1", "a");
    let contexts = contexts(file.clone());
    assert_eq!(now(&contexts).await, (0, 0));
    assert_eq!(now(&contexts).await, (0, 0));
    assert_eq!(std::fs::read_to_string(&runs).expect("it ran").lines().count(), 2);
    write(&file, &user("another"), "https://127.0.0.1:1", "a");
    assert_eq!(now(&contexts).await, (0, 1));
}
