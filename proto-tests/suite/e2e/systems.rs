//! The layouts of other systems on the real Kubernetes: its pods, Services, Endpoints and Secrets, with real PostgreSQL
//! in them, and no operator. What the fake API shows in `systems`, is shown here where it can be.

use std::{path::PathBuf, time::Duration};

use futures_util::StreamExt as _;
use proto_tests::{
    subject::{Start, Subject},
    systems::{
        self, Crunchy, Elastisys, KubeDb, KubeDbCertificate, Marked, StackGres, State, StatefulSet, System, Zalando,
    },
    wire::Wire,
};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt as _,
    process::Command,
    time::{Instant, timeout},
};

use super::{BINARY, DEFINITIONS, kubeconfig, kubectl, say};

/// Pods start in seconds; a claim that needs this long fails.
const PATIENCE: Duration = Duration::from_mins(3);

/// A server that its environment sets up; where no node has it, nothing is tried.
pub(super) const IMAGE: &str = "rig.local/postgres:17";

/// Objects that are written, and gone at the end.
struct Rig<'a> {
    system: &'a dyn System,
    state: State,
    kubeconfig: PathBuf,
}

pub(super) async fn apply(objects: &[Value]) {
    let mut child = Command::new("kubectl")
        .args(["apply", "-f", "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    child.stdin.take().unwrap().write_all(list.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    // The API server warns of Endpoints, which Patroni uses all the same.
    assert!(output.status.success(), "kubectl apply: {error}");
}

/// A custom resource definition that takes anything.
pub(super) fn definition((group, version, plural): (&str, &str, &str), kind: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind},
            "versions": [{"name": version, "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
        },
    })
}

impl<'a> Rig<'a> {
    async fn new(system: &'a dyn System, kubeconfig: PathBuf, number: usize) -> Self {
        let servers = if system.name() == "statefulset" { 1 } else { 2 };
        let state = State::new(system, &format!("pgferry-layout-{number}"), servers);
        let rig = Self { system, state, kubeconfig };
        rig.remove().await;
        let namespaces = rig.namespaces().into_iter();
        let spaces: Vec<Value> = namespaces
            .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
            .collect();
        apply(&spaces).await;
        rig.define().await;
        rig.start().await;
        rig.draw().await;
        rig
    }

    fn namespaces(&self) -> Vec<String> {
        let mut all = vec![self.state.namespace.clone(), self.system.server_namespace(&self.state)];
        all.dedup();
        all
    }

    async fn remove(&self) {
        for namespace in self.namespaces() {
            kubectl(&["delete", "namespace", &namespace, "--ignore-not-found", "--wait=true", "--timeout=120s"]).await;
        }
    }

    /// The custom resources that the objects are of.
    async fn define(&self) {
        let objects = self.system.objects(&self.state);
        for resource in self.system.resources() {
            let (group, _, plural) = resource;
            let kind =
                objects.iter().find(|(found, _)| *found == plural).map(|(_, object)| object["kind"].as_str().unwrap());
            apply(&[definition(resource, kind.unwrap_or("Thing"))]).await;
            kubectl(&["wait", "--for=condition=Established", &format!("crd/{plural}.{group}"), "--timeout=60s"]).await;
        }
    }

    /// The environment of the servers' image.
    fn environment(&self) -> Vec<Value> {
        let (system, state) = (self.system, &self.state);
        let (wanted, login) = (system.server(), system.login(state));
        let hba = format!("local all all trust\nhost replication all all trust\n{}", wanted.hba);
        let mut settings = "shared_buffers = 16MB\n".to_owned();
        let mut all = vec![
            ("POSTGRES_PASSWORD", systems::superuser(system, state)),
            ("AUTH", if wanted.md5 { "md5" } else { "scram-sha-256" }.to_owned()),
            ("HBA", hba),
        ];
        if wanted.tls {
            all.push(("TLS", "on".to_owned()));
            settings.push_str("ssl_ca_file = '/tls/ca.crt'\n");
        }
        all.push(("SETTINGS", settings));
        if login.name != "postgres" {
            all.push(("APP_USER", login.name.clone()));
            all.push(("APP_PASSWORD", state.password.clone()));
        }
        if login.database != "postgres" {
            all.push(("APP_DB", login.database.clone()));
        }
        if let Some(other) = system.other(state) {
            let sql = format!("CREATE ROLE \"{}\" LOGIN PASSWORD '{}'", other.name, state.other_password);
            all.push(("INIT_SQL", sql));
        } else if login.superuser && login.name != "postgres" {
            all.push(("INIT_SQL", format!("ALTER ROLE \"{}\" SUPERUSER", login.name)));
        }
        all.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
    }

