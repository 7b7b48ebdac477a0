//! Ends of sessions whose server hangs: the client's, a failover's, a drain's, a cancel request's. Each has its deadline
//! whatever the way to the server does.

use std::{sync::Arc, time::Duration};

use proto_tests::{
    kubernetes::{Act, Fault, When},
    wire::Wire,
};
use rustix::process::Signal;
use tokio::time::timeout;

use crate::{
    faults::stage::{COPY, End, IN_TIME, Stage, end_with},
    support::until,
};

/// A session in the middle of a query whose server does not go on.
async fn hung(stage: &Stage) -> Wire {
    stage.breaks(1, When::After(b"T"), &[Act::Hang]);
    let mut wire = stage.pgferry.connect("pgferry", "shop.prod").await.unwrap();
    wire.message(b'Q', b"select 1\0").await.unwrap();
    assert_eq!(wire.next().await.unwrap().unwrap().tag, 'T');
    wire
}

fn no_new_tunnels(stage: &Stage) {
    stage.world.api.fault("get", "pods/portforward", usize::MAX, Fault::Hold(Arc::default()));
}

/// A session whose server hangs is the client's to end, and nothing is left of it then.
#[tokio::test]
async fn a_session_whose_server_hangs_ends_with_its_client() {
    let stage = &Stage::new(&[]).await;
    let cases = [
        (When::After(b"Z"), None),
        (When::After(b"T"), Some("select 1")),
        (When::Inside(b"D"), Some("select 'a value'")),
        (When::After(b"G"), Some(COPY)),
    ];
    let sessions = cases.into_iter().enumerate().map(|(number, (when, query))| async move {
        let name = stage.broken(number, when, vec![Act::Hang]);
        let mut wire = stage.pgferry.connect("pgferry", &name).await.unwrap();
        if let Some(query) = query {
            wire.message(b'Q', &[query.as_bytes(), &[0]].concat()).await.unwrap();
        }
    });
    futures_util::future::join_all(sessions).await;
    stage.works("servers that hung").await;
}

/// A session that was given up heard so only when the cancel request for its query had failed: five seconds late where
/// the node is dead, which is when it is given up.
#[tokio::test]
async fn a_failover_ends_it_when_the_grace_is_over() {
    let mut stage = Stage::new(&[("PGFERRY__SESSIONS__FAILOVER_GRACE", "100ms")]).await;
    stage.world.api.allow_all();
    // One that watches.
    stage.pgferry = stage.again().await;
    let mut wire = hung(&stage).await;
    no_new_tunnels(&stage);
    let asked = || stage.world.api.asked("get", "pods/portforward");
    let before = asked();
    stage.world.cluster().begin_deleting(1);
    until("its query is being cancelled", || asked() > before).await;
    // Less than what the cancel request takes, which is under way.
    let (end, fields) = timeout(Duration::from_secs(4), end_with(&mut wire)).await.expect("in time");
    assert_eq!(end, End::Said("57P01".to_owned()), "{fields:?}");
    assert!(fields.message.contains("pod shop-1 is being deleted"), "{fields:?}");
}

#[tokio::test]
async fn a_drain_ends_it() {
    let mut stage = Stage::new(&[("PGFERRY__SESSIONS__DRAIN", "1s")]).await;
    let mut wire = hung(&stage).await;
    no_new_tunnels(&stage);
    stage.pgferry.signal(Signal::TERM);
    assert_eq!(end_with(&mut wire).await.0, End::Said("57P01".to_owned()));
    drop(wire);
    assert!(timeout(IN_TIME, stage.pgferry.ended()).await.expect("in time").success());
    stage.world.api.tunnels(0).await;
}

/// A cancel request that does not get through is closed all the same, and its session knows nothing of it.
#[tokio::test]
async fn a_cancel_request_that_is_lost_is_closed() {
    let stage = Stage::new(&[]).await;
    let mut wire = stage.pgferry.connect("pgferry", "shop.prod").await.unwrap();
    let cases =
        [vec![Act::Hang], vec![Act::Reset], vec![Act::Error("connection refused")], vec![Act::Raw(&[0xff; 40])]];
    for acts in &cases {
        stage.breaks(1, When::Opened, acts);
        lost_request(&stage, &wire).await;
    }
    stage.world.api.fault("get", "pods/portforward", 1, Fault::Cut);
    lost_request(&stage, &wire).await;
    stage.world.api.fault("get", "pods/portforward", 1, Fault::Status(503, "later".to_owned()));
    lost_request(&stage, &wire).await;
    assert_eq!(wire.value("select 1").await.unwrap(), "1");
    drop(wire);
    stage.works("cancel requests that were lost").await;
}

async fn lost_request(stage: &Stage, session: &Wire) {
    let mut wire = Wire::tcp(stage.pgferry.address()).await.unwrap();
    wire.send(&session.cancel_request()).await.unwrap();
    assert_eq!(timeout(IN_TIME, wire.rest()).await.expect("a close").unwrap_or_default(), b"");
}
