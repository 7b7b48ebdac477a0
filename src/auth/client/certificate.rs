//! Who a client certificate is for. That it is to be trusted, TLS has found out.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use x509_parser::prelude::{AttributeTypeAndValue, FromDer as _, GeneralName, X509Certificate};

use crate::{
    auth::claimed::{NameError, claimed},
    error::{ClientFacing, Report, SqlState},
    upstream::{How, Person},
};

const PREFIX: &str = "cert:";

/// A certificate that names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It is not what RFC 5280 defines.
    #[error("the client certificate cannot be read")]
    Malformed,
    /// No subject alternative name that is a URI or an e-mail address, and no common name.
    #[error("the client certificate names nobody: it holds neither a URI, nor an e-mail address, nor a common name")]
    Nameless,
    /// The name is not taken.
    #[error("the name in the client certificate {0}")]
    Name(NameError),
    /// An organization is not taken as a group.
    #[error("an organization in the client certificate {0}")]
    Group(NameError),
}

impl ClientFacing for CertificateError {
    fn report(&self) -> Report {
        Report::fatal(SqlState::INVALID_AUTHORIZATION, self.to_string())
    }
}

/// The person that a verified certificate is for, until it expires. The name is its first URI, else its first e-mail address
/// (both subject alternative names), else its common name; the groups are its organizations, as Kubernetes has it.
///
/// # Errors
/// Where it names nobody, or somebody that it must not.
pub fn person(leaf: &[u8]) -> Result<Person, CertificateError> {
    let (rest, certificate) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::Malformed)?;
    if !rest.is_empty() {
        return Err(CertificateError::Malformed);
    }
    let name = claimed(PREFIX, name(&certificate)?).map_err(CertificateError::Name)?;
    let group = |organization| claimed(PREFIX, text(organization)?).map_err(CertificateError::Group);
    let groups = certificate.subject().iter_organization().map(group).collect::<Result<_, _>>()?;
    let until = u64::try_from(certificate.validity().not_after.timestamp()).map_err(|_| CertificateError::Malformed)?;
    Ok(Person {
        name,
        groups,
        uid: String::new(),
        extra: BTreeMap::new(),
        how: How::Certificate,
        // A year that does not fit is far enough.
        until: SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(until)),
        context: None,
    })
}

fn name<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, CertificateError> {
    let alternatives = certificate.subject_alternative_name().map_err(|_| CertificateError::Malformed)?;
    let names = alternatives.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let uri = names.iter().find_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None });
    let email =
        names.iter().find_map(|name| if let GeneralName::RFC822Name(email) = name { Some(*email) } else { None });
    if let Some(name) = uri.or(email) {
        return Ok(name);
    }
    // One that is there and cannot be read must not give way to another name.
    if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(CertificateError::Malformed);
    }
    certificate.subject().iter_common_name().next().map_or(Err(CertificateError::Nameless), text)
}

fn text<'a>(attribute: &'a AttributeTypeAndValue<'_>) -> Result<&'a str, CertificateError> {
    attribute.as_str().map_err(|_| CertificateError::Malformed)
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod tests;
