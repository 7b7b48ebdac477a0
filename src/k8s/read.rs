//! A cluster as it is now, whoever made it.

use tokio::time::{Duration, Instant};

use super::{
    K8sError,
    choose::View,
    client::Context,
    names::{Namespace, ObjectName},
    operated,
    operators::{System, Systems},
    plain,
};

/// A cluster as it is now. `None` where there is none of this name.
pub(super) async fn view(
    context: &Context,
    systems: &Systems,
    system: &System,
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
