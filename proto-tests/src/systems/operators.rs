//! The operators.

use serde_json::{Value, json};

use super::{
    Role, ServerSetup, State, System, certificate_secret, custom, patroni_annotations, patroni_endpoints, role, secret,
    service, typed_secret,
};

/// `pkg/postgres/configuration.go`: plaintext is accepted with a password.
const SCRAM: &str = "host all all all scram-sha-256";
/// Spilo (`configure_spilo.py`): plaintext on loopback only.
const SPILO: &str =
    "host all all 127.0.0.1/32 md5\nhost all all ::1/128 md5\nhostnossl all all all reject\nhostssl all all all md5";
/// PGO (`internal/postgres/hba.go`): no plaintext at all.
const TLS_ONLY: &str = "hostssl all all all scram-sha-256";
/// StackGres (`PatroniConfigEndpoints.java`).
const LOOPBACK_MD5: &str = "host all all 127.0.0.1/32 md5\nhost all all ::1/128 md5\nhost all all all md5";

fn plaintext(hba: &'static str) -> ServerSetup {
    ServerSetup { hba, tls: false, md5: false }
}

fn with_tls(hba: &'static str) -> ServerSetup {
    ServerSetup { hba, tls: true, md5: false }
}

/// CloudNativePG, or what has its shape under another group.
struct Cnpg {
    group: &'static str,
    prefix: &'static str,
}

impl Cnpg {
    fn labels(&self, state: &State, number: usize) -> Value {
        let prefix = self.prefix;
        let role = role(state, number, "primary", "replica");
        json!({
            format!("{prefix}/cluster"): state.name, format!("{prefix}/podRole"): "instance",
            format!("{prefix}/instanceName"): format!("{}-{}", state.name, number + 1),
            format!("{prefix}/instanceRole"): role, "role": role,
        })
    }

    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let leader = format!("{}-{}", state.name, state.leader + 1);
        let spec = json!({
            "instances": state.servers,
            "bootstrap": {"initdb": {"database": "app", "owner": "app"}},
            "managed": {"roles": [
                {"name": "reporting", "login": true, "ensure": "present", "passwordSecret": {"name": "reporting-login"}},
            ]},
        });
        let status = json!({
            "currentPrimary": leader, "targetPrimary": leader, "phase": "Cluster in healthy state",
            "certificates": {"serverCASecret": format!("{}-ca", state.name)},
        });
        let host = format!("{}-rw", state.name);
        let uri = format!("postgresql://app:stale@{host}.{}:5432/app", state.namespace);
        let label = format!("{}/cluster", self.prefix);
        vec![
            custom(state, "clusters", (&format!("{}/v1", self.group), "Cluster"), &spec, &status),
            typed_secret(
                state,
                &format!("{}-app", state.name),
                "kubernetes.io/basic-auth",
                &json!({label: state.name}),
                &[
                    ("username", "app"),
                    ("user", "app"),
                    ("password", &state.password),
                    ("dbname", "app"),
                    ("host", &host),
                    ("port", "5432"),
                    ("uri", &uri),
                    ("pgpass", &uri),
                ],
            ),
            typed_secret(
                state,
                "reporting-login",
                "kubernetes.io/basic-auth",
                &json!({}),
                &[("username", "reporting"), ("password", &state.other_password)],
            ),
            secret(state, &format!("{}-ca", state.name), &json!({}), &[("ca.crt", &state.authority)]),
        ]
    }

    fn pooler(&self, state: &State) -> Value {
        let prefix = self.prefix;
        json!({format!("{prefix}/cluster"): state.name, format!("{prefix}/podRole"): "pooler", format!("{prefix}/poolerName"): "p"})
    }
}

