//! Clusters of every system that do not serve, on purpose or for a moment, and leaders that few rights still show.

use proto_tests::systems::{
    Crunchy, Elastisys, KubeBlocks, KubeDb, Kubegres, Percona, StackGres, StatefulSet, System, Zalando, draw,
};
use serde_json::{Value, json};

use crate::systems::every::Stage;

/// What an object says, and the words for it.
type Row = (Box<dyn System>, &'static str, fn(&mut Value), &'static str);

#[tokio::test]
async fn clusters_that_do_not_serve_say_why() {
    let rows: [Row; 9] = [
        (Box::new(Zalando), "postgresqls", |object| object["spec"]["numberOfInstances"] = json!(0), "scaled to zero"),
        (Box::new(Crunchy), "postgresclusters", |object| object["spec"]["shutdown"] = json!(true), "shut down"),
        (Box::new(Percona), "perconapgclusters", |object| object["spec"]["pause"] = json!(true), "paused"),
        (Box::new(StackGres), "sgclusters", |object| object["spec"]["instances"] = json!(0), "scaled to zero"),
        (Box::new(KubeDb), "postgreses", |object| object["spec"]["halted"] = json!(true), "halted"),
        (Box::new(KubeBlocks), "clusters", |object| object["status"]["phase"] = json!("Stopped"), "stopped"),
        (Box::new(Kubegres), "kubegres", |object| object["spec"]["replicas"] = json!(0), "scaled to zero"),
        (Box::new(StatefulSet), "statefulsets", |object| object["spec"]["replicas"] = json!(0), "scaled to zero"),
        (
            Box::new(Zalando),
            "postgresqls",
            |object| object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
            "being deleted",
        ),
    ];
    for (system, plural, change, state) in rows {
        let stage = Stage::unserved(&*system).await;
        stage.api.change(plural, "prod", "shop", change);
        let pgferry = stage.pgferry("").await;
        let refusal = pgferry.refusal("pgferry", "shop.prod").await;
        let told = (refusal.code.as_str(), refusal.message.as_str());
        assert_eq!(told, ("57P03", format!("cluster shop.prod is {state}").as_str()), "{}", system.title());
        assert!(refusal.hint.contains("kubectl") || refusal.hint.contains("kbcli"), "{refusal:?}");
        let listed = stage.list().await;
        assert_eq!((&listed[0]["status"], &listed[0]["ready"]), (&json!(state), &json!(false)), "{listed:#?}");
    }
}

/// What a system says while it is at something else.
#[tokio::test]
async fn the_systems_own_words_are_passed_on() {
    let rows: [Row; 4] = [
        (
            Box::new(Zalando),
            "postgresqls",
            |object| object["status"]["PostgresClusterStatus"] = json!("Updating"),
            "Updating",
        ),
        (
            Box::new(Crunchy),
            "postgresclusters",
            |object| {
                let restoring =
                    json!({"type": "PostgresDataInitialized", "status": "False", "reason": "RestoreInProgress"});
                object["status"]["conditions"] = json!([restoring]);
            },
            "PostgresDataInitialized is False (RestoreInProgress)",
        ),
        (Box::new(KubeDb), "postgreses", |object| object["status"]["phase"] = json!("DataRestoring"), "DataRestoring"),
        (
            Box::new(Percona),
            "perconapgclusters",
            |object| object["status"]["state"] = json!("initializing"),
            "initializing",
        ),
    ];
    for (system, plural, change, words) in rows {
        let stage = Stage::unserved(&*system).await;
        stage.api.change(plural, "prod", "shop", change);
        for number in 0..2 {
            stage.api.delete("pods", "prod", &system.pod_name(&stage.state, number));
        }
        let refusal = stage.pgferry("").await.refusal("pgferry", "shop.prod").await;
        assert_eq!(refusal.code, "57P03", "{}: {refusal:?}", system.title());
        assert!(refusal.detail.contains(words) && refusal.detail.contains("0 of 0 pods"), "{refusal:?}");
    }
}