    fn container(&self, primary: Option<&str>) -> Value {
        let mut environment = self.environment();
        environment.extend(primary.map(|address| json!({"name": "PRIMARY", "value": address})));
        json!({
            "name": "postgres", "image": IMAGE, "imagePullPolicy": "Never", "env": environment,
            "ports": [{"containerPort": 5432, "name": "postgresql"}],
            "volumeMounts": [{"name": "tls", "mountPath": "/tls", "readOnly": true}],
            "readinessProbe": {"exec": {"command": ["pg_isready", "-q", "-h", "localhost"]}, "periodSeconds": 1},
        })
    }

    /// The first server, then the one that streams from it.
    async fn start(&self) {
        let (certificate, key) = &self.state.certificate;
        let data = [("tls.crt", certificate), ("tls.key", key), ("ca.crt", &self.state.authority)];
        let data: serde_json::Map<String, Value> =
            data.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        let namespace = self.system.server_namespace(&self.state);
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": namespace, "name": "rig-tls"}, "stringData": data});
        apply(&[secret]).await;
        if self.system.name() == "statefulset" {
            return;
        }
        let mut primary = None;
        for number in 0..self.state.servers {
            apply(&[self.pod(number, primary.as_deref())]).await;
            self.ready(number).await;
            primary = primary.or(Some(self.about(number, "{.status.podIP}").await));
        }
    }

    fn pod(&self, number: usize, primary: Option<&str>) -> Value {
        let mut pod = systems::pod(self.system, &self.state, number);
        pod.as_object_mut().unwrap().remove("status");
        pod["metadata"].as_object_mut().unwrap().remove("uid");
        pod["spec"] = json!({
            "terminationGracePeriodSeconds": 2, "enableServiceLinks": false,
            "containers": [self.container(primary)], "volumes": [{"name": "tls", "secret": {"secretName": "rig-tls"}}],
        });
        pod
    }

    async fn ready(&self, number: usize) {
        let pod = format!("pod/{}", self.system.pod_name(&self.state, number));
        let namespace = self.system.server_namespace(&self.state);
        kubectl(&["wait", "-n", &namespace, "--for=condition=Ready", &pod, "--timeout=180s"]).await;
    }

    async fn about(&self, number: usize, path: &str) -> String {
        let (namespace, pod) = (self.system.server_namespace(&self.state), self.system.pod_name(&self.state, number));
        kubectl(&["get", "pod", "-n", &namespace, &pod, "-o", &format!("jsonpath={path}")]).await
    }

    /// Writes the state: objects with the pods' real addresses and uids, and the pods' labels.
    async fn draw(&self) {
        let mut objects: Vec<Value> = Vec::new();
        for (plural, mut object) in self.system.objects(&self.state) {
            match plural {
                // The controllers make these here.
                "endpointslices" => continue,
                "endpoints" => self.address(&mut object).await,
                "statefulsets" => self.own_image(&mut object),
                _ => {}
            }
            objects.push(object);
        }
        apply(&objects).await;
        if self.system.name() == "statefulset" {
            return kubectl(&["rollout", "status", "-n", &self.state.namespace, "statefulset/shop", "--timeout=180s"])
                .await
                .clear();
        }
        let namespace = self.system.server_namespace(&self.state);
        for number in 0..self.state.servers {
            let pod = self.system.pod_name(&self.state, number);
            let patch = json!({"metadata": {
                "labels": self.system.pod_labels(&self.state, number),
                "annotations": self.system.pod_annotations(&self.state, number),
            }});
            kubectl(&["patch", "pod", "-n", &namespace, &pod, "--type=merge", "-p", &patch.to_string()]).await;
        }
    }

    async fn address(&self, endpoints: &mut Value) {
        for number in 0..self.state.servers {
            let name = json!(self.system.pod_name(&self.state, number));
            let about = self.about(number, "{.status.podIP} {.metadata.uid}").await;
            let (ip, uid) = about.split_once(' ').unwrap();
            let address = &mut endpoints["subsets"][0]["addresses"][0];
            if address["targetRef"]["name"] == name {
                address["ip"] = json!(ip);
                address["targetRef"]["uid"] = json!(uid);
            }
        }
    }

