//! What the API server answers instead, to every call that a connection makes. Each answer ends in an error that says
//! what is missing and where, in time, and the next connection is served.

use std::sync::Arc;

use proto_tests::kubernetes::Fault;
use serde_json::json;
use tokio::time::timeout;

use crate::{
    faults::stage::{IN_TIME, Stage, wrong},
    support::until,
};

/// What becomes of an answer.
#[derive(Clone, Copy, Debug)]
enum Told {
    /// The connection is served all the same.
    Nothing,
    /// This code, and this in the message.
    As(&'static str, &'static str),
}

/// What differs from call to call.
struct Call {
    verb: &'static str,
    resource: &'static str,
    /// RBAC refuses.
    forbidden: Told,
    /// It is not there.
    absent: Told,
    /// 200, and no object.
    foreign: Told,
    /// 200, and half an object.
    truncated: Told,
    /// 200, and the connection ends before the body does.
    short: Told,
}

const NOT_KUBERNETES: Told = Told::As("08006", "does not answer like a Kubernetes API server (status 200)");
const UNREACHABLE: Told = Told::As("08001", "cannot be reached: the connection ended before the answer did");
const NO_WEBSOCKETS: Told = Told::As("08006", "refuses WebSockets (status 200)");

fn status(code: u16, reason: &str, message: &str) -> Fault {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "message": message, "code": code,
    });
    Fault::Status(code, status.to_string())
}

fn page(code: u16) -> Fault {
    Fault::Status(code, "<!DOCTYPE html><html><body>Sign in</body></html>".to_owned())
}

/// Every answer, and what it comes to.
fn answers(call: &Call, truncated: &str) -> Vec<(&'static str, Fault, Told)> {
    let answered = |part| Told::As("08006", part);
    let bad_gateway = answered("does not answer like a Kubernetes API server (status 502)");
    vec![
        ("401", status(401, "Unauthorized", "Unauthorized"), Told::As("28000", "has expired or is not valid (401)")),
        ("403", status(403, "Forbidden", "no"), call.forbidden),
        ("404", status(404, "NotFound", "not found"), call.absent),
        ("409", status(409, "Conflict", "the object has been modified"), answered("answers 409")),
        ("429, and to wait a second", Fault::Throttled(1), answered("answers 429: Too many requests")),
        ("429, and to wait a minute", Fault::Throttled(60), answered("answers 429: Too many requests")),
        ("429 from somebody else", Fault::Status(429, "{\"key\": \"x".to_owned()), answered("(status 429)")),
        ("500", status(500, "InternalError", "etcd"), answered("answers 500: etcd")),
        ("503", status(503, "ServiceUnavailable", "later"), answered("answers 503: later")),
        ("a page with 200", page(200), call.foreign),
        ("a page with 502", page(502), bad_gateway),
        ("a way to another page", page(302), answered("(status 302)")),
        ("101 without a WebSocket", Fault::Status(101, String::new()), answered("(status 101)")),
        ("half an answer", Fault::Short, call.short),
        ("half an object", Fault::Status(200, truncated.to_owned()), call.truncated),
        ("half a Status", Fault::Status(500, "{\"kind\": \"Sta".to_owned()), answered("(status 500)")),
        ("nothing", Fault::Status(200, String::new()), call.foreign),
        ("an end", Fault::Cut, UNREACHABLE),
        ("silence", Fault::Hold(Arc::default()), answered("did not answer within 4 s")),
    ]
}

async fn stage() -> Stage {
    Stage::new(&[("PGFERRY__KUBERNETES__REQUEST_TIMEOUT", "4s")]).await
}

/// One call against all answers; `fresh` where pgferry asks only once.
async fn answered(call: Call, fresh: bool) {
    let mut stage = stage().await;
    // Half a Secret, so that what cannot be parsed would be seen in the log.
    let truncated = stage.world.api.get("secrets", "prod", "shop-app").unwrap().to_string();
    let truncated = &truncated[..truncated.len() - 20];
    let mut all_wrong = Vec::new();
    for (name, fault, told) in answers(&call, truncated) {
        let what = format!("{name} to {} {}", call.verb, call.resource);
        if fresh {
            stage.pgferry = stage.again().await;
        }
        stage.world.api.fault(call.verb, call.resource, usize::MAX, fault.clone());
        let connecting = timeout(IN_TIME, stage.pgferry.connect("pgferry", "shop.prod"));
        match (connecting.await.unwrap_or_else(|_| panic!("{what}: in time")), told) {
            (Ok(_), Told::Nothing) => stage.world.api.cut_tunnels("prod", "shop-1"),
            (Err(fields), Told::As(code, part)) => all_wrong.extend(wrong(&what, &fields, (code, part))),
            (served, told) => all_wrong.push(format!("{what}: not {told:?}, but {:?}", served.map(|_| "served"))),
        }
        if matches!(fault, Fault::Throttled(60)) {
            // It keeps to that, though it would be answered now; what is asked no more cannot show that it works. Discovery
            // may have been on its way already, for the warming beside the client.
            stage.world.api.heal();
            let again = stage.pgferry.connect("pgferry", "shop.prod").await;
            assert!(fresh || again.is_err(), "{what}");
            stage.pgferry = stage.again().await;
        }
        stage.works(&what).await;
    }
    assert!(all_wrong.is_empty(), "{all_wrong:#?}");
}

