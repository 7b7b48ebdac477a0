//! CYBERTEC's PG operator (<https://github.com/cybertec-postgresql/CYBERTEC-pg-operator>, 0.9.2), which grew out of
//! Zalando's: a manifest of the same form (`pkg/apis/cpo.opensource.cybertec.at/v1/postgresql_type.go`), under labels
//! and Secret names of its own (`pkg/util/config/config.go`). Its image is CYBERTEC's Spilo
//! (<https://github.com/cybertec-postgresql/CYBERTEC-pg-container>).

use super::{
    facts::Facts,
    leader::LeaderSource,
    login::LoginSource,
    system::{Labels, Member, PodLabels, System, sized},
    zalando::{Zalando, ZalandoParams},
};
use crate::k8s::api::{
    names::{Namespace, ObjectName},
    objects::{Object, Pod},
    resource::Resource,
};

/// `cluster_name_label` of `pkg/util/config/config.go`.
const CLUSTER: &str = "cluster.cpo.opensource.cybertec.at/name";
/// `pod_role_label` there; `scripts/configure_spilo.py` of the image sets `leader_label_value: master`.
const ROLE: &str = "member.cpo.opensource.cybertec.at/role";
/// What a pod is for (`labelsSetWithType` in `pkg/cluster/util.go`): `postgresql`, `pooler`, `repo-host`, `backup-job`.
const TYPE: &str = "member.cpo.opensource.cybertec.at/type";
/// The user of the sidecar that `spec.monitor` asks for (`initSystemUsers` in `pkg/cluster/cluster.go`).
const MONITORING: &str = "cpo_exporter";

/// What both operators do alike is Zalando's, under these names.
#[derive(Debug)]
pub(super) struct Cybertec(Zalando);

impl Cybertec {
    pub(super) fn new() -> Self {
        Self(Zalando::new(ZalandoParams {
            secret_name_template: "{username}.{cluster}.credentials.postgresql.cpo.opensource.cybertec.at".to_owned(),
            // Secrets carry these, and no type (`generateSingleUserSecret` in `pkg/cluster/k8sres.go`).
            cluster_labels: vec![("application".to_owned(), "cpo".to_owned())],
            cluster_name_label: CLUSTER.to_owned(),
            pod_role_label: ROLE.to_owned(),
            ..ZalandoParams::default()
        }))
    }

    /// As its servers keep passwords.
    fn hashing(facts: Facts, object: &Object) -> Facts {
        // The image sets scram-sha-256 (`scripts/configure_spilo.py`), and so does the operator that makes the roles.
        Facts { md5: object.spec("/postgresql/parameters/password_encryption") == Some("md5"), ..facts }
    }
}

impl System for Cybertec {
    fn name(&self) -> &'static str {
        "cybertec"
    }

    fn resource(&self) -> Resource {
        Resource::new("cpo.opensource.cybertec.at", "v1", "postgresqls")
    }

    /// A pooler's pods and a backup's carry the cluster's name too, and a pooler's even the master's role.
    fn pod_labels(&self) -> Option<PodLabels> {
        Some(PodLabels::of(CLUSTER, &[(TYPE, "postgresql")]))
    }

    fn is_pooler(&self, labels: &Labels) -> bool {
        labels.get(TYPE).is_some_and(|kind| kind == "pooler")
    }

    fn tends(&self, labels: &Labels) -> bool {
        labels.contains_key(CLUSTER)
    }

    fn read(&self, object: &Object) -> Option<Facts> {
        let facts = self.0.read(object)?;
        // Zalando's would be started by another resource.
        let facts = Facts { halt: facts.halt.filter(|_| object.metadata.deleting()), ..facts };
        Some(Self::hashing(sized(facts, &self.resource(), object, "numberOfInstances"), object))
    }

    fn guess(&self, namespace: &Namespace, name: &ObjectName) -> Option<Facts> {
        Some(Self::hashing(self.0.guess(namespace, name)?, &Object::unread(namespace, name)))
    }

    fn member(&self, facts: &Facts, pod: &Pod) -> Member {
        self.0.member(facts, pod)
    }

    /// A ConfigMap unless the operator is configured otherwise (`kubernetes_use_configmaps` in its chart's values).
    fn leader_sources(&self, name: &ObjectName) -> Vec<LeaderSource> {
        self.0.leader_sources(name)
    }

    fn login_of(&self, facts: &Facts, role: &str) -> Option<LoginSource> {
        self.0.login_of(facts, role)
    }

    fn is_own_role(&self, role: &str) -> bool {
        role == MONITORING || self.0.is_own_role(role)
    }

    fn login_secrets(&self, facts: &Facts) -> Option<(String, LoginSource)> {
        self.0.login_secrets(facts)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: &Value) -> Facts {
        let object = json!({"metadata": {"name": "web-shop", "namespace": "prod"}, "spec": spec});
        Cybertec::new().read(&serde_json::from_value(object).expect("an object")).expect("facts")
    }

    #[test]
    fn names_are_its_own() {
        let facts = read(&json!({"numberOfInstances": 0, "databases": {"books": "the_clerk"}}));
        let secret = facts.logins.first().and_then(|login| login.secret.as_ref()).and_then(|secret| secret.name().ok());
        let name = "the-clerk.web-shop.credentials.postgresql.cpo.opensource.cybertec.at";
        assert_eq!(secret.map(|secret| &**secret), Some(name));
        let hint = facts.halt.expect("no instances").hint;
        assert!(hint.contains("patch postgresqls.cpo.opensource.cybertec.at web-shop -n prod"), "{hint}");
    }

    #[test]
    fn passwords_are_md5_where_the_manifest_says_so() {
        assert!(!read(&json!({})).md5);
        assert!(read(&json!({"postgresql": {"parameters": {"password_encryption": "md5"}}})).md5);
    }
}
