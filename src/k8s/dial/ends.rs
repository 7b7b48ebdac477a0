//! How a tunnel ended, for a person.

use std::io;

use tokio_tungstenite::tungstenite::{Error as WsError, error::ProtocolError, protocol::CloseFrame};

use crate::{
    error::{Report, SqlState},
    upstream::{Failure, PodId, Retry},
};

/// A Close that is not the server's end, in a few words.
pub(super) fn closed(frame: &CloseFrame) -> String {
    let code = u16::from(frame.code);
    match frame.reason.as_str() {
        "" => format!("it was closed with {code}"),
        reason => format!("it was closed with {code}: {reason}"),
    }
}

/// A WebSocket's end in a few words.
pub(super) fn why(error: &WsError) -> String {
    let cut = || "the API server's connection ended without a close".to_owned();
    match error {
        // TLS says so where its own close is missing too.
        WsError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => cut(),
        WsError::Io(error) => error.kind().to_string(),
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => cut(),
        WsError::Protocol(error) => format!("the WebSocket protocol was broken: {error}"),
        WsError::ConnectionClosed | WsError::AlreadyClosed => "it is closed".to_owned(),
        error => error.to_string(),
    }
}

/// What the node's runtime wrote on the error channel, for a person.
pub(super) fn node_says(pod: &PodId, text: &str) -> Failure {
    let name = &pod.name;
    let logs = || format!("See what the server logged: kubectl logs -n {} {name}", pod.namespace);
    let report = if text.contains("connection refused") {
        Report::fatal(
            SqlState::UNABLE_TO_CONNECT,
            format!("nothing listens on the port in pod {name} (connection refused)"),
        )
        .hint(format!("{}. In pods of gVisor or Kata containers a port-forward cannot reach the server", logs()))
    } else if text.contains("reset by peer") || text.contains("broken pipe") {
        Report::fatal(SqlState::CONNECTION_FAILURE, format!("the server in pod {name} broke the connection off"))
            .hint(logs())
    } else if text.contains("network namespace") || text.contains("sandbox") || text.contains("not running") {
        Report::fatal(SqlState::CONNECTION_FAILURE, format!("pod {name} is gone")).hint("Connect again")
    } else {
        Report::fatal(SqlState::CONNECTION_FAILURE, format!("the port-forward to pod {name} failed"))
            .detail(text.to_owned())
            .hint(logs())
    };
    Failure { report, retry: Retry::Resolve }
}
