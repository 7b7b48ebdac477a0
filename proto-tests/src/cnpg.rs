//! CloudNativePG's objects, as the operator makes them (`api/v1/cluster_types.go`, `pkg/specs/`).

use std::net::SocketAddr;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::kubernetes::{Backend, FakeKubernetes};

pub const GROUP: &str = "postgresql.cnpg.io";

/// Base64 as Secrets have it.
#[must_use]
pub fn encoded(text: impl AsRef<[u8]>) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// A Secret of type basic-auth.
#[must_use]
pub fn secret(namespace: &str, name: &str, data: &[(&str, &str)]) -> Value {
    let data: serde_json::Map<String, Value> =
        data.iter().map(|(key, value)| ((*key).to_owned(), json!(encoded(value)))).collect();
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/basic-auth",
        "metadata": {"namespace": namespace, "name": name}, "data": data,
    })
}

/// A cluster in the fake.
pub struct Cluster<'a> {
    pub api: &'a FakeKubernetes,
    pub namespace: String,
    pub name: String,
}

impl<'a> Cluster<'a> {
    /// With the operator's own application Secret, for role and database `app`. The first server is the primary.
    pub fn new(
        api: &'a FakeKubernetes,
        (namespace, name): (&str, &str),
        password: &str,
        servers: &[SocketAddr],
    ) -> Self {
        let spec = json!({
            "instances": servers.len(),
            "bootstrap": {"initdb": {"database": "app", "owner": "app"}},
        });
        let it = Self::with_spec(api, (namespace, name), spec, servers);
        it.set_password(password);
        it
    }

    /// With a spec of one's own, and no Secret.
    pub fn with_spec(
        api: &'a FakeKubernetes,
        (namespace, name): (&str, &str),
        spec: Value,
        servers: &[SocketAddr],
    ) -> Self {
        api.serve_crd(GROUP, "v1", "clusters");
        let it = Self { api, namespace: namespace.to_owned(), name: name.to_owned() };
        for (index, address) in servers.iter().enumerate() {
            it.instance(index + 1, if index == 0 { "primary" } else { "replica" }, *address);
        }
        let primary = it.pod(1);
        api.put(
            "clusters",
            json!({
                "apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster",
                "metadata": {"namespace": namespace, "name": name, "annotations": {}, "labels": {}},
                "spec": spec,
                "status": {
                    "currentPrimary": primary, "targetPrimary": primary, "phase": "Cluster in healthy state",
                    "instances": servers.len(), "readyInstances": servers.len(),
                    "certificates": {"serverCASecret": format!("{name}-ca")},
                },
            }),
        );
        it
    }

    #[must_use]
    pub fn pod(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    /// Adds or replaces an instance.
    pub fn instance(&self, number: usize, role: &str, address: SocketAddr) {
        let pod = self.pod(number);
        self.api.backend(&self.namespace, &pod, 5432, Backend::To(address));
        self.api.put(
            "pods",
            pod_object(
                &self.namespace,
                &pod,
                &json!({
                    "cnpg.io/cluster": self.name, "cnpg.io/instanceName": pod, "cnpg.io/podRole": "instance",
                    "cnpg.io/instanceRole": role, "role": role,
                }),
            ),
        );
    }

    /// The application's password, in all the keys that the operator writes at creation.
    pub fn set_password(&self, password: &str) {
        let uri = format!("postgresql://app:{password}@{}-rw:5432/app", self.name);
        self.api.put(
            "secrets",
            secret(
                &self.namespace,
                &format!("{}-app", self.name),
                &[
                    ("username", "app"),
                    ("user", "app"),
                    ("password", password),
                    ("dbname", "app"),
                    ("port", "5432"),
                    ("host", &format!("{}-rw", self.name)),
                    ("uri", &uri),
                    ("pgpass", &uri),
                ],
            ),
        );
    }

    pub fn change(&self, change: impl FnOnce(&mut Value)) {
        self.api.change("clusters", &self.namespace, &self.name, change);
    }

    pub fn annotate(&self, name: &str, value: &str) {
        self.change(|cluster| cluster["metadata"]["annotations"][name] = json!(value));
    }

    pub fn set_ready(&self, number: usize, ready: bool) {
        self.api.change("pods", &self.namespace, &self.pod(number), |pod| {
            pod["status"]["conditions"][0]["status"] = json!(if ready { "True" } else { "False" });
        });
    }

    /// The operator promotes an instance: the status first, the labels behind it.
    pub fn promote(&self, number: usize) {
        let pod = self.pod(number);
        self.change(|cluster| cluster["status"]["targetPrimary"] = json!(pod));
        self.change(|cluster| cluster["status"]["currentPrimary"] = json!(pod));
        let count =
            self.api.get("clusters", &self.namespace, &self.name).unwrap()["spec"]["instances"].as_u64().unwrap_or(1);
        for other in 1..=usize::try_from(count).unwrap() {
            let role = if other == number { "primary" } else { "replica" };
            self.api.change("pods", &self.namespace, &self.pod(other), |pod| {
                pod["metadata"]["labels"]["cnpg.io/instanceRole"] = json!(role);
                pod["metadata"]["labels"]["role"] = json!(role);
            });
        }
    }

    /// Kubernetes begins to delete a pod.
    pub fn begin_deleting(&self, number: usize) {
        self.api.change("pods", &self.namespace, &self.pod(number), |pod| {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        });
    }
}

/// A pod that runs and is ready.
#[must_use]
pub fn pod_object(namespace: &str, name: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"containers": [{"name": "postgres", "ports": [{"containerPort": 5432, "name": "postgresql"}]}]},
        "status": {"phase": "Running", "podIP": "127.0.0.1",
                   "conditions": [{"type": "Ready", "status": "True"}]},
    })
}
