//! The real thing: CloudNativePG clusters on the Kubernetes that `KUBECONFIG` names, by psql, `pg_dump` and `pg_restore`.
//!
//! Runs only with `PGFERRY_E2E=1`. It expects the clusters `shop` (two instances) and `ledger` in namespace `prod` and
//! `shop` in `staging`; what it makes of its own it removes again.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::{path::PathBuf, process::Stdio, sync::OnceLock, time::Duration};

use proto_tests::subject::{Start, Subject};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::AsyncWriteExt as _,
    process::Command,
    sync::{Mutex, RwLock},
    time::{Instant, timeout},
};

mod bastion;
mod endurance;
mod failover;
mod lasting;
mod rig;
mod systems;
mod trust;

const BINARY: &str = env!("CARGO_BIN_EXE_pgferry");

/// A line for the person who reads the test's output.
#[expect(clippy::print_stderr, reason = "what a test prints is its report")]
fn say(line: &str) {
    eprintln!("{line}");
}

/// Tests that delete pods have the clusters to themselves.
static CLUSTERS: RwLock<()> = RwLock::const_new(());

/// Tests that make and remove custom resource definitions take turns.
static DEFINITIONS: Mutex<()> = Mutex::const_new(());

/// Where the tests run; `None` where they do not.
fn kubeconfig() -> Option<PathBuf> {
    static SAID: OnceLock<()> = OnceLock::new();
    if std::env::var_os("PGFERRY_E2E").is_none_or(|value| value != "1") {
        SAID.get_or_init(|| say("PGFERRY_E2E is not 1: nothing is run against a real Kubernetes"));
        return None;
    }
    Some(std::env::var_os("KUBECONFIG").map(PathBuf::from).expect("KUBECONFIG"))
}

async fn run(program: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
}

async fn kubectl(args: &[&str]) -> String {
    let (ok, text) = run("kubectl", args).await;
    assert!(ok, "kubectl {args:?}: {text}");
    text
}

/// psql as a person types it.
async fn psql(pgferry: &Subject, args: &[&str]) -> (bool, String) {
    let port = pgferry.address().port().to_string();
    let mut all = vec!["-X", "-h", "localhost", "-p", &port, "-At"];
    all.extend(args);
    run("psql", &all).await
}

async fn value(pgferry: &Subject, args: &[&str]) -> String {
    let (ok, text) = psql(pgferry, args).await;
    assert!(ok, "psql {args:?}: {text}");
    text
}

#[tokio::test]
async fn names_and_logins_as_a_person_types_them() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let _calm = CLUSTERS.read().await;
    let pgferry = Start::new(BINARY).serve(&kubeconfig).await;
    let who = "select current_user || ' ' || current_database() || ' ' || pg_is_in_recovery()";
    assert_eq!(value(&pgferry, &["ledger", "-c", who]).await, "clerk books false");
    assert_eq!(value(&pgferry, &["shop.prod", "-c", who]).await, "app app false");
    assert_eq!(value(&pgferry, &["shop.prod:ro", "-c", who]).await, "app app true");
    assert_eq!(value(&pgferry, &["-U", "app@shop.prod", "app", "-c", who]).await, "app app false");
    assert_eq!(value(&pgferry, &["-U", "postgres@shop.prod", "postgres", "-c", who]).await, "postgres postgres false");
    assert_eq!(value(&pgferry, &["-U", "postgres", "ledger", "-c", who]).await, "postgres books false");
    let (ok, text) = psql(&pgferry, &["shop"]).await;
    assert!(!ok && text.contains("shop.prod and shop.staging"), "{text}");
    // DBeaver's and pgAdmin's way: one user string, several databases, and the list of them.
    let port = pgferry.address().port();
    for database in ["app", "postgres"] {
        for sslmode in ["disable", "prefer", "require"] {
            let url = format!("postgresql://app%40shop.prod@localhost:{port}/{database}?sslmode={sslmode}");
            assert_eq!(
                run("psql", &["-XAt", &url, "-c", "select current_database()"]).await,
                (true, database.to_owned())
            );
        }
    }
    let databases = value(&pgferry, &["-U", "app@shop.prod", "app", "-c", "select datname from pg_database"]).await;
    assert!(databases.contains("app") && databases.contains("postgres"), "{databases}");
    let switched =
        value(&pgferry, &["-U", "app@shop.prod", "app", "-c", "\\c postgres", "-c", "select current_database()"]).await;
    assert!(switched.ends_with("postgres"), "{switched}");
}

