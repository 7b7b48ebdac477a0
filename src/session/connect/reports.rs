//! What a client is told where no connection comes about.

use crate::{
    error::{Report, SqlState, printable},
    pg::{backend, frame::Frame},
    session::{
        refusal::Refusal,
        target::{divide, parse_target},
    },
    upstream::{Conninfo, Form, Login, Upstream},
};

/// The server's refusal of a password, with where the password comes from.
pub(super) fn explained(refusal: Refusal, login: &Login) -> Refusal {
    let Refusal::Server { frame, fields } = refusal else {
        return refusal;
    };
    let hint = format!(
        "pgferry logged in as {} with the password in {}, and read it again after the refusal. If the role's password \
         was changed in the database, change it in the Secret too",
        login.user, login.source
    );
    Refusal::Server { frame: backend::append_hint(&Frame { tag: b'E', raw: frame }, &printable(&hint)), fields }
}

/// The server's refusal of a database that is a target, from a client whose user has one already: what psql's `\c` makes of
/// `\c shop:ro` in such a session.
pub(super) fn redirected(refusal: Refusal, conninfo: &Conninfo, login: &Login) -> Refusal {
    let Refusal::Server { frame, fields } = refusal else {
        return refusal;
    };
    if let Form::User { role, database: Some(database) } = &conninfo.form
        && fields.sqlstate == SqlState::UNKNOWN_TARGET.as_str()
        // A plain word is a database that does not exist.
        && database.contains(['.', ':', '@', '/', '~'])
        && let (target, within) = divide(database)
        && parse_target(target).is_ok()
    {
        let user = format!("{role}@{target}");
        let hint = format!(
            "The user says already which cluster is meant. For another one, in psql type: \\c {} {user}",
            within.unwrap_or(&login.database)
        );
        return Refusal::Server {
            frame: backend::append_hint(&Frame { tag: b'E', raw: frame }, &printable(&hint)),
            fields,
        };
    }
    Refusal::Server { frame, fields }
}

/// What failed, and at which server: a message must suffice alone. Layers that do not know the cluster write
/// `clusters."NAME"`.
pub(super) fn placed(upstream: &Upstream, report: Report) -> Report {
    let cluster = format!("clusters.\"{}.{}\"", upstream.cluster.name, upstream.cluster.namespace);
    let hint = report.hint.map(|hint| printable(&hint.replace("clusters.\"NAME\"", &cluster)));
    let message = printable(&format!("{}: {}", upstream.server, report.message));
    Report { message, hint, ..report }
}

/// A login whose names cannot be sent.
pub(super) fn unusable(login: &Login, problem: &str) -> Report {
    Report::fatal(SqlState::INVALID_AUTHORIZATION, format!("the login in {} cannot be used: {problem}", login.source))
        .hint(format!("Correct {}", login.source))
}

pub(super) fn undecided(upstream: &Upstream) -> Report {
    let report =
        Report::fatal(SqlState::CONNECTION_FAILURE, "the server keeps asking for another way to log in".to_owned())
            .hint("Say which with clusters.\"NAME\".sslmode in the configuration");
    placed(upstream, report)
}

pub(super) fn closed(upstream: &Upstream) -> Report {
    Report::fatal(
        SqlState::UNABLE_TO_CONNECT,
        format!("the server in {} closed the connection before it answered", upstream.server),
    )
    .hint(format!("See what it logged: {}", upstream.server.logs()))
}
