//! It lasts: sleep, other networks, API servers that go and come back, kubeconfigs that are replaced.

use std::{fs, time::Duration};

use proto_tests::{kubernetes::proxies::Harm, subject::Subject};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::support::World;

/// What a person takes for "at once".
const AT_ONCE: Duration = Duration::from_secs(2);

/// A first query over a new connection, and how long that took.
async fn first_query(pgferry: &Subject) -> Duration {
    let started = Instant::now();
    let mut wire = pgferry.connect("pgferry", "shop").await.unwrap();
    assert_eq!(wire.value("select 1").await.unwrap(), "1");
    started.elapsed()
}

/// Waits until the kernel has stopped it.
async fn stopped(pgferry: &Subject) {
    pgferry.signal(Signal::STOP);
    let state = || fs::read_to_string(format!("/proc/{}/stat", pgferry.pid())).unwrap();
    while !state().contains(") T ") {
        tokio::task::yield_now().await;
    }
}

/// hyper reuses idle connections. One that was blackholed while the lid was closed, or the VPN away, cost the first
/// connect the whole request timeout, ten seconds.
#[tokio::test]
async fn the_first_connect_after_a_stop_or_a_network_change_works_at_once() {
    let world = World::new().await;
    for (what, stop, harm) in [
        ("connections cut while it was stopped", true, Harm::Cut),
        ("connections blackholed while it was stopped", true, Harm::Blackhole),
        ("connections cut", false, Harm::Cut),
        ("connections blackholed", false, Harm::Blackhole),
    ] {
        let (relay, pgferry) = world.relayed("").await;
        let warm = first_query(&pgferry).await.min(first_query(&pgferry).await);
        if stop {
            stopped(&pgferry).await;
        }
        relay.harm(harm);
        if stop {
            pgferry.signal(Signal::CONT);
        }
        let first = first_query(&pgferry).await;
        let second = first_query(&pgferry).await;
        println!("{what}: before {warm:.0?}, the first after it {first:.0?}, the second {second:.0?}");
        assert!(first < AT_ONCE && second < AT_ONCE, "{what}: {first:?}, {second:?}");
    }
}
