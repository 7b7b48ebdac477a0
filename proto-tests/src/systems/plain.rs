//! What no operator makes: charts, images, Services and Secrets.

use serde_json::{Value, json};

use super::{Role, ServerSetup, State, System, operators::spilo_status, role, secret, service, slice, typed_secret};

const SCRAM: ServerSetup = ServerSetup { hba: "host all all all scram-sha-256", tls: false, md5: false };
/// The official image leaves initdb's `trust` on loopback.
const TRUST: ServerSetup = ServerSetup {
    hba: "host all all 127.0.0.1/32 trust\nhost all all ::1/128 trust\nhost all all all scram-sha-256",
    tls: false,
    md5: false,
};

/// Without these a plain cluster is found by computed names.
fn no_lists() -> Vec<(&'static str, &'static str)> {
    ["services", "secrets", "statefulsets", "deployments"]
        .into_iter()
        .map(|resource| ("list", resource))
        .chain([("watch", "pods"), ("list", "endpointslices")])
        .collect()
}

/// A StatefulSet or Deployment.
fn workload(
    state: &State,
    (kind, name): (&str, &str),
    labels: &Value,
    selector: &Value,
    (replicas, pod): (usize, &Value),
) -> (&'static str, Value) {
    let object = json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"namespace": state.namespace, "name": name, "labels": labels},
        "spec": {
            "replicas": replicas, "serviceName": name, "selector": {"matchLabels": selector},
            "template": {"metadata": {"labels": selector}, "spec": pod},
        },
        "status": {"replicas": replicas, "readyReplicas": replicas},
    });
    (if kind == "StatefulSet" { "statefulsets" } else { "deployments" }, object)
}

/// Elastisys: a Secret and a Service, behind which Zalando's operator works where the tenant sees nothing.
pub struct Elastisys;

impl Elastisys {
    fn service(state: &State) -> String {
        format!("{}-access", state.name)
    }
}

impl System for Elastisys {
    fn name(&self) -> &'static str {
        "elastisys"
    }
    fn title(&self) -> &'static str {
        "Elastisys access Secret"
    }
    fn server_namespace(&self, state: &State) -> String {
        format!("{}-system", state.namespace)
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        json!({"application": "spilo", "cluster-name": state.name, "spilo-role": role(state, number, "master", "replica")})
    }
    fn pod_annotations(&self, state: &State, number: usize) -> Value {
        spilo_status(state, number)
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let namespace = self.server_namespace(state);
        let selector = json!({"application": "spilo", "cluster-name": state.name, "spilo-role": "master"});
        let host = format!("{}.{namespace}.svc.cluster.local", state.name);
        let labels = json!({"application": "spilo", "cluster-name": state.name, "spilo-role": "master"});
        vec![
            secret(
                state,
                &format!("{}.user.access", state.name),
                &json!({}),
                &[
                    ("PGHOST", &host),
                    ("PGUSER", "owner"),
                    ("PGPASSWORD", &state.password),
                    ("PGSSLMODE", "require"),
                    ("USER_ACCESS", &format!("svc/{}", Self::service(state))),
                ],
            ),
            service(&namespace, &Self::service(state), &json!({}), &selector),
            slice(self, state, &Self::service(state), &state.labelled),
            super::patroni_endpoints(self, state, &state.name, &labels),
        ]
    }
    fn pooler_labels(&self, state: &State) -> Option<Value> {
        Some(json!({"application": "db-connection-pooler", "cluster-name": state.name, "spilo-role": "master"}))
    }
    fn server(&self) -> ServerSetup {
        ServerSetup {
            hba: "host all all 127.0.0.1/32 md5\nhost all all ::1/128 md5\nhostssl all all all md5",
            tls: true,
            md5: false,
        }
    }
    fn login(&self, _state: &State) -> Role {
        Role::new("owner", "postgres")
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(format!("{}.user.access", state.name))
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        let mut all = no_lists();
        all.push(("list", "postgresqls"));
        all.push(("get", "postgresqls"));
        all
    }
}

/// Bitnami's chart `postgresql`, replicated.
pub struct Bitnami;

impl Bitnami {
    fn fullname(state: &State) -> String {
        format!("{}-postgresql", state.name)
    }

    fn labels(state: &State, component: &str) -> Value {
        json!({
            "app.kubernetes.io/name": "postgresql", "app.kubernetes.io/instance": state.name,
            "app.kubernetes.io/component": component,
        })
    }
}

