//! KubeDB (<https://kubedb.com/docs/latest/guides/postgres/>; the types are
//! <https://github.com/kubedb/apimachinery>, `apis/kubedb/v1/postgres_types.go`). Where its servers do TLS, they
//! refuse all else, and may want a client's certificate.

use super::{
    facts::POSTGRES,
    facts::{CaSource, CertificateName, Facts, Halt, Members, Tls},
    login::{Keys, LoginKind, LoginSource, Part},
    system::{Labels, Member, PodLabels, System, by_role, keeps_md5},
};
use crate::{
    k8s::api::{
        names::{Namespace, ObjectName, Reference},
        objects::{Object, Pod, text},
        resource::Resource,
    },
    upstream::TlsMode,
};

const GROUP: &str = "kubedb.com";
const APP_BINDINGS: Resource = Resource::with_versions("appcatalog.appscode.com", "v1alpha1", &[], "appbindings");

#[derive(Debug)]
pub(super) struct KubeDb;

fn login(secret: Reference) -> LoginSource {
    // Secrets of old versions have the official image's keys.
    let keys = Keys::Named {
        user: Part::keys(&["username", "POSTGRES_USER"]),
        password: Part::keys(&["password", "POSTGRES_PASSWORD"]),
        database: Part::Absent,
    };
    LoginSource::new(LoginKind::Superuser, None, Some(secret), keys, POSTGRES)
}

/// The name of a certificate's Secret, which the spec may change.
fn certificate(object: &Object, name: &ObjectName, alias: &str) -> Reference {
    let listed = object.items("/tls/certificates").find(|entry| text(entry, "/alias") == Some(alias));
    listed.and_then(|entry| text(entry, "/secretName")).map_or_else(
        || Reference::computed(&format!("{name}-{alias}-cert")),
        |secret| Reference::new(secret, "spec.tls.certificates[].secretName"),
    )
}

fn tls(object: &Object) -> Tls {
    let (namespace, name) = (&object.metadata.namespace, &object.metadata.name);
    let issued = object.spec.pointer("/tls").is_some_and(|tls| !tls.is_null());
    let mode = match object.spec("/sslMode") {
        Some("disable") => TlsMode::Allow,
        None if !issued => TlsMode::Allow,
        _ => TlsMode::Require,
    };
    let by_certificate = mode == TlsMode::Require && object.spec("/clientAuthMode") == Some("cert");
    Tls {
        mode,
        name: Some(CertificateName::Pod(format!(".{name}-pods.{namespace}.svc"))),
        // The vendor's own discovery object holds the CA without anybody's key.
        ca: vec![
            CaSource::Object(APP_BINDINGS, name.clone(), "/clientConfig/caBundle"),
            CaSource::Secret(certificate(object, name, "server"), "ca.crt".to_owned()),
            CaSource::Secret(certificate(object, name, "client"), "ca.crt".to_owned()),
        ],
        client: by_certificate.then(|| certificate(object, name, "client")),
        ..Tls::default()
    }
}

/// A phase in which nothing serves, on purpose.
fn halted(object: &Object, namespace: &str, name: &str) -> Option<Halt> {
    let start = format!("kubectl patch postgreses.{GROUP} {name} -n {namespace} --type merge");
    (object.is_set("/halted") || object.status("/phase") == Some("Halted")).then(|| Halt {
        state: "halted",
        hint: format!("Start it with: {start} -p '{{\"spec\":{{\"halted\":false}}}}'"),
    })
}

impl System for KubeDb {
    fn name(&self) -> &'static str {
        "kubedb"
    }

    fn resource(&self) -> Resource {
        Resource::with_versions(GROUP, "v1", &["v1alpha2"], "postgreses")
    }

    fn pod_labels(&self) -> Option<PodLabels> {
        Some(PodLabels::of("app.kubernetes.io/instance", &[("app.kubernetes.io/name", "postgreses.kubedb.com")]))
    }

    fn tends(&self, labels: &Labels) -> bool {
        labels.get("app.kubernetes.io/name").is_some_and(|name| name == "postgreses.kubedb.com")
    }

    fn read(&self, object: &Object) -> Option<Facts> {
        let meta = &object.metadata;
        let (namespace, name) = (&meta.namespace, &meta.name);
        let secret = object.spec("/authSecret/name").map_or_else(
            || Reference::computed(&format!("{name}-auth")),
            |secret| Reference::new(secret, "spec.authSecret.name"),
        );
        let facts = Facts::of(object, name, Members::Labelled);
        Some(Facts {
            halt: facts.halt.clone().or_else(|| halted(object, namespace, name)),
            phase: object.status("/phase").unwrap_or_default().to_owned(),
            tls: tls(object),
            md5: object.spec("/version").is_some_and(keeps_md5),
            logins: vec![login(secret)],
            instances: object.number("/replicas").unwrap_or(1).try_into().unwrap_or(1),
            services: ["", "-standby", "-pods", "-rr"].iter().map(|suffix| format!("{name}{suffix}")).collect(),
            ..facts
        })
    }

    fn guess(&self, namespace: &Namespace, name: &ObjectName) -> Option<Facts> {
        Some(Facts {
            tls: Tls { mode: TlsMode::Allow, ..tls(&Object::unread(namespace, name)) },
            logins: vec![login(Reference::computed(&format!("{name}-auth")))],
            ..Facts::new(namespace, name, Members::Labelled)
        })
    }

    fn member(&self, _facts: &Facts, pod: &Pod) -> Member {
        by_role(pod.metadata.label("kubedb.com/role"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: &Value) -> Facts {
        let object = json!({"metadata": {"name": "shop", "namespace": "prod"}, "spec": spec});
        KubeDb.read(&serde_json::from_value(object).expect("an object")).expect("facts")
    }

    #[test]
    fn the_spec_says_how_tls_is_done() {
        assert_eq!(read(&json!({})).tls.mode, TlsMode::Allow);
        assert_eq!(read(&json!({"sslMode": "disable", "tls": {}})).tls.mode, TlsMode::Allow);
        assert_eq!(read(&json!({"tls": {"issuerRef": {}}})).tls.mode, TlsMode::Require);
        // The vendor's own client makes these TLS as well.
        assert_eq!(read(&json!({"sslMode": "prefer"})).tls.mode, TlsMode::Require);
        assert_eq!(read(&json!({"sslMode": "require", "clientAuthMode": "scram"})).tls.client, None);
        let by_certificate = json!({"sslMode": "verify-full", "clientAuthMode": "cert"});
        assert_eq!(read(&by_certificate).tls.client.as_ref().map(Reference::shown), Some("shop-client-cert"));
    }

    #[test]
    fn the_secret_may_be_somebody_elses() {
        let secret = |facts: Facts| facts.logins[0].secret.as_ref().map(|secret| secret.shown().to_owned());
        assert_eq!(secret(read(&json!({}))).as_deref(), Some("shop-auth"));
        assert_eq!(secret(read(&json!({"authSecret": {"name": "mine"}}))).as_deref(), Some("mine"));
    }
}
