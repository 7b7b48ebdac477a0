//! What can be set about people: who they are, where they may connect, what is kept of it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use secrecy::SecretString;
use serde::Deserialize;

use super::parse::{path, text, time};

/// `[auth]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Auth {
    pub methods: Vec<Method>,
    #[serde(deserialize_with = "path")]
    pub client_ca: Option<PathBuf>,
    pub login_prefix: String,
    pub audiences: Vec<String>,
    pub authority: Policy,
    #[serde(with = "humantime_serde")]
    pub recheck: Duration,
    #[serde(with = "humantime_serde")]
    pub recheck_grace: Duration,
    #[serde(with = "humantime_serde")]
    pub session_max: Duration,
    pub logins: BTreeMap<String, Login>,
}

/// One of `auth.methods`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// A client certificate.
    Certificate,
    /// A login of `[auth.logins]`.
    Login,
    /// A bearer token that the API server knows.
    Kubernetes,
}

/// `auth.authority`: whose word opens a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// RBAC, narrowed by `[[access]]`.
    #[default]
    Rbac,
    /// `[[access]]` alone.
    Rules,
}

/// One entry of `[auth.logins]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Login {
    pub verifier: SecretString,
    #[serde(default, deserialize_with = "text")]
    pub role: Option<String>,
    #[serde(default)]
    pub groups: Vec<String>,
}

/// One entry of `[[access]]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Access {
    pub people: Vec<String>,
    pub groups: Vec<String>,
    pub targets: Vec<String>,
    pub roles: Vec<String>,
    pub modes: Vec<Mode>,
    #[serde(deserialize_with = "time")]
    pub until: Option<SystemTime>,
    pub reason: Reason,
    pub limits: AccessLimits,
}

/// Whether a client must say why it connects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// It may.
    #[default]
    Optional,
    /// It must.
    Required,
}

/// `limits` of an entry of `[[access]]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct AccessLimits {
    #[serde(with = "humantime_serde::option")]
    pub session: Option<Duration>,
    #[serde(with = "humantime_serde::option")]
    pub idle: Option<Duration>,
    pub connections: Option<usize>,
}

/// Behind the colon of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "config/default.toml describes every value")]
pub enum Mode {
    #[default]
    Rw,
    Ro,
    Any,
}

/// `[audit]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml describes every key")]
pub struct Audit {
    pub stdout: bool,
    #[serde(deserialize_with = "path")]
    pub file: Option<PathBuf>,
    pub on_failure: OnFailure,
}

/// `audit.on_failure`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// New sessions are refused.
    #[default]
    Refuse,
    /// They are let in.
    Allow,
}
