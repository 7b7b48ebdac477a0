//! What is trusted no further than its author may reach: users of this machine, kubeconfigs that change, text that ends in
//! terminals; and how far the process itself may be looked into.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, process::Stdio};

use futures_util::future::{join_all, select_all};
use proto_tests::{
    cnpg::Cluster,
    kubernetes::FakeKubernetes,
    subject::{CORE_DUMPS, Start, Subject},
    wire::Wire,
};
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
    time::timeout,
};

use crate::support::{BINARY, NO_WAIT, PATIENCE, World, let_in, plugin, runs, serve, until_true};

/// Somebody else on this machine.
const NOBODY: u32 = 65_534;

/// More refused clients than hear why at a time.
const MANY: usize = 20;
const HEARD: usize = 16;

/// A client of another user, by bash's own sockets, so that nothing need be installed: sends this, and prints the answer.
fn stranger(pgferry: &Subject, sends: &str) -> Child {
    let port = pgferry.address().port();
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; printf '{sends}' >&3; echo connected; cat <&3");
    let mut command = Command::new("bash");
    command.args(["-c", &script]).uid(NOBODY).stdout(Stdio::piped()).kill_on_drop(true);
    command.spawn().unwrap()
}

/// Until it is connected.
async fn connected(stranger: &mut Child) {
    let mut line = [0; "connected\n".len()];
    stranger.stdout.as_mut().unwrap().read_exact(&mut line).await.unwrap();
}

/// Every connection woke Kubernetes up, ran the credential plugin and took a startup place before its user was known.
#[tokio::test]
async fn a_refused_user_costs_nothing_and_is_in_nobodys_way() {
    if !cfg!(target_os = "linux") || !rustix::process::geteuid().is_root() {
        println!("skipped: only root can be another user, and only Linux says who that is");
        return;
    }
    let world = World::reading().await;
    let token = world.api.user("dave");
    let user = plugin(&world.api, &token, "");
    let kubeconfig = world.api.kubeconfig_with("fake", None, user, json!({}));
    let config = "[sessions]\nmax_startups = 1\nstartup_deadline = \"1h\"\n";
    let file = world.api.write("config.toml", config);
    let start = Start::new(BINARY).args(["serve", "--port", "0", "--log", "debug", "--config"]).arg(file);
    let mut pgferry = start.arg("--kubeconfig").arg(kubeconfig).wait().await;
    pgferry.says(" ready context=").await;
    // A token that is good no more: whoever needs Kubernetes runs the plugin.
    world.api.revoke(&token);
    let _ = plugin(&world.api, &world.api.user("dave"), "");
    world.api.forget_requests();
    let before = runs(&world.api);

    let startup = "\\0\\0\\0\\x20\\0\\x03\\0\\0user\\0app\\0database\\0shop\\0\\0";
    let told = stranger(&pgferry, startup).wait_with_output().await.unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("28000") && told.contains("belongs to uid 65534"), "{told:?}");

    // Those that say nothing: sixteen are waited for, the others are closed at once.
    let mut silent: Vec<Child> = (0..MANY).map(|_| stranger(&pgferry, "")).collect();
    join_all(silent.iter_mut().map(connected)).await;
    let mut waiting: Vec<_> = silent.iter_mut().map(|child| Box::pin(child.wait())).collect();
    for _ in HEARD..MANY {
        let closed = timeout(PATIENCE, select_all(waiting)).await.expect("more than sixteen are not waited for");
        waiting = closed.2;
    }
    assert_eq!((runs(&world.api), world.api.requests()), (before, Vec::new()), "nothing was done for them");

    let mut allowed = timeout(PATIENCE, pgferry.connect("pgferry", "shop")).await.expect("a place").unwrap();
    assert_eq!(allowed.value("select 1").await.unwrap(), "1");
    assert!(runs(&world.api) > before, "the plugin runs for who is let in");
    assert_ne!(world.api.count("get", "pods/portforward"), 0, "{:?}", world.api.requests());
}

/// Each listener took a place before anybody came to it: with fewer places than listeners some served nobody.
#[tokio::test]
async fn fewer_startup_places_than_listeners_starve_none() {
    let world = World::reading().await;
    let config = world.api.write("config.toml", "[sessions]\nmax_startups = 1\n");
    let sockets = world.api.directory().join("sockets");
    let args = ["--config", config.to_str().unwrap(), "--socket-dir", sockets.to_str().unwrap()];
    let mut pgferry = world.pgferry_with(&args).await;
    pgferry.says(".s.PGSQL.").await;
    let parameters = [("user", "app"), ("database", "shop")];
    for address in pgferry.every_address().await {
        let mut wire = Wire::tcp(address).await.unwrap();
        timeout(PATIENCE, wire.start(&parameters)).await.expect("a place").unwrap();
    }
    let socket = sockets.join(format!(".s.PGSQL.{}", pgferry.address().port()));
    let mut wire = Wire::unix(&socket).await.unwrap();
    timeout(PATIENCE, wire.start(&parameters)).await.expect("a place").unwrap();
}

