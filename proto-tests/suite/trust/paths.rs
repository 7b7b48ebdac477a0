//! The tenant who attacks: names in objects that are no names but paths.
//!
//! The story: whoever may write in one namespace wrote a role's name that was a path, and pgferry, which acts for a person
//! with more rights, read another namespace's Secret for it and sent its password to the tenant's pod; a pod's name that
//! was a path ran a command in another pod. The API server checks few of the names that objects hold.

use proto_tests::{
    cnpg::encoded,
    hostile::{Asks, Hostile},
    secrets,
    systems::{
        CloudNativePg, ConnectionSecret, Crunchy, Deployment, Elastisys, KubeDb, KubeDbCertificate, Kubegres, Marked,
        StatefulSet, Zalando, ZalandoConfigMaps,
    },
};
use serde_json::{Value, json};

use crate::{
    support::{self, NO_WAIT, serve},
    trust::stage::{Attack, CLIMB, EXEC, VICTIM, refused, smuggled, stage},
};

const VERIFIED: &str = "[clusters.\"shop.tenant\"]\nsslmode = \"verify-full\"\nsslservername = \"x\"\n";
const ACROSS: &str = "[zalando]\ncross_namespace_secrets = true\n";

/// An environment that takes the password from this Secret.
fn password_from(secret: &str) -> Value {
    json!([
        {"name": "POSTGRES_USER", "value": "app"},
        {"name": "POSTGRES_PASSWORD", "valueFrom": {"secretKeyRef": {"name": secret, "key": "password"}}},
    ])
}

/// One that takes it from a file.
fn password_file() -> Value {
    json!([{"name": "POSTGRES_PASSWORD_FILE", "value": "/v/password"}])
}

/// Paths where an operator's resource holds names.
#[expect(clippy::too_many_lines, reason = "a table")]
fn resources() -> Vec<Attack> {
    let zalando = ("postgresqls", "shop");
    let cnpg = ("clusters", "shop");
    vec![
        Attack::on(
            "a role's name in databases",
            Zalando,
            zalando,
            &[("/spec/databases", json!({"app": "prod/secrets/x?y=.z"}))],
            &["tenant/shop", "databases"],
        ),
        Attack::on(
            "the same, across namespaces",
            Zalando,
            zalando,
            &[("/spec/databases", json!({"app": "prod/secrets/x?y=.z"}))],
            &["tenant/shop", "databases"],
        )
        .with(ACROSS),
        Attack::on(
            "a role's name in users",
            Zalando,
            zalando,
            &[("/spec/users", json!({"../../prod/secrets/x?": []}))],
            &["tenant/shop", "users"],
        )
        .by("../../prod/secrets/x?"),
        Attack::on(
            "a prepared database",
            Zalando,
            zalando,
            &[
                ("/spec/databases", Value::Null),
                ("/spec/preparedDatabases", json!({"../../prod/secrets/x?y=": {"defaultUsers": true}})),
            ],
            &["tenant/shop", "preparedDatabases"],
        ),
        Attack::on(
            "the CA's Secret",
            ZalandoConfigMaps,
            zalando,
            &[("/spec/tls", json!({"secretName": CLIMB, "caFile": "ca.crt"}))],
            &["tenant/shop", "tls"],
        )
        .with(VERIFIED),
        Attack::on(
            "a managed role's Secret",
            CloudNativePg,
            cnpg,
            &[("/spec/managed/roles/0/passwordSecret/name", json!(CLIMB))],
            &["tenant/shop", "passwordSecret"],
        )
        .by("reporting"),
        Attack::on(
            "the application's Secret",
            CloudNativePg,
            cnpg,
            &[("/spec/bootstrap/initdb/secret", json!({"name": CLIMB}))],
            &["tenant/shop", "initdb.secret"],
        ),
        Attack::on(
            "the superuser's Secret",
            CloudNativePg,
            cnpg,
            &[("/spec/enableSuperuserAccess", json!(true)), ("/spec/superuserSecret", json!({"name": CLIMB}))],
            &["tenant/shop", "superuserSecret"],
        )
        .by("postgres"),
        Attack::on(
            "the server's CA",
            CloudNativePg,
            cnpg,
            &[("/status/certificates/serverCASecret", json!(CLIMB))],
            &["tenant/shop", "serverCASecret"],
        )
        .with(VERIFIED),
        Attack::on(
            "the primary's name",
            CloudNativePg,
            cnpg,
            &[("/status/currentPrimary", json!(EXEC)), ("/status/targetPrimary", json!(EXEC))],
            &["tenant/shop", "currentPrimary"],
        ),
        Attack::on(
            "a user's Secret",
            Crunchy,
            ("postgresclusters", "shop"),
            &[("/spec/users/0/secretName", json!(CLIMB))],
            &["tenant/shop", "secretName"],
        ),
        Attack::on(
            "a user's name",
            Crunchy,
            ("postgresclusters", "shop"),
            &[("/spec/users", json!([{"name": "x/../../../prod/secrets/x?y=", "databases": ["shop"]}]))],
            &["tenant/shop", "users"],
        ),
        Attack::on(
            "a certificate's Secret",
            Crunchy,
            ("postgresclusters", "shop"),
            &[("/spec/customTLSSecret", json!({"name": CLIMB}))],
            &["tenant/shop", "customTLSSecret"],
        )
        .with(VERIFIED),
        Attack::on(
            "the login's Secret",
            KubeDb,
            ("postgreses", "shop"),
            &[("/spec/authSecret/name", json!(CLIMB))],
            &["tenant/shop", "authSecret"],
        ),
        Attack::on(
            "a client certificate's Secret",
            KubeDbCertificate,
            ("postgreses", "shop"),
            &[("/spec/tls/certificates", json!([{"alias": "client", "secretName": CLIMB}]))],
            &["tenant/shop", "secretName"],
        ),
        Attack::on(
            "a variable's Secret",
            Kubegres,
            ("kubegres", "shop"),
            &[("/spec/env/0/valueFrom/secretKeyRef/name", json!(CLIMB))],
            &["tenant/shop", "secretKeyRef"],
        ),
    ]
}

