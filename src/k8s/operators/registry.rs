//! Every system that pgferry knows.

use super::{
    access_secrets, cnpg,
    configured::{Configured, Layout},
    connection_secrets, crunchy, cybertec, kubeblocks, kubedb, kubegres, marked, stackgres,
    system::{Labels, SystemRef},
    tembo, workloads,
    zalando::{Zalando, ZalandoParams},
};
use crate::k8s::api::{names::ObjectName, objects::Meta};
use std::sync::Arc;

/// What the configuration says about systems.
#[derive(Clone, Debug, Default)]
pub struct SystemsParams {
    /// Zalando's operator can be configured.
    pub zalando: ZalandoParams,
    /// Systems that only the configuration knows.
    pub configured: Vec<Layout>,
    /// Services of type `ExternalName` that are followed, as `service.namespace`.
    pub external_names: Vec<String>,
}

/// Every system that pgferry knows.
#[derive(Clone, Debug)]
pub struct Systems {
    /// Those with a custom resource, in the order in which names are looked up.
    pub(in crate::k8s) operators: Vec<SystemRef>,
    /// Those that built-in objects make up; looked at where no operator knows a name.
    pub(in crate::k8s) plain: Vec<SystemRef>,
    /// Services of type `ExternalName` that are followed.
    external_names: Vec<String>,
}

impl Systems {
    /// All of them.
    #[must_use]
    pub fn new(params: &SystemsParams) -> Self {
        let mut operators: Vec<SystemRef> =
            params.configured.iter().map(|layout| Arc::new(Configured::new(layout.clone())) as SystemRef).collect();
        operators.extend([
            Arc::new(cnpg::CLOUDNATIVE_PG) as SystemRef,
            Arc::new(cnpg::EDB),
            Arc::new(Zalando::new(params.zalando.clone())),
            Arc::new(cybertec::Cybertec::new()),
            Arc::new(crunchy::PERCONA),
            Arc::new(crunchy::CRUNCHY),
            Arc::new(stackgres::StackGres),
            Arc::new(kubedb::KubeDb),
            Arc::new(kubeblocks::KubeBlocks),
            Arc::new(kubegres::Kubegres),
            Arc::new(tembo::Tembo),
        ]);
        let plain: Vec<SystemRef> = vec![
            Arc::new(workloads::stateful_sets(operators.clone())),
            Arc::new(workloads::deployments(operators.clone())),
            Arc::new(marked::Marked),
            Arc::new(access_secrets::AccessSecrets),
            Arc::new(connection_secrets::ConnectionSecrets),
        ];
        Self { operators, plain, external_names: params.external_names.clone() }
    }

    pub(in crate::k8s) fn all(&self) -> impl Iterator<Item = &SystemRef> {
        self.operators.iter().chain(&self.plain)
    }

    /// The system of this name.
    pub(in crate::k8s) fn named(&self, name: &str) -> Option<&SystemRef> {
        self.all().find(|system| system.name() == name)
    }

    /// Whether the configuration says to go where this Service of type `ExternalName` points.
    pub(in crate::k8s) fn follows(&self, service: &Meta) -> bool {
        let full = format!("{}.{}", service.name, service.namespace);
        self.external_names.contains(&full)
    }

    /// Whether pods of these labels are a pooler's.
    pub(in crate::k8s) fn is_pooler(&self, labels: &Labels) -> bool {
        self.all().any(|system| system.is_pooler(labels))
    }

    /// The operator whose database pods carry such labels, and the cluster's name.
    pub(in crate::k8s) fn claiming(&self, meta: &Meta) -> Option<(&SystemRef, ObjectName)> {
        self.operators.iter().find_map(|system| {
            let labels = system.pod_labels()?;
            let cluster = meta.label(&labels.cluster).filter(|_| labels.matches(&meta.labels))?;
            Some((system, ObjectName::parse(cluster).ok()?))
        })
    }
}
