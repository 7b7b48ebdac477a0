//! What can go wrong on the way to and in Kubernetes, and what the person is told.

use tokio::time::Instant;

use crate::{
    error::{ClientFacing, Report, SqlState},
    k8s::api::{
        names::{Namespace, NotAName, ObjectName},
        resource::Resource,
    },
    upstream::{Failure, Retry},
};

/// A call that Kubernetes did not answer as hoped.
#[derive(Clone, Debug, thiserror::Error)]
pub enum K8sError {
    /// There is no kubeconfig, and we are in no cluster.
    #[error("there is no kubeconfig: neither --kubeconfig, nor KUBECONFIG, nor ~/.kube/config names a file")]
    NoKubeconfig,
    /// There is one, and it cannot be used.
    #[error("the kubeconfig cannot be used: {0}")]
    Kubeconfig(String),
    /// No context has this name.
    #[error("no context is called \"{name}\"")]
    UnknownContext {
        /// The name.
        name: String,
        /// Contexts with similar names.
        nearest: Vec<String>,
        /// All that there are.
        known: Vec<String>,
    },
    /// No context was named, and the kubeconfig has no current one.
    #[error("the kubeconfig has no current context")]
    NoContext,
    /// A credential plugin did not give a credential.
    #[error("the login to Kubernetes in context \"{context}\" failed: {command} {why}")]
    Plugin {
        /// The context.
        context: String,
        /// The plugin's program.
        command: String,
        /// What it did instead. Never its output.
        why: String,
        /// What its author says about installing it, or what its known login command is.
        hint: Option<String>,
    },
    /// The API server does not know who we are.
    #[error("the login to Kubernetes in context \"{context}\" has expired or is not valid (401)")]
    Unauthorized {
        /// The context.
        context: String,
    },
    /// RBAC refuses.
    #[error("Kubernetes does not allow you to {verb} {resource}{}", place(.namespace.as_deref()))]
    Forbidden {
        /// The context.
        context: String,
        /// The verb that is missing.
        verb: String,
        /// The resource, with its subresource.
        resource: String,
        /// The API group.
        group: String,
        /// The namespace; `None` is all of them.
        namespace: Option<String>,
    },
    /// The object does not exist.
    #[error("{what} does not exist")]
    NotFound {
        /// Kind and name.
        what: String,
    },
    /// The kubeconfig was replaced, and the context's name means another cluster.
    #[error("context \"{context}\" means another cluster now than a moment ago")]
    OtherCluster {
        /// The context.
        context: String,
    },
    /// A Service that points somewhere by name alone.
    #[error(
        "Service {namespace}/{name} is of type ExternalName, which leads anywhere, and pgferry is not to follow it"
    )]
    ExternalName {
        /// Its namespace.
        namespace: Namespace,
        /// Its name.
        name: ObjectName,
    },
    /// A name that is none: it leads nowhere.
    #[error(transparent)]
    Misnamed(#[from] NotAName),
    /// The API has no such resource: the operator is not installed.
    #[error("the API server has no resource {resource}")]
    NoSuchResource {
        /// The resource.
        resource: String,
    },
    /// A list or watch has become too old to go on.
    #[error("the API server has forgotten the version that was asked for (410)")]
    Gone,
    /// The API server cannot be reached.
    #[error("the Kubernetes API server {server} cannot be reached: {why}")]
    Unreachable {
        /// Its address.
        server: String,
        /// The system's reason.
        why: String,
    },
    /// The API server's certificate is not trusted.
    #[error("the certificate of the Kubernetes API server {server} is not trusted: {why}")]
    Untrusted {
        /// Its address.
        server: String,
        /// The verifier's reason.
        why: String,
    },
    /// The API server did not answer in time.
    #[error("the Kubernetes API server {server} did not answer within {seconds} s")]
    Timeout {
        /// Its address.
        server: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The API server answers with an error of its own.
    #[error("the Kubernetes API server {server} answers {code}: {message}")]
    Status {
        /// Its address.
        server: String,
        /// The HTTP status.
        code: u16,
        /// Its words.
        message: String,
    },
    /// The same, and it wants to be asked no more before a time.
    #[error("{error}")]
    Throttled {
        /// The time.
        until: Instant,
        /// What it answered.
        error: Box<K8sError>,
    },
    /// Something that is no API server answers.
    #[error("{server} does not answer like a Kubernetes API server (status {code})")]
    NotKubernetes {
        /// Its address.
        server: String,
        /// The HTTP status.
        code: u16,
    },
    /// An intermediary does not pass WebSockets.
    #[error("something between here and the Kubernetes API server {server} refuses WebSockets (status {code})")]
    NoWebSocket {
        /// The address.
        server: String,
        /// The HTTP status.
        code: u16,
    },
    /// An object's content is not what its type promises.
    #[error("{what} cannot be read: {why}")]
    Malformed {
        /// Kind and name.
        what: String,
        /// Where in it.
        why: String,
    },
}

fn place(namespace: Option<&str>) -> String {
    namespace.map_or_else(|| " in all namespaces".to_owned(), |namespace| format!(" in namespace {namespace}"))
}

/// What the innermost cause of an error says.
pub(in crate::k8s) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

impl K8sError {
    /// RBAC refused.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden { .. })
    }

    /// RBAC refused something that is done with this kind of objects.
    #[must_use]
    pub(in crate::k8s) fn is_about(&self, about: &Resource) -> bool {
        matches!(self, Self::Forbidden { resource, group, .. } if *resource == *about.plural && *group == *about.group)
    }

    /// Asking again soon is of no use: RBAC refused, or a person has to log in, whom a plugin may ask each time.
    #[must_use]
    pub(in crate::k8s) fn is_lasting(&self) -> bool {
        self.is_forbidden() || matches!(self, Self::Unauthorized { .. } | Self::Plugin { .. })
    }

    /// Asking again later may help, and nobody need do anything for it: the way, or the API server, is in trouble.
    #[must_use]
    pub(in crate::k8s) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Throttled { .. } => true,
            Self::Status { code, .. } | Self::NotKubernetes { code, .. } => *code == 429 || *code >= 500,
            _ => false,
        }
    }

    /// Before when the API server does not want to be asked again.
    #[must_use]
    pub(in crate::k8s) fn not_before(&self) -> Option<Instant> {
        match self {
            Self::Throttled { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// What was asked for is not there, object or resource.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::NoSuchResource { .. })
    }

    /// One error for rights that are missing in the same place: resources and groups with commas between them.
    #[must_use]
    pub(in crate::k8s) fn together(errors: &[&Self]) -> Option<Self> {
        let mut all = (*errors.first()?).clone();
        for error in errors {
            if let (Self::Forbidden { resource, group, .. }, Self::Forbidden { resource: more, group: of, .. }) =
                (&mut all, error)
            {
                for (list, one) in [(resource, more), (group, of)] {
                    if !list.split(", ").any(|known| known == one) {
                        *list = format!("{list}, {one}");
                    }
                }
            }
        }
        Some(all)
    }

    fn code(&self) -> SqlState {
        match self {
            Self::Throttled { error, .. } => error.code(),
            Self::UnknownContext { .. } | Self::NoContext | Self::Misnamed(_) => SqlState::UNKNOWN_TARGET,
            Self::Plugin { .. } | Self::Unauthorized { .. } => SqlState::INVALID_AUTHORIZATION,
            Self::Forbidden { .. } | Self::ExternalName { .. } => SqlState::INSUFFICIENT_PRIVILEGE,
            Self::NoKubeconfig | Self::Kubeconfig(_) | Self::Unreachable { .. } | Self::Untrusted { .. } => {
                SqlState::UNABLE_TO_CONNECT
            }
            _ => SqlState::CONNECTION_FAILURE,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Throttled { error, .. } => return error.hint(),
            Self::NoKubeconfig => "Set KUBECONFIG, or start with: pgferry serve --kubeconfig FILE".to_owned(),
            Self::Kubeconfig(_) => "See whether kubectl can use it: kubectl config view".to_owned(),
            Self::UnknownContext { nearest, .. } if !nearest.is_empty() => {
                format!("Did you mean {}? All of them: kubectl config get-contexts", nearest.join(" or "))
            }
            Self::UnknownContext { known, .. } => known_contexts(known),
            Self::NoContext => {
                "Choose one: kubectl config use-context NAME, or pgferry serve --context NAME".to_owned()
            }
            Self::Plugin { hint: Some(hint), .. } => hint.clone(),
            Self::Plugin { context, .. } | Self::Unauthorized { context } => {
                format!("Log in again, and see that this works: kubectl --context '{context}' get namespaces")
            }
            Self::Forbidden { .. } => self.rule()?,
            Self::OtherCluster { .. } => "The kubeconfig was replaced meanwhile: connect again".to_owned(),
            Self::ExternalName { namespace, name } => format!(
                "To follow it say so in the configuration: kubernetes.external_names = [\"{name}.{namespace}\"] \
                 (PGFERRY__KUBERNETES__EXTERNAL_NAMES={name}.{namespace})"
            ),
            Self::Unreachable { .. } | Self::Timeout { .. } => {
                "See whether the network or VPN is up, and whether this works: kubectl version".to_owned()
            }
            Self::Untrusted { .. } => {
                "See certificate-authority-data of this cluster in the kubeconfig; a recreated cluster has a new one"
                    .to_owned()
            }
            Self::NotKubernetes { .. } => {
                "See which server the context names, and whether a proxy or login page stands before it: kubectl \
                 config view --minify"
                    .to_owned()
            }
            Self::NoWebSocket { .. } => {
                "Let its owner pass WebSocket upgrades (Connection: Upgrade) on .../portforward, or use another way to \
                 the API server"
                    .to_owned()
            }
            Self::NotFound { .. }
            | Self::Misnamed(_)
            | Self::NoSuchResource { .. }
            | Self::Gone
            | Self::Status { .. }
            | Self::Malformed { .. } => return None,
        })
    }

    /// How to check a missing right, and the RBAC rule that gives it.
    fn rule(&self) -> Option<String> {
        let Self::Forbidden { context, verb, resource, group, namespace } = self else {
            return None;
        };
        let scope = namespace.as_ref().map_or_else(|| "-A".to_owned(), |namespace| format!("-n {namespace}"));
        let listed = |text: &str| text.split(", ").map(|one| format!("\"{one}\"")).collect::<Vec<_>>().join(", ");
        let first = |text: &str| text.split(", ").next().unwrap_or_default().to_owned();
        let (one, of) = (first(resource), first(group));
        let qualified = if of.is_empty() { one } else { format!("{one}.{of}") };
        let verbs = if resource == "pods/portforward" {
            // WebSocket upgrades are GET; since Kubernetes 1.35 `create` is checked too.
            "create, get".to_owned()
        } else {
            verb.clone()
        };
        Some(format!(
            "Check with: kubectl auth can-i {verb} {qualified} {scope} --context '{context}'. The rule to add: \
             {{apiGroups: [{}], resources: [{}], verbs: [{verbs}]}}",
            listed(group),
            listed(resource)
        ))
    }
}

impl ClientFacing for K8sError {
    fn report(&self) -> Report {
        let report = Report::fatal(self.code(), self.to_string());
        match self.hint() {
            Some(hint) => report.hint(hint),
            None => report,
        }
    }
}

impl From<K8sError> for Failure {
    fn from(error: K8sError) -> Self {
        let cause = match &error {
            K8sError::Throttled { error, .. } => error,
            error => error,
        };
        let retry = match cause {
            // The pod that was resolved has gone, or its kubelet does not find it any more.
            K8sError::NotFound { .. } => Retry::Resolve,
            K8sError::Status { code, .. } | K8sError::NotKubernetes { code, .. } if *code >= 500 => Retry::Resolve,
            _ => Retry::No,
        };
        Self { report: error.report(), retry }
    }
}

fn known_contexts(known: &[String]) -> String {
    /// As many as a person reads.
    const MOST: usize = 10;
    let some: Vec<&str> = known.iter().take(MOST).map(String::as_str).collect();
    let more = if known.len() > MOST { " and more" } else { "" };
    format!("There are {}{more}. All of them: kubectl config get-contexts", some.join(", "))
}
