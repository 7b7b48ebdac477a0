//! Where a host in a Secret leads, as names resolve in a pod of its namespace.

use super::{
    connection_uri::Host,
    facts::{Kin, Members, PORT},
};
use crate::k8s::api::names::{Namespace, ObjectName, is_service_name};

/// Where the hosts lead, in their order. `Err` is the one that is no host's name.
pub(in crate::k8s) fn members_of<'h>(
    hosts: &'h [Host],
    port: Option<u16>,
    namespace: &Namespace,
) -> Result<Option<Members>, &'h Host> {
    let lead = |host: &'h Host| {
        let port = host.port.or(port).unwrap_or(PORT);
        members(&host.name, port, namespace).ok_or(host)
    };
    let mut all: Vec<Members> = hosts.iter().map(lead).collect::<Result<_, _>>()?;
    if all.len() > 1 && all.iter().all(|one| matches!(one, Members::External(_))) {
        let servers =
            all.iter().flat_map(|one| if let Members::External(servers) = one { servers.as_slice() } else { &[] });
        return Ok(Some(Members::External(servers.cloned().collect())));
    }
    all.dedup();
    Ok(match all.len() {
        0 | 1 => all.pop(),
        _ => Some(Members::Several(all)),
    })
}

/// Where a host leads, as names resolve in a pod of this namespace; `None` where it is no host's name.
pub(in crate::k8s) fn members(host: &str, port: u16, namespace: &Namespace) -> Option<Members> {
    // The names of hosts have no case.
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let outside = || Members::External(vec![(name.clone(), port)]);
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Some(outside());
    }
    let place = |namespace: &str, service: &str| {
        let service = ObjectName::parse(service).ok().filter(|service| is_service_name(service))?;
        Some(vec![(Namespace::parse(namespace).ok()?, service)])
    };
    let inside = |places| Members::Service { places, port, outside: None, kin: Kin::Operator };
    let labels: Vec<&str> = name.split('.').collect();
    Some(match labels.as_slice() {
        [service] => inside(place(namespace, service)?),
        [service, namespace, "svc", ..] => inside(place(namespace, service)?),
        // A StatefulSet's pod behind its headless Service.
        [pod, service, namespace, "svc", ..] => Members::Pod {
            namespace: Namespace::parse(namespace).ok()?,
            pod: ObjectName::parse(pod).ok()?,
            service: Some(ObjectName::parse(service).ok()?),
        },
        // `db.prod` may be a Service in `prod`, and a host as well.
        [service, namespace] => {
            // It may be a host outside that is called as no Service can be.
            let Some(places) = place(namespace, service) else {
                return labels.iter().all(|label| is_host_label(label)).then(outside);
            };
            Members::Service { places, port, outside: Some(name.clone()), kin: Kin::Operator }
        }
        // Hosts outside may have an underscore, and a resolver takes no more than that.
        _ if labels.iter().all(|label| is_host_label(label)) => outside(),
        _ => return None,
    })
}

fn is_host_label(label: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=63).contains(&label.len()) && label.bytes().all(fits)
}
