//! KubeDB, with a password and with certificates.

use serde_json::{Value, json};

use super::{
    Certificate, Role, ServerSetup, State, System,
    layout::{by_labels, certificate_secret, custom, plaintext, role, typed_secret, with_tls},
};

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
    fn has_leader_object(&self) -> bool {
        false
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
    fn certificate(&self, state: &State) -> Certificate {
        Certificate::Named(format!("*.{}-pods.{}.svc", state.name, state.namespace))
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
    fn has_leader_object(&self) -> bool {
        false
    }
}
