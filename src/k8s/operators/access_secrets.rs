//! Elastisys Welkin (<https://elastisys.io/welkin/user-guide/additional-services/postgresql/>): its tenants see a
//! Secret and a Service, nothing else of the cluster.

use super::{
    connection::{self, Broken, Connection},
    connection_hosts::members,
    connection_secrets::facts_of,
    facts::{Facts, Kin, Members},
    system::{Member, PodLabels, Rank, System},
};
use crate::k8s::api::{
    access::ListQuery,
    names::{Namespace, ObjectName, Place, is_service_name},
    objects::{Object, Pod},
    resource::{Resource, SECRETS},
};

#[derive(Debug)]
pub(super) struct AccessSecrets;

const SUFFIX: &str = ".user.access";

/// `svc/postgresql1`, or the bare name of a Service.
fn access(connection: &Connection, port: u16, namespace: &Namespace) -> Result<Option<Members>, Broken> {
    let Some(access) = connection.access.as_deref() else { return Ok(None) };
    let name = |text| {
        let broken = |error| Broken { key: format!("USER_ACCESS: {error}"), why: "leads nowhere" };
        ObjectName::parse(text).map_err(broken)
    };
    if let Some(pod) = access.strip_prefix("pod/") {
        return Ok(Some(Members::Pod { namespace: namespace.clone(), pod: name(pod)?, service: None }));
    }
    let prefix = ["svc/", "service/", "services/"].iter().find_map(|prefix| access.strip_prefix(prefix));
    let service = name(prefix.unwrap_or(access))?;
    if !is_service_name(&service) {
        return Err(Broken { key: "USER_ACCESS".to_owned(), why: "is no Service's name" });
    }
    // The host's namespace is where the database is, as the Secret's author says. The documented command has none: a
    // Service of its own, which others may write too, is for those who may not look there.
    let mut places: Vec<Place> = Vec::new();
    if let Some(Members::Service { places: named, .. }) =
        connection.hosts.first().and_then(|host| members(&host.name, port, namespace))
    {
        places.extend(named.iter().map(|(namespace, _)| (namespace.clone(), service.clone())));
        places.extend(named);
    }
    places.push((namespace.clone(), service));
    places.dedup();
    Ok(Some(Members::Service { places, port, outside: None, kin: Kin::Operator }))
}

impl System for AccessSecrets {
    fn name(&self) -> &'static str {
        "elastisys"
    }

    fn rank(&self) -> Rank {
        Rank::AccessSecret
    }

    fn resource(&self) -> Resource {
        SECRETS.clone()
    }

    fn pod_labels(&self) -> Option<PodLabels> {
        None
    }

    fn object_names(&self, name: &ObjectName) -> Vec<ObjectName> {
        vec![name.with(SUFFIX), name.clone()]
    }

    fn list_query(&self) -> ListQuery {
        connection::secrets_with_logins()
    }

    fn read(&self, object: &Object) -> Option<Facts> {
        object.data.get("USER_ACCESS")?;
        let own = &object.metadata.name;
        let short = own.strip_suffix(SUFFIX).and_then(|name| ObjectName::parse(name).ok());
        let name = short.as_ref().unwrap_or(own);
        let read = connection::read(&object.data).and_then(|connection| {
            let port = connection.port().unwrap_or(super::facts::PORT);
            let reached = access(&connection, port, &object.metadata.namespace)?;
            Ok((connection, reached))
        });
        let facts = match read {
            Ok((connection, reached)) => facts_of(object, name, Ok(connection), reached),
            Err(broken) => facts_of(object, name, Err(broken), None),
        };
        // Found bare by its whole name too. The servers are Zalando's of version 1, which makes MD5 of passwords.
        let aliases = [facts.aliases, vec![own.to_string()]].concat();
        Some(Facts { md5: true, aliases, ..facts })
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
            let place = |namespace: &str| {
                (Namespace::parse(namespace).expect("a namespace"), ObjectName::parse("postgresql1").expect("a name"))
            };
            let places = vec![place("postgres-system"), place("tenant")];
            assert_eq!(facts.members, Members::Service { places, port: 5432, outside: None, kin: Kin::Operator });
            assert_eq!(facts.logins.first().and_then(|login| login.role.as_deref()), Some("admin"));
        }
        assert!(read("shop", &[("PGHOST", "x"), ("PGUSER", "y")]).is_none());
    }
}
