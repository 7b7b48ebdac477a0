//! What somebody hears who may not. A person hears the same where there is no such thing: it is made of what the client
//! said, and of nothing else.

use crate::{
    error::{Report, SqlState},
    session::connect::Wanted,
    upstream::{Identity, Role},
};

/// 42501, with what to ask for.
pub(in crate::session) fn refused(wanted: &Wanted) -> Report {
    let (target, role) = (&wanted.ask.target, role(wanted));
    let Identity::Person(person) = &wanted.ask.identity else {
        // Whoever runs pgferry may know what there is, and has written the rules.
        let message = format!("no rule of the configuration lets you connect to {target} as {role}");
        return fatal(message).hint("Add one to [[access]]; to see what is in force type: pgferry config");
    };
    let (cluster, namespace) = target.name.rsplit_once('.').unwrap_or((&target.name, "NAMESPACE"));
    let wording = format!(
        "{{apiGroups: [pgferry.dev], resources: [\"clusters/{role}\"], resourceNames: [{cluster}], verbs: [connect]}}"
    );
    fatal(format!("there is no {target} that {person} may connect to as role {role}"))
        .detail("Whether it does not exist, or is not allowed, is not said.")
        .hint(format!(
            "Check the name, and write it with its namespace (CLUSTER.NAMESPACE). Who administers namespace {namespace} \
             grants it by a Role with the rule {wording}, and a RoleBinding of it to {person}"
        ))
}

fn role(wanted: &Wanted) -> &str {
    match (&wanted.ask.role, &wanted.ask.identity) {
        (Role::Named(role), _) => role,
        (Role::Default, Identity::Person(_)) => "ROLE",
        (Role::Default, Identity::Local) => "its default login",
    }
}

fn fatal(message: String) -> Report {
    Report::fatal(SqlState::INSUFFICIENT_PRIVILEGE, message)
}
