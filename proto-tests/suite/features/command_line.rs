//! `pgferry list`, `pgferry config`, completions and help.

use proto_tests::{cnpg::Cluster, subject::Start};
use serde_json::{Value, json};

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