/// Paths where built-in objects hold names. The API server takes every one of them.
#[expect(clippy::too_many_lines, reason = "a table")]
fn built_in() -> Vec<Attack> {
    let set = ("statefulsets", "shop");
    let slice = ("endpointslices", "shop-server-abcde");
    let access = ("secrets", "shop.user.access");
    vec![
        Attack::on(
            "Patroni's leader",
            Zalando,
            ("endpoints", "shop"),
            &[("/metadata/annotations/leader", json!(EXEC))],
            &["tenant/shop", "leader"],
        ),
        Attack::on(
            "Patroni's leader in a ConfigMap",
            ZalandoConfigMaps,
            ("configmaps", "shop-leader"),
            &[("/metadata/annotations/leader", json!(EXEC))],
            &["tenant/shop-leader", "leader"],
        ),
        Attack::on(
            "a StatefulSet's Secret",
            StatefulSet,
            set,
            &[("/spec/template/spec/containers/0/env", password_from(CLIMB))],
            &["tenant/shop", "secretKeyRef"],
        ),
        Attack::on(
            "a volume's Secret",
            StatefulSet,
            set,
            &[
                ("/spec/template/spec/containers/0/env", password_file()),
                ("/spec/template/spec/volumes", json!([{"name": "v", "secret": {"secretName": CLIMB}}])),
                ("/spec/template/spec/containers/0/volumeMounts", json!([{"name": "v", "mountPath": "/v"}])),
            ],
            &["tenant/shop", "secretName"],
        ),
        Attack::on(
            "a Secret that is two",
            StatefulSet,
            set,
            &[("/spec/template/spec/containers/0/env", password_from("a/../b"))],
            &["tenant/shop", "secretKeyRef"],
        ),
        Attack::on(
            "a Deployment's Secret",
            Deployment,
            ("deployments", "shop"),
            &[("/spec/template/spec/containers/0/envFrom", json!([{"secretRef": {"name": CLIMB}}]))],
            &["tenant/shop", "secretRef"],
        ),
        Attack::on(
            "a StatefulSet's ConfigMap",
            StatefulSet,
            set,
            &[(
                "/spec/template/spec/containers/0/env",
                json!([{"name": "POSTGRES_PASSWORD", "valueFrom": {"configMapKeyRef": {"name": "../../prod/configmaps/x", "key": "password"}}}]),
            )],
            &["tenant/shop", "configMapKeyRef"],
        ),
        Attack::on(
            "a slice's pod",
            ConnectionSecret,
            slice,
            &[("/endpoints/0/targetRef/name", json!(EXEC))],
            &["tenant/shop-server-abcde", "targetRef"],
        ),
        Attack::on(
            "a slice's pod, encoded already",
            ConnectionSecret,
            slice,
            &[("/endpoints/0/targetRef/name", json!("%2e%2e%2f%2e%2e%2fprod%2fpods%2fdb-0"))],
            &["tenant/shop-server-abcde", "targetRef"],
        ),
        Attack::on(
            "a slice's namespace",
            ConnectionSecret,
            slice,
            &[("/endpoints/0/targetRef/namespace", json!("prod/pods/db-0/exec?command=id&y="))],
            &["tenant/shop-server-abcde", "targetRef"],
        ),
        Attack::on(
            "a host with a path in its namespace",
            ConnectionSecret,
            ("secrets", "shop"),
            &[("/data/host", json!(encoded("x.prod/services/db?y=.svc")))],
            &["tenant/shop", "\"host\""],
        ),
        Attack::on(
            "a host with a path in kube-system",
            ConnectionSecret,
            ("secrets", "shop"),
            &[("/data/host", json!(encoded("x.kube-system/secrets/root?y=.svc")))],
            &["tenant/shop", "\"host\""],
        ),
        Attack::on(
            "a pod's host that is a path",
            ConnectionSecret,
            ("secrets", "shop"),
            &[("/data/host", json!(encoded("x/exec?command=id&stdout=true&y=.shop-server.tenant.svc")))],
            &["tenant/shop", "\"host\""],
        ),
        Attack::on(
            "a replica's host",
            Elastisys,
            access,
            &[("/data/PGHOST_REPLICA", json!(encoded("x.prod/services/db?y=.svc")))],
            &["tenant/shop.user.access", "PGHOST_REPLICA"],
        ),
        Attack::on(
            "an access Secret's Service",
            Elastisys,
            access,
            &[("/data/USER_ACCESS", json!(encoded("svc/../../prod/services/x")))],
            &["tenant/shop.user.access", "USER_ACCESS"],
        ),
        Attack::on(
            "an access Secret's pod",
            Elastisys,
            access,
            &[("/data/USER_ACCESS", json!(encoded("pod/x/exec?command=id&stdout=true&y=")))],
            &["tenant/shop.user.access", "USER_ACCESS"],
        ),
        Attack::on(
            "the Secret that a mark names",
            Marked,
            ("services", "shop-write"),
            &[("/metadata/annotations/pgferry.dev~1secret", json!("../x"))],
            &["tenant/shop-write", "pgferry.dev/secret"],
        ),
        Attack::on(
            "the same, in another namespace",
            Marked,
            ("services", "shop-write"),
            &[("/metadata/annotations/pgferry.dev~1secret", json!(CLIMB))],
            &["tenant/shop-write", "pgferry.dev/secret"],
        ),
    ]
}

