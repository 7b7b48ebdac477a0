//! A tenant who attacks, on the real API server: a ServiceAccount that may write Services, EndpointSlices, Endpoints,
//! ConfigMaps, pods, an operator's resource, and Secrets (but read none), all in its own namespace. pgferry acts for the
//! administrator. What the API server refuses is refused before pgferry sees it; what it takes is tried here.

use std::{path::PathBuf, process::Stdio};

use proto_tests::{
    secrets,
    subject::{Start, Subject},
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::{
    BINARY, CLUSTERS, DEFINITIONS, kubeconfig, kubectl,
    rig::{IMAGE, apply, definition},
    say,
};

const VICTIM: &str = "pgferry-victim";
const TENANT: &str = "pgferry-tenant";
/// An operator's resource. There is no operator: what it would make, the tenant makes.
const RESOURCE: &str = "postgresqls.acid.zalan.do";

/// What stands in the log of a server that was sent a password, right or wrong.
const HEARD: [&str; 2] = ["connection authenticated", "authentication failed"];

struct Rig {
    admin: PathBuf,
    /// The tenant's kubeconfig.
    tenant: tempfile::NamedTempFile,
    /// The operator's resource is there for these tests alone.
    defined: bool,
}

/// A server's pod. Whatever its labels, it asks for cleartext inside TLS with a certificate that nobody knows.
fn server(place: (&str, &str), labels: &Value, password: &str) -> Value {
    let settings = format!("shared_buffers = 16MB\nlog_connections = on\ncluster_name = '{}'\n", place.1);
    let environment = [
        ("POSTGRES_PASSWORD", password),
        ("APP_USER", "app"),
        ("APP_PASSWORD", password),
        ("APP_DB", "app"),
        ("AUTH", "password"),
        ("TLS", "on"),
        ("SETTINGS", &settings),
    ];
    let environment = environment.map(|(name, value)| json!({"name": name, "value": value}));
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": place.0, "name": place.1, "labels": labels},
    "spec": {"terminationGracePeriodSeconds": 1, "enableServiceLinks": false, "containers": [{
        "name": "postgres", "image": IMAGE, "imagePullPolicy": "Never", "env": environment,
        "ports": [{"containerPort": 5432, "name": "postgresql"}],
        "readinessProbe": {"exec": {"command": ["pg_isready", "-q", "-h", "localhost"]}, "periodSeconds": 1},
    }]}})
}

fn secret(place: (&str, &str), pairs: &[(&str, &str)]) -> Value {
    let data: serde_json::Map<String, Value> =
        pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": place.0, "name": place.1}, "stringData": data})
}

fn service(name: &str, selector: Option<Value>, marks: &Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": TENANT, "name": name, "annotations": marks},
        "spec": {"ports": [{"name": "postgresql", "port": 5432, "targetPort": 5432}]}});
    if let Some(selector) = selector {
        object["spec"]["selector"] = selector;
    }
    object
}

fn slice(service: &str, target: &Value) -> Value {
    let mut target = target.clone();
    target["kind"] = json!("Pod");
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": TENANT, "name": format!("{service}-tenant"), "labels": {
            "kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "tenant"}},
        "endpoints": [{"addresses": ["198.51.100.7"], "conditions": {"ready": true}, "targetRef": target}],
        "ports": [{"name": "postgresql", "port": 5432, "protocol": "TCP"}]})
}

fn postgresql(name: &str, databases: &Value) -> Value {
    json!({"apiVersion": "acid.zalan.do/v1", "kind": "postgresql", "metadata": {"namespace": TENANT, "name": name},
        "spec": {"numberOfInstances": 1, "teamId": "t", "postgresql": {"version": "17"}, "databases": databases}})
}

/// A connection Secret of the tenant's own.
fn connection(name: &str, host: &str) -> Value {
    let pairs =
        [("host", host), ("port", "5432"), ("username", "app"), ("password", "of-the-tenant"), ("database", "app")];
    secret((TENANT, name), &pairs)
}

