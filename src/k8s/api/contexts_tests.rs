//! Which credential a context has, counted.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::time::{Instant, advance};

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

fn params(kubeconfig: PathBuf) -> ClientParams {
    ClientParams {
        kubeconfig: Some(kubeconfig),
        context: None,
        namespace: None,
        short_names: BTreeMap::new(),
        request_timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(10),
        exec_timeout: Duration::from_mins(1),
    }
}

/// A plugin in a directory: what it answers, whether it does, and how often it was asked.
struct Login<'a>(&'a Path);

impl Login<'_> {
    /// Gives a token from now on; one that ends then, as RFC 3339 has it.
    fn gives(&self, expires: Option<&str>) {
        let answer = json!({
            "kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1",
            "status": {"token": "t", "expirationTimestamp": expires},
        });
        self.does(&format!("echo '{answer}'"));
    }

    fn does(&self, what: &str) {
        let script = format!("echo run >> '{}'\n{what}\n", self.0.join("runs").display());
        // In one piece: the file that runs now is not written to.
        let beside = self.0.join("login.new");
        std::fs::write(&beside, script).expect("written");
        std::fs::rename(beside, self.0.join("login")).expect("renamed");
    }

    fn user(&self, argument: &str) -> Value {
        let script = self.0.join("login");
        let arguments = json!([script, argument]);
        json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": arguments}})
    }

    fn runs(&self) -> usize {
        std::fs::read_to_string(self.0.join("runs")).unwrap_or_default().lines().count()
    }
}

/// Tokio's clock, paused, goes to the next timer while nothing else runs, and a plugin's run is nothing to it. With this
/// it stands still until it is advanced; dropping the sender lets it go.
fn stand_still() -> std::sync::mpsc::Sender<()> {
    let (running, ended) = std::sync::mpsc::channel();
    tokio::task::spawn_blocking(move || ended.recv());
    running
}

/// A wall clock that runs with tokio's, from one o'clock on.
fn clock() -> Arc<Clock> {
    let began = Instant::now();
    Clock::with_wall(move || SystemTime::UNIX_EPOCH + Duration::from_hours(1) + began.elapsed())
}

async fn now(contexts: &Contexts) -> (u64, u64) {
    let context = contexts.get(None, None).await.expect("a client");
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
    let contexts = Contexts::new(params(file.clone()));
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

#[tokio::test(start_paused = true)]
async fn a_renewed_token_is_the_same_credential() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let _still = stand_still();
    let directory = tempfile::tempdir().expect("a directory");
    let (file, login) = (directory.path().join("config"), Login(directory.path()));
    login.gives(Some("1970-01-01T01:30:00Z"));
    write(&file, &login.user("one"), "https://127.0.0.1:1", "a");
    let contexts = Contexts::by_clock(params(file.clone()), clock());
    assert_eq!(now(&contexts).await, (0, 0));
    advance(Duration::from_secs(28 * 60 + 59)).await;
    assert_eq!(now(&contexts).await, (0, 0));
    assert_eq!(login.runs(), 1);
    advance(Duration::from_secs(1)).await;
    login.gives(Some("1970-01-01T02:00:00Z"));
    assert_eq!(now(&contexts).await, (0, 0));
    assert_eq!(login.runs(), 2);
    write(&file, &login.user("another"), "https://127.0.0.1:1", "a");
    assert_eq!(now(&contexts).await, (0, 1));
    assert_eq!(login.runs(), 3);
}

/// A token with less than a minute left was due the moment it came: a connect, which asks three times, ran the plugin
/// three times. So was each one where our clock was ahead.
#[tokio::test(start_paused = true)]
async fn a_token_with_little_left_is_used_all_the_same() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let _still = stand_still();
    let directory = tempfile::tempdir().expect("a directory");
    let (file, login) = (directory.path().join("config"), Login(directory.path()));
    write(&file, &login.user("one"), "https://127.0.0.1:1", "a");
    let contexts = Contexts::by_clock(params(file), clock());
    let mut runs = 0;
    for (expires, used) in [("1970-01-01T01:00:40Z", 20), ("1970-01-01T00:30:00Z", 10)] {
        login.gives(Some(expires));
        runs += 1;
        for _ in 0..3 {
            now(&contexts).await;
            assert_eq!(login.runs(), runs, "{expires}");
        }
        advance(Duration::from_secs(used - 1)).await;
        now(&contexts).await;
        assert_eq!(login.runs(), runs, "{expires}");
        advance(Duration::from_secs(1)).await;
    }
    now(&contexts).await;
    assert_eq!(login.runs(), runs + 1);
}

/// With a login that had expired each watch, and each look at whether a connection is ready, ran the plugin anew, which
/// opened a browser each time.
#[tokio::test(start_paused = true)]
async fn background_work_starts_no_plugin_after_a_failure() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let _still = stand_still();
    let directory = tempfile::tempdir().expect("a directory");
    let (file, login) = (directory.path().join("config"), Login(directory.path()));
    write(&file, &login.user("one"), "https://127.0.0.1:1", "a");
    let contexts = Arc::new(Contexts::by_clock(params(file.clone()), clock()));
    let quietly = || async { contexts.get_quietly(None).await };
    login.does("exit 7");
    let error = quietly().await.expect_err("it fails");
    assert_eq!(login.runs(), 1, "nobody knew");
    let began = Instant::now();
    let rest = {
        let (contexts, error) = (Arc::clone(&contexts), error.clone());
        tokio::spawn(async move { contexts.rest("fake", &error, Duration::from_hours(1)).await })
    };
    for _ in 0..3 {
        assert!(matches!(quietly().await, Err(K8sError::Plugin { .. })));
    }
    assert_eq!(login.runs(), 1);
    // Who comes later than a failure has not waited for it.
    advance(Duration::from_secs(1)).await;
    contexts.get(None, None).await.expect_err("it fails for a client too");
    login.gives(None);
    assert!(quietly().await.is_err() && !rest.is_finished());
    assert_eq!(login.runs(), 2);
    advance(Duration::from_secs(1)).await;
    contexts.get(None, None).await.expect("a client logs in");
    rest.await.expect("it has ended");
    let context = quietly().await.expect("a client's success is everybody's");
    assert_eq!((login.runs(), began.elapsed()), (3, Duration::from_secs(2)));

    // An answer that the API server refuses at once is as good as none.
    let refusal = K8sError::Unauthorized { context: "fake".to_owned() };
    let made = |context: &Context| context.shared().fresh().map(|built| built.made).expect("a client");
    context.shared().give_up(made(&context), &refusal);
    let renewed = context.shared().renew(made(&context), For::Background).await;
    assert!(matches!(renewed, Err(K8sError::Unauthorized { .. })), "{renewed:?}");
    assert_eq!(login.runs(), 3);
    advance(Duration::from_secs(1)).await;
    context.shared().renew(made(&context), For::Client).await.expect("a client logs in");
    assert_eq!(login.runs(), 4);

    // Another question: nobody has failed to answer it.
    login.does("exit 7");
    contexts.get(None, None).await.expect("it is not asked yet");
    write(&file, &login.user("another"), "https://127.0.0.1:1", "a");
    assert!(quietly().await.is_err());
    assert_eq!(login.runs(), 5);
}
