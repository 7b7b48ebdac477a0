//! What the configuration says about single clusters, and to which it applies.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    k8s::{
        api::{client::Context, names::Reference},
        cluster::snapshot::View,
        operators::{
            facts::Facts,
            facts::POSTGRES,
            login::{Keys, LoginKind, LoginSource},
        },
    },
    upstream::{Ask, AuthFacts, AuthMethod, TlsMode},
};

/// What the configuration says about TLS to one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOverride {
    /// The mode; `None` leaves it to the system's facts.
    pub mode: Option<TlsMode>,
    /// A PEM file with the CA.
    pub ca_file: Option<PathBuf>,
    /// A ConfigMap in the cluster's namespace with the CA, and its key.
    pub ca_config_map: Option<(String, String)>,
    /// The name that the server's certificate carries.
    pub server_name: Option<String>,
}

/// What the configuration says about one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterParams {
    /// TLS to it.
    pub tls: TlsOverride,
    /// The weakest way in which it may ask for a password; `None` leaves it to the system's facts.
    pub auth: Option<AuthMethod>,
    /// The Secret with its default login, in its namespace.
    pub secret: Option<String>,
    /// The most rounds of SCRAM that it may ask for.
    pub scram_iterations: Option<u32>,
}

/// All of it, by `cluster.namespace`, or by `cluster` alone.
#[derive(Clone, Debug, Default)]
pub struct Overrides(pub BTreeMap<String, ClusterParams>);

impl Overrides {
    /// What the configuration says about a cluster.
    pub(in crate::k8s) fn configured(&self, facts: &Facts) -> Option<&ClusterParams> {
        self.0.get(&facts.full()).or_else(|| self.0.get(&*facts.name))
    }

    /// What it says about passwords. A name without a namespace means there what it means where somebody types it: anybody
    /// may call a cluster in a namespace of their own so.
    fn trusted(&self, ask: &Ask, context: &Context, facts: &Facts) -> Option<&ClusterParams> {
        let is_meant = facts.namespace == context.namespace() || facts.name == *ask.target.name;
        let by_name = || self.0.get(&*facts.name).filter(|_| is_meant);
        self.0.get(&facts.full()).or_else(by_name)
    }

    /// How the servers may ask for a password: as the configuration says, else as the system does.
    pub(in crate::k8s) fn auth(&self, ask: &Ask, context: &Context, facts: &Facts) -> AuthFacts {
        let configured = self.trusted(ask, context, facts);
        let usual = if facts.md5 { AuthMethod::Md5 } else { AuthMethod::ScramSha256 };
        // To ask for more than is usual is everybody's who is called so.
        let strictest =
            self.configured(facts).and_then(|configured| configured.auth).map_or(usual, |auth| auth.min(usual));
        AuthFacts {
            weakest: configured.and_then(|configured| configured.auth).unwrap_or(strictest),
            scram_iterations: configured
                .and_then(|configured| configured.scram_iterations)
                .unwrap_or(AuthFacts::MOST_ITERATIONS),
        }
    }

    /// The Secret that the configuration names has the default login, and needs nobody's consent.
    pub(in crate::k8s) fn with_configured_secret(&self, ask: &Ask, context: &Context, mut view: View) -> View {
        let facts = &mut view.facts;
        if let Some(secret) = self.trusted(ask, context, facts).and_then(|configured| configured.secret.as_deref()) {
            let secret = Reference::new(secret, format!("clusters.\"{}\".secret", facts.full()));
            let database = facts.logins.first().map_or(POSTGRES, |login| login.database.as_str());
            let login = LoginSource::new(LoginKind::Application, None, Some(secret), Keys::Connection, database);
            facts.logins.retain(|known| known.secret != login.secret);
            facts.logins.insert(0, login);
        }
        view
    }
}
