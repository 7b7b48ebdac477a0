//! Why a client gets no server.

use bytes::Bytes;

use crate::{
    error::{Report, SqlState},
    pg::backend::ErrorFields,
    session::permit::rules::Number,
    upstream::Failure,
};

/// A server's own refusal, or ours.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The server's ErrorResponse as it came, with a hint added where it had none.
    Server {
        /// The frame for the client.
        frame: Bytes,
        /// Its content.
        fields: ErrorFields,
    },
    /// A report of ours.
    Report(Report),
    /// A report of ours, because the list of rules says so.
    Denied {
        /// The rule; `None` where none of them fits.
        rule: Option<Number>,
        /// What the client hears.
        report: Report,
    },
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Report(failure.report)
    }
}

impl Refusal {
    /// PostgreSQL clients try their next host on 57P03, and only where it comes before AuthenticationOk.
    pub(super) fn is_cannot_connect_now(&self) -> bool {
        self.sqlstate() == SqlState::CANNOT_CONNECT_NOW.as_str()
    }

    /// A limit on connections is reached: a server's, or ours on one cluster.
    pub(super) fn is_too_many(&self) -> bool {
        self.sqlstate() == SqlState::TOO_MANY_CONNECTIONS.as_str()
    }

    /// The code and the message that the client is sent.
    pub(super) fn words(&self) -> (&str, &str) {
        let message = match self {
            Self::Server { fields, .. } => &fields.message,
            Self::Report(report) | Self::Denied { report, .. } => &report.message,
        };
        (self.sqlstate(), message)
    }

    fn sqlstate(&self) -> &str {
        match self {
            Self::Server { fields, .. } => &fields.sqlstate,
            Self::Report(report) | Self::Denied { report, .. } => report.sqlstate.as_str(),
        }
    }
}
