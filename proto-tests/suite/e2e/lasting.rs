//! What sessions outlast on the real Kubernetes, where a test has set it up so:
//!
//! - `PGFERRY_E2E_STREAM_IDLE` (such as `4s`): a container runtime that ends streams on which no data passes. It comes
//!   with four hours.
//! - `PGFERRY_E2E_ETCD`: the process number of etcd, which is stopped for some seconds.

use std::time::Duration;

use proto_tests::subject::{Start, Subject};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, timeout};

use super::{BINARY, CLUSTERS, kubeconfig, say};

/// A pgferry that pings every second, and reminds the node of quiet streams as told.
async fn reminding(kubeconfig: &std::path::Path, after: &str) -> Subject {
    Start::new(BINARY)
        .env("PGFERRY__KUBERNETES__PING_AFTER", "1s")
        .env("PGFERRY__KUBERNETES__REMIND_AFTER", after)
        .serve(kubeconfig)
        .await
}

#[tokio::test]
async fn a_quiet_session_outlives_the_runtimes_idle_limit() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let Ok(limit) = std::env::var("PGFERRY_E2E_STREAM_IDLE") else {
        return say("PGFERRY_E2E_STREAM_IDLE is not set: the runtime's own limit is four hours");
    };
    let limit = humantime::parse_duration(&limit).expect("a duration");
    let _calm = CLUSTERS.read().await;
    let (ours, control) = (reminding(&kubeconfig, "1s").await, reminding(&kubeconfig, "1h").await);
    let mut quiet = ours.connect("app", "shop.prod").await.unwrap();
    let began = Instant::now();
    for _ in 0..3 {
        // Pings alone keep nothing alive: the runtime does not count them.
        let mut forgotten = control.connect("app", "shop.prod").await.unwrap();
        let since = Instant::now();
        timeout(limit + Duration::from_mins(1), forgotten.rest()).await.expect("it ends").ok();
        assert!(since.elapsed() + Duration::from_secs(1) > limit, "it ended for another reason");
    }
    say(&format!(
        "a quiet session through a runtime that ends silent streams after {limit:?}: alive after {:.1} s, the control \
         without reminders ended three times",
        began.elapsed().as_secs_f32()
    ));
    assert_eq!(quiet.value("select 1").await.as_deref(), Ok("1"));
}

/// A stopped process, which goes on when this is dropped.
struct Paused(Pid);

impl Paused {
    fn new(pid: Pid) -> Self {
        kill_process(pid, Signal::STOP).expect("stopped");
        Self(pid)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// An API server without its etcd accepts connections and answers nothing.
#[tokio::test]
async fn a_paused_etcd_ends_no_session_and_is_told_in_time() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let Ok(etcd) = std::env::var("PGFERRY_E2E_ETCD") else {
        return say("PGFERRY_E2E_ETCD is not set: there is no etcd to be stopped");
    };
    let etcd = etcd.trim().parse().ok().and_then(Pid::from_raw).expect("a process number");
    let _alone = CLUSTERS.write().await;
    let pgferry = Start::new(BINARY).env("PGFERRY__KUBERNETES__REQUEST_TIMEOUT", "3s").serve(&kubeconfig).await;
    let mut running = pgferry.connect("app", "shop.prod").await.unwrap();
    let paused = Paused::new(etcd);
    assert_eq!(running.value("select 1").await.as_deref(), Ok("1"));
    let since = Instant::now();
    let refused = timeout(Duration::from_secs(20), pgferry.connect("app", "shop.prod")).await.expect("an answer");
    let Err(refused) = refused else { panic!("connected without etcd") };
    assert_eq!(refused.code, "08006", "{refused:?}");
    assert!(refused.message.contains("did not answer"), "{refused:?}");
    let told = since.elapsed();
    assert_eq!(running.value("select 2").await.as_deref(), Ok("2"));
    drop(paused);
    let since = Instant::now();
    let again = async { while pgferry.connect("app", "shop.prod").await.is_err() {} };
    timeout(Duration::from_mins(1), again).await.expect("it works again");
    say(&format!(
        "a paused etcd: told after {:.1} s, connects again {:.1} s after it goes on",
        told.as_secs_f32(),
        since.elapsed().as_secs_f32()
    ));
    assert_eq!(running.value("select 3").await.as_deref(), Ok("3"));
}
