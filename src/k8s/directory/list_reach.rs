//! Where what was listed leads: Services, Services that are only names, and the pod of a Deployment.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;

use crate::k8s::{
    api::{
        access::ListQuery,
        endpoints::LeaderObject,
        error::K8sError,
        names::{Namespace, ObjectName, Place},
        objects::Pod,
        resource::{DEPLOYMENTS, ENDPOINT_SLICES},
    },
    cluster::leader_objects,
    directory::{
        dedup::{Away, Listed},
        list::{Alias, Lister, Part},
    },
    operators::{
        connection_hosts,
        facts::{Facts, Members, PORT},
    },
};

/// Services of type `ExternalName`.
struct Aliases(BTreeMap<Place, Alias>);

impl Aliases {
    fn of(parts: &[Result<Part, K8sError>]) -> Self {
        let all = parts.iter().flatten().flat_map(|part| &part.aliases);
        Self(all.map(|alias| (alias.place.clone(), alias.clone())).collect())
    }

    /// The Services that a cluster's lead to.
    fn places(&self, facts: &Facts) -> Vec<Place> {
        let target = |place: &Place| match self.0.get(place) {
            Some(alias) => inside(alias),
            None => Some(place.clone()),
        };
        facts.places().into_iter().filter_map(target).collect()
    }

    /// Where a name leads that is none of a Service with pods.
    fn away(&self, facts: &Facts) -> Option<Away> {
        let alias = facts.places().into_iter().find_map(|place| self.0.get(place))?;
        match (alias.followed, inside(alias)) {
            (false, _) => Some(Away::NotFollowed),
            (true, None) => Some(Away::Outside(alias.host.clone())),
            (true, Some(_)) => None,
        }
    }
}

/// The Service that an alias means, where it is followed and means one.
fn inside(alias: &Alias) -> Option<Place> {
    match connection_hosts::members(&alias.host, PORT, &alias.place.0)? {
        Members::Service { places, .. } if alias.followed && alias.host.contains(".svc") => places.into_iter().next(),
        _ => None,
    }
}

impl Lister<'_> {
    /// The pod of each Deployment that has one: its name is in no other object.
    pub(super) async fn single_pods(&self, parts: &mut [Result<Part, K8sError>]) {
        /// Each is a request, and its answer a name in a list.
        const MOST_DEPLOYMENTS: usize = 20;
        let single = |listed: &&mut Listed| {
            let facts = &listed.view.facts;
            listed.view.system.resource() == DEPLOYMENTS && facts.instances == 1 && facts.ready == Some(1)
        };
        let reads =
            parts.iter_mut().flatten().flat_map(|part| &mut part.clusters).filter(single).take(MOST_DEPLOYMENTS);
        join_all(reads.map(|listed| async move {
            if let Members::Selected(selector) = &listed.view.facts.members {
                let found = self.reader.list_pods(&listed.view.facts.namespace, selector.clone()).await;
                // Who may not read pods sees the cluster all the same.
                listed.view.pods = found.unwrap_or_default();
            }
        }))
        .await;
    }

    /// Where Services lead, in one list of EndpointSlices: no pod needs to be read for it.
    pub(super) async fn reach(&self, parts: &mut [Result<Part, K8sError>]) -> Result<(), K8sError> {
        /// So many names make a selector of 8 KiB or so, which every server takes.
        const MOST_SERVICES: usize = 100;
        let aliases = Aliases::of(parts);
        let clusters = || parts.iter().flatten().flat_map(|part| &part.clusters);
        let services: BTreeSet<ObjectName> =
            clusters().flat_map(|listed| aliases.places(&listed.view.facts)).map(|(_, service)| service).collect();
        if services.is_empty() {
            return Ok(());
        }
        let query =
            if services.len() > MOST_SERVICES { ListQuery::default() } else { leader_objects::slices_of(&services) };
        let keep = |slice: LeaderObject| {
            let service = ObjectName::parse(slice.service()?).ok()?;
            services
                .contains(&service)
                .then(|| ((slice.metadata.namespace.clone(), service), slice.pods().collect::<Vec<Pod>>()))
        };
        // In a list of one namespace a Service of another may be named.
        let named = clusters().flat_map(|listed| aliases.places(&listed.view.facts)).map(|(namespace, _)| namespace);
        let namespaces: BTreeSet<Option<Namespace>> = match self.namespace {
            Some(_) => named.map(Some).collect(),
            None => BTreeSet::from([None]),
        };
        let mut pods: BTreeMap<Place, Vec<Pod>> = BTreeMap::new();
        let mut answered = false;
        for namespace in namespaces {
            let lister = Lister { namespace: namespace.as_ref(), ..*self };
            let found = lister.widest(&ENDPOINT_SLICES, &query, keep).await?;
            answered |= found.objects.is_some();
            for (service, found) in found.objects.into_iter().flatten() {
                pods.entry(service).or_default().extend(found);
            }
        }
        if !answered {
            return Ok(());
        }
        for listed in parts.iter_mut().flatten().flat_map(|part| &mut part.clusters) {
            listed.away = aliases.away(&listed.view.facts);
            let places = aliases.places(&listed.view.facts);
            if !places.is_empty() {
                let found = places.iter().filter_map(|place| pods.get(place));
                let several = matches!(listed.view.facts.members, Members::Several(_));
                let found = found.take(if several { usize::MAX } else { 1 }).flatten().cloned();
                listed.endpoints = Some(found.collect());
            }
        }
        Ok(())
    }
}