impl System for Bitnami {
    fn name(&self) -> &'static str {
        "bitnami"
    }
    fn title(&self) -> &'static str {
        "Bitnami postgresql"
    }
    fn pod_name(&self, state: &State, number: usize) -> String {
        let component = if number == 0 { "primary" } else { "read" };
        format!("{}-{component}-0", Self::fullname(state))
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        Self::labels(state, if number == 0 { "primary" } else { "read" })
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let fullname = Self::fullname(state);
        let pod = json!({
            "containers": [{
                "name": "postgresql", "image": "docker.io/bitnami/postgresql:17",
                "env": [
                    {"name": "POSTGRES_USER", "value": "app"}, {"name": "POSTGRES_DATABASE", "value": "shop"},
                    {"name": "POSTGRES_PASSWORD_FILE", "value": "/opt/bitnami/postgresql/secrets/password"},
                    {"name": "POSTGRES_POSTGRES_PASSWORD_FILE", "value": "/opt/bitnami/postgresql/secrets/postgres-password"},
                ],
                "ports": [{"name": "tcp-postgresql", "containerPort": 5432}],
                "volumeMounts": [{"name": "postgresql-password", "mountPath": "/opt/bitnami/postgresql/secrets/"}],
            }],
            "volumes": [{"name": "postgresql-password", "secret": {"secretName": fullname}}],
        });
        let set = |component: &str| {
            let labels = Self::labels(state, component);
            workload(state, ("StatefulSet", &format!("{fullname}-{component}")), &labels, &labels, (1, &pod))
        };
        vec![
            set("primary"),
            set("read"),
            secret(
                state,
                &fullname,
                &json!({}),
                &[
                    ("password", &state.password),
                    ("postgres-password", &state.superuser),
                    ("replication-password", "x"),
                ],
            ),
        ]
    }
    fn server(&self) -> ServerSetup {
        ServerSetup { hba: "host all all 0.0.0.0/0 md5\nhost all all ::/0 md5", tls: false, md5: false }
    }
    fn login(&self, _state: &State) -> Role {
        Role::new("app", "shop")
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(Self::fullname(state))
    }
    fn fails_over(&self) -> bool {
        false
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        no_lists()
    }
}

/// Bitnami's chart `postgresql-ha`: only the servers know who leads.
pub struct BitnamiHa;

impl BitnamiHa {
    fn set(state: &State) -> String {
        format!("{}-postgresql-ha-postgresql", state.name)
    }
}

impl System for BitnamiHa {
    fn name(&self) -> &'static str {
        "bitnami-ha"
    }
    fn title(&self) -> &'static str {
        "Bitnami postgresql-ha"
    }
    fn pod_name(&self, state: &State, number: usize) -> String {
        format!("{}-{number}", Self::set(state))
    }
    fn pod_labels(&self, state: &State, _number: usize) -> Value {
        json!({
            "app.kubernetes.io/name": "postgresql-ha", "app.kubernetes.io/instance": state.name,
            "app.kubernetes.io/component": "postgresql", "role": "data",
        })
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let labels = self.pod_labels(state, 0);
        let pod = json!({"containers": [{
            "name": "postgresql", "image": "docker.io/bitnami/postgresql-repmgr:17",
            "env": [
                {"name": "POSTGRES_USER", "value": "app"}, {"name": "POSTGRES_DB", "value": "shop"},
                {"name": "POSTGRES_PASSWORD", "valueFrom": {"secretKeyRef": {"name": Self::set(state), "key": "password"}}},
            ],
            "ports": [{"name": "postgresql", "containerPort": 5432}],
        }]});
        vec![
            workload(state, ("StatefulSet", &Self::set(state)), &labels, &labels, (state.servers, &pod)),
            secret(
                state,
                &Self::set(state),
                &json!({}),
                &[("password", &state.password), ("postgres-password", &state.superuser), ("repmgr-password", "x")],
            ),
        ]
    }
    fn pooler_labels(&self, state: &State) -> Option<Value> {
        Some(json!({
            "app.kubernetes.io/name": "postgresql-ha", "app.kubernetes.io/instance": state.name,
            "app.kubernetes.io/component": "pgpool",
        }))
    }
    fn server(&self) -> ServerSetup {
        SCRAM
    }
    fn login(&self, _state: &State) -> Role {
        Role::new("app", "shop")
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(Self::set(state))
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        no_lists()
    }
    fn asks_the_servers(&self) -> bool {
        true
    }
}

/// The official image in a StatefulSet.
pub struct StatefulSet;
/// The official image in a Deployment, its environment from a Secret.
pub struct Deployment;

impl System for StatefulSet {
    fn name(&self) -> &'static str {
        "statefulset"
    }
    fn title(&self) -> &'static str {
        "official image, StatefulSet"
    }
    fn pod_labels(&self, state: &State, _number: usize) -> Value {
        json!({"app": state.name})
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let pod = json!({"containers": [{
            "name": "postgres", "image": "docker.io/library/postgres:17",
            "env": [
                {"name": "POSTGRES_USER", "value": "app"}, {"name": "POSTGRES_DB", "value": "shop"},
                {"name": "POSTGRES_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}},
            ],
            "ports": [{"containerPort": 5432}],
        }]});
        let labels = json!({"app": state.name});
        vec![
            workload(state, ("StatefulSet", &state.name), &labels, &labels, (state.servers, &pod)),
            secret(state, "login", &json!({}), &[("password", &state.password)]),
            service(&state.namespace, &state.name, &json!({}), &labels),
        ]
    }
    fn server(&self) -> ServerSetup {
        TRUST
    }
    fn login(&self, _state: &State) -> Role {
        Role { superuser: true, ..Role::new("app", "shop") }
    }
    fn secret(&self, _state: &State) -> Option<String> {
        Some("login".to_owned())
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        no_lists()
    }
    fn asks_the_servers(&self) -> bool {
        true
    }
}

