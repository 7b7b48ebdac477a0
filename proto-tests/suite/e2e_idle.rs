//! A container runtime that ends streams on which no data passes: after four hours as it comes, after
//! `PGFERRY_E2E_STREAM_IDLE` (such as `4s`) where a test has set it up so. Without that variable there is nothing to see.

use std::time::Duration;

use proto_tests::subject::{Start, Subject};
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
