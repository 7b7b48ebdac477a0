//! Elastisys Welkin (<https://elastisys.io/welkin/user-guide/additional-services/postgresql/>): its tenants see a
//! Secret and a Service, nothing else of the cluster.

use super::{
    Facts, Member, Members, Object, Operator, Pod, PodLabels, Resource, SECRETS,
    connection::{self, Connection, members},
    connection_secrets::facts_of,
};

#[derive(Debug)]
pub(super) struct AccessSecrets;

const SUFFIX: &str = ".user.access";

/// `svc/postgresql1`, or the bare name of a Service.
fn access(connection: &Connection, port: u16, namespace: &str) -> Option<Members> {
    let access = connection.access.as_deref()?;
    if let Some(pod) = access.strip_prefix("pod/") {
        return Some(Members::Pod(namespace.to_owned(), pod.to_owned()));
    }
    let prefix = ["svc/", "service/", "services/"].iter().find_map(|prefix| access.strip_prefix(prefix));
    let service = prefix.unwrap_or(access).to_owned();
    // The documented command has no namespace of its own; the host's is where the database is.
    let mut places = vec![(namespace.to_owned(), service.clone())];
    if let Some(Members::Service { places: named, .. }) =
        connection.host.as_ref().map(|host| members(host, port, namespace))
    {
        places.extend(named.iter().map(|(namespace, _)| (namespace.clone(), service.clone())));
        places.extend(named);
    }
    places.dedup();
    Some(Members::Service { places, port, outside: None })
}

impl Operator for AccessSecrets {
    fn system(&self) -> &'static str {
        "elastisys"
    }

    fn resource(&self) -> Resource {
        SECRETS.clone()
    }

    fn pod_labels(&self) -> Option<PodLabels> {
        None
    }

    fn object_names(&self, name: &str) -> Vec<String> {
        vec![format!("{name}{SUFFIX}"), name.to_owned()]
    }

    fn read(&self, object: &Object) -> Option<Facts> {
        object.data.get("USER_ACCESS")?;
        let name = object.metadata.name.strip_suffix(SUFFIX).unwrap_or(&object.metadata.name);
        let connection = connection::read(&object.data);
        let port = connection.as_ref().ok().and_then(|connection| connection.port).unwrap_or(super::PORT);
        let reached = connection.as_ref().ok().and_then(|known| access(known, port, &object.metadata.namespace));
        Some(facts_of(object, name, connection, reached))
    }

    fn member(&self, _facts: &Facts, _pod: &Pod) -> Member {
        Member::Primary
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    fn read(name: &str, pairs: &[(&str, &str)]) -> Option<Facts> {
        let encode = |value: &str| ByteString(value.into());
        let data: serde_json::Map<String, serde_json::Value> =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(encode(value)))).collect();
        let object = json!({"metadata": {"name": name, "namespace": "tenant"}, "data": data});
        AccessSecrets.read(&serde_json::from_value(object).expect("a Secret"))
    }

    #[test]
    fn both_eras_of_user_access_are_understood() {
        for access in ["svc/postgresql1", "postgresql1", "service/postgresql1"] {
            let pairs = [
                ("PGHOST", "postgresql1.postgres-system.svc.cluster.local"),
                ("PGUSER", "admin"),
                ("PGPASSWORD", "x"),
                ("PGSSLMODE", "require"),
                ("USER_ACCESS", access),
            ];
            let facts = read("shop.user.access", &pairs).expect("facts");
            assert_eq!(facts.name, "shop");
            let place = |namespace: &str| (namespace.to_owned(), "postgresql1".to_owned());
            let places = vec![place("tenant"), place("postgres-system")];
            assert_eq!(facts.members, Members::Service { places, port: 5432, outside: None });
            assert_eq!(facts.logins.first().and_then(|login| login.role.as_deref()), Some("admin"));
        }
        assert!(read("shop", &[("PGHOST", "x"), ("PGUSER", "y")]).is_none());
    }
}