/// Two databases of two owners, and neither is called as the cluster: nobody becomes one of them unasked.
#[tokio::test]
async fn of_several_owners_none_is_the_default() {
    let stage = Stage::new(&Zalando).await;
    stage.api.change("postgresqls", "prod", "shop", |object| {
        object["spec"]["databases"] = json!({"books": "the_clerk", "reports": "bi_user"});
    });
    let pgferry = stage.pgferry("").await;
    let refusal = pgferry.refusal("pgferry", "shop.prod").await;
    assert_eq!(refusal.code, "28000", "{refusal:?}");
    assert!(refusal.message.contains("several logins") && refusal.hint.contains("the_clerk, bi_user"), "{refusal:?}");
    let mut wire = pgferry.connect("bi_user", "shop.prod/books").await.unwrap();
    assert_eq!(wire.value("select current_user").await.unwrap(), "bi_user");
}

/// Zalando's administrators may call Secrets and labels otherwise; the superuser has a Secret, too.
#[tokio::test]
async fn zalandos_own_configuration_is_followed() {
    let stage = Stage::new(&Zalando).await;
    for role in ["the-clerk", "bi-user", "postgres"] {
        let name = format!("{role}.shop.credentials.postgresql.acid.zalan.do");
        let mut secret = stage.api.get("secrets", "prod", &name).unwrap();
        stage.api.delete("secrets", "prod", &name);
        secret["metadata"]["name"] = json!(format!("shop-{role}"));
        secret["metadata"]["labels"] = json!({"app": "spilo", "name": "shop"});
        stage.api.put("secrets", secret);
    }
    for number in 0..2 {
        stage.api.change("pods", "prod", &format!("shop-{number}"), |pod| {
            let role = if number == 0 { "master" } else { "replica" };
            pod["metadata"]["labels"] = json!({"app": "spilo", "name": "shop", "role": role});
        });
    }
    let refusal = stage.pgferry("").await.refusal("pgferry", "shop.prod").await;
    assert!(refusal.code == "57P03" || refusal.code == "28000", "{refusal:?}");
    let configuration = "[zalando]\nsecret_name_template = \"{cluster}-{username}\"\n\
         cluster_labels = \"app:spilo\"\ncluster_name_label = \"name\"\npod_role_label = \"role\"\n";
    let pgferry = stage.pgferry(configuration).await;
    for (user, role) in [("pgferry", "the_clerk"), ("bi_user", "bi_user"), ("postgres", "postgres")] {
        let mut wire = pgferry.connect(user, "shop.prod").await.unwrap();
        assert_eq!(wire.value("select current_user").await.unwrap(), role);
    }
    let mut wire = pgferry.connect("pgferry", "shop.prod:ro").await.unwrap();
    assert_eq!(stage.server_of(&mut wire).await, 1);
}

/// A standby cluster's leader carries a primary's label; Patroni's annotation says what it is.
#[tokio::test]
async fn the_leader_of_a_standby_cluster_is_read_only_and_no_mistake() {
    let mut stage = Stage::new(&Zalando).await;
    // The replica leads, and its server is in recovery.
    stage.state.lead(1);
    stage.draw();
    let refusal = stage.pgferry("").await.refusal("pgferry", "shop.prod").await;
    assert!(refusal.message.contains("is a standby, not the primary"), "{refusal:?}");
    stage.api.change("pods", "prod", "shop-1", |pod| {
        pod["metadata"]["annotations"]["status"] = json!("{\"role\":\"standby_leader\",\"state\":\"running\"}");
    });
    let pgferry = stage.pgferry("").await;
    let wire = pgferry.connect("pgferry", "shop.prod").await.unwrap();
    assert!(wire.notices.iter().any(|notice| notice.message.contains("replica cluster")), "{:?}", wire.notices);
    assert_eq!(stage.list().await[0]["status"], "ready (replica cluster)");
}

