//! Callers who may not read what stands for a cluster: what they may read tells as much, and errors say what would help.

use proto_tests::{
    cnpg::{Cluster, secret},
    kubernetes::{Backend, FakeKubernetes},
    postgres::PostgresServer,
    systems::{Bitnami, Deployment, State, StatefulSet, System, draw},
};
use serde_json::json;

use crate::{
    support::{World, list, serve},
    systems::every::servers,
};

/// A plain system whose pods are as its controller makes them.
async fn owned(system: &dyn System, count: usize) -> (FakeKubernetes, Vec<PostgresServer>) {
    let state = State::new(system, "prod", count);
    let servers = servers(system, &state).await;
    let api = FakeKubernetes::start().await;
    draw(&api, system, &state);
    for (number, server) in servers.iter().enumerate() {
        let name = system.pod_name(&state, number);
        api.backend("prod", &name, system.port(), Backend::To(server.address()));
        let (plural, kind, owner, added) = if system.name() == "deployment" {
            ("deployments", "ReplicaSet", "shop-7d9c5b0".to_owned(), ("pod-template-hash", "7d9c5b0"))
        } else {
            let owner = name.rsplit_once('-').unwrap().0.to_owned();
            ("statefulsets", "StatefulSet", owner, ("apps.kubernetes.io/pod-index", "0"))
        };
        let workload = if plural == "deployments" { "shop".to_owned() } else { owner.clone() };
        let made_of = api.get(plural, "prod", &workload).unwrap()["spec"]["template"]["spec"].clone();
        api.change("pods", "prod", &name, |pod| {
            pod["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "apps/v1", "kind": kind, "name": owner, "controller": true}]);
            pod["metadata"]["labels"][added.0] = json!(added.1);
            for field in ["containers", "volumes"] {
                pod["spec"][field] = made_of[field].clone();
            }
        });
    }
    (api, servers)
}

fn only_pods(api: &FakeKubernetes) {
    for verb in ["get", "list", "watch"] {
        for resource in ["statefulsets", "deployments", "services", "endpointslices"] {
            api.deny(None, verb, resource, None);
        }
    }
    api.deny(None, "list", "secrets", None);
}

/// Whoever may read pods and no StatefulSets found nothing, and was told to ask for CloudNativePG's clusters.
#[tokio::test]
async fn pods_tell_of_a_workload_that_may_not_be_read() {
    for (system, count, target) in [
        (&StatefulSet as &dyn System, 2, "shop"),
        (&Bitnami, 2, "shop-postgresql"),
        (&Bitnami, 2, "shop"),
        (&Deployment, 1, "shop"),
    ] {
        let (api, servers) = owned(system, count).await;
        api.serve_crd("postgresql.cnpg.io", "v1", "clusters");
        only_pods(&api);
        let pgferry = serve(&api, "[kubernetes]\nnamespace = \"prod\"\n").await;
        for target in [target.to_owned(), format!("{target}.prod")] {
            let connected = pgferry.connect("pgferry", &target).await;
            let mut wire = connected.unwrap_or_else(|told| panic!("{} {target}: {told:?}", system.title()));
            assert_eq!(wire.value("select pg_is_in_recovery()").await.unwrap(), "f", "{}", system.title());
        }
        let listed = list(&api).await;
        let rows: Vec<&serde_json::Value> = listed.iter().map(|row| &row["system"]).collect();
        assert_eq!(rows, [&json!(system.name())], "{listed:#?}");
        drop(servers);
    }
}

#[tokio::test]
async fn the_rule_to_add_names_what_would_help() {
    let api = FakeKubernetes::start().await;
    api.serve_crd("postgresql.cnpg.io", "v1", "clusters");
    only_pods(&api);
    for verb in ["get", "list"] {
        api.deny(None, verb, "clusters", None);
        api.deny(None, verb, "pods", Some(""));
    }
    let pgferry = serve(&api, "").await;
    let refusal = pgferry.refusal("pgferry", "shop").await;
    assert_eq!(refusal.code, "3D000", "{refusal:?}");
    let wanted = "resources: [\"statefulsets\", \"deployments\"";
    assert!(refusal.detail.contains(wanted) && !refusal.detail.contains("secrets"), "{refusal:?}");
    // Where pods cannot be seen either, nothing is known of the namespace.
    api.deny(None, "list", "pods", None);
    let refusal = pgferry.refusal("pgferry", "shop.prod").await;
    assert_eq!(refusal.code, "42501", "{refusal:?}");
    assert!(refusal.hint.contains("resources: [\"pods\"]"), "{refusal:?}");
}

/// The label of Argo CD on a Deployment led nowhere for those who may list their own namespace alone; and of two clusters
/// of one application in a namespace the first was taken.
#[tokio::test]
async fn an_application_is_found_in_ones_own_namespace() {
    let (api, servers) = owned(&Deployment, 1).await;
    let label = |name: &str, application: &str| {
        api.change("deployments", "prod", name, |object| {
            object["metadata"]["labels"]["argocd.argoproj.io/instance"] = json!(application);
        });
    };
    label("shop", "webshop");
    for resource in ["statefulsets", "deployments", "services", "secrets", "pods"] {
        api.deny(None, "list", resource, Some(""));
    }
    let pgferry = serve(&api, "[kubernetes]\nnamespace = \"prod\"\n").await;
    pgferry.connect("pgferry", "webshop").await.unwrap();
    let state = State { name: "orders".to_owned(), ..State::new(&Deployment, "prod", 1) };
    let login = api.get("secrets", "prod", "environment").unwrap();
    draw(&api, &Deployment, &state);
    api.put("secrets", login);
    label("orders", "webshop");
    let refusal = serve(&api, "[kubernetes]\nnamespace = \"prod\"\n").await.refusal("pgferry", "webshop").await;
    assert!(refusal.message.contains("orders.prod and shop.prod"), "{refusal:?}");
    // An application takes nobody's name.
    label("orders", "shop");
    let pgferry = serve(&api, "[kubernetes]\nnamespace = \"prod\"\n").await;
    pgferry.connect("pgferry", "shop").await.unwrap();
    drop(servers);
}

/// Roles may be named where the caller may not look, which nobody said.
#[tokio::test]
async fn a_role_that_could_not_be_looked_for_says_so() {
    let world = World::reading().await;
    for verb in ["get", "list", "watch"] {
        world.api.deny(None, verb, "clusters", None);
    }
    let refusal = world.pgferry().await.refusal("clerk", "shop.prod").await;
    assert_eq!(refusal.code, "28000", "{refusal:?}");
    let told = ["clusters.postgresql.cnpg.io prod/shop", "could not be read", "resources: [\"clusters\"]"];
    assert!(told.iter().all(|part| refusal.detail.contains(part)), "{refusal:?}");
}

/// A replica cluster has its source's roles and none of its Secrets: the error says how to give it one, and all its servers
/// take reads.
#[tokio::test]
async fn a_replica_cluster_is_given_a_login() {
    let mut world = World::new().await;
    let standby = PostgresServer::replica_of(world.own()).unwrap();
    let spec = json!({"instances": 1, "replica": {"enabled": true, "source": "x"}});
    Cluster::with_spec(&world.api, ("prod", "copy"), spec, &[standby.address()]);
    world.api.delete("secrets", "prod", "copy-app");
    let pgferry = world.pgferry().await;
    let refusal = pgferry.refusal("pgferry", "copy").await;
    assert_eq!(refusal.code, "28000", "{refusal:?}");
    let hint = "kubectl label secret copy-login -n prod pgferry.dev/cluster=copy";
    assert!(refusal.detail.contains("replica cluster") && refusal.hint.contains(hint), "{refusal:?}");
    let mut login = secret("prod", "copy-login", &[("username", "app"), ("password", &world.password)]);
    login["metadata"]["labels"]["pgferry.dev/cluster"] = json!("copy");
    world.api.put("secrets", login);
    let refusal = pgferry.refusal("pgferry", "copy").await;
    assert!(refusal.code == "28000" && refusal.hint == "Log in as one of app", "{refusal:?}");
    for target in ["copy/app", "copy:ro/app"] {
        let mut wire = pgferry.connect("app", target).await.unwrap_or_else(|told| panic!("{target}: {told:?}"));
        assert_eq!(wire.value("select pg_is_in_recovery()").await.unwrap(), "t", "{target}");
    }
}
