//! `NO_PROXY`, as curl and Go read it: `*`, host names, domain suffixes, addresses, address ranges.

use std::net::IpAddr;

/// Whether `list` exempts `host` (no port, no brackets) from the proxy.
pub(in crate::k8s) fn exempts(list: &str, host: &str) -> bool {
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    list.split(',').map(|entry| entry.trim().to_ascii_lowercase()).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let (Some(address), Some((network, bits))) = (address, entry.split_once('/')) {
            return in_network(address, network, bits);
        }
        let entry = without_port(&entry);
        let suffix = entry.trim_start_matches("*.").trim_start_matches('.');
        host == suffix || (address.is_none() && host.ends_with(&format!(".{suffix}")))
    })
}

/// `host:port` without the port; an IPv6 address is left whole.
fn without_port(entry: &str) -> &str {
    match entry.split_once(':') {
        Some((host, port)) if !port.contains(':') => host,
        _ => entry.trim_matches(['[', ']']),
    }
}

fn in_network(address: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    let (address, network, width) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (u128::from(a.to_bits()), u128::from(n.to_bits()), 32_u32),
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits(), n.to_bits(), 128),
        _ => return false,
    };
    let Some(shift) = width.checked_sub(bits) else {
        return false;
    };
    address.checked_shr(shift).unwrap_or_default() == network.checked_shr(shift).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_entry() {
        for (list, host) in [
            ("*", "x"),
            ("a, 127.0.0.1", "127.0.0.1"),
            ("10.0.0.0/8", "10.1.2.3"),
            ("::1", "[::1]"),
            ("fd00::/8", "fd12::1"),
            ("example.org", "example.org"),
            ("example.org", "api.example.org"),
            (".example.org", "api.example.org"),
            ("*.example.org", "API.example.org"),
            ("localhost:6443", "localhost"),
            ("0.0.0.0/0", "1.2.3.4"),
        ] {
            assert!(exempts(list, host), "{list} {host}");
        }
        for (list, host) in [
            ("", "x"),
            ("10.0.0.0/8", "11.1.2.3"),
            ("example.org", "notexample.org"),
            ("10.0.0.0/99", "10.0.0.1"),
            ("10.0.0.0/8", "fd00::1"),
            ("0.1", "127.0.0.1"),
        ] {
            assert!(!exempts(list, host), "{list} {host}");
        }
    }
}
