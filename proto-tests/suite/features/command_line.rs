//! `pgferry list`, `pgferry config`, `pgferry hash-password`, completions and help.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
};

use pgferry::auth::client::Verifier;
use proto_tests::{
    cnpg::Cluster,
    postgres::{PostgresServer, Setup},
    subject::Start,
};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio_postgres::error::SqlState;

use crate::support::{BINARY, World};

async fn list(world: &World, args: &[&str]) -> (i32, String, String) {
    Start::new(BINARY).arg("list").arg("--kubeconfig").arg(world.api.kubeconfig()).args(args).run().await
}

#[tokio::test]
async fn list_shows_what_can_be_reached() {
    let world = World::reading().await;
    let asleep = Cluster::new(&world.api, ("staging", "asleep"), &world.password, &[]);
    asleep.annotate("cnpg.io/hibernation", "on");
    let (code, out, err) = list(&world, &[]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    for part in [
        "CLUSTER",
        "shop",
        "prod",
        "cloudnative-pg",
        "shop-1",
        "asleep",
        "hibernated",
        "Context fake",
        "psql -h localhost -p 10000 shop.prod",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let (_, out, _) = list(&world, &["--output", "json"]).await;
    let all: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        all["clusters"][0],
        json!({
            "name": "shop", "namespace": "prod", "context": "fake", "system": "cloudnative-pg", "primary": "shop-1",
            "ready": true, "status": "ready", "replicas": {"ready": 0, "total": 0}, "databases": ["app"], "roles": ["app"],
            "logins": [],
        })
    );
    assert_eq!(list(&world, &["-o", "name"]).await.1, "shop.prod\nasleep.staging\n");
    assert_eq!(list(&world, &["-o", "name", "-n", "staging"]).await.1, "asleep.staging\n");
    assert_eq!(world.api.count("get", "secrets"), 0, "it reads no operator's Secrets");
    // What is told is to be typed as it stands: with the port that is in force.
    let list = Start::new(BINARY).env("PGFERRY__LISTEN__PORT", "21102").args(["list", "--kubeconfig"]);
    let (_, out, _) = list.arg(world.api.kubeconfig()).run().await;
    assert!(out.contains("psql -h localhost -p 21102 shop.prod"), "{out}");
}

#[tokio::test]
async fn list_reads_page_by_page() {
    let world = World::reading().await;
    for number in 0..25 {
        Cluster::new(&world.api, ("many", &format!("c{number:02}")), &world.password, &[world.server.address()]);
    }
    world.api.page(10);
    let (_, out, _) = list(&world, &["-o", "name"]).await;
    assert_eq!(out.lines().count(), 26);
    let pages =
        world.api.requests().into_iter().filter(|request| request.resource == "clusters" && request.status == 200);
    assert_eq!(pages.count(), 3);
}

#[tokio::test]
async fn list_with_few_rights_names_the_missing_ones() {
    let world = World::reading().await;
    world.api.deny(None, "list", "clusters", None);
    let (code, out, err) = list(&world, &[]).await;
    assert_eq!(code, 0);
    assert!(out.contains("shop"), "the pods' labels tell: {out}");
    assert!(err.contains("warning: Kubernetes does not allow you to list clusters"), "{err}");
    assert!(err.contains("verbs: [list]"), "{err}");
    // What is missing in the same place is one rule.
    for resource in ["services", "statefulsets", "secrets"] {
        world.api.deny(None, "list", resource, None);
    }
    let (_, _, err) = list(&world, &[]).await;
    assert_eq!(err.lines().filter(|line| line.starts_with("warning")).count(), 1, "{err}");
    assert!(err.contains("resources: [\"clusters\", \"statefulsets\", \"services\", \"secrets\"]"), "{err}");
}

#[tokio::test]
async fn list_fails_with_a_reason() {
    let world = World::reading().await;
    world.api.revoke(world.api.token());
    let (code, out, err) = list(&world, &[]).await;
    assert_eq!((code, out.as_str()), (69, ""));
    assert!(err.contains("expired") && err.contains("HINT:"), "{err}");
}

#[tokio::test]
async fn config_shows_every_value_and_its_origin() {
    let world = World::reading().await;
    let file = world.api.write("config.toml", "[sessions]\ndrain = \"3s\"\n");
    let start = Start::new(BINARY).args(["config", "--namespace", "prod", "--config"]).arg(&file);
    let (code, out, _) = start.env("PGFERRY__LISTEN__PORT", "10001").run().await;
    assert_eq!(code, 0);
    for line in [
        "listen.port = \"10001\"  # PGFERRY__LISTEN__PORT".to_owned(),
        format!("sessions.drain = \"3s\"  # {}", file.display()),
        "kubernetes.namespace = \"prod\"  # --namespace".to_owned(),
        "sessions.max_connections = 1000  # default".to_owned(),
    ] {
        assert!(out.contains(&line), "{line}: {out}");
    }
}

#[tokio::test]
async fn wrong_settings_and_wrong_usage_have_their_own_exit_codes() {
    let (code, _, err) = Start::new(BINARY).args(["serve", "--drain", "soon"]).run().await;
    assert_eq!(code, 78, "{err}");
    assert!(err.contains("drain"), "{err}");
    let (code, _, err) = Start::new(BINARY).args(["serve", "--log", "a=b=c"]).run().await;
    assert_eq!(code, 78, "{err}");
    assert_eq!(Start::new(BINARY).args(["serve", "--prt", "1"]).run().await.0, 2);
    assert_eq!(Start::new(BINARY).run().await.0, 2);
}

/// A bad alias was an error to the client that used it, hours later; `--log verbose` was a filter for a module of that name,
/// and the log was silent.
#[tokio::test]
async fn settings_that_cannot_work_are_refused_at_the_start() {
    let world = World::reading().await;
    for (name, text, part) in [
        (
            "target.toml",
            "[names.aliases]\nreports = \"Shop/books\"\n",
            "names.aliases.\"reports\": \"Shop\" does not name a cluster",
        ),
        ("mode.toml", "[names.aliases]\nx = { target = \"shop:xx\", system = \"service\" }\n", "unknown mode \"xx\""),
        ("never.toml", "[names.aliases]\n\"\" = \"shop\"\n", "no client can ask for the database \"\""),
        (
            "bound.toml",
            "[listen.bindings]\n10001 = \"Shop\"\n",
            "listen.bindings.10001: \"Shop\" does not name a cluster",
        ),
        ("log.toml", "[log]\nfilter = \"verbose\"\n", "\"verbose\" is no log filter: it lets nothing through"),
    ] {
        let file = world.api.write(name, text);
        let (code, _, err) = Start::new(BINARY).args(["serve", "--port", "0", "--config"]).arg(file).run().await;
        assert_eq!(code, 78, "{name}: {err}");
        assert!(err.contains(part), "{name}: {err}");
    }
}

/// `cannot listen on ...: Permission denied (os error 13): Permission denied (os error 13)`
#[tokio::test]
async fn an_error_is_told_once() {
    let world = World::reading().await;
    let file = world.api.write("a-file", "");
    let below = file.join("below");
    let (code, _, err) = Start::new(BINARY).args(["serve", "--port", "0", "--socket-dir"]).arg(below).run().await;
    assert_eq!((code, err.matches("Not a directory").count()), (69, 1), "{err}");
    let (code, _, err) = Start::new(BINARY).args(["serve", "--config"]).arg(world.api.directory()).run().await;
    assert_eq!((code, err.matches("Is a directory").count()), (78, 1), "{err}");
}

#[tokio::test]
async fn help_and_completions() {
    let (code, out, _) = Start::new(BINARY).arg("--help").run().await;
    assert_eq!(code, 0);
    for part in ["pgferry serve", "psql -h localhost -p 10000 shop", "user=app@shop.prod", "PGFERRY__LISTEN__PORT"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = Start::new(BINARY).args(["completions", shell]).run().await;
        assert!(code == 0 && out.contains("socket-dir"), "{shell}");
    }
}

/// Exit code, standard output, standard error.
async fn hash_password(line: &[u8]) -> (i32, String, String) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(line).unwrap();
    file.rewind().unwrap();
    Start::new(BINARY).arg("hash-password").stdin(file).run().await
}

