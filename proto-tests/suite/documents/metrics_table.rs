//! The metrics, as `docs/metrics.md` lists them: out of what is served.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use pgferry::metrics::{Metrics, Phase, Proof, State};

use super::in_docs;

/// Everything that can be counted, once.
fn scrape() -> String {
    let metrics = Metrics::new("0");
    let _session = metrics.session(State::Open);
    metrics.connected();
    metrics.refused("42501");
    metrics.gave_up();
    metrics.took(Phase::All, Duration::from_millis(1));
    metrics.bytes(1, 1);
    metrics.proof("kubernetes", Proof::Accepted);
    metrics.denied("none");
    metrics.audit_failed();
    metrics.limit("max_connections", 1);
    metrics.certificate("listener", SystemTime::now());
    metrics.encode()
}

/// One metric of a scrape.
#[derive(Default)]
struct Metric<'a> {
    kind: &'a str,
    meaning: &'a str,
    labels: BTreeSet<&'a str>,
}

fn metrics(scrape: &str) -> BTreeMap<&str, Metric<'_>> {
    let mut all: BTreeMap<&str, Metric<'_>> = BTreeMap::new();
    for line in scrape.lines() {
        if let Some((name, meaning)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            all.entry(name).or_default().meaning = meaning.trim_end_matches('.');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            all.entry(name).or_default().kind = kind;
        } else {
            let (series, _) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let name = base.filter(|base| all.contains_key(base)).unwrap_or(name);
            let names = labels.split("=\"").map(|part| part.rsplit(['"', ',']).next().unwrap_or_default());
            let metric = all.get_mut(name).expect("a metric that is described");
            metric.labels.extend(names.filter(|name| !["", "}", "le"].contains(name)));
        }
    }
    all
}

#[test]
fn every_metric_is_described() {
    let scrape = scrape();
    let all = metrics(&scrape);
    assert!(all.len() >= 10, "{scrape}");
    let mut table = "| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n".to_owned();
    for (name, Metric { kind, meaning, labels }) in &all {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(table, "| `{name}` | {kind} | {} | {meaning} |", labels.join(", "));
    }
    in_docs("docs/metrics.md", "metrics", &table);
}
