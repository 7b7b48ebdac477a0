//! The settings: `config/default.toml`, then a file, then `PGFERRY__SECTION__KEY`, then flags; the later wins.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use config::{Config, File, FileFormat, Value, ValueKind};

mod auth;
mod check;
mod keys;
mod parse;
mod variables;

pub use auth::*;
pub use check::{host_and_port, network};
pub use keys::*;
use variables::{PREFIX, Variables};

/// The documented defaults are the defaults.
const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read {}", .path.display())]
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
    #[error(transparent)]
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
    builder = builder.add_source(Variables::of(&sources.environment));
    for (key, _, value) in &sources.flags {
        builder = builder.set_override(*key, value.clone())?;
    }
    let merged = builder.build()?;
    let mut origins = Vec::new();
    collect("", &merged.cache, sources, &mut origins);
    let settings: Settings = merged.try_deserialize()?;
    let problems = check::check(&settings);
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
    // A verifier is no password, and may be guessed at all the same.
    let value = if key.ends_with(".verifier") { "\"...\"".to_owned() } else { shown(value) };
    all.push(Origin { key: key.to_owned(), value, from });
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

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
