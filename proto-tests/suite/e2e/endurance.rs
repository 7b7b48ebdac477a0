//! A day in small: churn, failovers and rotations for as many minutes as `PGFERRY_ENDURANCE` says, and at the end the
//! memory and the descriptors of the beginning.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use proto_tests::{
    cnpg::encoded,
    secrets,
    subject::{Start, Subject},
};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::{BINARY, CLUSTERS, kubeconfig, kubectl, say};

/// Between two connects.
const PACE: Duration = Duration::from_millis(100);
/// Between two failovers, and between two rotations.
const FAILOVER: Duration = Duration::from_mins(5);
const ROTATION: Duration = Duration::from_mins(7);
/// Sessions that stay.
const IDLE: usize = 20;
/// How long after a disturbance errors are what one expects.
const DISTURBED: Duration = Duration::from_secs(30);

/// What came of the connects.
#[derive(Default)]
struct Tally {
    good: u64,
    /// By SQLSTATE.
    disturbed: BTreeMap<String, u64>,
    /// Far from any disturbance.
    unexpected: Vec<String>,
    slowest: Duration,
    disturbance: Option<Instant>,
}

struct Size {
    rss_kib: u64,
    descriptors: usize,
}

/// One connect, one query.
async fn once(pgferry: Arc<Subject>, tally: Arc<Mutex<Tally>>) {
    let started = Instant::now();
    let outcome = async {
        let mut wire = pgferry.connect("app", "shop.prod").await?;
        wire.value("select 1").await
    };
    let outcome = outcome.await;
    let mut tally = tally.lock().unwrap();
    match outcome {
        Ok(_) => {
            tally.good += 1;
            tally.slowest = tally.slowest.max(started.elapsed());
        }
        Err(fields) if tally.disturbance.is_some_and(|at| at.elapsed() < DISTURBED) => {
            *tally.disturbed.entry(fields.code).or_default() += 1;
        }
        Err(fields) => tally.unexpected.push(format!("{fields:?}")),
    }
}

/// Sessions that do nothing, opened again when they end.
async fn idle(pgferry: Arc<Subject>) {
    loop {
        if let Ok(mut wire) = pgferry.connect("app", "shop.prod").await {
            // Until the server, or pgferry on its behalf, ends it.
            while let Ok(Some(_)) = wire.next().await {}
        }
        sleep(PACE).await;
    }
}

async fn fail_over() {
    let primary = ["get", "cluster", "-n", "prod", "shop", "-o", "jsonpath={.status.currentPrimary}"];
    let primary = kubectl(&primary).await;
    kubectl(&["delete", "pod", "-n", "prod", &primary, "--wait=false"]).await;
}

async fn rotate() {
    let password = secrets::make("rotated");
    let patch = format!("{{\"data\":{{\"password\":\"{}\"}}}}", encoded(&password));
    kubectl(&["patch", "secret", "-n", "prod", "shop-app", "--type=merge", "-p", &patch]).await;
}

/// Disturbs the cluster again and again.
async fn disturb(tally: Arc<Mutex<Tally>>, every: Duration, first: Duration, rotation: bool) {
    let mut at = Instant::now() + first;
    loop {
        sleep_until(at).await;
        at += every;
        tally.lock().unwrap().disturbance = Some(Instant::now());
        if rotation {
            rotate().await;
        } else {
            fail_over().await;
        }
        tally.lock().unwrap().disturbance = Some(Instant::now());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endurance() {
    let minutes = std::env::var("PGFERRY_ENDURANCE").ok().and_then(|minutes| minutes.parse::<u64>().ok());
    let (Some(kubeconfig), Some(minutes)) = (kubeconfig(), minutes) else { return };
    let _alone = CLUSTERS.write().await;
    let pgferry = Arc::new(Start::new(BINARY).serve(&kubeconfig).await);
    let tally = Arc::new(Mutex::new(Tally::default()));
    let mut tasks: Vec<_> = (0..IDLE).map(|_| tokio::spawn(idle(Arc::clone(&pgferry)))).collect();
    tasks.push(tokio::spawn(disturb(Arc::clone(&tally), FAILOVER, Duration::from_mins(2), false)));
    tasks.push(tokio::spawn(disturb(Arc::clone(&tally), ROTATION, Duration::from_mins(4), true)));
    let started = Instant::now();
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sizes: Vec<Size> = Vec::new();
    while started.elapsed() < Duration::from_mins(minutes) {
        pace.tick().await;
        tokio::spawn(once(Arc::clone(&pgferry), Arc::clone(&tally)));
        if started.elapsed() >= Duration::from_mins(sizes.len() as u64 + 1) {
            let size = Size { rss_kib: pgferry.resident(), descriptors: pgferry.descriptors() };
            let tally = tally.lock().unwrap();
            say(&format!(
                "minute {}: {} connects, errors while disturbed {:?}, else {}, slowest {:.1} s; RSS {} KiB, {} descriptors",
                sizes.len() + 1,
                tally.good,
                tally.disturbed,
                tally.unexpected.len(),
                tally.slowest.as_secs_f32(),
                size.rss_kib,
                size.descriptors
            ));
            drop(tally);
            sizes.push(size);
        }
    }
    for task in tasks {
        task.abort();
    }
    let tally = tally.lock().unwrap();
    assert!(tally.unexpected.is_empty(), "{:#?}", tally.unexpected);
    let (first, last) = (sizes.first().unwrap(), sizes.last().unwrap());
    // What a connect leaves behind would have added up thousands of times.
    assert!(
        last.rss_kib < first.rss_kib + first.rss_kib / 4 + 8192,
        "RSS {} KiB, then {} KiB",
        first.rss_kib,
        last.rss_kib
    );
    assert!(last.descriptors < first.descriptors + 40, "descriptors {}, then {}", first.descriptors, last.descriptors);
}