    fn own_image(&self, set: &mut Value) {
        let mut container = self.container(None);
        let own = set["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap().clone();
        // The image's own password is the superuser's; the chart's variables are the ones that are read.
        let known = |name: &Value| own.iter().any(|entry| entry["name"] == *name);
        let mut all: Vec<Value> =
            container["env"].as_array().unwrap().iter().filter(|entry| !known(&entry["name"])).cloned().collect();
        all.extend(own.clone());
        container["env"] = json!(all);
        set["spec"]["template"]["spec"] = json!({
            "terminationGracePeriodSeconds": 2, "enableServiceLinks": false,
            "containers": [container], "volumes": [{"name": "tls", "secret": {"secretName": "rig-tls"}}],
        });
    }

    async fn pgferry(&self, kubeconfig: &PathBuf) -> Subject {
        let start = Start::new(BINARY).args(["serve", "--port", "0", "--log", "debug", "--kubeconfig"]).arg(kubeconfig);
        start.args(["--namespace", &self.state.namespace]).wait().await
    }

    /// Which server a session is on, by the pod's address.
    async fn server_of(&self, wire: &mut Wire) -> String {
        wire.value("select case when pg_is_in_recovery() then 'replica' else 'primary' end").await.unwrap()
    }

    async fn listed(&self) {
        let start = Start::new(BINARY).args(["list", "-o", "json", "-n", &self.state.namespace, "--kubeconfig"]);
        let (code, out, err) = start.arg(&self.kubeconfig).run().await;
        assert_eq!(code, 0, "{err}");
        let all: Value = serde_json::from_str(&out).unwrap();
        let all = all["clusters"].as_array().unwrap();
        assert_eq!(all.len(), 1, "{}: {all:#?}", self.system.title());
        assert_eq!((&all[0]["system"], &all[0]["ready"]), (&json!(self.system.name()), &json!(true)), "{all:#?}");
    }

    async fn logins(&self, pgferry: &Subject) {
        let login = self.system.login(&self.state);
        let mut wire = connect(pgferry, "pgferry", "shop").await;
        assert_eq!(
            wire.value("select current_user || ' ' || current_database()").await.unwrap(),
            format!("{} {}", login.name, login.database)
        );
        assert_eq!(self.server_of(&mut wire).await, "primary");
        if let Some(other) = self.system.other(&self.state) {
            let mut wire = connect(pgferry, &other.name, "shop").await;
            assert_eq!(wire.value("select current_user").await.unwrap(), other.name);
        }
        if self.state.servers > 1 && self.system.name() != "elastisys" {
            let mut wire = connect(pgferry, "pgferry", "shop:ro").await;
            assert_eq!(self.server_of(&mut wire).await, "replica");
        }
    }

    /// Both pods carry the primary's label, and the Endpoints object names the right one.
    async fn two_primaries(&mut self) {
        self.state.labelled = vec![0, 1];
        self.draw().await;
        let pgferry = self.pgferry(&self.kubeconfig).await;
        let mut wire = connect(&pgferry, "pgferry", "shop").await;
        assert_eq!(self.server_of(&mut wire).await, "primary");
        let wrong = format!("pod={}", self.system.pod_name(&self.state, 1));
        assert!(!pgferry.output().contains(&wrong), "{}", pgferry.output());
        self.state.lead(0);
        self.draw().await;
    }

    /// A ServiceAccount with what a tenant has, on the API server's own RBAC.
    async fn few_rights(&self) {
        let mut rules = json!([
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
            {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["get", "create"]},
            {"apiGroups": [""], "resources": ["services", "endpoints", "secrets"], "verbs": ["get"]},
            {"apiGroups": ["apps"], "resources": ["statefulsets"], "verbs": ["get"]},
        ]);
        // Where nothing but the resource knows (who wants a client's certificate), it has to be read.
        let spare = self.system.dispensable();
        for (group, _, plural) in self.system.resources() {
            if !spare.contains(&("get", plural)) {
                rules
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"apiGroups": [group], "resources": [plural], "verbs": ["get"]}));
            }
        }
        let mut objects = Vec::new();
        let own = &self.state.namespace;
        for namespace in self.namespaces() {
            objects.push(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
                "metadata": {"namespace": namespace, "name": "tenant"}, "rules": rules}));
            objects.push(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": {"namespace": namespace, "name": "tenant"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tenant"},
                "subjects": [{"kind": "ServiceAccount", "name": "tenant", "namespace": own}]}));
        }
        objects.push(
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": own, "name": "tenant"}}),
        );
        apply(&objects).await;
        let token = kubectl(&["create", "token", "-n", own, "tenant"]).await;
        let config: Value =
            serde_json::from_str(&kubectl(&["config", "view", "--raw", "--minify", "-o", "json"]).await).unwrap();
        let mut config = config;
        config["users"] = json!([{"name": config["contexts"][0]["context"]["user"], "user": {"token": token}}]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), config.to_string()).unwrap();
        let pgferry = self.pgferry(&file.path().to_owned()).await;
        let login = self.system.login(&self.state);
        let mut wire = connect(&pgferry, &login.name, &format!("shop.{own}")).await;
        assert_eq!(wire.value("select current_user").await.unwrap(), login.name);
    }

    /// The replica is promoted and the leader moves: the idle session ends, and the next login is on the new primary.
    async fn failover(&mut self, pgferry: &Subject) {
        let mut idle = connect(pgferry, "pgferry", "shop").await;
        let (namespace, pod) = (self.system.server_namespace(&self.state), self.system.pod_name(&self.state, 1));
        kubectl(&["exec", "-n", &namespace, &pod, "--", "touch", "/tmp/promote"]).await;
        let promoted = [
            "exec",
            "-n",
            &namespace,
            &pod,
            "--",
            "psql",
            "-XAtU",
            "postgres",
            "-h",
            "/var/run/postgresql",
            "-c",
            "select pg_is_in_recovery()",
        ];
        let wait = async { while kubectl(&promoted).await != "f" {} };
        timeout(PATIENCE, wait).await.expect("a promotion");
        self.state.lead(1);
        self.draw().await;
        let started = Instant::now();
        let said = timeout(PATIENCE, idle.next()).await.expect("an end").unwrap().expect("a word");
        assert_eq!(said.fields().code, "57P01", "{:?}", said.fields());
        let mut wire = connect(pgferry, "pgferry", "shop").await;
        let address = wire.value("select host(inet_server_addr())").await.unwrap();
        assert!(address == "127.0.0.1" || address == "::1", "{address}");
        wire.query("create temporary table t (x int)").await.unwrap();
        assert!(pgferry.output().contains(&format!("pod={pod}")), "{}", pgferry.output());
        say(&format!(
            "{}: the leader moved, and the next login was on it after {:.1} s",
            self.system.title(),
            started.elapsed().as_secs_f32()
        ));
    }
}