macro_rules! cnpg {
    ($type:ident, $name:literal, $title:literal, $group:literal, $prefix:literal) => {
        pub struct $type;

        impl $type {
            const LAYOUT: Cnpg = Cnpg { group: $group, prefix: $prefix };
        }

        impl System for $type {
            fn name(&self) -> &'static str {
                $name
            }
            fn title(&self) -> &'static str {
                $title
            }
            fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
                vec![($group, "v1", "clusters")]
            }
            fn pod_name(&self, state: &State, number: usize) -> String {
                format!("{}-{}", state.name, number + 1)
            }
            fn pod_labels(&self, state: &State, number: usize) -> Value {
                Self::LAYOUT.labels(state, number)
            }
            fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
                Self::LAYOUT.objects(state)
            }
            fn pooler_labels(&self, state: &State) -> Option<Value> {
                Some(Self::LAYOUT.pooler(state))
            }
            fn server(&self) -> ServerSetup {
                with_tls(SCRAM)
            }
            fn login(&self, _state: &State) -> Role {
                Role::new("app", "app")
            }
            fn other(&self, _state: &State) -> Option<Role> {
                Some(Role::new("reporting", "app"))
            }
            fn secret(&self, state: &State) -> Option<String> {
                Some(format!("{}-app", state.name))
            }
            fn certificate_name(&self, state: &State) -> Option<String> {
                Some(format!("{}-rw", state.name))
            }
            fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
                vec![
                    ("get", "clusters"),
                    ("list", "clusters"),
                    ("watch", "clusters"),
                    ("watch", "pods"),
                    ("list", "secrets"),
                ]
            }
        }
    };
}

cnpg!(CloudNativePg, "cloudnative-pg", "CloudNativePG", "postgresql.cnpg.io", "cnpg.io");
cnpg!(Edb, "edb-postgres", "EDB Postgres for Kubernetes", "postgresql.k8s.enterprisedb.io", "k8s.enterprisedb.io");

/// Zalando's operator 1.x: Patroni's Endpoints, MD5.
pub struct Zalando;
/// Zalando's operator 2.x: Patroni's ConfigMaps, SCRAM, an own certificate.
pub struct ZalandoConfigMaps;

fn spilo_labels(state: &State, number: usize) -> Value {
    json!({
        "application": "spilo", "cluster-name": state.name, "team": "acid",
        "spilo-role": role(state, number, "master", "replica"),
    })
}

pub(super) fn spilo_status(state: &State, number: usize) -> Value {
    let role = if number == state.leader { "primary" } else { "replica" };
    json!({"status": json!({"conn_url": "postgres://198.51.100.7:5432/postgres", "state": "running", "role": role}).to_string()})
}

pub(super) fn spilo_secret(state: &State, role: &str, password: &str) -> (&'static str, Value) {
    let name = format!("{}.{}.credentials.postgresql.acid.zalan.do", role.replace('_', "-"), state.name);
    let labels = json!({"application": "spilo", "cluster-name": state.name, "team": "acid"});
    secret(state, &name, &labels, &[("username", role), ("password", password)])
}

fn zalando_objects(state: &State, tls: bool) -> Vec<(&'static str, Value)> {
    let mut spec = json!({
        "numberOfInstances": state.servers, "teamId": "acid", "postgresql": {"version": "17"},
        "users": {"the_clerk": ["createdb"], "bi_user": []}, "databases": {"books": "the_clerk"},
    });
    if tls {
        spec["tls"] = json!({"secretName": format!("{}-tls", state.name), "caFile": "ca.crt"});
    }
    let mut all = vec![
        custom(
            state,
            "postgresqls",
            ("acid.zalan.do/v1", "postgresql"),
            &spec,
            &json!({"PostgresClusterStatus": "Running"}),
        ),
        spilo_secret(state, "the_clerk", &state.password),
        spilo_secret(state, "bi_user", &state.other_password),
        spilo_secret(state, "postgres", &state.superuser),
        spilo_secret(state, "standby", "not-for-people"),
    ];
    if tls {
        all.push(certificate_secret(state, &format!("{}-tls", state.name), &state.certificate));
    }
    all
}

fn zalando_pooler(state: &State) -> Value {
    json!({
        "application": "db-connection-pooler", "cluster-name": state.name, "spilo-role": "master",
        "connection-pooler": format!("{}-pooler", state.name),
    })
}

