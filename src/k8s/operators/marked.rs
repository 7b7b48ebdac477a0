//! Services that somebody has marked for pgferry: the way to add a server that no other file here knows.

use super::{
    Facts, Keys, Leader, LoginKind, LoginSource, Member, Members, Object, Operator, POSTGRES, Pod, PodLabels, Port,
    Resource, SERVICES,
};

/// The cluster's name; on a Service, or on a Secret with a login for it.
pub(super) const CLUSTER: &str = "pgferry.dev/cluster";
/// The Secret with the login.
const SECRET: &str = "pgferry.dev/secret";
/// The Service's port, where it is not 5432.
pub(super) const PORT: &str = "pgferry.dev/port";
/// Which servers a Service leads to (`primary`, the default, or `replica`); on a Secret, the role that logs in.
const ROLE: &str = "pgferry.dev/role";

#[derive(Debug)]
pub(super) struct Marked;

/// The selector of Secrets that hold a login for a cluster, whoever runs it.
pub(in crate::k8s) fn secrets_of(cluster: &str) -> String {
    format!("{CLUSTER}={cluster}")
}

/// How a marked Secret is read.
pub(in crate::k8s) fn login(object: &Object, database: &str) -> LoginSource {
    LoginSource {
        role: object.mark(ROLE).map(str::to_owned),
        ..LoginSource::new(LoginKind::Managed, None, &object.metadata.name, Keys::Connection, database)
    }
}

impl Operator for Marked {
    fn system(&self) -> &'static str {
        "service"
    }

    fn resource(&self) -> Resource {
        SERVICES.clone()
    }

    fn pod_labels(&self) -> Option<PodLabels> {
        None
    }

    fn name_label(&self) -> Option<&'static str> {
        Some(CLUSTER)
    }

    fn read(&self, object: &Object) -> Option<Facts> {
        let secret = object.mark(SECRET);
        let name = object.mark(CLUSTER).or_else(|| secret.map(|_| object.metadata.name.as_str()))?;
        let meta = &object.metadata;
        let marked = object.mark(PORT);
        let port = marked.map_or(Some(super::PORT), |port| port.parse().ok().filter(|port| *port != 0));
        let service = Members::Service {
            places: vec![(meta.namespace.clone(), meta.name.clone())],
            port: port.unwrap_or(super::PORT),
            outside: None,
        };
        let replica = object.mark(ROLE) == Some("replica");
        let members = if replica { Members::Labelled } else { service.clone() };
        let role = object.mark(ROLE).filter(|role| !matches!(*role, "primary" | "replica"));
        let login =
            secret.map(|secret| LoginSource::new(LoginKind::Application, role, secret, Keys::Connection, POSTGRES));
        let wrong = || format!("{PORT} of Service {}/{} is no port number", meta.namespace, meta.name);
        Some(Facts {
            broken: port.is_none().then(wrong),
            port: Port::Number(port.unwrap_or(super::PORT)),
            // Where nothing in Kubernetes says, the servers are asked.
            leader: Leader::Ask,
            replicas: replica.then_some(service),
            logins: login.into_iter().collect(),
            services: vec![meta.name.clone()],
            ..Facts::of(object, name, members)
        })
    }

    fn member(&self, _facts: &Facts, _pod: &Pod) -> Member {
        Member::Primary
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(marks: &Value) -> Option<Facts> {
        let object = json!({"metadata": {"name": "db", "namespace": "prod", "annotations": marks}});
        Marked.read(&serde_json::from_value(object).expect("a Service"))
    }

    #[test]
    fn marks_make_a_cluster_of_a_service() {
        assert!(read(&json!({})).is_none());
        let facts = read(&json!({"pgferry.dev/secret": "login"})).expect("facts");
        assert_eq!((facts.name.as_str(), facts.logins.len()), ("db", 1));
        let facts = read(&json!({"pgferry.dev/cluster": "shop", "pgferry.dev/port": "6000"})).expect("facts");
        assert_eq!((facts.name.as_str(), facts.port), ("shop", Port::Number(6000)));
        let broken = read(&json!({"pgferry.dev/cluster": "shop", "pgferry.dev/port": "x"})).expect("facts").broken;
        assert_eq!(broken.as_deref(), Some("pgferry.dev/port of Service prod/db is no port number"));
        let replica = read(&json!({"pgferry.dev/cluster": "shop", "pgferry.dev/role": "replica"})).expect("facts");
        assert!(replica.replicas.is_some() && replica.members == Members::Labelled);
    }
}
