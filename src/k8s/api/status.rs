//! What a failed call means.

use std::io;

use kube::{client::UpgradeConnectionError, core::Status};

use crate::k8s::api::{access::Access, client::Context, error::K8sError};

/// kube's own mark of a body that was no Status.
pub(super) const FOREIGN: &str = "Failed to parse error data";

impl Context {
    /// What a failed call means.
    pub(in crate::k8s) fn explain(&self, access: &Access<'_>, error: kube::Error) -> K8sError {
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
        let upgrade = access.subresource == Some("portforward");
        let foreign = status.reason == FOREIGN;
        let line = line(&status.message);
        match status.code {
            401 => K8sError::Unauthorized { context: self.name().to_owned() },
            403 if !foreign => K8sError::Forbidden {
                context: self.name().to_owned(),
                verb: refused_verb(&status.message).unwrap_or(access.verb).to_owned(),
                resource: access.kind(),
                group: access.group.to_owned(),
                namespace: access.namespace.map(ToString::to_string),
            },
            404 if access.name.is_some() && status.reason == "NotFound" => {
                K8sError::NotFound { what: access.to_string() }
            }
            404 if !upgrade && (!foreign || status.message.contains("page not found")) => {
                K8sError::NoSuchResource { resource: access.kind() }
            }
            410 => K8sError::Gone,
            // API Priority and Fairness answers with a line of text. So does whatever else stands in between.
            429 if line.is_some() => K8sError::Status { server, code: 429, message: line.unwrap_or_default() },
            // A gateway that does not reach the API server says nothing about WebSockets.
            code if foreign && upgrade && !matches!(code, 502..=504) => K8sError::NoWebSocket { server, code },
            code if foreign || code == 429 => K8sError::NotKubernetes { server, code },
            code => K8sError::Status { server, code, message: status.message.clone() },
        }
    }
}

/// What may be quoted of an answer that is no Status: its first line, where that is a person's to read. A page or JSON
/// is a program's, and may hold whatever a gateway was asked with.
fn line(text: &str) -> Option<String> {
    /// A client shows it in one line, behind ours; API Priority and Fairness needs 42.
    const LONGEST_LINE: usize = 200;
    let line = text.trim_start().split(['\n', '\r']).next()?;
    if line.starts_with(['<', '{', '[', '"']) {
        return None;
    }
    let line: String = line.chars().filter(|char| !char.is_control()).take(LONGEST_LINE).collect();
    let line = line.trim();
    (!line.is_empty()).then(|| line.to_owned())
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

    #[test]
    fn one_short_line_is_quoted() {
        let too_many = "Too many requests, please try again later.";
        assert_eq!(line(&format!("{too_many}\n")).as_deref(), Some(too_many));
        assert_eq!(line("\r\nfirst\u{1b}[31m\u{0}\r\nsecond").as_deref(), Some("first[31m"));
        assert_eq!(line(&"é".repeat(100_000)), Some("é".repeat(200)));
        for none in ["", " \n", "\u{7}", "<html>", " {\"token\": \"x\"}", "[1]", "\"text\""] {
            assert_eq!(line(none), None, "{none:?}");
        }
    }
}