/// Everything but the Secrets may be missing, if the leader object or the labels can be read.
fn by_labels(plural: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![("get", plural), ("list", plural), ("watch", plural), ("watch", "pods"), ("list", "secrets")]
}

impl System for Zalando {
    fn name(&self) -> &'static str {
        "zalando"
    }
    fn title(&self) -> &'static str {
        "Zalando postgres-operator 1"
    }
    fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        vec![("acid.zalan.do", "v1", "postgresqls")]
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        spilo_labels(state, number)
    }
    fn pod_annotations(&self, state: &State, number: usize) -> Value {
        spilo_status(state, number)
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let labels = json!({"application": "spilo", "cluster-name": state.name, "spilo-role": "master"});
        let mut all = zalando_objects(state, false);
        all.push(patroni_endpoints(self, state, &state.name, &labels));
        all.push(service(&state.namespace, &state.name, &labels, &Value::Null));
        all
    }
    fn pooler_labels(&self, state: &State) -> Option<Value> {
        Some(zalando_pooler(state))
    }
    fn server(&self) -> ServerSetup {
        ServerSetup { hba: SPILO, tls: true, md5: true }
    }
    fn login(&self, _state: &State) -> Role {
        Role::new("the_clerk", "books")
    }
    fn other(&self, _state: &State) -> Option<Role> {
        Some(Role::new("bi_user", "books"))
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(format!("the-clerk.{}.credentials.postgresql.acid.zalan.do", state.name))
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        // Without the resource nobody knows the owner: the Secrets' labels do.
        vec![("get", "postgresqls"), ("list", "postgresqls"), ("watch", "postgresqls"), ("watch", "pods")]
    }
}

impl System for ZalandoConfigMaps {
    fn name(&self) -> &'static str {
        "zalando"
    }
    fn title(&self) -> &'static str {
        "Zalando postgres-operator 2"
    }
    fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        Zalando.resources()
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        spilo_labels(state, number)
    }
    fn pod_annotations(&self, state: &State, number: usize) -> Value {
        spilo_status(state, number)
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let labels = json!({"application": "spilo", "cluster-name": state.name});
        let leader = self.pod_name(state, state.leader);
        let mut all = zalando_objects(state, true);
        all.push((
            "configmaps",
            json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {
                    "namespace": state.namespace, "name": format!("{}-leader", state.name), "labels": labels,
                    "annotations": patroni_annotations(&leader),
                },
            }),
        ));
        let selector = json!({"application": "spilo", "cluster-name": state.name, "spilo-role": "master"});
        all.push(service(&state.namespace, &state.name, &labels, &selector));
        all
    }
    fn pooler_labels(&self, state: &State) -> Option<Value> {
        Some(zalando_pooler(state))
    }
    fn server(&self) -> ServerSetup {
        with_tls(SPILO)
    }
    fn login(&self, state: &State) -> Role {
        Zalando.login(state)
    }
    fn other(&self, state: &State) -> Option<Role> {
        Zalando.other(state)
    }
    fn secret(&self, state: &State) -> Option<String> {
        Zalando.secret(state)
    }
    fn certificate_name(&self, _state: &State) -> Option<String> {
        Some("spilo.example.com".to_owned())
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        let mut all = Zalando.dispensable();
        all.push(("get", "endpoints"));
        all
    }
}

/// Crunchy's PGO.
pub struct Crunchy;
/// Percona's operator, which makes one of PGO's resources for each of its own.
pub struct Percona;

const PGO: &str = "postgres-operator.crunchydata.com";

fn pgo_labels(state: &State, number: usize, primary: &str) -> Value {
    json!({
        format!("{PGO}/cluster"): state.name, format!("{PGO}/instance"): format!("{}-instance1-{number}", state.name),
        format!("{PGO}/instance-set"): "instance1", format!("{PGO}/data"): "postgres",
        format!("{PGO}/patroni"): format!("{}-ha", state.name), format!("{PGO}/role"): role(state, number, primary, "replica"),
    })
}

