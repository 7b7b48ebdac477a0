//! Kubegres (<https://www.kubegres.io/doc/>): one StatefulSet an instance, a label for the role, and the password where
//! its author put it.

use super::{
    facts::POSTGRES,
    facts::{Facts, Members, Port},
    login::{Keys, LoginKind, LoginSource, Part},
    system::{Labels, Member, PodLabels, System, by_role, keeps_md5, sized, tag},
};
use crate::k8s::api::{
    names::{Namespace, ObjectName, Reference},
    objects::{Object, Pod, text},
    resource::Resource,
};

#[derive(Debug)]
pub(super) struct Kubegres;

impl System for Kubegres {
    fn name(&self) -> &'static str {
        "kubegres"
    }

    fn resource(&self) -> Resource {
        Resource::new("kubegres.reactive-tech.io", "v1", "kubegres")
    }

    fn pod_labels(&self) -> Option<PodLabels> {
        Some(PodLabels::of("app", &[("replicationRole", "")]))
    }

    fn tends(&self, labels: &Labels) -> bool {
        labels.contains_key("replicationRole")
    }

    fn read(&self, object: &Object) -> Option<Facts> {
        let name = &object.metadata.name;
        let password = object.items("/env").find(|entry| text(entry, "/name") == Some("POSTGRES_PASSWORD"));
        let reference = password.and_then(|entry| {
            Some((text(entry, "/valueFrom/secretKeyRef/name")?, text(entry, "/valueFrom/secretKeyRef/key")?))
        });
        let logins = reference.map(|(secret, key)| {
            let keys = Keys::Named {
                user: Part::Fixed(POSTGRES.to_owned()),
                password: Part::key(key),
                database: Part::Absent,
            };
            let secret = Reference::new(secret, "spec.env[].valueFrom.secretKeyRef.name");
            LoginSource::new(LoginKind::Superuser, Some(POSTGRES), Some(secret), keys, POSTGRES)
        });
        let facts = sized(Facts::of(object, name, Members::Labelled), &self.resource(), object, "replicas");
        Some(Facts {
            port: Port::Number(
                object.number("/port").and_then(|port| port.try_into().ok()).unwrap_or(super::facts::PORT),
            ),
            md5: object.spec("/image").is_some_and(|image| keeps_md5(tag(image))),
            logins: logins.into_iter().collect(),
            services: vec![name.to_string(), format!("{name}-replica")],
            ..facts
        })
    }

    fn guess(&self, namespace: &Namespace, name: &ObjectName) -> Option<Facts> {
        Some(Facts::new(namespace, name, Members::Labelled))
    }

    fn member(&self, _facts: &Facts, pod: &Pod) -> Member {
        by_role(pod.metadata.label("replicationRole"))
    }
}
