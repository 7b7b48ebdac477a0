//! A system's layout on the real Kubernetes: its objects, and pods with real PostgreSQL in them.

use std::path::PathBuf;

use proto_tests::systems::{self, State, System};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::kubectl;

/// A server that its environment sets up; where no node has it, nothing is tried.
pub(super) const IMAGE: &str = "rig.local/postgres:17";

/// Objects that are written, and gone at the end.
pub(super) struct Rig<'a> {
    pub(super) system: &'a dyn System,
    pub(super) state: State,
    pub(super) kubeconfig: PathBuf,
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
    pub(super) async fn new(system: &'a dyn System, kubeconfig: PathBuf, number: usize) -> Self {
        // A StatefulSet's servers do not follow each other.
        let servers = if system.asks_the_servers() { 1 } else { 2 };
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

    pub(super) fn namespaces(&self) -> Vec<String> {
        let mut all = vec![self.state.namespace.clone(), self.system.server_namespace(&self.state)];
        all.dedup();
        all
    }

    pub(super) async fn remove(&self) {
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
    pub(super) async fn draw(&self) {
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
}

/// Removes a system's custom resource definitions.
pub(super) async fn forget(system: &dyn System) {
    for (group, _, plural) in system.resources() {
        kubectl(&["delete", "crd", &format!("{plural}.{group}"), "--ignore-not-found"]).await;
    }
}
