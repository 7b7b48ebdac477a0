//! What nobody has to give up for it: Services without selectors, poolers, slices that operators write themselves, headless
//! Services, Secrets of one namespace that lead to a Service of another. The systems' own layouts are in `systems`.

use proto_tests::{
    cnpg::Cluster,
    kubernetes::Backend,
    systems::{State, System, Zalando, draw},
};
use serde_json::{Value, json};

use crate::{
    support::{list, serve, tunnels_to},
    trust::stage::{Stage, pod, service, slice, who},
};

/// A login by a connection Secret with this host leads to this pod.
async fn leads(stage: &Stage, host: &str, pod: &str) {
    stage.lead_to(host, "5432", &[]);
    stage.api.forget_requests();
    assert_eq!(stage.connects("").await.unwrap_or_else(|error| panic!("{host}: {error:?}")), "app", "{host}");
    assert!(tunnels_to(&stage.api, pod) > 0, "{host}");
}

/// Patroni leads its Services itself: they have no selector, and an Endpoints object with the leader's address.
#[tokio::test]
async fn patronis_services_without_selectors_and_a_pooler() {
    let (stage, cluster) = (Stage::new().await, State::new(&Zalando, "prod", 2));
    draw(&stage.api, &Zalando, &cluster);
    for name in ["shop-0", "shop-1"] {
        stage.api.backend("prod", name, 5432, Backend::To(stage.server.address()));
    }
    let labels = Zalando.pooler_labels(&cluster).unwrap();
    pod(&stage.api, ("prod", "shop-pooler-x"), &labels, stage.server.address());
    let mut pooler = service(("prod", "shop-pooler"), json!({"connection-pooler": "shop-pooler"}), json!({}));
    pooler["metadata"]["labels"] = labels;
    stage.api.put("services", pooler);
    for host in ["shop.prod.svc", "shop.prod.svc.cluster.local", "shop.prod"] {
        leads(&stage, host, "shop-0").await;
    }
    leads(&stage, "shop-pooler.prod.svc", "shop-pooler-x").await;
    // As the control plane copies it, in a slice beside the Endpoints object.
    stage.api.put("endpointslices", slice(("prod", "shop"), ("prod", "shop-0", "uid-prod-shop-0")));
    leads(&stage, "shop.prod.svc", "shop-0").await;
}

#[tokio::test]
async fn cloudnative_pgs_services_and_its_pooler() {
    let stage = Stage::new().await;
    let address = stage.server.address();
    Cluster::new(&stage.api, ("prod", "shop"), &stage.password, &[address, address]);
    let role = |role: &str| json!({"cnpg.io/cluster": "shop", "cnpg.io/instanceRole": role});
    stage.api.put("services", service(("prod", "shop-rw"), role("primary"), json!({})));
    let labels = json!({"cnpg.io/cluster": "shop", "cnpg.io/poolerName": "shop-pooler", "cnpg.io/podRole": "pooler"});
    pod(&stage.api, ("prod", "shop-pooler-x"), &labels, address);
    let pooler = json!({"cnpg.io/poolerName": "shop-pooler"});
    stage.api.put("services", service(("prod", "shop-pooler"), pooler, json!({})));
    leads(&stage, "shop-rw.prod", "shop-1").await;
    leads(&stage, "shop-pooler.prod.svc", "shop-pooler-x").await;
}

#[tokio::test]
async fn a_headless_service_beside_its_stateful_set() {
    let stage = Stage::new().await;
    let labels = json!({"app": "set"});
    let password = json!({"secretKeyRef": {"name": "set-login", "key": "password"}});
    let container = json!({"name": "postgres", "image": "postgres:17", "env": [
        {"name": "POSTGRES_USER", "value": "app"}, {"name": "POSTGRES_PASSWORD", "valueFrom": password}]});
    stage.api.put(
        "statefulsets",
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"namespace": "prod", "name": "set"},
            "spec": {"replicas": 1, "serviceName": "set", "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}},
            "status": {"replicas": 1, "readyReplicas": 1}}),
    );
    stage.api.put("secrets", stage.login(("prod", "set-login"), &[]));
    pod(&stage.api, ("prod", "set-0"), &labels, stage.server.address());
    let mut headless = service(("prod", "set"), labels, json!({}));
    headless["spec"]["clusterIP"] = json!("None");
    stage.api.put("services", headless);
    stage.api.put("endpointslices", slice(("prod", "set"), ("prod", "set-0", "uid-prod-set-0")));
    for host in ["set.prod.svc", "set-0.set.prod.svc.cluster.local", "set-0.set.prod.svc"] {
        leads(&stage, host, "set-0").await;
    }
    let pgferry = serve(&stage.api, "").await;
    for database in ["set", "set.prod"] {
        assert_eq!(who(pgferry.connect("pgferry", database).await.unwrap()).await, "app");
    }
    stage.api.delete("secrets", "tenant", "conn");
    let listed = list(&stage.api).await;
    assert_eq!((listed.len(), &listed[0]["system"]), (1, &json!("statefulset")), "{listed:#?}");
}

/// An operator that writes the slices of its own Services, behind a mark and behind a host.
#[tokio::test]
async fn slices_that_an_operator_writes_itself() {
    let stage = Stage::new().await;
    pod(&stage.api, ("prod", "acme-0"), &json!({"app": "acme"}), stage.server.address());
    pod(&stage.api, ("prod", "acme-1"), &json!({"app": "acme"}), stage.server.address());
    let marks = json!({"pgferry.dev/cluster": "acme", "pgferry.dev/secret": "acme-login"});
    stage.api.put("services", service(("prod", "acme"), Value::Null, marks));
    let mut login = stage.login(("prod", "acme-login"), &[]);
    login["metadata"]["annotations"]["pgferry.dev/cluster"] = json!("acme");
    stage.api.put("secrets", login);
    for leader in ["acme-0", "acme-1"] {
        stage.api.put("endpointslices", slice(("prod", "acme"), ("prod", leader, &format!("uid-prod-{leader}"))));
        leads(&stage, "acme.prod.svc", leader).await;
        let pgferry = serve(&stage.api, "").await;
        assert_eq!(who(pgferry.connect("pgferry", "acme.prod").await.unwrap()).await, "app");
    }
    // A slice may leave the namespace out: it is its own.
    let mut own = slice(("prod", "acme"), ("prod", "acme-0", "uid-prod-acme-0"));
    own["endpoints"][0]["targetRef"].as_object_mut().unwrap().remove("namespace");
    stage.api.put("endpointslices", own);
    leads(&stage, "acme.prod.svc", "acme-0").await;
}
