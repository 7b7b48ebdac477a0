//! Failover and switchover of the real CloudNativePG, under idle sessions, transactions and load.

use std::{process::Stdio, time::Duration};

use proto_tests::{
    subject::{Start, Subject},
    wire::Wire,
};
use tokio::{
    process::Command,
    sync::watch,
    time::{Instant, timeout},
};

use super::{BINARY, CLUSTERS, kubeconfig, kubectl, run, say};

/// The primary of `shop.prod`, as its operator says.
async fn primary() -> String {
    kubectl(&["get", "cluster", "-n", "prod", "shop", "-o", "jsonpath={.status.currentPrimary}"]).await
}

/// Waits until both instances of `shop.prod` are healthy and the replica follows: one that is ready and does not follow
/// yet cannot take over, and the operator waits for the old primary instead.
async fn healthy() {
    let phase = ["get", "cluster", "-n", "prod", "shop", "-o", "jsonpath={.status.phase} {.status.readyInstances}"];
    while kubectl(&phase).await != "Cluster in healthy state 2" {}
    let following = "select count(*) from pg_stat_replication where state = 'streaming'";
    loop {
        let primary = primary().await;
        let psql = ["exec", "-n", "prod", &primary, "-c", "postgres", "--", "psql", "-XAtc", following];
        // The server may be about to restart.
        if run("kubectl", &psql).await == (true, "1".to_owned()) {
            return;
        }
    }
}

/// The password of `shop.prod`'s application, for those who go there without pgferry.
async fn app_password() -> String {
    let password = "go-template={{.data.password | base64decode}}";
    kubectl(&["get", "secret", "-n", "prod", "shop-app", "-o", password]).await
}

/// The other instance of `shop.prod`.
async fn other_than(primary: &str) -> String {
    let instances = "cnpg.io/cluster=shop,cnpg.io/podRole=instance";
    let all = kubectl(&["get", "pods", "-n", "prod", "-l", instances, "-o", "name"]).await;
    let mut others = all.lines().filter_map(|name| name.strip_prefix("pod/")).filter(|name| *name != primary);
    others.next().expect("another instance").to_owned()
}

/// What `kubectl cnpg promote` does.
async fn switch_over(to: &str) {
    let patch = format!("{{\"status\":{{\"targetPrimary\":\"{to}\"}}}}");
    kubectl(&["patch", "cluster", "-n", "prod", "shop", "--subresource=status", "--type=merge", "-p", &patch]).await;
}

/// How long until a login is on a primary that takes writes.
async fn next_primary(pgferry: &Subject, since: Instant) -> Duration {
    let next = async {
        loop {
            if let Ok(mut wire) = pgferry.connect("app", "shop.prod").await
                && wire.value("select pg_is_in_recovery()").await.as_deref() == Ok("f")
            {
                return since.elapsed();
            }
        }
    };
    timeout(Duration::from_mins(1), next).await.expect("a primary")
}

/// How long until one of these servers takes writes, as it says in its own pod.
async fn takes_writes(pods: [&str; 2], since: Instant) -> Duration {
    loop {
        for pod in pods {
            let ask =
                ["exec", "-n", "prod", pod, "-c", "postgres", "--", "psql", "-XAtc", "select pg_is_in_recovery()"];
            if run("kubectl", &ask).await == (true, "f".to_owned()) {
                return since.elapsed();
            }
        }
    }
}