/// PostgreSQL itself takes it as a password, and lets in by it.
#[tokio::test]
async fn a_verifier_is_one_for_postgresql_too() {
    let (code, out, err) = hash_password("Gr\u{fc}\u{df}e, 'secret'\nand more\n".as_bytes()).await;
    assert_eq!((code, out.lines().count()), (0, 1), "{err}");
    assert!(err.contains("[auth.logins.NAME] verifier = "), "{err}");
    let verifier = out.trim_end();
    assert!(verifier.parse::<Verifier>().is_ok(), "{verifier}");
    let server = PostgresServer::start(Setup::new(17).application("hashed", verifier, "app")).await.unwrap();
    let log_in = async |password: &str| {
        let mut config = tokio_postgres::Config::new();
        config.host(server.address().ip().to_string()).port(server.address().port()).user("hashed").dbname("app");
        config.password(password).connect(tokio_postgres::NoTls).await.map(|_| ())
    };
    log_in("Gr\u{fc}\u{df}e, 'secret'").await.expect("let in");
    assert_eq!(log_in("Gr\u{fc}\u{df}e").await.unwrap_err().code().map(SqlState::code), Some("28P01"));
}

#[tokio::test]
async fn passwords_that_cannot_be_hashed() {
    for (line, why) in [
        (&b"\n"[..], "the password is empty"),
        (b"", "the password is empty"),
        (b"\xff\n", "not valid UTF-8"),
        (b"a\0b\n", "a zero byte"),
        (&[b'x'; 5000], "longer than 1024 bytes"),
    ] {
        let (code, out, err) = hash_password(line).await;
        assert!(code == 65 && out.is_empty() && err.contains(why), "{why}: {code} {err}");
    }
    // Whoever looks at the processes would see it.
    let (code, _, err) = Start::new(BINARY).args(["hash-password", "secret"]).run().await;
    assert_eq!(code, 2, "{err}");
}

