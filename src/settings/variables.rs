//! The layer of the environment: `PGFERRY__SECTION__KEY`.

use std::collections::HashMap;

use config::{ConfigError, Environment, Map, Source, Value, ValueKind};

/// Two underscores: a Service called pgferry injects `PGFERRY_PORT` and the like into every pod.
pub(super) const PREFIX: &str = "PGFERRY__";

/// Settings that are lists. A variable has no lists: its items stand with commas between them, or as TOML writes them.
pub(super) const LISTS: [&str; 7] = [
    "listen.addresses",
    "listen.allowed_uids",
    "listen.proxy_protocol",
    "kubernetes.external",
    "kubernetes.external_names",
    "auth.methods",
    "auth.audiences",
];

/// The variables that are settings; empty ones are unset.
#[derive(Clone, Debug)]
pub(super) struct Variables(HashMap<String, String>);

impl Variables {
    pub(super) fn of(environment: &[(String, String)]) -> Self {
        let set = environment.iter().filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty());
        Self(set.cloned().collect())
    }
}

impl Source for Variables {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let environment = Environment::with_prefix("PGFERRY").prefix_separator("__").separator("__");
        let mut all = environment.source(Some(self.0.clone())).collect()?;
        for key in LISTS {
            if let Some(value) = all.get_mut(key)
                && let ValueKind::String(text) = &value.kind
            {
                *value = Value::new(value.origin().map(str::to_owned).as_ref(), list(text));
            }
        }
        Ok(all)
    }
}

/// `a, b` or `["a", "b"]`. `kubernetes.external` may be true or false as well.
fn list(text: &str) -> ValueKind {
    if let Ok(all) = text.trim().parse() {
        return ValueKind::Boolean(all);
    }
    // An IPv6 address in brackets is no list of TOML's.
    let toml = toml::from_str::<HashMap<String, Vec<toml::Value>>>(&format!("list = {text}"));
    let items: Vec<String> = match toml.ok().and_then(|mut all| all.remove("list")) {
        Some(items) => items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect(),
        None => text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect(),
    };
    let item = |item: String| match item.parse() {
        Ok(number) => ValueKind::I64(number),
        Err(_) => ValueKind::String(item),
    };
    ValueKind::Array(items.into_iter().map(|text| Value::new(None, item(text))).collect())
}
