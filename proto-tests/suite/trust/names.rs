//! Names that several things have. Whoever may write a Service, a Secret or a StatefulSet cannot take the name of an
//! operator's cluster, or of anything else that comes before what they may write.

use std::sync::Arc;

use proto_tests::{
    cnpg::Cluster,
    hostile::{Asks, Hostile},
    kubernetes::{Backend, FakeKubernetes, certificates::Authority},
    postgres::PostgresServer,
    secrets,
    subject::Subject,
    systems::{Elastisys, State, System, Zalando, draw},
};
use serde_json::{Value, json};

use crate::{
    support::{NO_WAIT, list, serve, tunnels_to},
    trust::stage::{pod, secret, server, service, who},
};

/// What may be called `set`, from what comes first to what comes last. Each has a login of its own, which tells them
/// apart; as `pgferry list` prints them.
const READINGS: [&str; 5] = ["cloudnative-pg", "statefulset", "service", "elastisys", "connection-secret"];

/// The roles of the readings, in the same order.
const ROLES: [&str; 5] = ["operator", "workload", "marked", "access", "secret"];

pub(crate) struct Stage {
    pub(crate) api: FakeKubernetes,
    pub(crate) server: Arc<PostgresServer>,
    pub(crate) password: String,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let password = secrets::make("any");
        let roles = ROLES.map(|role| (role, password.as_str()));
        let server = Arc::new(server(&roles).await);
        Self::on(server, password).await
    }

    async fn on(server: Arc<PostgresServer>, password: String) -> Self {
        let api = FakeKubernetes::start().await;
        api.serve_crd("postgresql.cnpg.io", "v1", "clusters");
        Self { api, server, password }
    }

    /// Nothing but the same server.
    pub(crate) async fn anew(&self) -> Self {
        Self::on(Arc::clone(&self.server), self.password.clone()).await
    }

    pub(crate) fn login(&self, place: (&str, &str), role: &str, more: &[(&str, &str)]) -> Value {
        let mut pairs = vec![("username", role), ("password", self.password.as_str()), ("database", role)];
        pairs.extend(more);
        secret(place, &pairs)
    }

    pub(crate) fn pod(&self, namespace: &str, name: &str, labels: &Value) {
        pod(&self.api, (namespace, name), labels, self.server.address());
    }

    /// A connection Secret, and the Service and pod that it leads to.
    pub(crate) fn connection(&self, (namespace, name): (&str, &str), role: &str) {
        let plain = name.replace('.', "-");
        let host = format!("{plain}-{role}-db");
        let port = [("host", host.as_str()), ("port", "5432")];
        self.api.put("secrets", self.login((namespace, name), role, &port));
        let labels = json!({"app": host});
        self.api.put("services", service((namespace, &host), labels.clone(), json!({})));
        self.pod(namespace, &format!("{host}-0"), &labels);
    }

    pub(crate) fn operated(&self, (namespace, name): (&str, &str)) {
        let spec = json!({"instances": 1, "bootstrap": {"initdb": {"database": "operator", "owner": "operator"}}});
        Cluster::with_spec(&self.api, (namespace, name), spec, &[self.server.address()]);
        self.api.put("secrets", self.login((namespace, &format!("{name}-app")), "operator", &[]));
    }

    /// Writes one reading of `set` in namespace `prod`.
    pub(crate) fn write(&self, reading: &str) {
        match reading {
            "cloudnative-pg" => self.operated(("prod", "set")),
            "statefulset" => {
                let labels = json!({"app": "set-workload"});
                let password = json!({"secretKeyRef": {"name": "set-workload", "key": "password"}});
                let container = json!({"name": "postgres", "image": "postgres:17", "env": [
                    {"name": "POSTGRES_USER", "value": "workload"}, {"name": "POSTGRES_DB", "value": "workload"},
                    {"name": "POSTGRES_PASSWORD", "valueFrom": password},
                ]});
                self.api.put(
                    "statefulsets",
                    json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
                    "metadata": {"namespace": "prod", "name": "set"},
                    "spec": {"replicas": 1, "serviceName": "set", "selector": {"matchLabels": labels},
                        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}},
                    "status": {"replicas": 1, "readyReplicas": 1}}),
                );
                self.api.put("secrets", self.login(("prod", "set-workload"), "workload", &[]));
                self.pod("prod", "set-0", &labels);
            }
            "service" => {
                let labels = json!({"app": "set-marked"});
                let marks = json!({"pgferry.dev/cluster": "set", "pgferry.dev/secret": "set-marked"});
                self.api.put("services", service(("prod", "set"), labels.clone(), marks));
                let mut login = self.login(("prod", "set-marked"), "marked", &[]);
                login["metadata"]["annotations"]["pgferry.dev/cluster"] = json!("set");
                self.api.put("secrets", login);
                self.pod("prod", "marked-0", &labels);
            }
            "elastisys" => {
                let access = [("PGHOST", "set-access"), ("USER_ACCESS", "svc/set-access")];
                self.api.put("secrets", self.login(("prod", "set.user.access"), "access", &access));
                let labels = json!({"app": "set-access"});
                self.api.put("services", service(("prod", "set-access"), labels.clone(), json!({})));
                self.pod("prod", "access-0", &labels);
            }
            _ => self.connection(("prod", "set"), "secret"),
        }
    }

    pub(crate) async fn pgferry(&self) -> Subject {
        serve(&self.api, NO_WAIT).await
    }
}

