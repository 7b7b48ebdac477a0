//! The settings: `config/default.toml`, then a file, then `PGFERRY__SECTION__KEY`, then flags; the later wins.

use std::{
    collections::BTreeMap,
    fmt, fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use config::{Config, Environment, File, FileFormat, Value, ValueKind};
use serde::{Deserialize, Deserializer, de};

/// The documented defaults are the defaults.
const DEFAULTS: &str = include_str!("../../config/default.toml");
/// Two underscores: a Service called pgferry injects `PGFERRY_PORT` and the like into every pod.
const PREFIX: &str = "PGFERRY__";

/// Everything that can be set. Each key is described in `config/default.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where to listen.
    pub listen: Listen,
    /// How Kubernetes is reached.
    pub kubernetes: Kubernetes,
    /// What names mean.
    pub names: Names,
    /// Limits and deadlines of sessions.
    pub sessions: Sessions,
    /// By cluster.
    pub clusters: BTreeMap<String, Cluster>,
    /// How Zalando's operator is configured.
    pub zalando: Zalando,
    /// Operators that only this configuration knows.
    pub systems: Vec<System>,
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
    #[serde(deserialize_with = "uids")]
    pub allowed_uids: Vec<u32>,
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
    #[serde(deserialize_with = "texts")]
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
    pub auth: Option<Auth>,
    #[serde(deserialize_with = "text")]
    pub secret: Option<String>,
    pub scram_iterations: Option<u32>,
}

/// `clusters."X".auth`, in the words of `pg_hba.conf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Auth {
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

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file holds something that is no setting.
    #[error("{}: {message}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// A variable or flag holds something that is no setting.
    #[error("{0}")]
    Layer(#[from] config::ConfigError),
    /// Values that do not go together; all of them.
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
}

/// A setting given on the command line: its key, the flag, and the value.
pub type Flag = (&'static str, &'static str, Value);

/// Where settings come from.
#[derive(Debug, Default)]
pub struct Sources {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// The process's environment.
    pub environment: Vec<(String, String)>,
    /// Flags that were given.
    pub flags: Vec<Flag>,
}

/// A setting in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `listen.port`.
    pub key: String,
    /// As TOML writes it.
    pub value: String,
    /// `default`, the file, the variable or the flag.
    pub from: String,
}

/// Settings, and where each comes from.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Every value in force, by key.
    pub origins: Vec<Origin>,
}

/// Reads all sources.
///
/// # Errors
/// At unknown keys, values of the wrong type, and values that do not go together.
pub fn load(sources: &Sources) -> Result<Loaded, SettingsError> {
    let mut builder = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
    if let Some(path) = file(sources) {
        let text = fs::read_to_string(&path).map_err(|source| SettingsError::Read { path: path.clone(), source })?;
        // Read on its own first: only so does the error say which line.
        toml::from_str::<Settings>(&text)
            .map_err(|error| SettingsError::File { path: path.clone(), message: error.to_string() })?;
        builder = builder.add_source(File::from(path).format(FileFormat::Toml));
    }
    let variables = sources.environment.iter().filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty());
    let environment = Environment::with_prefix("PGFERRY")
        .prefix_separator("__")
        .separator("__")
        .source(Some(variables.cloned().collect()));
    builder = builder.add_source(environment);
    for (key, _, value) in &sources.flags {
        builder = builder.set_override(*key, value.clone())?;
    }
    let merged = builder.build()?;
    let mut origins = Vec::new();
    collect("", &merged.cache, sources, &mut origins);
    let settings: Settings = merged.try_deserialize()?;
    let problems = check(&settings);
    if problems.is_empty() { Ok(Loaded { settings, origins }) } else { Err(SettingsError::Invalid(problems)) }
}

/// The file: named by a flag, by the environment, or the usual one where it exists.
fn file(sources: &Sources) -> Option<PathBuf> {
    let variable = |name: &str| {
        sources.environment.iter().find(|(found, value)| found == name && !value.is_empty()).map(|(_, value)| value)
    };
    if let Some(file) = &sources.file {
        return Some(file.clone());
    }
    if let Some(file) = variable("PGFERRY_CONFIG") {
        return Some(PathBuf::from(file));
    }
    let home = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = home.or_else(|| variable("HOME").map(|home| Path::new(home).join(".config")));
    home.map(|home| home.join("pgferry").join("config.toml")).filter(|file| file.exists())
}

/// Every leaf with its origin.
fn collect(key: &str, value: &Value, sources: &Sources, all: &mut Vec<Origin>) {
    if let ValueKind::Table(table) = &value.kind {
        let sorted: BTreeMap<_, _> = table.iter().collect();
        for (name, value) in sorted {
            let key = if key.is_empty() { name.clone() } else { format!("{key}.{}", quoted(name)) };
            collect(&key, value, sources, all);
        }
        return;
    }
    let flag = sources.flags.iter().find(|(found, _, _)| *found == key).map(|(_, flag, _)| (*flag).to_owned());
    let variable = format!("{PREFIX}{}", key.replace('.', "__").to_uppercase());
    let from = match (flag, value.origin()) {
        (Some(flag), _) => flag,
        (None, None) => "default".to_owned(),
        (None, Some("the environment")) => variable,
        // The library's own word is relative to where we run.
        (None, Some(_)) => file(sources).unwrap_or_default().display().to_string(),
    };
    all.push(Origin { key: key.to_owned(), value: shown(value), from });
}

fn quoted(name: &str) -> String {
    let bare = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { name.to_owned() } else { format!("{name:?}") }
}