#[tokio::test]
async fn a_name_in_an_operators_resource_that_is_a_path_is_refused() {
    refused(resources()).await;
}

#[tokio::test]
async fn a_name_in_a_built_in_object_that_is_a_path_is_refused() {
    refused(built_in()).await;
}

/// Who may not list EndpointSlices reads Endpoints, which hold the same names.
#[tokio::test]
async fn a_pods_name_in_endpoints_that_is_a_path_is_refused() {
    let attack = Attack::on("", ConnectionSecret, ("secrets", "shop"), &[], &[]);
    let hostile = Hostile::start(Asks::Nothing).await;
    let api = stage(&attack, &hostile, &secrets::make("victim")).await;
    api.deny(None, "list", "endpointslices", None);
    let pgferry = serve(&api, NO_WAIT).await;
    let target = |name: &str, namespace: &str| {
        let pod = json!({"kind": "Pod", "name": name, "namespace": namespace});
        let subsets = json!([{"addresses": [{"ip": "198.51.100.7", "targetRef": pod}], "ports": [{"port": 5432}]}]);
        json!({"metadata": {"namespace": "tenant", "name": "shop-server"}, "subsets": subsets})
    };
    for (name, namespace) in [(EXEC, "tenant"), ("db-1", VICTIM), ("db-1", "prod/pods/db-1/exec?command=id&y=")] {
        api.put("endpoints", target(name, namespace));
        let refusal = pgferry.refusal("pgferry", "shop.tenant").await;
        assert!(["28000", "57P03"].contains(&refusal.code.as_str()), "{name} {namespace}: {refusal:?}");
        assert!(refusal.message.contains("tenant/shop-server"), "{name} {namespace}: {refusal:?}");
        assert_eq!(smuggled(&api, &[VICTIM]), Vec::<String>::new());
    }
    api.put("endpoints", target("shop-server-0", "tenant"));
    pgferry.connect("pgferry", "shop.tenant").await.unwrap();
}