/// A plugin that answers by its argument, its environment, and the server that it is told of.
fn questioned(api: &FakeKubernetes, argument: &str, variable: &str, special: &FakeKubernetes) -> Value {
    let script = format!(
        "#!/bin/sh\ncd \"$(dirname \"$0\")\"\necho run >> runs\nwhich=$1$WHICH\n\
         case \"$KUBERNETES_EXEC_INFO\" in *:{}*) which=special;; esac\ncat \"$which\"\n",
        special.address().port()
    );
    let file = api.write("questioned-login", &script);
    json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "command": file, "args": [argument],
        "env": [{"name": "WHICH", "value": variable}], "provideClusterInfo": true,
    }})
}

fn answers(api: &FakeKubernetes, name: &str, token: &str) {
    let answer = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {"token": token, "expirationTimestamp": "2099-01-01T00:00:00Z"},
    });
    let _ = api.write(name, &answer.to_string());
}

/// The kubeconfig was edited under its context's name, and the token of the plugin that had run before was kept: one
/// cluster's token went to another's server, and one user's calls were made as the other.
#[tokio::test]
async fn a_plugins_token_answers_one_question_alone() {
    let (world, other) = (World::new().await, World::new().await);
    let (api, strange) = (&world.api, &other.api);
    let tokens = [("one", api.user("one")), ("two", api.user("two")), ("special", strange.user("special"))];
    for (name, token) in &tokens {
        answers(api, name, token);
    }
    let kubeconfig = api.kubeconfig_with("fake", None, questioned(api, "one", "", strange), json!({}));
    let pgferry = Start::new(BINARY).serve(&kubeconfig).await;
    let asks_as = async |api: &FakeKubernetes, user: &str| {
        api.forget_requests();
        pgferry.connect("pgferry", "shop").await.unwrap();
        let made = api.requests().into_iter().filter(|request| request.resource == "pods/portforward");
        let made: Vec<String> = made.map(|request| request.user).collect();
        assert!(!made.is_empty() && made.iter().all(|who| who == user), "{user}: {made:?}");
    };
    asks_as(api, "one").await;
    // Other arguments, then another environment.
    let _ = api.kubeconfig_with("fake", None, questioned(api, "two", "", strange), json!({}));
    asks_as(api, "two").await;
    let _ = api.kubeconfig_with("fake", None, questioned(api, "", "one", strange), json!({}));
    asks_as(api, "one").await;
    // Another server, and everything else the same.
    let elsewhere = strange.kubeconfig_with("fake", None, questioned(api, "", "one", strange), json!({}));
    fs::copy(elsewhere, &kubeconfig).unwrap();
    asks_as(strange, "special").await;
    for (name, token) in &tokens {
        assert_eq!(strange.has_seen(token), *name == "special", "{name}");
        assert_eq!(api.has_seen(token), *name != "special", "{name}");
    }
    assert_eq!(runs(api), 4);
}

/// Sessions at the server.
const SESSIONS: &str =
    "select count(*) from pg_stat_activity where usename = 'app' and backend_type = 'client backend'";

/// Whether one of them waits and was never used.
const SPARE: &str = "select count(*) = 1 from pg_stat_activity where usename = 'app' and state = 'idle' and query = ''";

/// A spare session held no place: there were more sessions than the limit says.
#[tokio::test]
async fn a_spare_session_leaves_its_place_to_a_client() {
    let world = World::new().await;
    let pgferry = serve(&world.api, "[sessions]\nmax_connections = 2\nspare = \"1h\"\n").await;
    let mut first = pgferry.connect("app", "shop.prod").await.unwrap();
    until_true(&mut first, SPARE).await;
    // It is of no use to this one, and it is in its way.
    let mut second = pgferry.connect("app", "shop.prod/postgres").await.expect("a spare one keeps nobody out");
    assert_eq!(first.value(SESSIONS).await.unwrap(), "2");
    assert_eq!(pgferry.refusal("app", "shop.prod").await.code, "53300");
    assert_eq!(second.value("select current_database()").await.unwrap(), "postgres");
    drop(second);
    // One that may be asked for while it is being made, or before there is one.
    for _ in 0..10 {
        let mut wire = let_in(&pgferry, "app", "shop.prod").await;
        assert_eq!(wire.value(SESSIONS).await.unwrap(), "2");
        wire.message(b'X', b"").await.unwrap();
    }
}

/// As many as there may be, and no more, with spare sessions or without.
#[tokio::test]
async fn one_session_is_one_session() {
    let world = World::new().await;
    let pgferry = serve(&world.api, "[sessions]\nmax_connections = 1\nspare = \"15s\"\n").await;
    for database in ["shop.prod", "shop.prod", "shop.prod/postgres", "shop.prod"] {
        let mut wire = let_in(&pgferry, "app", database).await;
        assert_eq!(wire.value(SESSIONS).await.unwrap(), "1");
        assert_eq!(pgferry.refusal("app", "shop.prod").await.code, "53300");
        assert_eq!(wire.value(SESSIONS).await.unwrap(), "1");
        wire.message(b'X', b"").await.unwrap();
    }
}