impl Rig {
    async fn new(admin: PathBuf) -> Self {
        Self::remove().await;
        let spaces =
            [VICTIM, TENANT].map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
        apply(&spaces).await;
        let known = kubectl(&["get", "crd", RESOURCE, "--ignore-not-found", "-o", "name"]).await;
        if known.is_empty() {
            apply(&[definition(("acid.zalan.do", "v1", "postgresqls"), "postgresql")]).await;
            kubectl(&["wait", "--for=condition=Established", &format!("crd/{RESOURCE}"), "--timeout=60s"]).await;
        }
        let all = json!(["create", "get", "list", "update", "patch", "delete"]);
        let rules = json!([
            {"apiGroups": [""], "resources": ["services", "endpoints", "configmaps", "pods"], "verbs": all},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": all},
            {"apiGroups": ["acid.zalan.do"], "resources": ["postgresqls"], "verbs": all},
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        ]);
        let of = |kind: &str| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"namespace": TENANT, "name": "tenant"}});
        let (mut role, mut binding) = (of("Role"), of("RoleBinding"));
        role["rules"] = rules;
        binding["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tenant"});
        binding["subjects"] = json!([{"kind": "ServiceAccount", "name": "tenant", "namespace": TENANT}]);
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": TENANT, "name": "tenant"}});
        apply(&[role, binding, account]).await;
        let token = kubectl(&["create", "token", "-n", TENANT, "tenant"]).await;
        secrets::remember(&token);
        let mut config: Value =
            serde_json::from_str(&kubectl(&["config", "view", "--raw", "--minify", "-o", "json"]).await).unwrap();
        config["users"] = json!([{"name": config["contexts"][0]["context"]["user"], "user": {"token": token}}]);
        let tenant = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(tenant.path(), config.to_string()).unwrap();
        Self { admin, tenant, defined: known.is_empty() }
    }

    async fn remove() {
        for namespace in [VICTIM, TENANT] {
            kubectl(&["delete", "namespace", namespace, "--ignore-not-found", "--wait=true", "--timeout=120s"]).await;
        }
    }

    /// The tenant writes objects; what the API server says where it takes one of them not.
    async fn try_to_write(&self, objects: &[Value]) -> Result<(), String> {
        let mut child = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(self.tenant.path())
            .args(["create", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        child.stdin.take().unwrap().write_all(list.as_bytes()).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    async fn writes(&self, objects: &[Value]) {
        if let Err(error) = self.try_to_write(objects).await {
            panic!("the API server refuses what it took before: {error}");
        }
    }

    /// pgferry as the administrator runs it.
    async fn pgferry(&self, namespace: &str) -> Subject {
        let start = Start::new(BINARY).env("PGFERRY__SESSIONS__PRIMARY_WAIT", "0s").arg("serve");
        let start = start.args(["--port", "0", "--log", "debug", "--namespace", namespace, "--kubeconfig"]);
        start.arg(&self.admin).wait().await
    }
}

/// How many passwords have arrived at a server.
async fn heard(place: (&str, &str)) -> usize {
    let log = kubectl(&["logs", "-n", place.0, place.1]).await;
    log.lines().filter(|line| HEARD.iter().any(|part| line.contains(part))).count()
}

/// At the tenant's, and at the victim's.
async fn heard_anywhere() -> [usize; 2] {
    [heard((TENANT, "shop-0")).await, heard((VICTIM, "db-0")).await]
}

async fn ready(place: (&str, &str)) {
    let pod = format!("pod/{}", place.1);
    kubectl(&["wait", "-n", place.0, "--for=condition=Ready", &pod, "--timeout=180s"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_reaches_no_further_than_its_namespace() {
    let Some(admin) = kubeconfig() else { return };
    let images = kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].status.images[*].names[*]}"]).await;
    if !images.contains(IMAGE) {
        return say(&format!("no node has the image {IMAGE}: the tenant's attacks are not tried here"));
    }
    let (_calm, _definitions) = (CLUSTERS.read().await, DEFINITIONS.lock().await);
    let rig = Rig::new(admin).await;
    let password = secrets::make("victim");
    // The tenant's server knows the right answer: whatever arrives, the log tells.
    let spilo = json!({"application": "spilo", "cluster-name": "shop", "spilo-role": "master", "app": "tenant"});
    apply(&[server((VICTIM, "db-0"), &json!({"app": "db"}), &password)]).await;
    let login = [("username", "app"), ("password", password.as_str()), ("database", "app")];
    let across = format!("{VICTIM}.x.across.credentials.postgresql.acid.zalan.do");
    apply(&[secret((VICTIM, "x"), &login), secret((VICTIM, &across), &login), secret((TENANT, "of-another"), &login)])
        .await;
    rig.writes(&[server((TENANT, "shop-0"), &spilo, &password)]).await;
    ready((VICTIM, "db-0")).await;
    ready((TENANT, "shop-0")).await;
    let mut wrong = paths(&rig).await;
    wrong.extend(places(&rig).await);
    wrong.extend(marks(&rig).await);
    wrong.extend(names(&rig).await);
    Rig::remove().await;
    if rig.defined {
        kubectl(&["delete", "crd", RESOURCE]).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is wrong with how an attack ended. A refusal has one of these codes, and names these things.
async fn attempt(rig: &Rig, what: &str, database: &str, codes: &[&str], parts: &[&str]) -> Vec<String> {
    let before = heard_anywhere().await;
    let pgferry = rig.pgferry("default").await;
    let mut wrong = Vec::new();
    match pgferry.connect("pgferry", &format!("{database}.{TENANT}")).await {
        Ok(_) => wrong.push(format!("{what}: let in")),
        Err(refusal) => {
            let right = refusal.severity == "FATAL"
                && codes.contains(&refusal.code.as_str())
                && parts.iter().all(|part| refusal.message.contains(part));
            wrong.extend((!right).then(|| format!("{what}: {refusal:?}")));
        }
    }
    let after = heard_anywhere().await;
    for (whose, (now, then)) in ["tenant's", "victim's"].iter().zip(after.into_iter().zip(before)) {
        wrong.extend((now != then).then(|| format!("{what}: a password arrived at the {whose} pod")));
    }
    wrong
}

async fn paths(rig: &Rig) -> Vec<String> {
    // A role's name: another namespace's Secret.
    rig.writes(&[postgresql("shop", &json!({"app": format!("{VICTIM}/secrets/x?y=.z")}))]).await;
    let mut wrong = attempt(rig, "a role's name", "shop", &["28000"], &[&format!("{TENANT}/shop"), "databases"]).await;
    // A Secret's host: another namespace's anything.
    rig.writes(&[connection("by-host", &format!("x.{VICTIM}/services/db?y=.svc"))]).await;
    wrong.extend(attempt(rig, "a host", "by-host", &["28000"], &[&format!("{TENANT}/by-host"), "host"]).await);
    // A pod's name: a command in a pod, of the tenant's namespace and of another.
    let command = "exec?command=touch&command=/tmp/owned&stdout=true&y=";
    for (number, (namespace, pod)) in [(TENANT, "shop-0"), (VICTIM, "db-0")].into_iter().enumerate() {
        let (name, host) = (format!("run-{number}"), format!("by-slice-{number}"));
        let target = json!({"name": format!("{pod}/{command}"), "namespace": namespace});
        rig.writes(&[service(&name, None, &json!({})), slice(&name, &target), connection(&host, &name)]).await;
        let what = format!("a pod's name in {namespace}");
        wrong.extend(attempt(rig, &what, &host, &["28000", "57P03"], &[&name, "targetRef"]).await);
        let seen = kubectl(&["exec", "-n", namespace, pod, "--", "ls", "/tmp"]).await;
        if seen.contains("owned") {
            wrong.push(format!("{what}: the command has run"));
        }
    }
    // Some the API server does not take: a label is no path.
    let mut labelled = service("labelled", None, &json!({}));
    labelled["metadata"]["labels"] = json!({"pgferry.dev/cluster": "a/../b"});
    if rig.try_to_write(&[labelled]).await.is_ok() {
        wrong.push("the API server takes a path for a label".to_owned());
    }
    wrong
}

async fn places(rig: &Rig) -> Vec<String> {
    // A slice that leads to another namespace's pod, by its right name and uid.
    let uid = kubectl(&["get", "pod", "-n", VICTIM, "db-0", "-o", "jsonpath={.metadata.uid}"]).await;
    let target = json!({"name": "db-0", "namespace": VICTIM, "uid": uid});
    rig.writes(&[service("reach", None, &json!({})), slice("reach", &target), connection("by-reach", "reach")]).await;
    let mut wrong = attempt(rig, "another namespace's pod", "by-reach", &["28000", "57P03"], &["reach", VICTIM]).await;
    // The same by Endpoints, which the control plane copies into a slice.
    let ip = kubectl(&["get", "pod", "-n", VICTIM, "db-0", "-o", "jsonpath={.status.podIP}"]).await;
    let mut target = target;
    target["kind"] = json!("Pod");
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"namespace": TENANT, "name": "copied"},
        "subsets": [{"addresses": [{"ip": ip, "targetRef": target}], "ports": [{"name": "postgresql", "port": 5432}]}]});
    rig.writes(&[service("copied", None, &json!({})), endpoints, connection("by-copy", "copied")]).await;
    wrong.extend(
        attempt(rig, "another namespace's pod in Endpoints", "by-copy", &["28000", "57P03"], &["copied"]).await,
    );
    // An alias to another namespace's Service.
    let mut there = service("db", Some(json!({"app": "db"})), &json!({}));
    there["metadata"]["namespace"] = json!(VICTIM);
    apply(&[there]).await;
    let mut alias = service("alias", None, &json!({}));
    alias["spec"] = json!({"type": "ExternalName", "externalName": format!("db.{VICTIM}.svc.cluster.local")});
    rig.writes(&[alias, connection("by-alias", "alias")]).await;
    wrong.extend(attempt(rig, "an alias", "by-alias", &["28000", "42501"], &["alias"]).await);
    // A role whose Secret the operator would have put into another namespace.
    kubectl(&["label", "pod", "-n", TENANT, "shop-0", "cluster-name=across", "--overwrite"]).await;
    rig.writes(&[postgresql("across", &json!({"app": format!("{VICTIM}.x")}))]).await;
    wrong.extend(attempt(rig, "another namespace's Secret", "across", &["28000"], &["Secret"]).await);
    kubectl(&["label", "pod", "-n", TENANT, "shop-0", "cluster-name=shop", "--overwrite"]).await;
    wrong
}

/// A Secret that the tenant may not read, and a Service that names it.
async fn marks(rig: &Rig) -> Vec<String> {
    let refused = kubectl_as(rig, &["get", "secret", "-n", TENANT, "of-another"]).await;
    assert!(refused.contains("forbidden"), "{refused}");
    let marks = json!({"pgferry.dev/cluster": "mine", "pgferry.dev/secret": "of-another"});
    rig.writes(&[service("web", Some(json!({"app": "tenant"})), &marks)]).await;
    let parts = [&format!("Secret {TENANT}/of-another") as &str, "does not agree"];
    let mut wrong = attempt(rig, "another's Secret by a mark", "mine", &["28000"], &parts).await;
    let refused = rig.pgferry("default").await.connect("pgferry", &format!("mine.{TENANT}")).await.err();
    let command = format!("kubectl annotate secret of-another -n {TENANT} pgferry.dev/cluster=mine");
    if !refused.as_ref().is_some_and(|refusal| refusal.hint.contains(&command)) {
        wrong.push(format!("another's Secret by a mark: the hint has no command: {refused:?}"));
    }
    wrong
}

/// The name of a workload and of an operator's cluster, which the tenant's Service and Secret have as well.
async fn names(rig: &Rig) -> Vec<String> {
    let labels = json!({"app": "vault"});
    let vault = server((TENANT, "vault"), &labels, "replaced");
    let mut pod = vault["spec"].clone();
    let environment = pod["containers"][0]["env"].as_array_mut().unwrap();
    environment.retain(|entry| !["POSTGRES_PASSWORD", "AUTH"].contains(&entry["name"].as_str().unwrap()));
    let from = json!({"secretKeyRef": {"name": "vault-login", "key": "password"}});
    environment.push(json!({"name": "POSTGRES_PASSWORD", "valueFrom": from}));
    pod["terminationGracePeriodSeconds"] = json!(30);
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"namespace": TENANT, "name": "vault"},
        "spec": {"replicas": 1, "serviceName": "vault-headless", "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod}}});
    apply(&[secret((TENANT, "vault-login"), &[("password", &secrets::make("vault"))]), set]).await;
    kubectl(&["rollout", "status", "-n", TENANT, "statefulset/vault", "--timeout=180s"]).await;
    let mut wrong = taken(rig, "before").await;
    let mut login = secret((TENANT, "my-login"), &[("username", "app"), ("password", "of-the-tenant")]);
    login["metadata"]["annotations"] = json!({"pgferry.dev/cluster": "vault"});
    let marks = json!({"pgferry.dev/cluster": "vault", "pgferry.dev/secret": "my-login"});
    let thief = service("vault", Some(json!({"app": "tenant"})), &marks);
    rig.writes(&[login, thief, connection("vault", "web"), connection("shop.prod", "web")]).await;
    let before = heard_anywhere().await;
    wrong.extend(taken(rig, "after").await);
    if heard_anywhere().await != before {
        wrong.push("a taken name: a password arrived at the tenant's pod".to_owned());
    }
    wrong
}

/// Names that mean something else than they should.
async fn taken(rig: &Rig, when: &str) -> Vec<String> {
    let pgferry = rig.pgferry(TENANT).await;
    let mut wrong = Vec::new();
    for (database, cluster) in [("vault", "vault"), (&format!("vault.{TENANT}"), "vault"), ("shop.prod", "shop")] {
        match pgferry.connect("pgferry", database).await {
            Ok(mut wire) => {
                let found = wire.value("show cluster_name").await.unwrap();
                wrong.extend((found != cluster).then(|| format!("{database} is {found} {when}")));
            }
            Err(refusal) => wrong.push(format!("{database} {when}: {refusal:?}")),
        }
    }
    wrong
}

/// What kubectl says to the tenant.
async fn kubectl_as(rig: &Rig, args: &[&str]) -> String {
    let output = Command::new("kubectl").arg("--kubeconfig").arg(rig.tenant.path()).args(args).output().await.unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}
