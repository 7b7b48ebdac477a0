//! What somebody hears who may not, or who asked for what does not exist: the same. It is made of what the client said, and
//! of nothing else.

use crate::{
    error::{Report, SqlState},
    session::connect::Wanted,
    upstream::{Identity, Role},
};

/// 42501, with the rule to ask for.
pub(in crate::session) fn refused(wanted: &Wanted) -> Report {
    let target = &wanted.ask.target;
    let (cluster, namespace) = target.name.rsplit_once('.').unwrap_or((&target.name, "NAMESPACE"));
    let role = match &wanted.ask.role {
        Role::Named(role) => role.as_str(),
        Role::Default => "ROLE",
    };
    let who = match &wanted.ask.identity {
        Identity::Person(person) => person.name.as_str(),
        Identity::Local => "you",
    };
    let wording = format!(
        "{{apiGroups: [pgferry.dev], resources: [\"clusters/{role}\"], resourceNames: [{cluster}], verbs: [connect]}}"
    );
    Report::fatal(
        SqlState::INSUFFICIENT_PRIVILEGE,
        format!("there is no {target} that {who} may connect to as role {role}"),
    )
    .detail("Whether it does not exist, or is not allowed, is not said.")
    .hint(format!(
        "Check the name, and write it with its namespace (CLUSTER.NAMESPACE). Who administers namespace {namespace} grants it \
         by a Role with the rule {wording}, and a RoleBinding of it to {who}"
    ))
}