pub(crate) async fn means(pgferry: &Subject, database: &str, role: &str) {
    let wire = pgferry.connect("pgferry", database).await.unwrap_or_else(|error| panic!("{database}: {error:?}"));
    assert_eq!(who(wire).await, role, "{database}");
}

/// Each comes before what is below it, whichever was written first.
#[tokio::test]
async fn who_may_write_a_lower_reading_takes_no_higher_ones_name() {
    let base = Stage::new().await;
    for (number, (first, role)) in READINGS.iter().zip(ROLES).enumerate() {
        for later in READINGS.iter().skip(number + 1) {
            let stage = base.anew().await;
            stage.write(first);
            let before = stage.pgferry().await;
            means(&before, "set.prod", role).await;
            stage.write(later);
            let after = stage.pgferry().await;
            for pgferry in [&before, &after] {
                means(pgferry, "set.prod", role).await;
                means(pgferry, "set", role).await;
            }
            let listed = list(&stage.api).await;
            let of_name = listed.iter().filter(|one| one["name"] == "set" && one["system"] == *first);
            assert_eq!(of_name.count(), 1, "{later} beside {first}: {listed:#?}");
        }
    }
}

/// A bare name that two namespaces have is ambiguous, whatever the two are: an operator's resource in a tenant's
/// namespace hid the workload of this name in another.
#[tokio::test]
async fn nor_one_of_another_namespace() {
    let base = Stage::new().await;
    for reading in READINGS.iter().skip(1) {
        let stage = base.anew().await;
        stage.write(reading);
        stage.operated(("tenant", "set"));
        let pgferry = stage.pgferry().await;
        let refusal = pgferry.refusal("pgferry", "set").await;
        assert_eq!(refusal.code, "3D000", "{reading}: {refusal:?}");
        for spelling in ["set.prod", "set.tenant"] {
            assert!(refusal.message.contains(spelling), "{reading}: {refusal:?}");
            pgferry.connect("pgferry", spelling).await.unwrap();
        }
    }
}

