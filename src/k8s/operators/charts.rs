//! Bitnami's charts postgresql and postgresql-ha (<https://github.com/bitnami/charts>), by whatever name: under
//! `nameOverride` the label with the name is another, under an alias in an umbrella chart `helm.sh/chart` as well.

use super::container::Container;
use crate::k8s::api::{
    names::{ObjectName, is_label_value},
    objects::Object,
};

pub(super) const BITNAMI: &str = "bitnami";
pub(super) const BITNAMI_HA: &str = "bitnami-ha";

/// The label that tells a chart's primary from its replicas.
pub(super) const COMPONENT: &str = "app.kubernetes.io/component";
/// Its value of replicas.
pub(super) const READ: &str = "read";

/// What a chart's labels say, where a chart made it.
pub(super) struct Chart {
    pub(super) flavor: &'static str,
    /// The cluster's name, as the chart makes it of the release's.
    pub(super) name: ObjectName,
    pub(super) release: Option<String>,
    pub(super) selector: Option<String>,
    pub(super) replicated: bool,
}

/// The chart that made a StatefulSet, as its labels say, or the environment that only this chart's image reads.
pub(super) fn chart(object: &Object, server: &Container<'_>) -> Option<Chart> {
    let meta = &object.metadata;
    let label = |name: &str| meta.label(name).filter(|value| is_label_value(value));
    let (name, release) = (label("app.kubernetes.io/name"), label("app.kubernetes.io/instance"));
    let component = meta.label(COMPONENT)?;
    let is = |chart: &str, variable: &str| {
        let made_by = meta.label("helm.sh/chart").and_then(|made_by| made_by.strip_prefix(chart));
        let versioned = made_by
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()));
        name == Some(chart) || versioned || (release.is_some() && server.has(variable))
    };
    let strip = |suffix: &str| {
        let stripped = meta.name.strip_suffix(suffix).and_then(|name| ObjectName::parse(name).ok());
        stripped.unwrap_or_else(|| meta.name.clone())
    };
    let release_owned = release.map(str::to_owned);
    match component {
        "primary" | READ if is("postgresql", "POSTGRES_REPLICATION_MODE") => Some(Chart {
            flavor: BITNAMI,
            name: strip(&format!("-{component}")),
            selector: name.zip(release).map(|(name, release)| {
                format!(
                    "app.kubernetes.io/name={name},app.kubernetes.io/instance={release},{COMPONENT} in (primary,{READ})"
                )
            }),
            release: release_owned,
            replicated: true,
        }),
        "postgresql" if is("postgresql-ha", "REPMGR_NODE_NAME") => Some(Chart {
            flavor: BITNAMI_HA,
            name: strip("-postgresql"),
            release: release_owned,
            selector: None,
            replicated: false,
        }),
        _ => None,
    }
}
