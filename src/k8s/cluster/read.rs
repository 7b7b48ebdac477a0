//! A cluster as it is now, whoever made it.

use tokio::time::{Duration, Instant};

use crate::k8s::{
    api::{
        client::Context,
        error::K8sError,
        names::{Namespace, ObjectName},
    },
    cluster::{operated, plain, snapshot::View},
    operators::{registry::Systems, system::SystemRef},
};

/// A cluster as it is now. `None` where there is none of this name.
pub(in crate::k8s) async fn view(
    context: &Context,
    systems: &Systems,
    system: &SystemRef,
    place: (&Namespace, &ObjectName),
    deadline: Instant,
) -> Result<Option<View>, K8sError> {
    // Which version of a resource to ask for must be known; how old that knowledge is does not matter here.
    context.discover(Duration::MAX, deadline).await?;
    match system.pod_labels() {
        // Large, and part of many other futures.
        Some(labels) => Box::pin(operated::read(context, system, &labels, place, deadline)).await,
        None => Box::pin(plain::read(context, systems, system, place, deadline)).await,
    }
}
