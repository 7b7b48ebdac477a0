//! What is told where there is no login.

use crate::{
    error::{Report, SqlState},
    k8s::{
        api::{names::Namespace, objects::Meta},
        cluster::snapshot::View,
        operators::{facts::Facts, login::LoginSource, marked},
    },
    upstream::{Failure, Login},
};

/// Where a login's Secret is.
pub(super) fn namespace<'a>(facts: &'a Facts, source: &'a LoginSource) -> &'a Namespace {
    source.namespace.as_ref().unwrap_or(&facts.namespace)
}

/// What holds a login, for a sentence.
pub(super) fn named(facts: &Facts, source: &LoginSource) -> String {
    match &source.secret {
        None => format!("the environment of {}", facts.full()),
        Some(secret) => format!("Secret {}/{}", namespace(facts, source), secret.shown()),
    }
}

/// What a Secret says that is said to hold a role's login, and holds another's.
pub(super) fn not_the_role(login: &Login, role: &str) -> Report {
    let message = format!("{} holds the login of \"{}\", not of \"{role}\"", login.source, login.user);
    Report::fatal(SqlState::INVALID_AUTHORIZATION, message).hint("Correct its key of the user's name")
}

pub(super) fn no_secret(facts: &Facts, source: &LoginSource) -> Report {
    Report::fatal(
        SqlState::INVALID_AUTHORIZATION,
        format!("{}, which holds the login for cluster {}, does not exist", named(facts, source), facts.full()),
    )
    .hint(format!("See which there are: kubectl get secrets -n {}", namespace(facts, source)))
}

/// A Secret that somebody else names, and that does not say itself that it is for this cluster.
pub(super) fn without_consent(facts: &Facts, secret: &Meta) -> Report {
    let (namespace, name) = (&secret.namespace, &secret.name);
    let message = format!(
        "Secret {namespace}/{name}, which a Service of cluster {} names, does not agree: it does not carry {}={}",
        facts.full(),
        marked::CLUSTER,
        facts.name
    );
    Report::fatal(SqlState::INVALID_AUTHORIZATION, message).hint(format!(
        "Whoever may write that Secret lets it: kubectl annotate secret {name} -n {namespace} {}={}; or you, in your own \
         configuration: clusters.\"{}\".secret = \"{name}\"",
        marked::CLUSTER,
        facts.name,
        facts.full()
    ))
}

/// Nobody is given one of several roles that nothing prefers.
pub(super) fn several(facts: &Facts, roles: &[&str]) -> Report {
    let message = format!("cluster {} has several logins, and nothing says which is the application's", facts.full());
    let report = Report::fatal(SqlState::INVALID_AUTHORIZATION, message);
    report.hint(format!("Log in as one of {}", roles.join(", ")))
}

pub(super) fn no_role(cluster: &str, role: &str, known: &[String]) -> Report {
    let report = Report::fatal(
        SqlState::INVALID_AUTHORIZATION,
        format!("no login for role \"{role}\" in the Secrets of cluster {cluster}"),
    );
    match known {
        [] => report.hint("Leave the user name out to use the cluster's default login"),
        known => report.hint(format!("There are logins for: {}", known.join(", "))),
    }
}

/// Roles that only a mark gives are nobody's default.
pub(super) fn no_login(cluster: &str, roles: &[String]) -> Report {
    let report =
        Report::fatal(SqlState::INVALID_AUTHORIZATION, format!("cluster {cluster} has no Secret with a default login"));
    match roles {
        [] => report.hint(
            "Give the operator a user to make (its documentation says where); or mark a Secret that has a user and a \
             password (kubectl label secret NAME pgferry.dev/cluster=CLUSTER), and log in as that user by name",
        ),
        roles => report.hint(format!("Log in as one of {}", roles.join(", "))),
    }
}

/// The Secrets of a replica cluster's source are in another cluster of Kubernetes.
pub(super) fn of_a_replica_cluster(facts: &Facts, missing: Failure) -> Failure {
    let (namespace, cluster) = (&facts.namespace, &facts.name);
    let report =
        missing.report.detail("It is a replica cluster: its roles are its source's, whose Secrets are not here.");
    let report = report.hint(format!(
        "Give it a login of its source's: kubectl create secret generic {cluster}-login -n {namespace} \
         --from-literal=username=ROLE --from-literal=password=... && kubectl label secret {cluster}-login -n {namespace} \
         {}={cluster}; then log in as ROLE by name",
        marked::CLUSTER
    ));
    Failure { report, ..missing }
}

/// A role may be named where the caller may not look.
pub(super) fn unread(view: &View, report: Report) -> Report {
    let (resource, namespace) = (view.system.resource(), &view.facts.namespace);
    report.detail(format!(
        "{} {namespace}/{}, which may name more roles, could not be read. Check with: kubectl auth can-i get {} -n \
         {namespace}. The rule to add: {{apiGroups: [\"{}\"], resources: [\"{}\"], verbs: [get]}}",
        resource.qualified(),
        view.facts.name,
        resource.qualified(),
        resource.group,
        resource.plural
    ))
}
