//! Any Secret that says where a server is and how to log in. What it leads to may be a pod, or outside Kubernetes.

use super::{
    connection::{self, Broken, Connection},
    connection_hosts::members_of,
    connection_uri::{Attributes, Host},
    facts::POSTGRES,
    facts::{CaSource, CertificateName, Evidence, Facts, Members, Port, Tls, Wants},
    leader::Leader,
    login::{Keys, LoginKind, LoginSource},
    marked,
    system::{Member, PodLabels, Rank, System},
};
use crate::{
    k8s::api::{
        access::ListQuery,
        names::{ObjectName, Reference},
        objects::{Meta, Object, Pod},
        resource::{Resource, SECRETS},
    },
    upstream::{Mode, TlsMode},
};

#[derive(Debug)]
pub(super) struct ConnectionSecrets;

/// The type of a Service Binding's Secret.
const SERVICE_BINDING: &str = "servicebinding.io/postgresql";
/// The type of Crossplane's, which are about servers of every kind: databases, caches, clusters of Kubernetes.
const CROSSPLANE: &str = "connection.crossplane.io/v1alpha1";

/// The facts of a Secret, broken or not. `reached` is where it leads, if not to its host.
pub(super) fn facts_of(
    object: &Object,
    name: &ObjectName,
    connection: Result<Connection, Broken>,
    reached: Option<Members>,
) -> Facts {
    connection.and_then(|connection| read_facts(object, name, connection, reached)).unwrap_or_else(
        |Broken { key, why }| {
            let meta = &object.metadata;
            let broken = format!("the key \"{key}\" of Secret {}/{} {why}", meta.namespace, meta.name);
            Facts { broken: Some(broken), ..Facts::of(object, name, Members::Labelled) }
        },
    )
}

fn read_facts(
    object: &Object,
    name: &ObjectName,
    connection: Connection,
    reached: Option<Members>,
) -> Result<Facts, Broken> {
    let meta = &object.metadata;
    let marked_port = object.mark(marked::PORT).and_then(|port| port.parse().ok());
    let port = marked_port.or(connection.port()).unwrap_or(super::facts::PORT);
    let lead = |hosts: &[Host], key: &str| {
        let broken = |_: &Host| Broken { key: key.to_owned(), why: "holds what is no host's name" };
        members_of(hosts, Some(port), &meta.namespace).map_err(broken)
    };
    // Where something else says where it leads, the host is only a name in a certificate.
    let named = if reached.is_none() { lead(&connection.hosts, &connection.host_key)? } else { None };
    let members = reached.or(named).unwrap_or(Members::Labelled);
    let external = matches!(members, Members::External(_));
    if !external && connection.hosts.iter().any(|host| host.port.unwrap_or(port) != port) {
        return Err(Broken { key: connection.host_key, why: "names servers on different ports" });
    }
    let missing = if connection.user.is_none() { "user" } else { "host" };
    let replica = lead(&connection.replicas, &connection.replica_key)?;
    Ok(Facts {
        broken: (!connection.is_complete())
            .then(|| format!("Secret {}/{} has no key that names the {missing}", meta.namespace, meta.name)),
        port: Port::Number(port),
        // Where nothing in Kubernetes says, the servers are asked.
        leader: Leader::Ask,
        replicas: replica,
        wants: connection.attributes.map(wants),
        tls: tls(&connection, external, meta),
        logins: vec![login(&connection, &meta.name)],
        databases: connection.database.into_iter().collect(),
        ..Facts::of(object, name, members)
    })
}

fn wants(attributes: Attributes) -> Wants {
    match attributes {
        Attributes::Any => Wants::Only(Mode::Any),
        Attributes::Primary => Wants::Only(Mode::Rw),
        Attributes::Standby => Wants::Only(Mode::Ro),
        Attributes::PreferStandby => Wants::ReplicaFirst,
    }
}

/// As the Secret says; and to a server outside, where nothing else encrypts, nothing in the clear.
fn tls(connection: &Connection, external: bool, meta: &Meta) -> Tls {
    let mode = match (connection.mode, external, &connection.ca) {
        (Some(TlsMode::Allow) | None, true, None) => TlsMode::Require,
        (None, true, Some(_)) => TlsMode::VerifyCa,
        (mode, _, _) => mode.unwrap_or_default(),
    };
    let source = meta.secret_source();
    let asked = (!connection.mode_key.is_empty()).then(|| format!("the key \"{}\" of {source}", connection.mode_key));
    let ca = connection.ca.clone().map(|pem| CaSource::Own { pem, source });
    Tls { mode, name: certificate_name(&connection.hosts), asked, ca: ca.into_iter().collect(), ..Tls::default() }
}

fn login(connection: &Connection, secret: &str) -> LoginSource {
    let user = connection.user.as_deref();
    let kind = if user == Some(POSTGRES) { LoginKind::Superuser } else { LoginKind::Application };
    let database = connection.database.as_deref().unwrap_or(POSTGRES);
    LoginSource::new(kind, user, Some(Reference::computed(secret)), Keys::Connection, database)
}

/// The name that the servers' certificates carry: each its own host's, where the hosts are pods of one Service.
fn certificate_name(hosts: &[Host]) -> Option<CertificateName> {
    let first = hosts.first()?;
    let behind = |host: &Host| host.name.split_once('.').map(|(_, behind)| format!(".{behind}"));
    let alike =
        behind(first).filter(|behind_first| hosts.iter().all(|host| behind(host).as_ref() == Some(behind_first)));
    Some(match alike {
        Some(behind) if hosts.len() > 1 => CertificateName::Pod(behind),
        _ => CertificateName::Cluster(first.name.clone()),
    })
}

impl System for ConnectionSecrets {
    fn name(&self) -> &'static str {
        "connection-secret"
    }

    fn rank(&self) -> Rank {
        Rank::ConnectionSecret
    }

    fn resource(&self) -> Resource {
        SECRETS.clone()
    }

    fn pod_labels(&self) -> Option<PodLabels> {
        None
    }

    fn list_query(&self) -> ListQuery {
        connection::secrets_with_logins()
    }

    /// Whoever names a Secret means it: an unusable value is an error. Lists take only what is certain.
    fn read(&self, object: &Object) -> Option<Facts> {
        // A mark says which cluster it has a login for; its own name is what it is called by.
        let name = &object.metadata.name;
        match connection::read(&object.data) {
            Ok(connection) if !connection.is_complete() => None,
            connection => {
                // A cluster of Kubernetes has an endpoint and a user, too, and a kubeconfig.
                let provided = object.kind == CROSSPLANE && object.data.get("kubeconfig").is_none();
                let bound = provided || object.kind == SERVICE_BINDING;
                let certain = connection.as_ref().is_ok_and(|connection| connection.certain || bound);
                let evidence = if certain { Evidence::Read } else { Evidence::Doubtful };
                Some(Facts { evidence, ..facts_of(object, name, connection, None) })
            }
        }
    }

    fn member(&self, _facts: &Facts, _pod: &Pod) -> Member {
        Member::Primary
    }
}