#[tokio::test]
async fn to_discovery() {
    let call = Call {
        verb: "get",
        resource: "apis",
        forbidden: Told::Nothing,
        absent: Told::Nothing,
        foreign: NOT_KUBERNETES,
        truncated: Told::As("08006", "apis cannot be read"),
        short: UNREACHABLE,
    };
    answered(call, true).await;
}

#[tokio::test]
async fn to_the_get_of_the_cluster() {
    let call = Call {
        verb: "get",
        resource: "clusters",
        // The pods tell enough.
        forbidden: Told::Nothing,
        absent: Told::As("3D000", "no cluster \"shop\" in namespace \"prod\""),
        foreign: NOT_KUBERNETES,
        truncated: Told::As("08006", "clusters shop in namespace prod cannot be read"),
        short: UNREACHABLE,
    };
    answered(call, false).await;
}

#[tokio::test]
async fn to_the_list_of_its_pods() {
    let call = Call {
        verb: "list",
        resource: "pods",
        // The one that leads is read by its name.
        forbidden: Told::Nothing,
        absent: Told::As("08006", "has no resource pods"),
        foreign: NOT_KUBERNETES,
        truncated: Told::As("08006", "pods in namespace prod cannot be read"),
        short: UNREACHABLE,
    };
    answered(call, false).await;
}

#[tokio::test]
async fn to_the_get_of_the_secret() {
    let call = Call {
        verb: "get",
        resource: "secrets",
        forbidden: Told::As("42501", "get secrets in namespace prod"),
        absent: Told::As("28000", "Secret prod/shop-app"),
        foreign: NOT_KUBERNETES,
        truncated: Told::As("08006", "secrets shop-app in namespace prod cannot be read"),
        short: UNREACHABLE,
    };
    answered(call, false).await;
}

#[tokio::test]
async fn to_the_port_forward() {
    let call = Call {
        verb: "get",
        resource: "pods/portforward",
        forbidden: Told::As("42501", "create pods/portforward in namespace prod"),
        absent: Told::As("08006", "pods/portforward shop-1 in namespace prod does not exist"),
        foreign: NO_WEBSOCKETS,
        truncated: NO_WEBSOCKETS,
        short: NO_WEBSOCKETS,
    };
    answered(call, false).await;
}

/// What a watch meets is no client's business. One that was refused is asked for again seconds later, so that every fault
/// gets a pgferry that has none yet.
#[tokio::test]
async fn to_the_watches() {
    let mut stage = stage().await;
    stage.world.api.allow_all();
    let truncated = "{\"type\": \"ADDED\", \"object\": {\"metad";
    let nothing = Call {
        verb: "watch",
        resource: "pods",
        forbidden: Told::Nothing,
        absent: Told::Nothing,
        foreign: Told::Nothing,
        truncated: Told::Nothing,
        short: Told::Nothing,
    };
    // One is opened behind the other: where the first fails, the second is not asked for.
    for resource in ["pods", "clusters"] {
        for (name, fault, _) in answers(&nothing, truncated) {
            let what = format!("{name} to watch {resource}");
            stage.pgferry = stage.again().await;
            stage.world.api.forget_requests();
            stage.world.api.fault("watch", resource, usize::MAX, fault);
            let connecting = timeout(IN_TIME, stage.pgferry.connect("pgferry", "shop.prod")).await.expect("in time");
            let mut wire = connecting.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            until(&what, || stage.world.api.asked("watch", resource) > 0).await;
            assert_eq!(wire.value("select 1").await.unwrap(), "1", "{what}");
            drop(wire);
            stage.world.api.cut_tunnels("prod", "shop-1");
            stage.works(&what).await;
        }
    }
}