fn pgo_users(state: &State) -> Value {
    json!([{"name": state.name, "databases": [state.name]}, {"name": "reporting", "databases": [state.name]}])
}

fn pgo_objects(system: &dyn System, state: &State) -> Vec<(&'static str, Value)> {
    let user = |name: &str, password: &str| {
        let labels = json!({format!("{PGO}/cluster"): state.name, format!("{PGO}/role"): "pguser", format!("{PGO}/pguser"): name});
        let host = format!("{}-primary.{}.svc", state.name, state.namespace);
        secret(
            state,
            &format!("{}-pguser-{name}", state.name),
            &labels,
            &[
                ("user", name),
                ("password", password),
                ("verifier", "SCRAM-SHA-256$4096:x"),
                ("dbname", &state.name),
                ("host", &host),
                ("port", "5432"),
                ("uri", &format!("postgresql://{name}:stale@{host}:5432/{}", state.name)),
            ],
        )
    };
    let labels = json!({format!("{PGO}/cluster"): state.name, format!("{PGO}/patroni"): format!("{}-ha", state.name)});
    vec![
        user(&state.name, &state.password),
        user("reporting", &state.other_password),
        certificate_secret(state, &format!("{}-cluster-cert", state.name), &state.certificate),
        patroni_endpoints(system, state, &format!("{}-ha", state.name), &labels),
        service(&state.namespace, &format!("{}-primary", state.name), &labels, &Value::Null),
    ]
}

fn pgbouncer(state: &State) -> Value {
    json!({format!("{PGO}/cluster"): state.name, format!("{PGO}/role"): "pgbouncer"})
}

impl System for Crunchy {
    fn name(&self) -> &'static str {
        "crunchy"
    }
    fn title(&self) -> &'static str {
        "Crunchy PGO 5 and 6"
    }
    fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        vec![(PGO, "v1beta1", "postgresclusters")]
    }
    fn pod_name(&self, state: &State, number: usize) -> String {
        format!("{}-instance1-{number}-0", state.name)
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        pgo_labels(state, number, "master")
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let spec = json!({"port": 5432, "users": pgo_users(state), "instances": [{"name": "instance1", "replicas": state.servers}]});
        let mut all = pgo_objects(self, state);
        all.push(custom(state, "postgresclusters", (&format!("{PGO}/v1beta1"), "PostgresCluster"), &spec, &json!({})));
        all
    }
    fn pooler_labels(&self, state: &State) -> Option<Value> {
        Some(pgbouncer(state))
    }
    fn server(&self) -> ServerSetup {
        with_tls(TLS_ONLY)
    }
    fn login(&self, state: &State) -> Role {
        Role::new(&state.name, &state.name)
    }
    fn other(&self, state: &State) -> Option<Role> {
        Some(Role::new("reporting", &state.name))
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(format!("{}-pguser-{0}", state.name))
    }
    fn certificate_name(&self, state: &State) -> Option<String> {
        Some(format!("{}-primary.{}.svc", state.name, state.namespace))
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        by_labels("postgresclusters")
    }
}