#[tokio::test]
async fn list_shows_the_three_clusters() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let _calm = CLUSTERS.read().await;
    let (code, out, err) = Start::new(BINARY).args(["list", "-o", "name", "--kubeconfig"]).arg(kubeconfig).run().await;
    assert_eq!((code, err.as_str()), (0, ""));
    for name in ["ledger.prod", "shop.prod", "shop.staging"] {
        assert!(out.lines().any(|line| line == name), "{out}");
    }
}

/// Where pods are dialled at their addresses, nothing but the server's own TLS encrypts: so it comes first.
#[tokio::test]
async fn the_direct_transport_is_encrypted() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let _calm = CLUSTERS.read().await;
    let start = Start::new(BINARY).env("PGFERRY__KUBERNETES__TRANSPORT", "direct");
    let pgferry = start.serve(&kubeconfig).await;
    let mut wire = pgferry.connect("app", "shop.prod").await.unwrap();
    let about = "select ssl || ' ' || host(inet_server_addr()) from pg_stat_ssl where pid = pg_backend_pid()";
    let about = wire.value(about).await.unwrap();
    let (ssl, address) = about.split_once(' ').unwrap();
    assert!(ssl == "true" && address != "127.0.0.1", "{about}");
}

/// A schema with large objects goes out of one cluster by `pg_dump` and into another by four parallel `pg_restore` jobs.
#[tokio::test]
async fn dump_and_restore() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let _calm = CLUSTERS.read().await;
    let pgferry = Start::new(BINARY).serve(&kubeconfig).await;
    let sql = "drop schema if exists dumped cascade; create schema dumped; \
               create table dumped.t as select n as id, repeat('x', 500) as text from generate_series(1, 20000) n; \
               create index on dumped.t (id); create table dumped.u as select * from dumped.t; \
               create table dumped.o as select lo_from_bytea(0, decode(repeat('ab', 100000), 'hex')) as oid";
    value(&pgferry, &["shop.prod", "-c", sql]).await;
    let port = pgferry.address().port().to_string();
    let file = pgferry.home().join("dump");
    let file = file.to_str().unwrap();
    let (ok, text) = run(
        "pg_dump",
        &["-h", "localhost", "-p", &port, "-U", "app@shop.prod", "-Fc", "-b", "-n", "dumped", "-f", file, "app"],
    )
    .await;
    assert!(ok, "pg_dump: {text}");
    value(
        &pgferry,
        &[
            "shop.staging",
            "-c",
            "drop schema if exists dumped cascade; select lo_unlink(oid) from pg_largeobject_metadata",
        ],
    )
    .await;
    let args = ["-h", "localhost", "-p", &port, "-U", "app@shop.staging", "-d", "app", "-j4", "--no-owner", file];
    let (ok, text) = run("pg_restore", &args).await;
    assert!(ok, "pg_restore: {text}");
    let check = "select (select count(*) from dumped.t) || ' ' || (select length(lo_get(oid)) from dumped.o)";
    assert_eq!(value(&pgferry, &["shop.staging", "-c", check]).await, "20000 100000");
    value(&pgferry, &["shop.prod", "-c", "select lo_unlink(oid) from dumped.o; drop schema dumped cascade"]).await;
    value(&pgferry, &["shop.staging", "-c", "select lo_unlink(oid) from dumped.o; drop schema dumped cascade"]).await;
}