/// A planned switchover waits for sessions as a deleted pod does, and a killed postmaster ends them all: either way the
/// next login is on a primary within ten seconds of there being one, with an idle session open. How soon there is one is
/// the operator's and the node's business: a container that was killed before is restarted after a pause.
#[tokio::test]
async fn a_switchover_and_a_killed_postmaster_are_over_in_seconds() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let _alone = CLUSTERS.write().await;
    for what in ["a planned switchover", "kill -9 of the postmaster"] {
        timeout(Duration::from_mins(3), healthy()).await.expect("both instances");
        let pgferry = Start::new(BINARY).serve(&kubeconfig).await;
        let mut idle = pgferry.connect("app", "shop.prod").await.unwrap();
        let before = primary().await;
        let other = other_than(&before).await;
        let started = Instant::now();
        if what.starts_with("kill") {
            let kill = "kill -9 $(head -1 /var/lib/postgresql/data/pgdata/postmaster.pid)";
            kubectl(&["exec", "-n", "prod", &before, "-c", "postgres", "--", "sh", "-c", kill]).await;
        } else {
            switch_over(&other).await;
        }
        let said = timeout(Duration::from_secs(30), idle.next()).await.expect("an end").unwrap().expect("a word");
        assert!(["57P01", "57P02", "08006"].contains(&said.fields().code.as_str()), "{:?}", said.fields());
        let (took, there) = tokio::join!(next_primary(&pgferry, started), takes_writes([&before, &other], started));
        let (seconds, direct) = (took.as_secs_f32(), there.as_secs_f32());
        say(&format!(
            "an idle session and {what}: the next login on a primary after {seconds:.1} s, there after {direct:.1} s"
        ));
        assert!(took < there + Duration::from_secs(10), "{what}: {took:?}, there after {there:?}");
    }
    timeout(Duration::from_mins(3), healthy()).await.expect("both instances");
}

/// PostgreSQL waits for idle sessions when its pod is deleted, and the operator for PostgreSQL: with one idle psql
/// through kubectl's port-forward the cluster has no primary for three minutes. Through pgferry it has one at once.
#[tokio::test]
async fn an_idle_session_holds_up_no_failover() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let _alone = CLUSTERS.write().await;
    timeout(Duration::from_mins(2), healthy()).await.expect("both instances");
    let pgferry = Start::new(BINARY).serve(&kubeconfig).await;
    let mut idle = pgferry.connect("app", "shop.prod").await.unwrap();
    let before = primary().await;
    let started = Instant::now();
    kubectl(&["delete", "pod", "-n", "prod", &before, "--wait=false"]).await;
    let said = timeout(Duration::from_secs(10), idle.next()).await.expect("an end").unwrap().expect("a word");
    assert_eq!(said.fields().code, "57P01", "{:?}", said.fields());
    let through = next_primary(&pgferry, started).await;
    assert_ne!(primary().await, before);
    say(&format!(
        "an idle session and a deleted primary: the next login on the new one after {:.1} s",
        through.as_secs_f32()
    ));
    assert!(through < Duration::from_secs(10), "{through:?}");
    drop(pgferry);

    timeout(Duration::from_mins(3), healthy()).await.expect("both instances");
    let before = primary().await;
    let mut forward = Command::new("kubectl");
    forward
        .args(["port-forward", "-n", "prod", &format!("pod/{before}"), ":5432"])
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut forward = forward.spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(forward.stdout.take().unwrap());
    let mut line = String::new();
    tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut line).await.unwrap();
    let port: u16 = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
    let password = app_password().await;
    let mut idle = Wire::tcp(("127.0.0.1", port)).await.unwrap();
    idle.start_with_password(&[("user", "app"), ("database", "app")], &password).await.unwrap();
    kubectl(&["delete", "pod", "-n", "prod", &before, "--wait=false"]).await;
    let promoted = async {
        let labelled =
            ["get", "pod", "-n", "prod", "-l", "cnpg.io/cluster=shop,cnpg.io/instanceRole=primary", "-o", "name"];
        while kubectl(&labelled).await.lines().all(|name| name == format!("pod/{before}")) {}
    };
    let control = timeout(Duration::from_secs(30), promoted).await;
    assert!(control.is_err(), "the control: with kubectl's port-forward nothing is promoted for 30 s");
    say("the control, an idle session through kubectl port-forward: no new primary after 30 s");
    drop(idle);
    drop(forward);
    timeout(Duration::from_mins(4), healthy()).await.expect("both instances");
}

