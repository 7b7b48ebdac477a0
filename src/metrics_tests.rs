use std::collections::BTreeSet;

use super::*;

/// The value of a series.
fn value(metrics: &Metrics, series: &str) -> Option<String> {
    let text = metrics.encode();
    text.lines().find_map(|line| Some(line.strip_prefix(series)?.strip_prefix(' ')?.to_owned()))
}

fn expect(metrics: &Metrics, series: &str, expected: &str) {
    assert_eq!(value(metrics, series).as_deref(), Some(expected), "{series} in\n{}", metrics.encode());
}

#[test]
fn every_metric_has_the_name_that_dashboards_use() {
    let metrics = Metrics::new("1.2.3");
    let in_state = metrics.session(State::Open);
    metrics.connected();
    metrics.refused("42501");
    metrics.gave_up();
    metrics.took(Phase::Login, Duration::from_millis(30));
    metrics.bytes(10, 20);
    metrics.proof("kubernetes", Proof::Accepted);
    metrics.denied("access.2");
    metrics.audit_failed();
    metrics.limit("sessions", 7);
    metrics.certificate("listener", SystemTime::now() + Duration::from_secs(1000));
    for (series, expected) in [
        (r#"pgferry_sessions{state="open"}"#, "1"),
        (r#"pgferry_sessions{state="connecting"}"#, "0"),
        (r#"pgferry_connects_total{result="connected",sqlstate="00000"}"#, "1"),
        (r#"pgferry_connects_total{result="refused",sqlstate="42501"}"#, "1"),
        (r#"pgferry_connects_total{result="gave up",sqlstate=""}"#, "1"),
        (r#"pgferry_connect_seconds_bucket{phase="login",le="0.025"}"#, "0"),
        (r#"pgferry_connect_seconds_bucket{phase="login",le="0.05"}"#, "1"),
        (r#"pgferry_bytes_total{direction="in"}"#, "10"),
        (r#"pgferry_bytes_total{direction="out"}"#, "20"),
        (r#"pgferry_auth_total{method="kubernetes",result="accepted"}"#, "1"),
        (r#"pgferry_denied_total{rule="access.2"}"#, "1"),
        ("pgferry_audit_failures_total", "1"),
        (r#"pgferry_limit_remaining{limit="sessions"}"#, "7"),
        (r#"pgferry_build_info{version="1.2.3"}"#, "1"),
    ] {
        expect(&metrics, series, expected);
    }
    let expiry = value(&metrics, r#"pgferry_certificate_expiry_seconds{certificate="listener"}"#);
    assert!((1..=1000).contains(&expiry.expect("a value").parse::<i64>().expect("a number")));
    drop(in_state);
    expect(&metrics, r#"pgferry_sessions{state="open"}"#, "0");
}

#[test]
fn a_session_is_counted_once() {
    let metrics = Metrics::new("1");
    let mut session = metrics.session(State::Startup);
    session.becomes(State::Connecting);
    session.becomes(State::Open);
    let counts = || {
        ["startup", "connecting", "open"]
            .map(|state| value(&metrics, &format!("pgferry_sessions{{state=\"{state}\"}}")))
    };
    assert_eq!(counts(), ["0", "0", "1"].map(|count| Some(count.to_owned())));
    drop(session);
    assert_eq!(counts(), ["0", "0", "0"].map(|count| Some(count.to_owned())));
}

#[test]
fn nobody_outside_can_make_series() {
    let metrics = Metrics::new("1");
    for number in 0..1000 {
        metrics.refused(&format!("Z{number:04}"));
        metrics.denied(&format!("access.{number}"));
    }
    let text = metrics.encode();
    let series = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!((series("pgferry_connects_total{"), series("pgferry_denied_total{")), (1, RULES + 1));
    assert_eq!(SQLSTATES.into_iter().collect::<BTreeSet<_>>().len(), SQLSTATES.len());
}

#[test]
fn a_certificate_that_is_over_counts_on() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    assert_eq!(seconds_until(now + Duration::from_mins(1), now), 60);
    assert_eq!(seconds_until(now - Duration::from_mins(1), now), -60);
}