impl System for Percona {
    fn name(&self) -> &'static str {
        "percona"
    }
    fn title(&self) -> &'static str {
        "Percona Operator 2 and 3"
    }
    fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        vec![("pgv2.percona.com", "v2", "perconapgclusters"), (PGO, "v1beta1", "postgresclusters")]
    }
    fn pod_name(&self, state: &State, number: usize) -> String {
        Crunchy.pod_name(state, number)
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        pgo_labels(state, number, "primary")
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let spec = json!({"users": pgo_users(state), "instances": [{"name": "instance1", "replicas": state.servers}]});
        let mut all = pgo_objects(self, state);
        all.push(custom(
            state,
            "perconapgclusters",
            ("pgv2.percona.com/v2", "PerconaPGCluster"),
            &spec,
            &json!({"state": "ready"}),
        ));
        let (plural, mut inner) =
            custom(state, "postgresclusters", (&format!("{PGO}/v1beta1"), "PostgresCluster"), &spec, &json!({}));
        inner["metadata"]["ownerReferences"] = json!([
            {"apiVersion": "pgv2.percona.com/v2", "kind": "PerconaPGCluster", "name": state.name, "uid": "x", "controller": true},
        ]);
        all.push((plural, inner));
        all
    }
    fn pooler_labels(&self, state: &State) -> Option<Value> {
        Some(pgbouncer(state))
    }
    fn server(&self) -> ServerSetup {
        with_tls(TLS_ONLY)
    }
    fn login(&self, state: &State) -> Role {
        Crunchy.login(state)
    }
    fn other(&self, state: &State) -> Option<Role> {
        Crunchy.other(state)
    }
    fn secret(&self, state: &State) -> Option<String> {
        Crunchy.secret(state)
    }
    fn certificate_name(&self, state: &State) -> Option<String> {
        Crunchy.certificate_name(state)
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        by_labels("perconapgclusters")
    }
}

/// StackGres.
pub struct StackGres;

impl System for StackGres {
    fn name(&self) -> &'static str {
        "stackgres"
    }
    fn title(&self) -> &'static str {
        "StackGres"
    }
    fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        vec![("stackgres.io", "v1", "sgclusters")]
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        json!({
            "app": "StackGresCluster", "stackgres.io/cluster-name": state.name, "stackgres.io/cluster": "true",
            "role": role(state, number, "primary", "replica"),
        })
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let spec = json!({"instances": state.servers, "postgres": {"version": "17", "ssl": {"enabled": true}}});
        let pods: Vec<Value> = (0..state.servers)
            .map(|number| json!({"name": self.pod_name(state, number), "primary": number == state.leader}))
            .collect();
        let labels = json!({"app": "StackGresCluster", "stackgres.io/cluster-name": state.name});
        let (certificate, key) = &state.certificate;
        vec![
            custom(state, "sgclusters", ("stackgres.io/v1", "SGCluster"), &spec, &json!({"podStatuses": pods})),
            secret(
                state,
                &state.name,
                &labels,
                &[
                    ("superuser-username", "postgres"),
                    ("superuser-password", &state.password),
                    ("replication-username", "replicator"),
                    ("replication-password", "not-for-people"),
                ],
            ),
            secret(state, &format!("{}-ssl", state.name), &labels, &[("tls.crt", certificate), ("tls.key", key)]),
            patroni_endpoints(self, state, &state.name, &labels),
            service(&state.namespace, &state.name, &labels, &Value::Null),
        ]
    }
    fn server(&self) -> ServerSetup {
        ServerSetup { hba: LOOPBACK_MD5, tls: true, md5: false }
    }
    fn login(&self, _state: &State) -> Role {
        Role::postgres()
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(state.name.clone())
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        by_labels("sgclusters")
    }
}

/// KubeDB without TLS: it trusts loopback.
pub struct KubeDb;
/// KubeDB with TLS, and clients that identify by certificate.
pub struct KubeDbCertificate;

fn kubedb_labels(state: &State, number: usize) -> Value {
    json!({
        "app.kubernetes.io/name": "postgreses.kubedb.com", "app.kubernetes.io/instance": state.name,
        "app.kubernetes.io/managed-by": "kubedb.com", "app.kubernetes.io/component": "database",
        "kubedb.com/role": role(state, number, "primary", "standby"),
    })
}

fn kubedb_auth(state: &State) -> (&'static str, Value) {
    let data = [("username", "postgres"), ("password", state.password.as_str())];
    typed_secret(state, &format!("{}-auth", state.name), "kubernetes.io/basic-auth", &json!({}), &data)
}

