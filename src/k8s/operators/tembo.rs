//! Tembo (<https://github.com/tembo-io/tembo>): a `CoreDB` owns a CloudNativePG cluster of the same name, and keeps the
//! superuser's login in a Secret of its own.

use super::{
    cnpg::CLOUDNATIVE_PG,
    facts::POSTGRES,
    facts::{Facts, Members},
    leader::{Leader, LeaderSource},
    login::{Keys, LoginKind, LoginSource, Part},
    system::{Member, PodLabels, System},
};
use crate::k8s::api::{
    names::{ObjectName, Reference},
    objects::{Object, Pod},
    resource::Resource,
};

#[derive(Debug)]
pub(super) struct Tembo;

impl System for Tembo {
    fn name(&self) -> &'static str {
        "tembo"
    }

    fn resource(&self) -> Resource {
        Resource::new("coredb.io", "v1alpha1", "coredbs")
    }

    fn pod_labels(&self) -> Option<PodLabels> {
        CLOUDNATIVE_PG.pod_labels()
    }

    fn read(&self, object: &Object) -> Option<Facts> {
        let name = &object.metadata.name;
        // The Secret's `host` is any instance, and is not looked at.
        let keys = Keys::Named {
            user: Part::keys(&["username", "user"]),
            password: Part::keys(&["password"]),
            database: Part::Absent,
        };
        let secret = Reference::computed(&format!("{name}-connection"));
        let login = LoginSource::new(LoginKind::Superuser, None, Some(secret), keys, POSTGRES);
        let inner = CLOUDNATIVE_PG.guess(&object.metadata.namespace, name)?;
        Some(Facts {
            logins: vec![login],
            tls: inner.tls,
            fence_hint: inner.fence_hint,
            instances: object.number("/replicas").unwrap_or(1).try_into().unwrap_or(1),
            services: ["rw", "ro", "r"].iter().map(|suffix| format!("{name}-{suffix}")).collect(),
            ..Facts::of(object, name, Members::Labelled)
        })
    }

    /// Who may not read the resource sees a CloudNativePG cluster.
    fn member(&self, facts: &Facts, pod: &Pod) -> Member {
        CLOUDNATIVE_PG.member(facts, pod)
    }

    fn leader_sources(&self, name: &ObjectName) -> Vec<LeaderSource> {
        let leader = |twin: &Object| CLOUDNATIVE_PG.read(twin).map_or(Leader::Unsaid, |facts| facts.leader);
        vec![LeaderSource::Twin { resource: CLOUDNATIVE_PG.resource(), leader, name: name.clone() }]
    }
}