#[tokio::test]
async fn copy_both_ways_and_notifications() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let _calm = CLUSTERS.read().await;
    let pgferry = Start::new(BINARY).serve(&kubeconfig).await;
    value(&pgferry, &["shop.prod", "-c", "drop table if exists copied; create table copied (id int, text text)"]).await;
    let rows = pgferry.home().join("rows");
    let text = (0..50_000).fold(String::new(), |text, n| text + &format!("{n}\trow {n}\n"));
    std::fs::write(&rows, &text).unwrap();
    let rows = rows.to_str().unwrap();
    value(&pgferry, &["shop.prod", "-c", &format!("\\copy copied from '{rows}'")]).await;
    let back = format!("{rows}.back");
    value(&pgferry, &["shop.prod", "-c", &format!("\\copy (select * from copied order by id) to '{back}'")]).await;
    assert_eq!(std::fs::read_to_string(&back).unwrap(), text);
    value(&pgferry, &["shop.prod", "-c", "drop table copied"]).await;
    let mut listener = pgferry.connect("app", "shop.prod").await.unwrap();
    listener.query("listen e2e").await.unwrap();
    value(&pgferry, &["shop.prod", "-c", "notify e2e, 'hello'"]).await;
    assert_eq!(timeout(Duration::from_secs(10), listener.next()).await.unwrap().unwrap().unwrap().tag, 'A');
}

/// Seconds from Ctrl-C to psql's end.
async fn interrupted(mut psql: Command) -> f32 {
    let mut child = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"select 'begun';\nselect pg_sleep(60);\n").await.unwrap();
    let mut begun = [0; 5];
    tokio::io::AsyncReadExt::read_exact(child.stdout.as_mut().unwrap(), &mut begun).await.unwrap();
    // The sleep follows the first answer at once; nothing on this side says when the server has it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let started = Instant::now();
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let output = child.wait_with_output().await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("canceling statement due to user request"), "{error}");
    started.elapsed().as_secs_f32()
}

#[tokio::test]
async fn ctrl_c_is_as_quick_as_directly() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let _calm = CLUSTERS.read().await;
    let pgferry = Start::new(BINARY).serve(&kubeconfig).await;
    let pod = kubectl(&["get", "pod", "-n", "prod", "ledger-1", "-o", "jsonpath={.status.podIP}"]).await;
    let password = kubectl(&[
        "get",
        "secret",
        "-n",
        "prod",
        "ledger-clerk",
        "-o",
        "go-template={{.data.password | base64decode}}",
    ])
    .await;
    proto_tests::secrets::remember(&password);
    let mut direct = Command::new("psql");
    direct.args(["-XAt", &format!("host={pod} user=clerk dbname=books")]).env("PGPASSWORD", password);
    let direct = interrupted(direct).await;
    let mut through = Command::new("psql");
    through.args(["-XAt", "-h", "localhost", "-p", &pgferry.address().port().to_string(), "ledger"]);
    let through = interrupted(through).await;
    say(&format!("Ctrl-C to the end: directly {direct:.3} s, through pgferry {through:.3} s"));
    assert!(through <= direct + 0.5, "directly {direct} s, through pgferry {through} s");
}

/// What a migration tool does: an advisory lock on one connection, DDL in a transaction on another.
#[tokio::test]
async fn the_habits_of_migration_tools() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let _calm = CLUSTERS.read().await;
    let pgferry = Start::new(BINARY).serve(&kubeconfig).await;
    let mut lock = pgferry.connect("app", "shop.prod").await.unwrap();
    let mut work = pgferry.connect("app", "shop.prod").await.unwrap();
    assert_eq!(lock.value("select pg_try_advisory_lock(4711)").await.unwrap(), "t");
    assert_eq!(work.value("select pg_try_advisory_lock(4711)").await.unwrap(), "f");
    work.query("begin").await.unwrap();
    work.query("create table if not exists migrations (version int primary key)").await.unwrap();
    work.query("insert into migrations values (1) on conflict do nothing").await.unwrap();
    assert_eq!(work.query("create table migrations (x int)").await.unwrap_err().code, "42P07");
    work.query("rollback").await.unwrap();
    assert_eq!(work.value("select to_regclass('migrations') is null").await.unwrap(), "t");
    assert_eq!(lock.value("select pg_advisory_unlock(4711)").await.unwrap(), "t");
    let config = format!("host=127.0.0.1 port={} user=app@shop.prod dbname=app", pgferry.address().port());
    let (client, connection) = tokio_postgres::connect(&config, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    assert_eq!(client.query_one("select $1::text", &[&"ü"]).await.unwrap().get::<_, String>(0), "ü");
    drop(client);
    connection.await.unwrap().unwrap();
}