/// A spare session that was logged in with what one Kubernetes user may read was given away when the kubeconfig named
/// another, who may not.
#[tokio::test]
async fn a_spare_session_is_not_another_kubernetes_users() {
    let world = World::new().await;
    let pgferry = serve(&world.api, "[sessions]\nspare = \"1h\"\n").await;
    let mut first = pgferry.connect("app", "shop.prod").await.unwrap();
    until_true(&mut first, SPARE).await;
    let other = world.api.user("other");
    let _ = world.api.kubeconfig_with("fake", None, json!({"token": other}), json!({}));
    world.api.deny(Some("other"), "get", "secrets", None);
    world.api.deny(Some("other"), "list", "secrets", None);
    // The kubeconfig has been read again when the client comes for whom the session waits.
    assert_eq!(pgferry.refusal("app", "shop.prod/postgres").await.code, "42501");
    assert_eq!(pgferry.refusal("app", "shop.prod").await.code, "42501");
    assert!(!pgferry.output().contains("logged in ahead is taken"));
}

/// One cluster's limit is no more a spare session's than the limit on all.
#[tokio::test]
async fn a_spare_session_keeps_nobody_from_its_cluster() {
    let world = World::new().await;
    let pgferry = serve(&world.api, "[sessions]\nmax_per_cluster = 2\nspare = \"1h\"\n").await;
    let mut first = pgferry.connect("app", "shop.prod").await.unwrap();
    until_true(&mut first, SPARE).await;
    let mut second = pgferry.connect("app", "shop.prod/postgres").await.expect("a spare one keeps nobody out");
    assert_eq!(second.value("select current_database()").await.unwrap(), "postgres");
}

/// The limits and the owner of a process, as the system shows them.
fn looked_into(pgferry: &Subject) -> (String, u32) {
    let process = format!("/proc/{}", pgferry.pid());
    let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let cores = cores.split_whitespace().skip(4).take(2).collect::<Vec<_>>().join(" ");
    // What an undumpable process has open is root's alone to see (proc(5)).
    (cores, fs::metadata(Path::new(&process).join("fd")).unwrap().uid())
}

#[tokio::test]
async fn the_process_neither_dumps_core_nor_lets_others_look_into_it() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let own = rustix::process::geteuid();
    let user = if own.is_root() { NOBODY } else { own.as_raw() };
    let serve = async |dumps: &str| {
        let start = Start::new(BINARY).args(["serve", "--port", "0", "--kubeconfig", "/nonexistent"]);
        // The default is what root's tests run with.
        let start = start.env("HOME", "/nonexistent").env(CORE_DUMPS, dumps);
        let start = if own.is_root() { start.uid(NOBODY) } else { start };
        start.wait().await
    };
    assert_eq!(looked_into(&serve("false").await), ("0 0".to_owned(), 0));
    let open = looked_into(&serve("true").await);
    assert_eq!(open.1, user, "where that is wanted, its user may look into it");
    if own.is_root() {
        let world = World::new().await;
        assert_eq!(looked_into(&world.pgferry().await).0, "0 0", "it is off where nobody says anything");
    }
}

/// Characters that a terminal obeys.
fn controls(text: &str) -> bool {
    text.chars().any(|character| character.is_control() && character != '\n')
}

/// An object's author could paint whatever they liked on the terminal of who lists it.
#[tokio::test]
async fn what_others_wrote_is_shown_and_not_obeyed() {
    let world = World::reading().await;
    let wild = |text: &str| format!("{text}\u{1b}[31m\u{9b}1m\u{7}\r");
    let spec = json!({"instances": 1, "bootstrap": {"initdb": {"database": wild("db"), "owner": wild("role")}}});
    let cluster = Cluster::with_spec(&world.api, ("prod", "wild"), spec, &[]);
    world.api.change("clusters", "prod", "wild", |object| {
        object["status"]["phase"] = json!(wild("phase"));
        object["status"]["currentPrimary"] = json!(wild("primary"));
    });
    cluster.set_password(&world.password);
    for output in ["text", "name", "json"] {
        let start = Start::new(BINARY).args(["list", "-o", output, "--log", "debug", "--kubeconfig"]);
        let (code, out, err) = start.arg(world.api.kubeconfig()).run().await;
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("wild") && !controls(&out) && !controls(&err), "{out:?} {err:?}");
    }
    let pgferry = serve(&world.api, NO_WAIT).await;
    for user in ["pgferry", "nobody"] {
        let refusal = pgferry.refusal(user, "wild.prod").await;
        assert!(!controls(&format!("{}{}{}", refusal.message, refusal.detail, refusal.hint)), "{refusal:?}");
    }
    assert!(!controls(&pgferry.output()), "{:?}", pgferry.output());
}
