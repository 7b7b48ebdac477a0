//! Everything that can be set.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::Deserialize;

use super::{
    auth::{Access, Audit, Auth},
    parse::{address, labels, path, ports, text},
};

/// Everything that can be set. Each key is described in `config/default.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where to listen.
    pub listen: Listen,
    /// Probes and metrics.
    pub http: Http,
    /// How Kubernetes is reached.
    pub kubernetes: Kubernetes,
    /// What names mean.
    pub names: Names,
    /// Limits and deadlines of sessions.
    pub sessions: Sessions,
    /// How clients prove who they are.
    pub auth: Auth,
    /// Who may connect where; empty: nothing is narrowed.
    pub access: Vec<Access>,
    /// By cluster.
    pub clusters: BTreeMap<String, Cluster>,
    /// How Zalando's operator is configured.
    pub zalando: Zalando,
    /// Operators that only this configuration knows.
    pub systems: Vec<System>,
    /// What is kept of sessions.
    pub audit: Audit,
    /// The process itself.
    pub process: Process,
    /// The log.
    pub log: Log,
}

/// `[listen]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Listen {
    pub port: u16,
    pub addresses: Vec<IpAddr>,
    #[serde(deserialize_with = "path")]
    pub socket_dir: Option<PathBuf>,
    pub tls: Tls,
    #[serde(deserialize_with = "path")]
    pub tls_cert: Option<PathBuf>,
    #[serde(deserialize_with = "path")]
    pub tls_key: Option<PathBuf>,
    pub allowed_uids: Vec<u32>,
    pub proxy_protocol: Vec<String>,
    #[serde(deserialize_with = "ports")]
    pub bindings: BTreeMap<u16, String>,
}

/// `listen.tls`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Tls {
    /// A certificate made in memory at each start.
    #[default]
    SelfSigned,
    /// No TLS.
    Off,
    /// Certificate and key from files.
    Files,
}

/// `[http]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Http {
    #[serde(deserialize_with = "address")]
    pub listen: Option<SocketAddr>,
}

/// `[kubernetes]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Kubernetes {
    #[serde(deserialize_with = "path")]
    pub kubeconfig: Option<PathBuf>,
    #[serde(deserialize_with = "text")]
    pub context: Option<String>,
    #[serde(deserialize_with = "text")]
    pub namespace: Option<String>,
    pub transport: Transport,
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub ping_after: Duration,
    #[serde(with = "humantime_serde")]
    pub dead_after: Duration,
    #[serde(with = "humantime_serde")]
    pub remind_after: Duration,
    #[serde(with = "humantime_serde")]
    pub exec_timeout: Duration,
    pub external: External,
    pub external_names: Vec<String>,
    pub contexts: BTreeMap<String, String>,
}

/// `kubernetes.external`: which servers outside Kubernetes may be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum External {
    /// None (`false`), or any that a connection Secret names (`true`).
    All(bool),
    /// These, each `host:port`.
    Only(Vec<String>),
}

impl Default for External {
    fn default() -> Self {
        Self::All(false)
    }
}

/// `kubernetes.transport`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Through the API server.
    #[default]
    PortForward,
    /// To the pod's address.
    Direct,
}

/// `[names]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Names {
    pub single: bool,
    pub aliases: BTreeMap<String, Alias>,
}

/// What an alias means.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "an alias is \"target\", \"target/dbname\", or { target = \"...\", system = \"...\" }")]
pub enum Alias {
    /// `target` or `target/dbname`.
    Target(String),
    /// The same, of one system: what lies behind a name that another system's cluster has.
    Of(AliasOf),
}

/// One entry of `[names.aliases]` that names a system.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct AliasOf {
    pub target: String,
    pub system: String,
}

/// `[sessions]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Sessions {
    #[serde(with = "humantime_serde")]
    pub startup_deadline: Duration,
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub primary_wait: Duration,
    #[serde(with = "humantime_serde")]
    pub failover_grace: Duration,
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    #[serde(with = "humantime_serde")]
    pub spare: Duration,
    pub max_connections: usize,
    pub max_per_cluster: usize,
    pub max_startups: usize,
}

/// One entry of `[clusters]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Cluster {
    pub sslmode: Option<SslMode>,
    #[serde(deserialize_with = "text")]
    pub sslrootcert: Option<String>,
    #[serde(deserialize_with = "text")]
    pub sslservername: Option<String>,
    pub auth: Option<ClusterAuth>,
    #[serde(deserialize_with = "text")]
    pub secret: Option<String>,
    pub scram_iterations: Option<u32>,
}

/// `clusters."X".auth`, in the words of `pg_hba.conf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterAuth {
    /// SCRAM alone.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// MD5 as well.
    Md5,
    /// Cleartext as well.
    Password,
    /// Nothing, too.
    Trust,
}

impl Cluster {
    /// `sslrootcert`, taken apart.
    #[must_use]
    pub fn authority(&self) -> Option<Authority> {
        let text = self.sslrootcert.as_deref()?;
        Some(match text.strip_prefix("configmap:") {
            Some(place) => {
                let (name, key) = place.split_once('/').unwrap_or((place, "ca.crt"));
                Authority::ConfigMap { name: name.to_owned(), key: key.to_owned() }
            }
            None => Authority::File(PathBuf::from(text)),
        })
    }
}

/// Where a CA is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    /// In a PEM file.
    File(PathBuf),
    /// In a ConfigMap of the cluster's namespace.
    ConfigMap {
        /// The ConfigMap.
        name: String,
        /// Its key.
        key: String,
    },
}

/// `[zalando]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Zalando {
    pub secret_name_template: String,
    #[serde(deserialize_with = "labels")]
    pub cluster_labels: Vec<(String, String)>,
    pub cluster_name_label: String,
    pub pod_role_label: String,
    pub super_username: String,
    pub cross_namespace_secrets: bool,
}

/// One entry of `[[systems]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct System {
    pub name: String,
    pub resource: String,
    pub version: String,
    pub cluster_label: String,
    #[serde(default)]
    pub pod_labels: BTreeMap<String, String>,
    #[serde(default)]
    pub role_label: String,
    #[serde(default = "System::primary")]
    pub primary: String,
    #[serde(default = "System::replica")]
    pub replica: String,
    pub secret: String,
    #[serde(default = "System::user_key")]
    pub user_key: String,
    #[serde(default = "System::password_key")]
    pub password_key: String,
    #[serde(default = "System::database_key")]
    pub database_key: String,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub database: String,
    #[serde(default = "System::port")]
    pub port: u16,
    #[serde(default)]
    pub sslmode: Option<SslMode>,
    #[serde(default)]
    pub superuser: bool,
}

impl System {
    fn primary() -> String {
        "primary".to_owned()
    }

    fn replica() -> String {
        "replica".to_owned()
    }

    fn user_key() -> String {
        "username".to_owned()
    }

    fn password_key() -> String {
        "password".to_owned()
    }

    fn database_key() -> String {
        "dbname".to_owned()
    }

    fn port() -> u16 {
        5432
    }
}

/// libpq's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "libpq's documentation describes them, \"SSL Mode Descriptions\"")]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// `[process]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Process {
    pub core_dumps: bool,
}

/// `[log]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Log {
    pub filter: String,
    pub format: LogFormat,
}

/// `log.format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines, one object a line.
    Json,
}
