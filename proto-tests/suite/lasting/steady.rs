//! What a fleet of laptops asks of an API server while sessions are open and nothing happens, and that what happens is
//! heard all the same. The directory is asked directly here: its looks are minutes apart.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use pgferry::{
    k8s::{
        api::{connection::ClientParams, contexts::Contexts},
        cluster::{recent::Recent, reflector::WatchParams},
        directory::resolve::{DirectoryParams, Kubernetes},
        operators::registry::{Systems, SystemsParams},
    },
    upstream::{Ask, Conninfo, Directory as _, Form, Identity, Lost, Mode, Progress, Role, Target, Upstream},
};
use proto_tests::{
    cnpg::encoded,
    systems::{CloudNativePg, Crunchy, Elastisys, StatefulSet, System, Zalando, draw},
};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::{
    support::{PATIENCE, until},
    systems::every::Stage,
};

/// A hundred laptops with three sessions each, every one on a cluster of its own.
const SESSIONS: f64 = 300.0;
/// Requests a second that all of them may ask for together.
const MOST: f64 = 5.0;
/// What is jittered takes up to half as much longer: this in the mean.
const JITTERED: f64 = 1.25;

/// The directory, and the server of a session that begins now. Looks begin soon, and are as far apart as `look`.
async fn session(stage: &Stage<'_>, look: Duration) -> (Kubernetes, Upstream) {
    let contexts = Contexts::new(ClientParams {
        kubeconfig: Some(stage.api.kubeconfig()),
        context: None,
        namespace: None,
        short_names: std::collections::BTreeMap::new(),
        request_timeout: PATIENCE,
        connect_timeout: PATIENCE,
        exec_timeout: PATIENCE,
    });
    let watches = WatchParams { poll: Duration::from_millis(50), look, ..WatchParams::default() };
    let systems = Arc::new(Systems::new(&SystemsParams::default()));
    let params = DirectoryParams { watches, ..DirectoryParams::default() };
    let directory = Kubernetes::new(Arc::new(contexts), systems, Arc::new(Recent::default()), params);
    let deadline = Instant::now() + PATIENCE;
    let ask = Ask {
        identity: Identity::Local,
        target: Target { name: "shop.prod".to_owned(), context: None, mode: Mode::Rw, system: None },
        role: Role::Default,
        database: None,
        deadline,
        wait_until: deadline,
        progress: Progress::new().0,
        conninfo: Conninfo { host: "localhost".to_owned(), port: 10000, form: Form::Bound },
    };
    let upstream = directory.resolve(&ask).await.unwrap_or_else(|failure| panic!("{:?}", failure.report));
    (directory, upstream)
}

async fn lost(upstream: &mut Upstream) -> Lost {
    timeout(PATIENCE, upstream.lost.wait_for(Option::is_some)).await.expect("in time").unwrap().expect("a reason")
}

/// The paths of what a stage was asked, and how often; watches apart.
fn asked(stage: &Stage<'_>) -> (Vec<String>, BTreeSet<String>) {
    let (watches, others): (Vec<_>, Vec<_>) =
        stage.api.paths().into_iter().partition(|path| path.contains("watch=true"));
    let others = others.into_iter().filter(|path| path != "/version").collect();
    (others, watches.into_iter().collect())
}

fn period(watch: &str) -> f64 {
    let (_, rest) = watch.split_once("timeoutSeconds=").expect("a time");
    rest.split('&').next().unwrap().parse().unwrap()
}

/// Each session on a cluster without an operator read it once a minute, with seven requests: 300 of them asked 28 times
/// a second for what their watches had heard.
#[tokio::test]
async fn a_hundred_laptops_ask_five_times_a_second_at_the_most() {
    let systems: [(&dyn System, usize); 5] =
        [(&CloudNativePg, 2), (&Zalando, 3), (&Crunchy, 3), (&Elastisys, 3), (&StatefulSet, 1)];
    for (system, most) in systems {
        let stage = Stage::unserved(system).await;
        let (_directory, upstream) = session(&stage, Duration::from_millis(100)).await;
        until("watches", || asked(&stage).1.len() >= most).await;
        let watches = asked(&stage).1;
        assert_eq!(watches.len(), most, "{watches:#?}");
        let mut rate: f64 = watches.iter().map(|watch| 1.0 / period(watch)).sum();
        let place = match system.name() {
            "elastisys" => Some("/secrets"),
            "statefulset" => Some("/statefulsets"),
            _ => None,
        };
        if let Some(place) = place {
            // The first look is at everything.
            let looks = || asked(&stage).0.iter().filter(|path| path.contains(place)).count();
            let first = looks();
            until("further looks", || looks() >= first + 8).await;
            stage.api.forget_requests();
            until("further looks", || looks() >= 8).await;
            let requests: BTreeSet<String> = asked(&stage).0.into_iter().collect();
            println!("{}: a look is {requests:#?}", system.title());
            assert!(requests.iter().all(|path| path.contains(place)), "{requests:#?}");
            rate += f64::from(u32::try_from(requests.len()).unwrap())
                / (WatchParams::default().look.as_secs_f64() * JITTERED);
        }
        println!("{}: {:.2} requests a second by {SESSIONS} sessions", system.title(), rate * SESSIONS);
        assert!(rate * SESSIONS < MOST, "{}: {} requests a second", system.title(), rate * SESSIONS);
        assert_eq!(*upstream.lost.borrow(), None);
    }
}

/// What the watches hear ends the server at once, however rare the looks are.
#[tokio::test]
async fn what_watches_hear_is_not_waited_for() {
    let never = Duration::from_hours(1);
    let mut stage = Stage::unserved(&Elastisys).await;
    let (_directory, mut upstream) = session(&stage, never).await;
    until("watches", || stage.api.count("watch", "endpointslices") > 0).await;
    stage.state.lead(1);
    draw(&stage.api, stage.system, &stage.state);
    assert_eq!(lost(&mut upstream).await, Lost::Demoted);

    let stage = Stage::unserved(&StatefulSet).await;
    let (_directory, mut upstream) = session(&stage, never).await;
    until("a watch", || stage.api.count("watch", "pods") > 0).await;
    let pod = upstream.server.name().to_owned();
    stage.api.change("pods", "prod", &pod, |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    assert_eq!(lost(&mut upstream).await, Lost::Deleted);
}

/// What no watch hears is seen by the next look: the Secret leads elsewhere.
#[tokio::test]
async fn an_object_that_is_rewritten_is_seen_by_a_look() {
    let stage = Stage::unserved(&Elastisys).await;
    let (_directory, mut upstream) = session(&stage, Duration::from_millis(100)).await;
    until("watches", || stage.api.count("watch", "endpointslices") > 0).await;
    let other = json!({"metadata": {"namespace": "prod-system", "name": "other"},
        "spec": {"ports": [{"port": 5432}], "selector": {"cluster-name": "shop", "spilo-role": "replica"}}});
    stage.api.put("services", other);
    stage.api.change("secrets", "prod", "shop.user.access", |secret| {
        secret["data"]["USER_ACCESS"] = json!(encoded("svc/other"));
        secret["data"]["PGHOST"] = json!(encoded("other.prod-system.svc.cluster.local"));
    });
    assert_eq!(lost(&mut upstream).await, Lost::Demoted);
}
