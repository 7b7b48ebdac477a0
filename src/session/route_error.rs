//! Startup packets that lead nowhere, and what is said about them.

use super::target::Mistake;
use crate::{
    error::{Report, SqlState},
    upstream::{Conninfo, Form},
};

/// A startup packet that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The name is no target at all.
    #[error(transparent)]
    NotATarget(#[from] Mistake),
    /// The user is `role@something`, and that is no target.
    #[error("in user \"{user}\": {mistake}")]
    User {
        /// The user.
        user: String,
        /// What is wrong behind the role.
        mistake: Mistake,
    },
    /// Neither user nor database.
    #[error("neither user nor database says which cluster is meant")]
    Nothing,
    /// A database that is never a target, and who wants it.
    #[error("database \"{database}\" does not say which cluster is meant")]
    NeverTarget {
        /// The database.
        database: String,
        /// The user, where the person chose one.
        user: Option<String>,
    },
    /// Replication, with the target in the database.
    #[error("a replication connection must name its cluster in the user name")]
    Replication,
    /// An alias of the configuration leads nowhere.
    #[error("the alias \"{alias}\" means \"{means}\", which does not name a cluster")]
    Alias {
        /// The alias.
        alias: String,
        /// What the configuration says it means.
        means: String,
    },
    /// An option that would be ours.
    #[error("there is no option pgferry.{0}")]
    Option(String),
}

impl RouteError {
    /// What the client is told: `at` is where it came in, `clusters` what it could have meant, where that is known.
    #[must_use]
    pub fn report(&self, at: &Conninfo, clusters: &[String]) -> Report {
        let report = Report::fatal(SqlState::UNKNOWN_TARGET, self.to_string());
        let example = clusters.first().map_or("CLUSTER.NAMESPACE", String::as_str);
        let known = match clusters {
            [] => "For the list of clusters type: pgferry list".to_owned(),
            some => format!("The clusters are {}", list(some)),
        };
        match self {
            Self::NotATarget(mistake) => match mistake.meant() {
                Some(meant) => report.hint(format!("Type: {}", at.to(&meant))),
                None => report.hint(
                    "Write the database as CLUSTER, CLUSTER.NAMESPACE or CLUSTER.NAMESPACE@CONTEXT, optionally with :ro \
                     or /DBNAME behind it. Type: pgferry list",
                ),
            },
            Self::User { mistake, .. } => match mistake.meant() {
                Some(meant) => report.hint(format!("Type: {}", at.to(&meant))),
                None => report.hint(
                    "Write the user as ROLE@CLUSTER, ROLE@CLUSTER.NAMESPACE or ROLE@CLUSTER.NAMESPACE@CONTEXT, \
                     optionally with :ro behind it. A context whose name holds / or : needs a short name \
                     (kubernetes.contexts). Type: pgferry list",
                ),
            },
            Self::Nothing => report.hint(format!("Type: {}. {known}", Conninfo { form: Form::Nowhere, ..at.clone() }.to(example))),
            Self::NeverTarget { database, user } => {
                let role = user.as_deref().unwrap_or_default();
                let typed = at.with_role(role, Some(database)).to(example);
                report.hint(format!("Write user=ROLE@CLUSTER to open this database of a cluster, such as: {typed}. {known}"))
            }
            Self::Replication => report.hint("Write user=ROLE@CLUSTER, such as user=streaming@shop"),
            Self::Alias { alias, .. } => report
                .hint(format!("Correct names.aliases.{alias} in the configuration; to see it type: pgferry config")),
            Self::Option(_) => report.hint("The option that there is: options='-c pgferry.target=CLUSTER'"),
        }
    }

    /// Whether the list of clusters belongs to what is told.
    pub(super) fn wants_clusters(&self) -> bool {
        matches!(self, Self::Nothing | Self::NeverTarget { .. })
    }
}

/// How many names a person reads.
const SHOWN: usize = 10;

/// `a, b and 3 more`.
fn list(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    match names.len().saturating_sub(shown.len()) {
        0 => shown.join(", "),
        more => format!("{} and {more} more (type: pgferry list)", shown.join(", ")),
    }
}
