//! KubeBlocks (<https://kubeblocks.io>): a `Cluster` has components, of which one may be PostgreSQL.

use super::{
    facts::POSTGRES,
    facts::{Facts, Halt, Members},
    login::{LoginKind, LoginSource},
    system::{Labels, Member, PodLabels, System, by_role},
};
use crate::k8s::api::{
    names::{Namespace, ObjectName, Reference, is_label_value},
    objects::{Object, Pod, text},
    resource::Resource,
};

#[derive(Debug)]
pub(super) struct KubeBlocks;

/// The addon's usual name for its component.
const COMPONENT: &str = "postgresql";

fn login(name: &str, component: &str) -> LoginSource {
    let secret = Reference::new(&format!("{name}-{component}-account-postgres"), "spec.componentSpecs[].name");
    LoginSource::new(LoginKind::Superuser, Some(POSTGRES), Some(secret), LoginSource::basic_auth(), POSTGRES)
}

/// The component that is PostgreSQL.
fn component(object: &Object) -> Option<(&str, u64)> {
    let of_topology = object.spec("/clusterDef").is_some_and(|def| def.starts_with("postgres"));
    object.items("/componentSpecs").find_map(|spec| {
        let definition = text(spec, "/componentDef").or_else(|| text(spec, "/componentDefRef"));
        let postgres = definition.map_or(of_topology, |definition| definition.starts_with("postgres"));
        let replicas = spec.get("replicas").and_then(serde_json::Value::as_u64).unwrap_or(1);
        postgres.then(|| (text(spec, "/name").unwrap_or(COMPONENT), replicas))
    })
}

impl System for KubeBlocks {
    fn name(&self) -> &'static str {
        "kubeblocks"
    }

    fn resource(&self) -> Resource {
        Resource::with_versions("apps.kubeblocks.io", "v1", &["v1alpha1"], "clusters")
    }

    fn pod_labels(&self) -> Option<PodLabels> {
        Some(PodLabels::of("app.kubernetes.io/instance", &[("apps.kubeblocks.io/component-name", COMPONENT)]))
    }

    /// Components of any name.
    fn tends(&self, labels: &Labels) -> bool {
        labels.contains_key("apps.kubeblocks.io/component-name")
    }

    fn read(&self, object: &Object) -> Option<Facts> {
        let meta = &object.metadata;
        let name = &meta.name;
        let (component, replicas) = component(object)?;
        let members = if component == COMPONENT {
            Members::Labelled
        } else {
            Members::Selected(format!(
                "app.kubernetes.io/instance={name},apps.kubeblocks.io/component-name={component}"
            ))
        };
        let unusable = !is_label_value(component);
        let stopped = object.status("/phase") == Some("Stopped");
        let facts = Facts::of(object, name, members);
        Some(Facts {
            halt: facts.halt.clone().or_else(|| {
                stopped.then(|| Halt {
                    state: "stopped",
                    hint: format!("Start it with: kbcli cluster start {name} -n {}", meta.namespace),
                })
            }),
            broken: unusable.then(|| format!("spec.componentSpecs[].name of {name} is no label's value")),
            phase: object.status("/phase").unwrap_or_default().to_owned(),
            logins: vec![login(name, component)],
            instances: replicas.try_into().unwrap_or(1),
            services: vec![format!("{name}-{component}-postgresql"), format!("{name}-{component}")],
            ..facts
        })
    }

    fn guess(&self, namespace: &Namespace, name: &ObjectName) -> Option<Facts> {
        Some(Facts { logins: vec![login(name, COMPONENT)], ..Facts::new(namespace, name, Members::Labelled) })
    }

    fn member(&self, _facts: &Facts, pod: &Pod) -> Member {
        by_role(pod.metadata.label("kubeblocks.io/role"))
    }

    /// Further accounts have Secrets of the same kind.
    fn login_of(&self, facts: &Facts, role: &str) -> Option<LoginSource> {
        let of_superuser = facts.logins.first()?.secret.as_ref()?.name().ok()?.strip_suffix(POSTGRES)?;
        let secret = Reference::new(&format!("{of_superuser}{role}"), "the user's name");
        Some(LoginSource::new(LoginKind::Managed, Some(role), Some(secret), LoginSource::basic_auth(), POSTGRES))
    }
}