/// Endpoints may be forbidden where EndpointSlices are not; they say the same.
#[tokio::test]
async fn an_endpoint_slice_names_the_leader_where_endpoints_are_forbidden() {
    let mut stage = Stage::new(&Zalando).await;
    stage.state.labelled = vec![0, 1];
    stage.draw();
    stage.api.deny(None, "get", "endpoints", None);
    stage.api.deny(None, "list", "endpoints", None);
    let pgferry = stage.pgferry("").await;
    let refusal = pgferry.refusal("pgferry", "shop.prod").await;
    assert!(
        refusal.message.contains("no ready primary"),
        "without either, two that claim it are not believed: {refusal:?}"
    );
    stage.api.put(
        "endpointslices",
        json!({
            "metadata": {
                "namespace": "prod", "name": "shop-abcde", "labels": {"kubernetes.io/service-name": "shop"},
                "annotations": {"leader": "shop-0", "ttl": "30", "renewTime": "2026-01-01T00:00:00+00:00"},
            },
            "endpoints": null, "ports": null,
        }),
    );
    let pgferry = stage.pgferry("").await;
    let mut wire = pgferry.connect("pgferry", "shop.prod").await.unwrap();
    assert_eq!(stage.server_of(&mut wire).await, 0);
}

/// With several clusters in a namespace leader objects are listed by label. One without labels is not overlooked.
#[tokio::test]
async fn a_leader_object_without_labels_counts_among_several_clusters() {
    let mut stage = Stage::new(&Zalando).await;
    let mut other = stage.state.clone();
    other.name = "other".to_owned();
    draw(&stage.api, &Zalando, &other);
    let unlabel = |stage: &Stage<'_>| {
        stage.api.change("endpoints", "prod", "shop", |object| object["metadata"]["labels"] = json!({}));
    };
    unlabel(&stage);
    let pgferry = stage.pgferry("").await;
    let mut wire = pgferry.connect("pgferry", "shop.prod").await.unwrap();
    // Its servers are nowhere; it is looked after all the same.
    pgferry.refusal("pgferry", "other.prod").await;
    stage.state.labelled = vec![1];
    stage.draw();
    unlabel(&stage);
    for _ in 0..5 {
        let mut wire = pgferry.connect("pgferry", "shop.prod").await.unwrap();
        assert_eq!(stage.server_of(&mut wire).await, 0);
    }
    assert_eq!(stage.forwards_to("shop-1"), 0);
    assert_eq!(wire.value("select 1").await.unwrap(), "1", "the session is where it should be, and stays");
}

/// Patroni leaves the objects of a mode that it no longer uses: the one that is renewed counts.
#[tokio::test]
async fn a_leader_object_of_older_times_is_not_believed() {
    let stage = Stage::new(&Zalando).await;
    let old = json!({"leader": "shop-1", "ttl": "30", "renewTime": "2020-01-01T00:00:00+00:00"});
    stage.api.put("configmaps", json!({"metadata": {"namespace": "prod", "name": "shop-leader", "annotations": old}}));
    let pgferry = stage.pgferry("").await;
    for _ in 0..3 {
        let mut wire = pgferry.connect("pgferry", "shop.prod").await.unwrap();
        assert_eq!(stage.server_of(&mut wire).await, 0);
    }
}

/// Replicas of an access Secret, and what a tenant reads who may see nothing of the database's namespace.
#[tokio::test]
async fn an_access_secret_with_replicas_and_without_rights() {
    let stage = Stage::new(&Elastisys).await;
    let namespace = "prod-system";
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": "shop-repl"},
        "spec": {"ports": [{"port": 5432}], "selector": {"cluster-name": "shop", "spilo-role": "replica"}}});
    stage.api.put("services", service);
    stage.api.change("secrets", "prod", "shop.user.access", |secret| {
        secret["data"]["PGHOST_REPLICA"] = json!(proto_tests::cnpg::encoded("shop-repl.prod-system.svc.cluster.local"));
    });
    let pgferry = stage.pgferry("").await;
    let mut wire = pgferry.connect("pgferry", "shop.prod:ro").await.unwrap();
    assert_eq!(stage.server_of(&mut wire).await, 1);
    let mut wire = pgferry.connect("pgferry", "shop.prod").await.unwrap();
    assert_eq!(stage.server_of(&mut wire).await, 0);
    for resource in ["services", "pods", "endpoints", "endpointslices"] {
        for verb in ["get", "list"] {
            stage.api.deny(None, verb, resource, None);
        }
    }
    let refusal = stage.pgferry("").await.refusal("pgferry", "shop.prod").await;
    assert_eq!(refusal.code, "42501", "{refusal:?}");
    assert!(
        refusal.message.contains("get services") && refusal.hint.contains("resources: [\"services\"]"),
        "{refusal:?}"
    );
}
