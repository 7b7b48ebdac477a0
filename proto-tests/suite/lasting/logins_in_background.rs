//! Logins to Kubernetes that nobody waits for: a watch asks a person once, and goes on when a client has logged in.

use std::{fs, time::Duration};

use tokio::time::timeout;

use crate::support::{World, plugin, runs, until};

/// A watch that nobody wakes tries again after 30 s, and no earlier.
const LONG_BEFORE: Duration = Duration::from_secs(20);

/// A watch whose login fails waits for a client's: not for a time, in which a failover would go unnoticed, and it asks
/// nobody meanwhile.
#[tokio::test]
async fn a_watch_waits_for_a_clients_login_and_asks_once() {
    let world = World::new().await;
    let token = world.api.user("dave");
    let user = plugin(&world.api, &token, "2099-01-01T00:00:00Z");
    let (_relay, mut pgferry) = world.relayed_as(user, "").await;
    let mut session = pgferry.connect("pgferry", "shop").await.unwrap();
    let watches = || world.api.count("watch", "pods");
    until("a watch", || watches() > 0).await;
    let _ = world.api.write("fail", "");
    world.api.revoke(&token);
    world.api.stop_answering().await;
    world.api.come_back().await;
    pgferry.says("the login to Kubernetes in context \"fake\" failed").await;
    assert_eq!(runs(&world.api), 2);
    assert_eq!(pgferry.refusal("pgferry", "shop").await.code, "28000");
    assert!(runs(&world.api) > 2, "a client asks each time");
    let seen = watches();
    let _ = plugin(&world.api, &world.api.user("dave"), "2099-01-01T00:00:00Z");
    fs::remove_file(world.api.directory().join("fail")).unwrap();
    pgferry.connect("pgferry", "shop").await.unwrap();
    let woken = timeout(LONG_BEFORE, until("a watch again", || watches() > seen)).await;
    assert!(woken.is_ok(), "it waited for its time");
    world.cluster().begin_deleting(1);
    assert_eq!(session.next().await.unwrap().unwrap().fields().code, "57P01");
}