/// A `ServiceAccount` that may not read custom resources, list Secrets, or look beyond its namespace.
#[tokio::test]
async fn a_restricted_service_account() {
    let Some(admin) = kubeconfig() else { return };
    let _calm = CLUSTERS.read().await;
    let name = format!("pgferry-e2e-{}", std::process::id());
    let verbs = "--verb=get,list,watch";
    kubectl(&["create", "serviceaccount", "-n", "prod", &name]).await;
    kubectl(&["create", "role", "-n", "prod", &name, verbs, "--resource=pods"]).await;
    let secrets = format!("{name}-secrets");
    kubectl(&["create", "role", "-n", "prod", &secrets, "--verb=get", "--resource=secrets"]).await;
    let forward = format!("{name}-forward");
    kubectl(&["create", "role", "-n", "prod", &forward, "--verb=get", "--resource=pods/portforward"]).await;
    let account = format!("--serviceaccount=prod:{name}");
    for role in [&name, &secrets, &forward] {
        kubectl(&["create", "rolebinding", "-n", "prod", role, &format!("--role={role}"), &account]).await;
    }
    let token = kubectl(&["create", "token", "-n", "prod", &name]).await;
    proto_tests::secrets::remember(&token);
    let directory = tempfile::tempdir().unwrap();
    let limited = directory.path().join("kubeconfig");
    let server = kubectl(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"]).await;
    let authority = kubectl(&[
        "config",
        "view",
        "--minify",
        "--raw",
        "--flatten",
        "-o",
        "jsonpath={.clusters[0].cluster.certificate-authority-data}",
    ])
    .await;
    let text = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "limited",
        "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "limited", "context": {"cluster": "c", "user": "u", "namespace": "prod"}}],
    });
    std::fs::write(&limited, text.to_string()).unwrap();
    let pgferry = Start::new(BINARY).serve(&limited).await;
    let (ok, text) = psql(&pgferry, &["shop.prod", "-c", "select 1"]).await;
    assert!(!ok && text.contains("create pods/portforward in namespace prod"), "{text}");
    assert!(text.contains("kubectl auth can-i create pods/portforward -n prod --context 'limited'"), "{text}");
    let both = r#"{"rules": [{"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["create", "get"]}]}"#;
    kubectl(&["patch", "role", "-n", "prod", &forward, "--type=merge", "-p", both]).await;
    // RBAC is cached by the API server for a moment.
    let works = async { while !psql(&pgferry, &["shop", "-c", "select 1"]).await.0 {} };
    timeout(Duration::from_secs(30), works).await.expect("the right is there");
    assert_eq!(value(&pgferry, &["shop:ro", "-c", "select pg_is_in_recovery()"]).await, "t");
    let (ok, text) = psql(&pgferry, &["shop.staging", "-c", "select 1"]).await;
    assert!(!ok && text.contains("list pods in namespace staging"), "{text}");
    // A custom Secret cannot be guessed without the right to read the cluster's resource: the error names what is.
    let (ok, text) = psql(&pgferry, &["ledger", "-c", "select 1"]).await;
    assert!(!ok && text.contains("Secret prod/ledger-app"), "{text}");
    let (code, out, err) = Start::new(BINARY).args(["list", "-o", "name", "--kubeconfig"]).arg(&limited).run().await;
    assert!(code == 0 && out.contains("shop.prod") && err.contains("verbs: [list]"), "{out}{err}");
    for role in [name.clone(), secrets, forward] {
        kubectl(&["delete", "-n", "prod", "role,rolebinding", &role]).await;
    }
    kubectl(&["delete", "-n", "prod", "serviceaccount", &name]).await;
    drop(admin);
}
