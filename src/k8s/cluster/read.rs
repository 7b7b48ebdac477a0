//! A cluster as it is now, whoever made it.

use tokio::time::Duration;

use crate::k8s::{
    api::{
        error::K8sError,
        names::{Namespace, ObjectName},
        reader::Reader,
    },
    cluster::{operated, plain, snapshot::View},
    operators::{registry::Systems, system::SystemRef},
};

/// A cluster as it is now. `None` where there is none of this name.
pub(in crate::k8s) async fn view(
    reader: Reader<'_>,
    systems: &Systems,
    system: &SystemRef,
    place: (&Namespace, &ObjectName),
) -> Result<Option<View>, K8sError> {
    // Which version of a resource to ask for must be known; how old that knowledge is does not matter here.
    reader.context.discover(Duration::MAX, reader.deadline).await?;
    match system.pod_labels() {
        // Large, and part of many other futures.
        Some(labels) => Box::pin(operated::read(reader, system, &labels, place)).await,
        None => Box::pin(plain::read(reader, systems, system, place)).await,
    }
}
