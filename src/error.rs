//! What a client may be told: [`Report`], and the allow-list of errors that become one.
//!
//! A `Report` is the content of an `ErrorResponse` or `NoticeResponse`; `pg::report` encodes it. Nothing else in
//! the crate decides what leaves the process towards a client. The message alone must suffice, because several
//! drivers drop detail and hint while connecting; the hint is a command or an edit that the reader can make.

use std::fmt;

/// A SQLSTATE, as listed in PostgreSQL's appendix A. Only the codes that pgferry itself sends are named here.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(&'static str);

impl SqlState {
    /// `00000`: notices that report nothing wrong.
    pub const SUCCESSFUL_COMPLETION: Self = Self("00000");
    /// `01000`: notices that the person should read.
    pub const WARNING: Self = Self("01000");
    /// `08001`: the cluster was never reached.
    pub const UNABLE_TO_CONNECT: Self = Self("08001");
    /// `08006`: the way to the cluster was lost.
    pub const CONNECTION_FAILURE: Self = Self("08006");
    /// `08P01`: a packet breaks the protocol.
    pub const PROTOCOL_VIOLATION: Self = Self("08P01");
    /// `0A000`: a protocol version or feature that is not supported.
    pub const FEATURE_NOT_SUPPORTED: Self = Self("0A000");
    /// `28000`: no such login, TLS required, or the login to Kubernetes has expired.
    pub const INVALID_AUTHORIZATION: Self = Self("28000");
    /// `28P01`: a password was refused.
    pub const INVALID_PASSWORD: Self = Self("28P01");
    /// `3D000`: no cluster has this name.
    pub const UNKNOWN_TARGET: Self = Self("3D000");
    /// `42501`: Kubernetes (RBAC) or a policy refuses.
    pub const INSUFFICIENT_PRIVILEGE: Self = Self("42501");
    /// `53300`: a limit on connections is reached.
    pub const TOO_MANY_CONNECTIONS: Self = Self("53300");
    /// `57014`: a query was cancelled.
    pub const QUERY_CANCELED: Self = Self("57014");
    /// `57P01`: this session is ended (failover, drain).
    pub const ADMIN_SHUTDOWN: Self = Self("57P01");
    /// `57P05`: a session was idle for longer than it may be.
    pub const IDLE_SESSION_TIMEOUT: Self = Self("57P05");
    /// `57P03`: no ready primary, or draining: try again.
    pub const CANNOT_CONNECT_NOW: Self = Self("57P03");
    /// `F0000`: the configuration names something that cannot be used (a CA that does not match).
    pub const CONFIG_FILE_ERROR: Self = Self("F0000");
    /// `XX000`: a bug of pgferry's.
    pub const INTERNAL_ERROR: Self = Self("XX000");

    /// The five characters.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The severity field of an ErrorResponse or NoticeResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Ends the session.
    Fatal,
    /// Something the person should read; the session goes on.
    Warning,
    /// For information; the session goes on.
    Notice,
}

impl Severity {
    /// PostgreSQL's own word, never translated.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fatal => "FATAL",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
        }
    }
}

/// What a client is told. Never holds a Secret's value, a token, or the output of a credential plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How bad it is.
    pub severity: Severity,
    /// The code that drivers act on.
    pub sqlstate: SqlState,
    /// One sentence, lower-case, no full stop; suffices alone.
    pub message: String,
    /// More facts, full sentences.
    pub detail: Option<String>,
    /// What to type next, with the names filled in.
    pub hint: Option<String>,
}

impl Report {
    /// A failure that ends the connection.
    pub fn fatal(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self { severity: Severity::Fatal, sqlstate, message: printable(&message.into()), detail: None, hint: None }
    }

    /// Information that ends nothing.
    pub fn notice(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Notice,
            sqlstate: SqlState::SUCCESSFUL_COMPLETION,
            message: printable(&message.into()),
            detail: None,
            hint: None,
        }
    }

    /// Adds facts.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(printable(&detail.into()));
        self
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(printable(&hint.into()));
        self
    }
}

/// Reports repeat names that a client, a server or an object's author wrote, and end in terminals and logs: no line
/// breaks, no escape sequences.
#[must_use]
pub fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The fields are public: whoever puts a message together anew may forget.
        write!(f, "{}: {} ({})", self.severity.as_str(), printable(&self.message), self.sqlstate)
    }
}

/// The allow-list: an error type that may reach a client says here what the client reads.
pub trait ClientFacing {
    /// What the client is told.
    fn report(&self) -> Report;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_holds_no_control_characters() {
        let wild = "a\u{1b}[31mb\nc\0d\u{7f}e\u{9b}31mf";
        let tame = "a\u{fffd}[31mb\u{fffd}c\u{fffd}d\u{fffd}e\u{fffd}31mf";
        let fatal = Report::fatal(SqlState::UNKNOWN_TARGET, wild).detail(wild).hint(wild);
        assert_eq!(
            (fatal.message.as_str(), fatal.detail.as_deref(), fatal.hint.as_deref()),
            (tame, Some(tame), Some(tame))
        );
        assert_eq!(Report::notice(wild).message, tame);
        let put_together = Report { message: wild.to_owned(), ..Report::notice("") };
        assert!(!put_together.to_string().contains(char::is_control), "{put_together}");
        assert_eq!(printable("Grüße, 名前 🐘"), "Grüße, 名前 🐘");
    }
}
