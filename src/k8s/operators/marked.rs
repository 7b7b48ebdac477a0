//! Services that somebody has marked for pgferry: the way to add a server that no other file here knows.

use super::{
    facts::POSTGRES,
    facts::{Facts, Kin, Members, Port},
    leader::Leader,
    login::{Consent, Keys, LoginKind, LoginSource},
    system::{Member, PodLabels, Rank, System},
};
use crate::k8s::api::{
    access::ListQuery,
    names::{ObjectName, Reference, is_label_value},
    objects::{Meta, Object, Pod},
    resource::{Resource, SERVICES},
};

/// The cluster's name; on a Service, or on a Secret with a login for it.
pub(in crate::k8s) const CLUSTER: &str = "pgferry.dev/cluster";
/// The Secret with the login.
const SECRET: &str = "pgferry.dev/secret";
/// The Service's port, where it is not 5432.
pub(super) const PORT: &str = "pgferry.dev/port";
/// Which servers a Service leads to (`primary`, the default, or `replica`); on a Secret, the role that logs in.
const ROLE: &str = "pgferry.dev/role";

#[derive(Debug)]
pub(super) struct Marked;

/// Whether an object's mark names this cluster. As a label it is one name, as an annotation a list with commas or white
/// space between.
pub(in crate::k8s) fn is_for(object: &Meta, cluster: &ObjectName) -> bool {
    let listed =
        object.annotation(CLUSTER).into_iter().flat_map(|list| list.split(|c: char| c == ',' || c.is_whitespace()));
    object.label(CLUSTER).into_iter().chain(listed).any(|name| *cluster == *name)
}

/// The selector of Secrets that hold a login for a cluster, whoever runs it.
pub(in crate::k8s) fn secrets_of(cluster: &ObjectName) -> String {
    format!("{CLUSTER}={cluster}")
}

/// How a marked Secret is read.
pub(in crate::k8s) fn login(object: &Object, database: &str) -> LoginSource {
    LoginSource {
        role: object.mark(ROLE).map(str::to_owned),
        ..LoginSource::new(
            LoginKind::Managed,
            None,
            Some(Reference::computed(&object.metadata.name)),
            Keys::Connection,
            database,
        )
    }
}

impl System for Marked {
    fn name(&self) -> &'static str {
        "service"
    }

    fn rank(&self) -> Rank {
        Rank::MarkedService
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

    /// Services are small, and an annotation may name them too.
    fn labelled_query(&self, name: &ObjectName) -> Option<ListQuery> {
        is_label_value(name).then(ListQuery::default)
    }

    fn read(&self, object: &Object) -> Option<Facts> {
        let secret = object.mark(SECRET);
        let meta = &object.metadata;
        let mark = object.mark(CLUSTER).map(|mark| Reference::new(mark, CLUSTER));
        let name = match &mark {
            // What cannot be a name is told to whoever names the Service.
            Some(mark) => mark.name().unwrap_or(&meta.name),
            None => secret.map(|_| &meta.name)?,
        };
        let marked = object.mark(PORT);
        let port = marked.map_or(Some(super::facts::PORT), |port| port.parse().ok().filter(|port| *port != 0));
        let service = Members::Service {
            places: vec![(meta.namespace.clone(), meta.name.clone())],
            port: port.unwrap_or(super::facts::PORT),
            outside: None,
            kin: Kin::Alone,
        };
        let replica = object.mark(ROLE) == Some("replica");
        let members = if replica { Members::Labelled } else { service.clone() };
        let role = object.mark(ROLE).filter(|role| !matches!(*role, "primary" | "replica"));
        let login = secret.map(|secret| LoginSource {
            // Who may write a Service need not be allowed to read the Secret.
            consent: Consent::Asked,
            ..LoginSource::new(
                LoginKind::Application,
                role,
                Some(Reference::new(secret, SECRET)),
                Keys::Connection,
                POSTGRES,
            )
        });
        let of = |what: String| format!("Service {}/{}: {what}", meta.namespace, meta.name);
        let wrong = || of(format!("{PORT} is no port number"));
        let misnamed = mark.as_ref().and_then(|mark| mark.name().err()).map(|why| of(why.to_string()));
        Some(Facts {
            broken: misnamed.or_else(|| port.is_none().then(wrong)),
            port: Port::Number(port.unwrap_or(super::facts::PORT)),
            // Where nothing in Kubernetes says, the servers are asked.
            leader: Leader::Ask,
            replicas: replica.then_some(service),
            logins: login.into_iter().collect(),
            services: vec![meta.name.to_string()],
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
        assert_eq!((&*facts.name, facts.logins.len()), ("db", 1));
        let facts = read(&json!({"pgferry.dev/cluster": "shop", "pgferry.dev/port": "6000"})).expect("facts");
        assert_eq!((&*facts.name, facts.port), ("shop", Port::Number(6000)));
        let broken = read(&json!({"pgferry.dev/cluster": "shop", "pgferry.dev/port": "x"})).expect("facts").broken;
        assert_eq!(broken.as_deref(), Some("Service prod/db: pgferry.dev/port is no port number"));
        let broken = read(&json!({"pgferry.dev/cluster": "../x"})).expect("facts");
        assert!(broken.name == "db" && broken.broken.is_some_and(|why| why.contains("pgferry.dev/cluster: \"../x\"")));
        let replica = read(&json!({"pgferry.dev/cluster": "shop", "pgferry.dev/role": "replica"})).expect("facts");
        assert!(replica.replicas.is_some() && replica.members == Members::Labelled);
    }
}