fn shown(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// What types cannot say, all at once.
fn check(settings: &Settings) -> Vec<String> {
    let mut problems = Vec::new();
    let listen = &settings.listen;
    let far = listen.addresses.iter().filter(|address| !address.is_loopback());
    problems.extend(far.map(|address| {
        format!("listen.addresses: {address} is no loopback address; a listener there would need client authentication")
    }));
    let has_both = listen.tls_cert.is_some() && listen.tls_key.is_some();
    if listen.tls == Tls::Files && !has_both {
        problems.push("listen.tls = \"files\" needs listen.tls_cert and listen.tls_key".to_owned());
    }
    if listen.tls != Tls::Files && (listen.tls_cert.is_some() || listen.tls_key.is_some()) {
        problems.push("listen.tls_cert and listen.tls_key are used only with listen.tls = \"files\"".to_owned());
    }
    if listen.addresses.is_empty() && listen.socket_dir.is_none() {
        problems.push("listen.addresses is empty and listen.socket_dir too: nothing to listen on".to_owned());
    }
    if listen.port != 0 && listen.bindings.contains_key(&listen.port) {
        problems.push(format!("listen.bindings: port {} is listen.port already", listen.port));
    }
    for (short, context) in &settings.kubernetes.contexts {
        if short.contains(['@', ':', '/']) || context.is_empty() {
            problems.push(format!("kubernetes.contexts: \"{short}\" must hold none of @ : / and mean a context"));
        }
    }
    if let External::Only(servers) = &settings.kubernetes.external {
        let unclear = servers.iter().filter(|server| host_and_port(server).is_none());
        problems.extend(unclear.map(|server| format!("kubernetes.external: \"{server}\" is no host:port")));
    }
    let unclear = settings.kubernetes.external_names.iter().filter(|name| !name.contains('.'));
    problems.extend(unclear.map(|name| format!("kubernetes.external_names: \"{name}\" is no SERVICE.NAMESPACE")));
    for (cluster, about) in &settings.clusters {
        if about.scram_iterations == Some(0) {
            problems.push(format!("clusters.\"{cluster}\".scram_iterations must be 1 or more"));
        }
    }
    let sessions = &settings.sessions;
    for (name, value) in [("max_connections", sessions.max_connections), ("max_startups", sessions.max_startups)] {
        if value == 0 {
            problems.push(format!("sessions.{name} must be 1 or more"));
        }
    }
    if settings.kubernetes.dead_after <= settings.kubernetes.ping_after {
        problems.push("kubernetes.dead_after must be longer than kubernetes.ping_after".to_owned());
    }
    let unqualified = settings.systems.iter().filter(|system| !system.resource.contains('.'));
    problems.extend(unqualified.map(|system| {
        format!(
            "systems: resource = \"{}\" of {} needs its group, such as clusters.example.com",
            system.resource, system.name
        )
    }));
    for (name, value) in [
        ("sessions.startup_deadline", sessions.startup_deadline),
        ("sessions.connect_timeout", sessions.connect_timeout),
        ("kubernetes.request_timeout", settings.kubernetes.request_timeout),
        ("kubernetes.connect_timeout", settings.kubernetes.connect_timeout),
        ("kubernetes.exec_timeout", settings.kubernetes.exec_timeout),
        ("kubernetes.ping_after", settings.kubernetes.ping_after),
        ("kubernetes.remind_after", settings.kubernetes.remind_after),
    ] {
        if value.is_zero() {
            problems.push(format!("{name} must be longer than nothing"));
        }
    }
    problems
}

/// `host:port`, an IPv6 address in brackets.
#[must_use]
pub fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then_some((host, port))
}

/// An empty string is "not set".
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    Ok(text(deserializer)?.map(PathBuf::from))
}

/// `name:value,name:value`, as Zalando's operator writes labels.
fn labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once(':')?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    };
    pairs.map(|one| pair(one).ok_or_else(|| de::Error::custom(format!("\"{one}\" is no label:value")))).collect()
}

/// A list, or in a variable, which has no lists, its items with commas between them.
fn items<'de, T, D>(deserializer: D, parse: fn(&str) -> Result<T, String>) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct Items<T>(fn(&str) -> Result<T, String>);
    impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Items<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            items.map(|item| (self.0)(item).map_err(E::custom)).collect()
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(item) = seq.next_element()? {
                all.push(item);
            }
            Ok(all)
        }
    }
    deserializer.deserialize_any(Items(parse))
}

fn uids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    items(deserializer, |uid| uid.parse().map_err(|_| format!("\"{uid}\" is no uid")))
}

fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    items(deserializer, |text| Ok(text.to_owned()))
}

impl<'de> Deserialize<'de> for External {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Servers;
        impl<'de> de::Visitor<'de> for Servers {
            type Value = External;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, or a list of \"host:port\"")
            }

            fn visit_bool<E: de::Error>(self, all: bool) -> Result<External, E> {
                Ok(External::All(all))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<External, E> {
                match text.parse() {
                    Ok(all) => Ok(External::All(all)),
                    Err(_) => texts(de::value::StrDeserializer::new(text)).map(External::Only),
                }
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<External, A::Error> {
                texts(de::value::SeqAccessDeserializer::new(seq)).map(External::Only)
            }
        }
        deserializer.deserialize_any(Servers)
    }
}

/// TOML's keys are strings.
fn ports<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<u16, String>, D::Error> {
    let named = BTreeMap::<String, String>::deserialize(deserializer)?;
    let parse = |(port, target): (String, String)| match port.parse() {
        Ok(0) | Err(_) => Err(de::Error::custom(format!("\"{port}\" is no port"))),
        Ok(port) => Ok((port, target)),
    };
    named.into_iter().map(parse).collect()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
