//! An operator that pgferry does not know, described by a few lines of configuration (`[[systems]]`).

use std::borrow::Cow;

use super::{
    facts::POSTGRES,
    facts::{Facts, Members, Port},
    login::{Keys, LoginKind, LoginSource, Part},
    system::{Member, PodLabels, System},
};
use crate::{
    k8s::api::{
        names::{Namespace, ObjectName, Reference},
        objects::{Object, Pod},
        resource::Resource,
    },
    upstream::TlsMode,
};

/// What the configuration says of one system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// As `pgferry list` prints it.
    pub name: String,
    /// The custom resource: group, version and plural.
    pub resource: (String, String, String),
    /// The pods' label that holds the cluster's name.
    pub cluster_label: String,
    /// What else the pods carry.
    pub pod_labels: Vec<(String, String)>,
    /// The label that says which pod is what, and its values for primaries and replicas.
    pub role_label: String,
    /// The value of a primary.
    pub primary: String,
    /// The value of a replica.
    pub replica: String,
    /// The Secret; `{cluster}` is replaced.
    pub secret: String,
    /// The Secret's key of the user's name; a fixed name where `user` is given.
    pub user_key: String,
    /// The Secret's key of the password.
    pub password_key: String,
    /// The Secret's key of the database.
    pub database_key: String,
    /// The user, where the Secret does not name it.
    pub user: Option<String>,
    /// The database where the Secret names none.
    pub database: String,
    /// PostgreSQL's port in the pods.
    pub port: u16,
    /// How TLS is used.
    pub tls: TlsMode,
    /// Whether the login is a superuser's.
    pub superuser: bool,
}

#[derive(Debug)]
pub(super) struct Configured(Layout);

impl Configured {
    pub(super) fn new(layout: Layout) -> Self {
        Self(layout)
    }

    fn facts(&self, facts: Facts) -> Facts {
        let layout = &self.0;
        let secret = Reference::new(&layout.secret.replace("{cluster}", &facts.name), "systems.secret");
        let kind = if layout.superuser { LoginKind::Superuser } else { LoginKind::Application };
        let user = match &layout.user {
            Some(user) => Part::Fixed(user.clone()),
            None => Part::key(&layout.user_key),
        };
        let keys =
            Keys::Named { user, password: Part::key(&layout.password_key), database: Part::key(&layout.database_key) };
        let database = if layout.database.is_empty() { POSTGRES } else { &layout.database };
        Facts {
            port: Port::Number(layout.port),
            tls: super::facts::Tls { mode: layout.tls, ..super::facts::Tls::default() },
            logins: vec![LoginSource::new(kind, layout.user.as_deref(), Some(secret), keys, database)],
            ..facts
        }
    }
}

impl System for Configured {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn resource(&self) -> Resource {
        let (group, version, plural) = self.0.resource.clone();
        Resource { group: group.into(), version: version.into(), others: &[], plural: plural.into() }
    }

    fn pod_labels(&self) -> Option<PodLabels> {
        let others = self.0.pod_labels.iter();
        Some(PodLabels {
            cluster: Cow::Owned(self.0.cluster_label.clone()),
            others: others.map(|(name, value)| (Cow::Owned(name.clone()), Some(Cow::Owned(value.clone())))).collect(),
            without: &[],
        })
    }

    fn read(&self, object: &Object) -> Option<Facts> {
        Some(self.facts(Facts::of(object, &object.metadata.name, Members::Labelled)))
    }

    fn guess(&self, namespace: &Namespace, name: &ObjectName) -> Option<Facts> {
        Some(self.facts(Facts::new(namespace, name, Members::Labelled)))
    }

    fn member(&self, _facts: &Facts, pod: &Pod) -> Member {
        let layout = &self.0;
        if layout.role_label.is_empty() {
            return Member::Primary;
        }
        match pod.metadata.label(&layout.role_label) {
            Some(role) if role == layout.primary => Member::Primary,
            Some(role) if role == layout.replica => Member::Replica,
            _ => Member::Other,
        }
    }
}