impl System for KubeDb {
    fn name(&self) -> &'static str {
        "kubedb"
    }
    fn title(&self) -> &'static str {
        "KubeDB"
    }
    fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        vec![("kubedb.com", "v1", "postgreses")]
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        kubedb_labels(state, number)
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let spec = json!({"replicas": state.servers, "sslMode": "disable", "authSecret": {"kind": "Secret", "name": format!("{}-auth", state.name)}});
        vec![
            custom(state, "postgreses", ("kubedb.com/v1", "Postgres"), &spec, &json!({"phase": "Ready"})),
            kubedb_auth(state),
        ]
    }
    fn server(&self) -> ServerSetup {
        plaintext("host all all 127.0.0.1/32 trust\nhost all all ::1/128 trust\nhost all all all md5")
    }
    fn login(&self, _state: &State) -> Role {
        Role::postgres()
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(format!("{}-auth", state.name))
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        by_labels("postgreses")
    }
}

impl System for KubeDbCertificate {
    fn name(&self) -> &'static str {
        "kubedb"
    }
    fn title(&self) -> &'static str {
        "KubeDB with client certificates"
    }
    fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        vec![("kubedb.com", "v1alpha2", "postgreses"), ("appcatalog.appscode.com", "v1alpha1", "appbindings")]
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        kubedb_labels(state, number)
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let spec = json!({"replicas": state.servers, "sslMode": "verify-full", "clientAuthMode": "cert", "tls": {"issuerRef": {"name": "ca"}}});
        let binding = json!({
            "secret": {"name": format!("{}-auth", state.name)}, "type": "kubedb.com/postgres",
            "clientConfig": {"caBundle": crate::cnpg::encoded(&state.authority), "service": {"name": state.name, "port": 5432}},
        });
        vec![
            custom(state, "postgreses", ("kubedb.com/v1alpha2", "Postgres"), &spec, &json!({"phase": "Ready"})),
            custom(state, "appbindings", ("appcatalog.appscode.com/v1alpha1", "AppBinding"), &binding, &json!({})),
            certificate_secret(state, &format!("{}-client-cert", state.name), &state.client),
            kubedb_auth(state),
        ]
    }
    fn server(&self) -> ServerSetup {
        with_tls("hostssl all all all cert clientcert=verify-full")
    }
    fn login(&self, _state: &State) -> Role {
        Role::postgres()
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(format!("{}-auth", state.name))
    }
    fn certificate_name(&self, state: &State) -> Option<String> {
        Some(format!("*.{}-pods.{}.svc", state.name, state.namespace))
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        vec![
            ("watch", "postgreses"),
            ("watch", "pods"),
            ("list", "postgreses"),
            ("list", "secrets"),
            ("get", "appbindings"),
        ]
    }
}

/// KubeBlocks.
pub struct KubeBlocks;

impl System for KubeBlocks {
    fn name(&self) -> &'static str {
        "kubeblocks"
    }
    fn title(&self) -> &'static str {
        "KubeBlocks"
    }
    fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        vec![("apps.kubeblocks.io", "v1", "clusters")]
    }
    fn pod_name(&self, state: &State, number: usize) -> String {
        format!("{}-postgresql-{number}", state.name)
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        json!({
            "app.kubernetes.io/instance": state.name, "app.kubernetes.io/managed-by": "kubeblocks",
            "apps.kubeblocks.io/component-name": "postgresql", "kubeblocks.io/role": role(state, number, "primary", "secondary"),
        })
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let spec = json!({"clusterDef": "postgresql", "topology": "replication", "componentSpecs": [{"name": "postgresql", "replicas": state.servers}]});
        let account = |name: &str, password: &str| {
            let labels = json!({"app.kubernetes.io/instance": state.name, "apps.kubeblocks.io/system-account": name});
            secret(
                state,
                &format!("{}-postgresql-account-{name}", state.name),
                &labels,
                &[("username", name), ("password", password)],
            )
        };
        vec![
            custom(state, "clusters", ("apps.kubeblocks.io/v1", "Cluster"), &spec, &json!({"phase": "Running"})),
            account("postgres", &state.password),
            account("reporting", &state.other_password),
        ]
    }
    fn server(&self) -> ServerSetup {
        plaintext("host all all 0.0.0.0/0 md5\nhost all all ::/0 md5\nhost all all 127.0.0.1/32 trust")
    }
    fn login(&self, _state: &State) -> Role {
        Role::postgres()
    }
    fn other(&self, _state: &State) -> Option<Role> {
        Some(Role::new("reporting", "postgres"))
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(format!("{}-postgresql-account-postgres", state.name))
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        by_labels("clusters")
    }
}

