//! Which API groups a server has: what is not installed is not asked for.

use std::{
    borrow::Cow,
    sync::{Arc, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use tokio::time::Instant;

use crate::k8s::api::{
    access::Access,
    client::Context,
    connection::{Discovered, Groups},
    error::K8sError,
    names::{Namespace, ObjectName},
    resource::Resource,
};

/// Operators are installed seldom; a name that nobody knows makes us look again anyway.
const FRESH: Duration = Duration::from_mins(10);

#[derive(Deserialize)]
struct GroupList {
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    name: String,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Version {
    version: String,
}

impl Context {
    /// Looks which groups there are, unless that is known and younger than `age`. Whether they have changed.
    ///
    /// A server that does not tell us has every group, as far as we know.
    pub(in crate::k8s) async fn discover(&self, age: Duration, deadline: Instant) -> Result<bool, K8sError> {
        let known = self.discovered().clone();
        if known.as_ref().is_some_and(|(at, _)| at.elapsed() < age) {
            return Ok(false);
        }
        let groups = match self.get_object::<GroupList>(&Access::to("apis"), deadline).await {
            Ok(list) => list.map(|list| list.groups).unwrap_or_default(),
            Err(error) if error.is_forbidden() || error.is_absent() => return Ok(false),
            Err(error) => return Err(error),
        };
        let groups: Groups = groups
            .into_iter()
            .map(|group| (group.name, group.versions.into_iter().map(|version| version.version).collect()))
            .collect();
        let changed = known.is_none_or(|(_, known)| *known != groups);
        *self.discovered() = Some((Instant::now(), Arc::new(groups)));
        Ok(changed)
    }

    /// As [`Self::discover`], where what is some minutes old will do.
    pub(in crate::k8s) async fn discover_once(&self, deadline: Instant) -> Result<(), K8sError> {
        self.discover(FRESH, deadline).await.map(|_| ())
    }

    /// Whether the server has the resource's group, as far as is known.
    pub(in crate::k8s) fn has(&self, resource: &Resource) -> bool {
        match &*self.discovered() {
            Some((_, groups)) => resource.group.is_empty() || groups.contains_key(&*resource.group),
            None => true,
        }
    }

    /// What a call to a resource is about; a collection where no object is named, of all namespaces where none is.
    pub(in crate::k8s) fn access<'a>(
        &self,
        verb: &'static str,
        resource: &'a Resource,
        namespace: Option<&'a Namespace>,
        name: Option<&'a ObjectName>,
    ) -> Access<'a> {
        Access::new(verb, resource, self.version_of(resource), namespace, name)
    }

    /// The first version of the resource that the server has.
    fn version_of<'a>(&self, resource: &'a Resource) -> Cow<'a, str> {
        let discovered = self.discovered();
        let served = discovered.as_ref().and_then(|(_, groups)| groups.get(&*resource.group));
        let is_served = |version: &str| served.is_some_and(|served| served.iter().any(|one| one == version));
        let first = served.is_none() || is_served(&resource.version);
        let other = resource.others.iter().find(|other| !first && is_served(other));
        other.map_or(Cow::Borrowed(&*resource.version), |other| Cow::Borrowed(*other))
    }

    fn discovered(&self) -> std::sync::MutexGuard<'_, Discovered> {
        self.shared().discovered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