impl System for Deployment {
    fn name(&self) -> &'static str {
        "deployment"
    }
    fn title(&self) -> &'static str {
        "official image, Deployment"
    }
    fn pod_name(&self, state: &State, number: usize) -> String {
        format!("{}-7d9c5b{number}-x2x4z", state.name)
    }
    fn pod_labels(&self, state: &State, _number: usize) -> Value {
        json!({"app": state.name})
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let pod = json!({"containers": [{
            "name": "postgres", "image": "postgres:17", "envFrom": [{"secretRef": {"name": "environment"}}],
        }]});
        let labels = json!({"app": state.name});
        let data = [("POSTGRES_USER", "app"), ("POSTGRES_PASSWORD", state.password.as_str())];
        vec![
            workload(state, ("Deployment", &state.name), &labels, &labels, (1, &pod)),
            secret(state, "environment", &json!({}), &data),
        ]
    }
    fn server(&self) -> ServerSetup {
        SCRAM
    }
    fn login(&self, _state: &State) -> Role {
        // The image calls the database as the user.
        Role { superuser: true, ..Role::new("app", "app") }
    }
    fn secret(&self, _state: &State) -> Option<String> {
        Some("environment".to_owned())
    }
    fn fails_over(&self) -> bool {
        false
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        no_lists()
    }
}

/// A Secret of a Service Binding that leads to a Service without a selector.
pub struct ConnectionSecret;

impl System for ConnectionSecret {
    fn name(&self) -> &'static str {
        "connection-secret"
    }
    fn title(&self) -> &'static str {
        "connection Secret"
    }
    fn pod_name(&self, state: &State, number: usize) -> String {
        format!("{}-server-{number}", state.name)
    }
    fn pod_labels(&self, _state: &State, _number: usize) -> Value {
        json!({"app": "some-database"})
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let server = format!("{}-server", state.name);
        let host = format!("{server}.{}.svc", state.namespace);
        vec![
            typed_secret(
                state,
                &state.name,
                "servicebinding.io/postgresql",
                &json!({}),
                &[
                    ("type", "postgresql"),
                    ("provider", "acme"),
                    ("host", &host),
                    ("port", "5432"),
                    ("username", "app"),
                    ("password", &state.password),
                    ("database", "shop"),
                    ("uri", "postgresql://app:stale@nowhere/shop"),
                ],
            ),
            service(&state.namespace, &server, &json!({}), &Value::Null),
            slice(self, state, &server, &[state.leader]),
        ]
    }
    fn server(&self) -> ServerSetup {
        SCRAM
    }
    fn login(&self, _state: &State) -> Role {
        Role::new("app", "shop")
    }
    fn secret(&self, state: &State) -> Option<String> {
        Some(state.name.clone())
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        let mut all = no_lists();
        // Without a selector only EndpointSlices say where a Service leads, and no pod needs to be read.
        all.retain(|(_, resource)| *resource != "endpointslices");
        all.extend([("get", "pods"), ("list", "pods")]);
        all
    }
}

/// A Service and a Secret that somebody has marked.
pub struct Marked;

impl System for Marked {
    fn name(&self) -> &'static str {
        "service"
    }
    fn title(&self) -> &'static str {
        "marked Service (`pgferry.dev/...`)"
    }
    fn pod_name(&self, state: &State, number: usize) -> String {
        format!("{}-db-{number}", state.name)
    }
    fn pod_labels(&self, state: &State, number: usize) -> Value {
        json!({"app": state.name, "role": role(state, number, "leader", "follower")})
    }
    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let marked = |suffix: &str, pods: &str, marks: Value| {
            let (plural, mut object) = service(
                &state.namespace,
                &format!("{}-{suffix}", state.name),
                &json!({"pgferry.dev/cluster": state.name}),
                &json!({"app": state.name, "role": pods}),
            );
            object["metadata"]["annotations"] = marks;
            (plural, object)
        };
        let labels = json!({"pgferry.dev/cluster": state.name});
        vec![
            marked("write", "leader", json!({"pgferry.dev/secret": "login"})),
            marked("read", "follower", json!({"pgferry.dev/role": "replica"})),
            slice(self, state, &format!("{}-write", state.name), &state.labelled),
            slice(self, state, &format!("{}-read", state.name), &[1 - state.leader]),
            secret(
                state,
                "login",
                &labels,
                &[("username", "app"), ("password", &state.password), ("database", "shop")],
            ),
            secret(
                state,
                "reporting",
                &labels,
                &[("username", "reporting"), ("password", &state.other_password), ("database", "shop")],
            ),
        ]
    }
    fn server(&self) -> ServerSetup {
        SCRAM
    }
    fn login(&self, _state: &State) -> Role {
        Role::new("app", "shop")
    }
    fn other(&self, _state: &State) -> Option<Role> {
        Some(Role::new("reporting", "shop"))
    }
    fn secret(&self, _state: &State) -> Option<String> {
        Some("login".to_owned())
    }
    fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
        vec![("list", "secrets"), ("list", "statefulsets"), ("list", "deployments"), ("watch", "pods")]
    }
}
