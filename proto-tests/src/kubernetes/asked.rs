//! What the fake API was asked.

use super::{FakeKubernetes, api, store::Request};

impl FakeKubernetes {
    /// Whether a token was ever shown to this server, valid here or not.
    #[must_use]
    pub fn has_seen(&self, token: &str) -> bool {
        self.shared.store().shown.contains(token)
    }

    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.store().requests.clone()
    }

    pub fn forget_requests(&self) {
        let mut store = self.shared.store();
        store.requests.clear();
        store.arrived.clear();
        store.paths.clear();
    }

    /// What has been asked for, path and query as they came, answered or not.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.shared.store().paths.clone()
    }

    /// The selectors that were asked with, decoded.
    #[must_use]
    pub fn selectors(&self) -> Vec<String> {
        let queries = self.paths().into_iter().filter_map(|path| Some(path.split_once('?')?.1.to_owned()));
        let pairs = queries.flat_map(|query| query.split('&').map(str::to_owned).collect::<Vec<_>>());
        let selecting = pairs.filter_map(|pair| pair.split_once("Selector=").map(|(_, value)| api::decoded(value)));
        selecting.collect()
    }

    /// Requests that have arrived, those too that a fault leaves without an answer.
    #[must_use]
    pub fn asked(&self, verb: &str, resource: &str) -> usize {
        let store = self.shared.store();
        store.arrived.iter().filter(|(asked, about)| *asked == verb && about == resource).count()
    }

    /// Requests that were answered.
    #[must_use]
    pub fn count(&self, verb: &str, resource: &str) -> usize {
        self.requests().iter().filter(|request| request.verb == verb && request.resource == resource).count()
    }
}