/// A person at a terminal types it twice, and sees nothing of it.
#[tokio::test]
async fn a_password_is_typed_unseen() {
    for (second, code) in [("secret\r", 0), ("other\r", 65), ("\u{3}", 65)] {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let terminal = ptsname(&keyboard, Vec::new()).unwrap().into_string().unwrap();
        let terminal = OpenOptions::new().read(true).write(true).open(terminal).unwrap();
        let mut keyboard = File::from(keyboard);
        let mut child = Start::new(BINARY).arg("hash-password").stdin(terminal.try_clone().unwrap()).spawn();
        let mut prompts = child.stderr.take().unwrap();
        for (prompt, keys) in [("Password: ", "secrt\u{7f}et\r"), ("The same again: ", second)] {
            let mut said = String::new();
            while !said.ends_with(prompt) {
                said.push(char::from(prompts.read_u8().await.unwrap()));
            }
            keyboard.write_all(keys.as_bytes()).unwrap();
        }
        let output = child.wait_with_output().await.unwrap();
        assert_eq!(output.status.code(), Some(code), "{second:?}");
        let verifier = String::from_utf8(output.stdout).unwrap();
        assert_eq!(verifier.trim_end().parse::<Verifier>().is_ok(), code == 0, "{verifier}");
        // The terminal shows again what is typed, and has shown nothing until now.
        keyboard.write_all(b"x").unwrap();
        let mut shown = [0; 10];
        let count = keyboard.read(&mut shown).unwrap();
        assert_eq!(&shown[..count], b"x");
    }
}
