//! A certificate authority of our own.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// The authority's own certificate.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for these names or addresses, and its key.
    #[must_use]
    pub fn server(&self, names: &[&str]) -> (String, String) {
        let (addresses, dns): (Vec<&str>, Vec<&str>) =
            names.iter().partition(|name| name.parse::<std::net::IpAddr>().is_ok());
        let mut params = CertificateParams::new(dns.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(address.parse().unwrap())));
        self.sign(params, names.first().unwrap_or(&"server"))
    }

    /// A client's certificate with this common name, and its key.
    #[must_use]
    pub fn client(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
        self.sign(params, name)
    }

    fn sign(&self, mut params: CertificateParams, name: &str) -> (String, String) {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// The last common name of a certificate, found by its object identifier (the subject's comes after the issuer's).
pub(crate) fn common_name(der: &[u8]) -> String {
    const OID: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];
    let at = der.windows(OID.len()).rposition(|window| window == OID).map(|at| at + OID.len());
    let Some([_, length, rest @ ..]) = at.map(|at| &der[at..]) else {
        return String::new();
    };
    String::from_utf8_lossy(&rest[..usize::from(*length).min(rest.len())]).into_owned()
}