/// All five at once: the name is the first one's, and each of them is reached by an alias that says which it is.
#[tokio::test]
async fn an_alias_reaches_the_lower_readings() {
    let stage = Stage::new().await;
    for reading in READINGS.iter().rev() {
        stage.write(reading);
    }
    let aliases = READINGS.map(|system| format!("x-{system} = {{ target = \"set.prod\", system = \"{system}\" }}\n"));
    let pgferry = serve(&stage.api, &format!("[names.aliases]\n{}", aliases.concat())).await;
    means(&pgferry, "set.prod", "operator").await;
    for (system, role) in READINGS.iter().zip(ROLES) {
        means(&pgferry, &format!("x-{system}"), role).await;
    }
    let pgferry = serve(&stage.api, "[names.aliases]\nx = { target = \"set.prod\", system = \"zalando\" }\n").await;
    let refusal = pgferry.refusal("pgferry", "x").await;
    assert!(refusal.code == "3D000" && refusal.message.contains("zalando"), "{refusal:?}");
}

/// The story: `shop.prod` was the cluster `shop` in namespace `prod` until somebody called a Secret so.
#[tokio::test]
async fn a_dotted_name_is_a_cluster_in_a_namespace_first() {
    let stage = Stage::new().await;
    stage.operated(("prod", "shop"));
    stage.connection(("default", "shop.prod"), "secret");
    stage.connection(("prod", "db"), "access");
    stage.connection(("default", "db.prod"), "secret");
    stage.connection(("default", "only.prod"), "secret");
    let alias = "x = { target = \"shop.prod.default\", system = \"connection-secret\" }";
    let pgferry = serve(&stage.api, &format!("[names.aliases]\n{alias}\n")).await;
    means(&pgferry, "shop.prod", "operator").await;
    means(&pgferry, "db.prod", "access").await;
    // The whole name is read where the divided one leads nowhere.
    means(&pgferry, "only.prod", "secret").await;
    means(&pgferry, "shop.prod.default", "secret").await;
    means(&pgferry, "x", "secret").await;
}

#[tokio::test]
async fn dotted_names_are_found_bare_here_and_elsewhere() {
    let stage = Stage::new().await;
    for namespace in ["default", "tenant"] {
        let name = |name: &str| if namespace == "default" { name.to_owned() } else { format!("{name}.far") };
        stage.connection((namespace, &name("eu.shop.v2")), "secret");
        let access = [("PGHOST", "db-access"), ("USER_ACCESS", "svc/db-access")];
        let place = format!("{}.user.access", name("shopdb"));
        stage.api.put("secrets", stage.login((namespace, &place), "access", &access));
        let labels = json!({"app": "db-access"});
        stage.api.put("services", service((namespace, "db-access"), labels.clone(), json!({})));
        stage.pod(namespace, "access-0", &labels);
    }
    let pgferry = stage.pgferry().await;
    for name in ["eu.shop.v2", "eu.shop.v2.default", "eu.shop.v2.far", "eu.shop.v2.far.tenant"] {
        means(&pgferry, name, "secret").await;
    }
    for name in ["shopdb", "shopdb.user.access", "shopdb.far.user.access", "shopdb.user.access.default", "shopdb.far"] {
        means(&pgferry, name, "access").await;
    }
}

/// An access Secret in the tenant's namespace, and the operator's cluster that it leads to, which the caller may list.
#[tokio::test]
async fn readings_that_lead_to_the_same_pods_are_one_cluster() {
    let state = State::new(&Elastisys, "tenant", 2);
    let behind = State { namespace: Elastisys.server_namespace(&state), ..state.clone() };
    let api = FakeKubernetes::start().await;
    let hostile = Hostile::with_tls(Asks::Nothing, &Authority::new("spilo").server(&["spilo.example.org"])).await;
    draw(&api, &Zalando, &behind);
    draw(&api, &Elastisys, &state);
    api.backend(&behind.namespace, "shop-0", 5432, Backend::To(hostile.address()));
    for namespace in ["default", "tenant", &behind.namespace] {
        let pgferry = serve(&api, &format!("[kubernetes]\nnamespace = \"{namespace}\"\n")).await;
        for database in ["shop", "shop.tenant", &format!("shop.{}", behind.namespace)] {
            let connected = pgferry.connect("pgferry", database).await;
            assert!(connected.is_ok(), "{database} in {namespace}: {:?}", connected.err());
        }
    }
    assert!(tunnels_to(&api, "shop-0") > 0);
}

