//! A large installation: what a list costs the API server.

use std::collections::{BTreeMap, HashSet};

use proto_tests::{
    fleet::{self, Fleet},
    kubernetes::FakeKubernetes,
    subject::Start,
};
use serde_json::Value;

use crate::support::BINARY;

/// The API server's pages.
const PAGE: usize = 500;
/// As many at a time are asked again where the API server is slow.
const AGAIN: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_clusters_are_listed_in_few_requests() {
    let api = FakeKubernetes::start().await;
    fleet::build(&api, Fleet::LARGE);
    let start = Start::new(BINARY).args(["list", "--output", "json", "--kubeconfig"]).arg(api.kubeconfig());
    let (code, out, err) = start.run().await;
    assert_eq!(code, 0, "{err}");
    let all: Value = serde_json::from_str(&out).unwrap();
    let clusters = all["clusters"].as_array().unwrap();
    assert_eq!(clusters.len(), Fleet::LARGE.clusters);
    assert!(clusters.iter().all(|cluster| cluster["ready"] == true && !cluster["primary"].is_null()), "{clusters:#?}");
    let mut requests = api.requests();
    let all = requests.len();
    let mut seen = HashSet::new();
    requests
        .retain(|request| seen.insert((request.resource.clone(), request.namespace.clone(), request.query.clone())));
    assert!(all - requests.len() <= AGAIN, "{} requests were made twice", all - requests.len());
    // A list is its first page; each further one continues it.
    let (pages, lists): (Vec<_>, Vec<_>) = requests.iter().partition(|request| request.query.contains("continue="));
    let mut by_resource: BTreeMap<&str, usize> = BTreeMap::new();
    for list in &lists {
        *by_resource.entry(&list.resource).or_default() += 1;
    }
    let systems = fleet::present().len();
    // Four systems' resources and pods, databases of one, and what built-in objects make up; nothing of the 36 groups that are foreign.
    let operators = lists.iter().filter(|list| {
        list.resource == "pods"
            || list.resource.ends_with("clusters")
            || ["postgresqls", "postgreses", "endpoints", "databases"].contains(&list.resource.as_str())
    });
    let operators = operators.count();
    assert!(operators <= 3 * systems, "{by_resource:?}");
    assert!(lists.len() - operators <= 6, "{by_resource:?}");
    let pods: Vec<_> = requests.iter().filter(|request| request.resource == "pods").collect();
    assert!(pods.iter().all(|request| request.verb == "list" && request.query.contains("labelSelector=")), "{pods:#?}");
    let wanted = (Fleet::LARGE.clusters / systems * fleet::SERVERS).div_ceil(PAGE) * systems;
    assert_eq!(pods.len(), wanted, "database pods and no others, {PAGE} a page");
    let bytes: u64 = requests.iter().map(|request| request.bytes).sum();
    let of_pods: u64 = pods.iter().map(|request| request.bytes).sum();
    assert!(of_pods < (Fleet::LARGE.clusters * fleet::SERVERS * 13_000) as u64);
    println!(
        "{} lists and {} further pages, {} MiB, of which pods {} MiB: {by_resource:?}",
        lists.len(),
        pages.len(),
        bytes >> 20,
        of_pods >> 20
    );
}