/// One idle session and one in a transaction, and the primary's pod is deleted under them.
#[tokio::test]
async fn a_deleted_primary_is_an_error_and_the_next_login_works() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let _alone = CLUSTERS.write().await;
    let pgferry = Start::new(BINARY).serve(&kubeconfig).await;
    let mut idle = pgferry.connect("app", "shop.staging").await.unwrap();
    kubectl(&["delete", "pod", "-n", "staging", "-l", "cnpg.io/cluster=shop", "--wait=false"]).await;
    let said = timeout(Duration::from_secs(30), idle.next()).await.expect("an end").unwrap().expect("a word");
    let fields = said.fields();
    assert!(said.tag == 'E' && ["57P01", "57P02", "08006"].contains(&fields.code.as_str()), "{fields:?}");
    let started = Instant::now();
    let again = async {
        loop {
            match pgferry.connect("app", "shop.staging").await {
                Ok(wire) => return wire,
                Err(fields) => assert!(["57P03", "08006", "08001"].contains(&fields.code.as_str()), "{fields:?}"),
            }
        }
    };
    let mut wire: Wire = timeout(Duration::from_mins(2), again).await.expect("the pod comes back");
    assert_eq!(wire.value("select 1").await.unwrap(), "1");
    say(&format!("a single instance's pod deleted: the next login after {:.1} s", started.elapsed().as_secs_f32()));
}

/// pgbench that connects anew for each transaction, begun again when it gives up; each transaction leaves a row with
/// its time.
async fn beats(way: &str, host: &str, port: &str, password: &str, stop: watch::Receiver<bool>) {
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(script.path(), format!("insert into beats (way) values ('{way}');\n")).unwrap();
    let file = script.path().to_str().unwrap().to_owned();
    let database = if way == "pgferry" { "shop.prod/app" } else { "app" };
    while !*stop.borrow() {
        let mut pgbench = Command::new("pgbench");
        pgbench.args(["-n", "-C", "-c", "2", "-T", "3", "-f", &file, "-h", host, "-p", port, "-U", "app", database]);
        pgbench.env("PGPASSWORD", password).env("PGCONNECT_TIMEOUT", "2").stdin(Stdio::null());
        // Giving up is what it does at a switchover; the rows tell how long.
        pgbench.output().await.expect("pgbench");
    }
}

/// A planned switchover under load: the longest time without a committed transaction, through pgferry and straight at
/// the Service, at the same time.
#[tokio::test]
async fn a_switchover_under_load() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let _alone = CLUSTERS.write().await;
    timeout(Duration::from_mins(3), healthy()).await.expect("both instances");
    let pgferry = Start::new(BINARY).serve(&kubeconfig).await;
    let mut wire = pgferry.connect("app", "shop.prod").await.unwrap();
    wire.query("drop table if exists beats; create table beats (at timestamptz default clock_timestamp(), way text)")
        .await
        .unwrap();
    drop(wire);
    let password = app_password().await;
    let service = kubectl(&["get", "service", "-n", "prod", "shop-rw", "-o", "jsonpath={.spec.clusterIP}"]).await;
    let port = pgferry.address().port().to_string();
    let before = primary().await;
    let other = other_than(&before).await;
    let (stop, stopped) = watch::channel(false);
    let switch = async {
        // Both ways are under way, and the replica follows: one that does not would lose them.
        let counted = async {
            loop {
                let count = "select count(distinct way) from beats";
                if let Ok(mut wire) = pgferry.connect("app", "shop.prod:ro").await
                    && wire.value(count).await.is_ok_and(|count| count == "2")
                {
                    return;
                }
            }
        };
        timeout(Duration::from_mins(2), counted).await.expect("both ways");
        switch_over(&other).await;
        let switched = async { while primary().await != other {} };
        timeout(Duration::from_mins(2), switched).await.expect("the other instance");
        timeout(Duration::from_mins(3), healthy()).await.expect("both instances");
        let _ = stop.send(true);
    };
    tokio::join!(
        beats("pgferry", "localhost", &port, "", stopped.clone()),
        beats("directly", &service, "5432", &password, stopped),
        switch,
    );
    assert_eq!(primary().await, other);
    let mut wire = pgferry.connect("app", "shop.prod").await.unwrap();
    let gap = "select max(gap) from (select extract(epoch from at - lag(at) over (partition by way order by at)) gap \
               from beats where way = 'WAY') gaps";
    let through: f64 = wire.value(&gap.replace("WAY", "pgferry")).await.unwrap().parse().unwrap();
    let directly: f64 = wire.value(&gap.replace("WAY", "directly")).await.unwrap().parse().unwrap();
    say(&format!(
        "a switchover under load: the longest time without service directly {directly:.1} s, through pgferry {through:.1} s"
    ));
    wire.query("drop table beats").await.unwrap();
    assert!(through < directly + 10.0, "directly {directly} s, through pgferry {through} s");
}