/// Kubegres.
pub struct Kubegres;

impl System for Kubegres {
    fn name(&self) -> &'static str {
        "kubegres"
    }
    fn title(&self) -> &'static str {
        "Kubegres"
    }
    fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        vec![("kubegres.reactive-tech.io", "v1", "kubegres")]
    }
    fn pod_name(&self, state: &State, number: usize) -> String {
        format!("{}-{}-0", state.name, number + 1)
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        json!({"app": state.name, "index": (number + 1).to_string(), "replicationRole": role(state, number, "primary", "replica")})
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let key = |name: &str, key: &str| json!({"name": name, "valueFrom": {"secretKeyRef": {"name": "mysecret", "key": key}}});
        let spec = json!({
            "replicas": state.servers, "image": "postgres:17",
            "env": [key("POSTGRES_PASSWORD", "superUserPassword"), key("POSTGRES_REPLICATION_PASSWORD", "replicationUserPassword")],
        });
        vec![
            custom(state, "kubegres", ("kubegres.reactive-tech.io/v1", "Kubegres"), &spec, &json!({})),
            secret(
                state,
                "mysecret",
                &json!({}),
                &[("superUserPassword", &state.password), ("replicationUserPassword", "not-for-people")],
            ),
        ]
    }
    fn server(&self) -> ServerSetup {
        plaintext("host all all all md5")
    }
    fn login(&self, _state: &State) -> Role {
        Role::postgres()
    }
    fn secret(&self, _state: &State) -> Option<String> {
        Some("mysecret".to_owned())
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        // Only the resource says which Secret it is.
        vec![("list", "kubegres"), ("watch", "kubegres"), ("watch", "pods"), ("list", "secrets")]
    }
}

/// Tembo: a `CoreDB`, and a CloudNativePG cluster that belongs to it.
pub struct Tembo;

impl System for Tembo {
    fn name(&self) -> &'static str {
        "tembo"
    }
    fn title(&self) -> &'static str {
        "Tembo"
    }
    fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        vec![("coredb.io", "v1alpha1", "coredbs"), ("postgresql.cnpg.io", "v1", "clusters")]
    }
    fn pod_name(&self, state: &State, number: usize) -> String {
        CloudNativePg.pod_name(state, number)
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        CloudNativePg.pod_labels(state, number)
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let host = format!("{}-r.{}.svc.cluster.local", state.name, state.namespace);
        let mut inner = CloudNativePg.objects(state).remove(0);
        inner.1["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "coredb.io/v1alpha1", "kind": "CoreDB", "name": state.name, "uid": "x"}]);
        inner.1["spec"]["bootstrap"] = json!({"initdb": {}});
        vec![
            custom(
                state,
                "coredbs",
                ("coredb.io/v1alpha1", "CoreDB"),
                &json!({"replicas": state.servers}),
                &json!({"running": true}),
            ),
            inner,
            secret(
                state,
                &format!("{}-connection", state.name),
                &json!({"app": "coredb", "coredb.io/name": state.name}),
                &[
                    ("user", "postgres"),
                    ("username", "postgres"),
                    ("password", &state.password),
                    ("host", &host),
                    ("port", "5432"),
                ],
            ),
        ]
    }
    fn pooler_labels(&self, state: &State) -> Option<Value> {
        CloudNativePg.pooler_labels(state)
    }
    fn server(&self) -> ServerSetup {
        plaintext(SCRAM)
    }
    fn login(&self, _state: &State) -> Role {
        Role::postgres()
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(format!("{}-connection", state.name))
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        vec![("list", "coredbs"), ("watch", "coredbs"), ("watch", "clusters"), ("watch", "pods"), ("list", "secrets")]
    }
}
