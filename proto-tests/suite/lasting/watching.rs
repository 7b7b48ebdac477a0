//! What is asked of the API server while sessions are open, and what becomes of them where it does not answer.

use std::sync::Arc;

use proto_tests::{cnpg::Cluster, kubernetes::Fault, subject::Start, wire::Wire};
use serde_json::json;
use tokio::sync::Notify;

use crate::support::{BINARY, World, farewell, until};

/// What an idle session hears at its end.
fn fault() -> Fault {
    let status =
        json!({"kind": "Status", "status": "Failure", "reason": "InternalError", "message": "etcd", "code": 500});
    Fault::Status(500, status.to_string())
}

/// Whether the primary was lost was read once, the API server said 500 to that, as it does in the moment of a failover,
/// and nobody asked again: the session stayed on the old primary.
#[tokio::test]
async fn what_could_not_be_confirmed_is_read_again() {
    let world = World::new().await;
    let mut pgferry = world.pgferry().await;
    let mut session = pgferry.connect("pgferry", "shop").await.unwrap();
    until("a watch", || world.api.count("watch", "clusters") > 0).await;
    world.api.fault("get", "pods", 1, fault());
    world.cluster().begin_deleting(1);
    pgferry.says("whether the server is lost could not be read").await;
    assert_eq!(farewell(&mut session).await, "57P01");
}

/// Servers were read once more one behind the other, each for up to ten seconds, and the watch heard nothing meanwhile:
/// who connected after a failover was sent to the old primary.
#[tokio::test]
async fn a_read_that_hangs_keeps_nobody_waiting() {
    let world = World::new().await;
    let servers = [world.server.address(); 3];
    let cluster = Cluster::new(&world.api, ("prod", "three"), &world.password, &servers);
    let pgferry = Start::new(BINARY).serve(&world.api.kubeconfig()).await;
    let _primary = pgferry.connect("pgferry", "three").await.unwrap();
    cluster.set_ready(3, false);
    let _replica = pgferry.connect("pgferry", "three:any").await.unwrap();
    until("a watch", || world.api.count("watch", "clusters") > 0).await;
    world.api.fault("get", "pods", usize::MAX, Fault::Hold(Arc::new(Notify::new())));
    cluster.begin_deleting(1);
    cluster.begin_deleting(2);
    until("both are read", || world.api.asked("get", "pods") > 1).await;
    cluster.set_ready(3, true);
    cluster.promote(3);
    let mut wire = pgferry.connect("pgferry", "three").await.unwrap();
    assert_eq!(wire.value("select 1").await.unwrap(), "1");
}

/// A pod was deleted and made anew under its name between the lookup and the stream, which leads into the new one: the
/// session was ended, because the pod that the watch had known was gone.
#[tokio::test]
async fn a_pod_that_is_made_anew_before_it_is_reached_ends_no_session() {
    let world = World::new().await;
    let mut pgferry = world.pgferry().await;
    pgferry.connect("pgferry", "shop").await.unwrap();
    until("a watch", || world.api.count("watch", "clusters") > 0).await;
    let held = Arc::new(Notify::new());
    world.api.forget_requests();
    world.api.fault("get", "pods/portforward", usize::MAX, Fault::Hold(Arc::clone(&held)));
    let mut session = Wire::tcp(pgferry.address()).await.unwrap();
    let connecting = tokio::spawn(async move {
        session.start(&[("user", "pgferry"), ("database", "shop")]).await.unwrap();
        session
    });
    until("the stream is asked for", || world.api.asked("get", "pods/portforward") > 0).await;
    world.api.change("pods", "prod", "shop-1", |pod| pod["metadata"]["uid"] = json!("another"));
    pgferry.says("was made anew before it was reached").await;
    world.api.heal();
    held.notify_waiters();
    let mut session = connecting.await.unwrap();
    assert_eq!(session.value("select 1").await.unwrap(), "1");
    world.cluster().begin_deleting(1);
    assert_eq!(farewell(&mut session).await, "57P01");
}

/// Servers end every watch after some minutes, and networks end them whenever: each time all that is watched was listed
/// anew. It is where the server has forgotten what came before.
#[tokio::test]
async fn a_watch_goes_on_where_it_ended() {
    let world = World::new().await;
    let pgferry = world.pgferry().await;
    let mut session = pgferry.connect("pgferry", "shop").await.unwrap();
    let watches = || world.api.count("watch", "pods").min(world.api.count("watch", "clusters"));
    until("a watch", || watches() > 0).await;
    world.api.forget_requests();
    world.api.end_watches();
    until("it goes on", || watches() > 0).await;
    world.api.forget_requests();
    world.api.fault("watch", "pods", 1, fault());
    world.api.stop_answering().await;
    world.api.come_back().await;
    until("it goes on", || watches() > 1 || world.api.count("watch", "pods") > 1).await;
    assert_eq!(world.api.asked("list", "pods") + world.api.asked("list", "clusters"), 0);
    world.api.expire_watches();
    until("a list", || world.api.count("list", "pods") > 0 && watches() > 0).await;
    world.cluster().begin_deleting(1);
    assert_eq!(farewell(&mut session).await, "57P01");
}
