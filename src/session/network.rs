//! Networks of addresses.

use std::net::IpAddr;

/// All addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Any of them.
    pub address: IpAddr,
    /// How many bits.
    pub bits: u8,
}

impl Network {
    /// Whether an address is one of them. An IPv4 address is the same in IPv6.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (network, address) = match (self.address, address.to_canonical()) {
            // At the same end of the number.
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                (u128::from(network.to_bits()) << 96, u128::from(address.to_bits()) << 96)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => (network.to_bits(), address.to_bits()),
            _ => return false,
        };
        let differs = network ^ address;
        differs.leading_zeros() >= u32::from(self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside_and_outside() {
        for (network, bits, inside, outside) in [
            ("10.0.0.0", 8, &["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"][..], &["11.0.0.0", "9.255.255.255"][..]),
            ("192.0.2.128", 25, &["192.0.2.128", "192.0.2.255"], &["192.0.2.127", "192.0.3.128", "::c000:280"]),
            ("192.0.2.7", 32, &["192.0.2.7"], &["192.0.2.6", "::ffff:192.0.2.6"]),
            ("0.0.0.0", 0, &["0.0.0.0", "255.255.255.255"], &["::", "2001:db8::1"]),
            ("2001:db8::", 32, &["2001:db8::1", "2001:db8:ffff::"], &["2001:db9::", "32.1.13.184"]),
            ("::1", 128, &["::1"], &["::", "127.0.0.1", "::2"]),
            ("::", 0, &["::", "ffff::"], &["10.0.0.1", "::ffff:10.0.0.1"]),
        ] {
            let network = Network { address: network.parse().expect("an address"), bits };
            let contains = |address: &&str| network.contains(address.parse().expect("an address"));
            assert!(inside.iter().all(contains), "{network:?}");
            assert!(!outside.iter().any(contains), "{network:?}");
        }
    }
}
