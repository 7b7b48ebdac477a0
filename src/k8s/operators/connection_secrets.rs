//! Any Secret that says where a server is and how to log in. What it leads to may be a pod, or outside Kubernetes.

use super::{
    connection::{self, Broken, Connection, members},
    facts::POSTGRES,
    facts::{CaSource, CertificateName, Evidence, Facts, Members, Port, Tls},
    leader::Leader,
    login::{Keys, LoginKind, LoginSource},
    marked,
    system::{Member, PodLabels, Rank, System},
};
use crate::{
    k8s::api::{
        access::ListQuery,
        names::{ObjectName, Reference},
        objects::{Object, Pod},
        resource::{Resource, SECRETS},
    },
    upstream::TlsMode,
};

#[derive(Debug)]
pub(super) struct ConnectionSecrets;

/// The type of a Service Binding's Secret.
const SERVICE_BINDING: &str = "servicebinding.io/postgresql";

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
    let port = marked_port.or(connection.port).unwrap_or(super::facts::PORT);
    let host = connection.host.as_deref();
    let lead = |host: &str, key: &str| {
        let broken = || Broken { key: key.to_owned(), why: "holds what is no host's name" };
        members(host, port, &meta.namespace).ok_or_else(broken)
    };
    // Where something else says where it leads, the host is only a name in a certificate.
    let named = host.filter(|_| reached.is_none()).map(|host| lead(host, &connection.host_key)).transpose()?;
    let members = reached.or(named).unwrap_or(Members::Labelled);
    let external = matches!(members, Members::External { .. });
    let missing = if connection.user.is_none() { "user" } else { "host" };
    let database = connection.database.clone();
    let replica = connection.replica_host.as_deref().map(|host| lead(host, "PGHOST_REPLICA")).transpose()?;
    let mode = match (connection.mode, external, &connection.ca) {
        (Some(TlsMode::Allow) | None, true, None) => TlsMode::Require,
        (None, true, Some(_)) => TlsMode::VerifyCa,
        (mode, _, _) => mode.unwrap_or_default(),
    };
    let superuser = connection.user.as_deref() == Some(POSTGRES);
    let kind = if superuser { LoginKind::Superuser } else { LoginKind::Application };
    let default = database.as_deref().unwrap_or(POSTGRES);
    Ok(Facts {
        broken: (!connection.is_complete())
            .then(|| format!("Secret {}/{} has no key that names the {missing}", meta.namespace, meta.name)),
        port: Port::Number(port),
        // Where nothing in Kubernetes says, the servers are asked.
        leader: Leader::Ask,
        replicas: replica,
        tls: Tls {
            mode,
            name: host.map(|host| CertificateName::Cluster(host.to_owned())),
            ca: connection.ca.map(|pem| CaSource::Own { pem, source: meta.secret_source() }).into_iter().collect(),
            client: None,
        },
        logins: vec![LoginSource::new(
            kind,
            connection.user.as_deref(),
            Some(Reference::computed(&meta.name)),
            Keys::Connection,
            default,
        )],
        databases: database.into_iter().collect(),
        ..Facts::of(object, name, members)
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
                let bound = object.kind == SERVICE_BINDING;
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
