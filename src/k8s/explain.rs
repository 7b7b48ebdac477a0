//! What a failed call means.

use std::io;

use kube::{client::UpgradeConnectionError, core::Status};

use super::{
    K8sError,
    client::{Access, Context, FOREIGN},
};

impl Context {
    /// What a failed call means.
    pub(super) fn explain(&self, access: &Access<'_>, error: kube::Error) -> K8sError {
        let server = self.server().to_owned();
        match error {
            kube::Error::Api(status) => self.explain_status(access, &status),
            kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(code)) => {
                K8sError::NoWebSocket { server, code: code.as_u16() }
            }
            kube::Error::UpgradeConnection(_) => K8sError::NoWebSocket { server, code: 101 },
            error => unreachable(server, &error),
        }
    }

    fn explain_status(&self, access: &Access<'_>, status: &Status) -> K8sError {
        let server = self.server().to_owned();
        let upgrade = access.resource == "pods/portforward";
        let foreign = status.reason == FOREIGN;
        match status.code {
            401 => K8sError::Unauthorized { context: self.name().to_owned() },
            403 if !foreign => K8sError::Forbidden {
                context: self.name().to_owned(),
                verb: refused_verb(&status.message).unwrap_or(access.verb).to_owned(),
                resource: access.resource.to_owned(),
                group: access.group.to_owned(),
                namespace: access.namespace.map(str::to_owned),
            },
            404 if access.name.is_some() && status.reason == "NotFound" => {
                K8sError::NotFound { what: access.to_string() }
            }
            404 if !upgrade && (!foreign || status.message.contains("page not found")) => {
                K8sError::NoSuchResource { resource: access.resource.to_owned() }
            }
            410 => K8sError::Gone,
            // API Priority and Fairness answers with a line of text.
            429 if !status.message.starts_with('<') => {
                K8sError::Status { server, code: 429, message: status.message.clone() }
            }
            // A gateway that does not reach the API server says nothing about WebSockets.
            code if foreign && upgrade && !matches!(code, 502..=504) => K8sError::NoWebSocket { server, code },
            code if foreign => K8sError::NotKubernetes { server, code },
            code => K8sError::Status { server, code, message: status.message.clone() },
        }
    }
}

/// `... cannot VERB resource ...`: the verb that RBAC misses, which is not always the one of the call.
fn refused_verb(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once(" cannot ")?;
    rest.split_once(" resource ").map(|(verb, _)| verb).filter(|verb| !verb.contains(' '))
}

/// Why a server was not reached, from the innermost cause that says so.
fn unreachable(server: String, error: &(dyn std::error::Error + 'static)) -> K8sError {
    let mut cause = error;
    let (mut untrusted, mut cut) = (false, false);
    loop {
        if let Some(rustls::Error::InvalidCertificate(_)) = cause.downcast_ref::<rustls::Error>() {
            untrusted = true;
        }
        // An io::Error hides its content from `source` where that has none of its own.
        let io = cause.downcast_ref::<io::Error>();
        cut |= io.is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof);
        let inner = io.and_then(io::Error::get_ref);
        match inner.map(|inner| inner as &(dyn std::error::Error + 'static)).or_else(|| cause.source()) {
            Some(source) => cause = source,
            None => break,
        }
    }
    // rustls has an essay on it.
    let why = if cut { "the connection ended before the answer did".to_owned() } else { cause.to_string() };
    if untrusted { K8sError::Untrusted { server, why } } else { K8sError::Unreachable { server, why } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refused_verb_is_the_servers() {
        let message = "pods \"x\" is forbidden: User \"u\" cannot create resource \"pods/portforward\" in API group";
        assert_eq!(refused_verb(message), Some("create"));
        assert_eq!(refused_verb("forbidden"), None);
    }
}
