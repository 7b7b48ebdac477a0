use proptest::prelude::*;
use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SanType, date_time_ymd};

use super::*;

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("a URI"))
}

fn email(text: &str) -> SanType {
    SanType::Rfc822Name(text.try_into().expect("an address"))
}

fn host(text: &str) -> SanType {
    SanType::DnsName(text.try_into().expect("a host"))
}

fn certificate(names: &[SanType], subject: &[(DnType, &str)]) -> Vec<u8> {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.subject_alt_names = names.to_vec();
    params.distinguished_name = DistinguishedName::new();
    for (kind, value) in subject {
        params.distinguished_name.push(kind.clone(), DnValue::Utf8String((*value).to_owned()));
    }
    params.not_after = date_time_ymd(2030, 1, 2);
    let key = KeyPair::generate().expect("a key");
    params.self_signed(&key).expect("a certificate").der().to_vec()
}

fn named(names: &[SanType], subject: &[(DnType, &str)]) -> Result<String, CertificateError> {
    person(&certificate(names, subject)).map(|person| person.name)
}

#[test]
fn a_certificate_is_a_person() {
    let subject = [(DnType::CommonName, "Alice"), (DnType::OrganizationName, "dev")];
    let person = person(&certificate(&[], &subject)).expect("somebody");
    assert_eq!((person.name.as_str(), person.groups.as_slice()), ("cert:Alice", &["cert:dev".to_owned()][..]));
    let until = person.until.expect("an end").duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    assert_eq!(until.as_secs(), 1_893_542_400);
    assert!(person.uid.is_empty() && person.extra.is_empty() && person.context.is_none());
    assert_eq!(person.how, How::Certificate);
}

#[test]
fn the_best_name_counts() {
    let subject = [(DnType::CommonName, "Alice")];
    let (spiffe, mail) = (uri("spiffe://example.com/alice"), email("alice@example.com"));
    for (names, name) in [
        (vec![mail.clone(), spiffe.clone()], "cert:spiffe://example.com/alice"),
        (vec![spiffe, uri("spiffe://example.com/bob")], "cert:spiffe://example.com/alice"),
        (vec![host("alice.example.com"), mail], "cert:alice@example.com"),
        (vec![host("alice.example.com")], "cert:Alice"),
        (vec![], "cert:Alice"),
    ] {
        assert_eq!(named(&names, &subject).as_deref(), Ok(name));
    }
    assert_eq!(named(&[host("alice.example.com")], &[]), Err(CertificateError::Nameless));
    assert_eq!(named(&[], &[(DnType::OrganizationName, "dev")]), Err(CertificateError::Nameless));
}

/// rcgen writes one attribute of a kind; certificates of Kubernetes' own have one O for each group.
#[test]
fn every_organization_is_a_group() {
    let (one, other) = ("the first one", "the other one");
    let subject =
        [(DnType::CommonName, "Alice"), (DnType::OrganizationName, one), (DnType::OrganizationalUnitName, other)];
    let mut der = certificate(&[], &subject);
    // 2.5.4.11 (OU) becomes 2.5.4.10 (O); who has signed it is not looked at here.
    let unit = [0x06, 0x03, 0x55, 0x04, 0x0b];
    while let Some(at) = der.windows(5).position(|bytes| bytes == unit) {
        der[at + 4] = 0x0a;
    }
    assert_eq!(person(&der).expect("somebody").groups, ["cert:the first one", "cert:the other one"]);
}

#[test]
fn names_that_are_not_taken() {
    let alice = (DnType::CommonName, "Alice");
    let long = "x".repeat(254);
    for (name, error) in [
        ("system:admin", NameError::Reserved),
        ("", NameError::Empty),
        ("a\nb", NameError::Control),
        (long.as_str(), NameError::TooLong),
    ] {
        assert_eq!(named(&[], &[(DnType::CommonName, name)]), Err(CertificateError::Name(error)), "{name:?}");
        let subject = [alice.clone(), (DnType::OrganizationName, name)];
        assert_eq!(named(&[], &subject), Err(CertificateError::Group(error)), "{name:?}");
    }
    // The better name is not taken, and no other takes its place.
    for names in [[uri("system:node:x")], [email("system:x@example.com")], [uri("")]] {
        let refused = named(&names, std::slice::from_ref(&alice));
        assert!(matches!(refused, Err(CertificateError::Name(_))), "{names:?}: {refused:?}");
    }
    let masters = (DnType::OrganizationName, "system:masters");
    assert_eq!(named(&[uri("spiffe://a")], &[masters]), Err(CertificateError::Group(NameError::Reserved)));
}

#[test]
fn what_is_no_certificate_names_nobody() {
    let der = certificate(&[], &[(DnType::CommonName, "Alice")]);
    for wrong in [&[][..], b"x", &der[1..], &der[..der.len() - 1], &[der.as_slice(), b"x"].concat()] {
        assert_eq!(person(wrong), Err(CertificateError::Malformed));
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0_usize..300, byte: u8) {
        let _ = person(&bytes);
        let mut der = certificate(&[uri("spiffe://a")], &[(DnType::CommonName, "Alice")]);
        if let Some(place) = der.get_mut(at) {
            *place = byte;
        }
        let _ = person(&der);
    }
}