/// Roles are typed by clients, too, and a program in between may pass on what its own users type.
#[tokio::test]
async fn a_role_that_a_client_types_is_no_path() {
    let attack = Attack::on("", Zalando, ("postgresqls", "shop"), &[], &[]);
    let hostile = Hostile::start(Asks::Nothing).await;
    let api = stage(&attack, &hostile, &secrets::make("victim")).await;
    for configuration in ["", ACROSS] {
        let pgferry = serve(&api, configuration).await;
        for user in ["prod/secrets/x?y=.z", "../../prod/secrets/x?", "prod.x", "a,b", "x\n", "x%2f.."] {
            let refusal = pgferry.refusal(user, "shop.tenant").await;
            assert_eq!(refusal.code, "28000", "{user:?}: {refusal:?}");
        }
    }
    // The one that is a name is looked for where configuration allows it.
    let foreign = smuggled(&api, &[VICTIM]);
    assert!(
        foreign.iter().all(|path| path.starts_with("/api/v1/namespaces/prod/secrets/prod.x.shop.")),
        "{foreign:#?}"
    );
}

/// A mark is a name as well. As a part of a selector it would choose other Secrets than its own.
#[tokio::test]
async fn a_mark_that_is_no_name_selects_nothing() {
    for mark in ["a/../b", "x,pgferry.dev/cluster notin (x)", "x) , (y", "", "Shop", "shop.", "a..b"] {
        let attack = Attack::on("", Marked, ("services", "shop-write"), &[], &[]);
        let hostile = Hostile::start(Asks::Nothing).await;
        let api = stage(&attack, &hostile, &secrets::make("victim")).await;
        for service in ["shop-write", "shop-read"] {
            api.change("services", "tenant", service, |object| {
                object["metadata"]["labels"] = json!({});
                object["metadata"]["annotations"]["pgferry.dev/cluster"] = json!(mark);
            });
        }
        let listed = support::list(&api).await;
        assert!(listed.iter().all(|one| one["name"] != json!(mark)), "{mark:?}: {listed:#?}");
        let pgferry = serve(&api, NO_WAIT).await;
        let refusal = pgferry.refusal("pgferry", "shop-write.tenant").await;
        assert!(["3D000", "28000"].contains(&refusal.code.as_str()), "{mark:?}: {refusal:?}");
        let foreign = ["notin", ") ,", "/../", "Shop"];
        let selectors = api.selectors();
        assert!(!selectors.iter().any(|text| foreign.iter().any(|part| text.contains(part))), "{selectors:#?}");
    }
}