/// An access Secret names a Service without a namespace, and its host's is where the database is. Somebody else's Service of
/// that name beside the Secret is not the one that its author meant.
#[tokio::test]
async fn an_access_secrets_service_is_where_its_host_is() {
    let cluster = State::new(&Elastisys, "tenant", 2);
    let api = FakeKubernetes::start().await;
    let pair = Authority::new("spilo").server(&["spilo.example.org"]);
    let (right, thief) = (Hostile::with_tls(Asks::Nothing, &pair).await, Hostile::with_tls(Asks::Md5, &pair).await);
    draw(&api, &Elastisys, &cluster);
    api.backend(&Elastisys.server_namespace(&cluster), "shop-0", 5432, Backend::To(right.address()));
    pod(&api, ("tenant", "thief-0"), &json!({"app": "thief"}), thief.address());
    for name in ["shop-access", "shop"] {
        api.put("services", service(("tenant", name), json!({"app": "thief"}), json!({})));
    }
    let pgferry = serve(&api, "").await;
    for database in ["shop", "shop.tenant"] {
        let connected = pgferry.connect("pgferry", database).await;
        assert!(connected.is_ok(), "{database}: {:?}", connected.err());
    }
    assert_eq!((thief.answers(), tunnels_to(&api, "thief-0")), (0, 0), "hashes of the password, and tunnels");
}

/// The inline tables of a text, each of which is an alias.
fn tables(text: &str) -> Vec<String> {
    text.split('{').skip(1).filter_map(|rest| Some(format!("{{{}}}", rest.split_once('}')?.0))).collect()
}

#[tokio::test]
async fn two_operators_of_one_name_are_told_apart_by_an_alias() {
    let stage = Stage::new().await;
    stage.operated(("prod", "set"));
    let zalando = State { name: "set".to_owned(), ..State::new(&Zalando, "prod", 1) };
    draw(&stage.api, &Zalando, &zalando);
    let refusal = stage.pgferry().await.refusal("pgferry", "set.prod").await;
    assert_eq!(refusal.code, "3D000", "{refusal:?}");
    for system in ["cloudnative-pg", "zalando"] {
        assert!(refusal.message.contains(system), "{refusal:?}");
    }
    let tables = tables(&refusal.hint);
    assert!(!tables.is_empty(), "the hint has no alias: {refusal:?}");
    for table in tables {
        let pgferry = serve(&stage.api, &format!("[names.aliases]\nx = {table}\n")).await;
        match pgferry.connect("pgferry", "x").await {
            Ok(wire) => assert_eq!(who(wire).await, "operator", "{table}"),
            // Zalando's has its own passwords, which this server does not know; but it is the one that is meant.
            Err(told) => assert!(table.contains("zalando") && told.code != "3D000", "{table}: {told:?}"),
        }
    }
}

/// What an error says may be typed, works when it is typed.
#[tokio::test]
async fn every_spelling_of_an_ambiguity_works() {
    let stage = Stage::new().await;
    for namespace in ["prod", "staging"] {
        stage.operated((namespace, "shop"));
        stage.connection((namespace, "eu.shop.v2"), "secret");
    }
    // Called as one of the spellings, and no answer to either.
    stage.connection(("default", "shop.staging"), "access");
    let pgferry = stage.pgferry().await;
    for (name, role) in [("shop", "operator"), ("eu.shop.v2", "secret")] {
        let refusal = pgferry.refusal("pgferry", name).await;
        assert_eq!(refusal.code, "3D000", "{refusal:?}");
        let (_, listed) = refusal.message.split_once(": ").expect("a list");
        let spellings: Vec<&str> = listed.split(" and ").collect();
        assert_eq!(spellings.len(), 2, "{refusal:?}");
        let typed = refusal.hint.rsplit(' ').next().unwrap();
        for spelling in spellings.into_iter().chain([typed]) {
            means(&pgferry, spelling, role).await;
        }
    }
}