async fn connect(pgferry: &Subject, user: &str, database: &str) -> Wire {
    pgferry.connect(user, database).await.unwrap_or_else(|fields| panic!("{user} {database}: {fields:?}"))
}

async fn claims(system: &dyn System, kubeconfig: PathBuf, number: usize) {
    let mut rig = Rig::new(system, kubeconfig, number).await;
    rig.listed().await;
    let pgferry = rig.pgferry(&rig.kubeconfig).await;
    rig.logins(&pgferry).await;
    if matches!(system.name(), "zalando" | "crunchy" | "stackgres" | "elastisys") {
        rig.two_primaries().await;
    }
    if !matches!(system.name(), "service") {
        rig.few_rights().await;
    }
    if rig.state.servers > 1 {
        rig.failover(&pgferry).await;
    }
    drop(pgferry);
    rig.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_layouts_of_other_systems() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let images = kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].status.images[*].names[*]}"]).await;
    if !images.contains(IMAGE) {
        return say(&format!("no node has the image {IMAGE}: the layouts of other systems are not tried here"));
    }
    let systems: [Box<dyn System>; 8] = [
        Box::new(Zalando),
        Box::new(Crunchy),
        Box::new(KubeDb),
        Box::new(StackGres),
        Box::new(Elastisys),
        Box::new(StatefulSet),
        Box::new(Marked),
        Box::new(KubeDbCertificate),
    ];
    let _definitions = DEFINITIONS.lock().await;
    for system in &systems {
        forget(&**system).await;
    }
    // Two variants of KubeDB differ in the version of one resource: they take turns.
    let (last, first) = systems.split_last().unwrap();
    futures_util::stream::iter(first.iter().enumerate())
        .map(|(number, system)| claims(&**system, kubeconfig.clone(), number))
        .buffer_unordered(3)
        .collect::<Vec<()>>()
        .await;
    forget(&**last).await;
    claims(&**last, kubeconfig.clone(), first.len()).await;
    for system in &systems {
        forget(&**system).await;
    }
}

/// Removes a system's custom resource definitions.
async fn forget(system: &dyn System) {
    for (group, _, plural) in system.resources() {
        kubectl(&["delete", "crd", &format!("{plural}.{group}"), "--ignore-not-found"]).await;
    }
}
