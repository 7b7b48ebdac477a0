//! What probes and scrapers are told.

use std::{collections::BTreeSet, net::SocketAddr};

use proto_tests::{secrets, subject::Start, subject::Subject};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{interval, timeout},
};

use super::stage::{Bastion, Pipe, TOKENS};
use crate::support::{BINARY, PACE, PATIENCE, World, serve};

const LISTEN: &str = "[http]\nlisten = \"127.0.0.1:0\"\n";

/// Where it answers.
fn address(pgferry: &Subject) -> SocketAddr {
    let output = pgferry.output();
    let (_, rest) = output.split_once("http on ").expect("it says where");
    rest.split(['\n', '"']).next().unwrap().trim().parse().unwrap()
}

/// Status and body.
async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: pgferry\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Asks until the answer is as it should be.
async fn until_answer(address: SocketAddr, path: &str, mut holds: impl FnMut(u16, &str) -> bool) -> String {
    let mut last = String::new();
    let wait = async {
        let mut looks = interval(PACE);
        loop {
            looks.tick().await;
            let (status, body) = get(address, path).await;
            let enough = holds(status, &body);
            last = format!("{status} {body}");
            if enough {
                return body;
            }
        }
    };
    let came = timeout(PATIENCE, wait).await;
    came.unwrap_or_else(|_| panic!("{path} is still {last}"))
}

/// A series' value; 0 where it has not begun.
fn value(scrape: &str, series: &str) -> f64 {
    let line = scrape.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

fn shows(scrape: &str, expected: &[(&str, f64)]) {
    for (series, count) in expected {
        let found = value(scrape, series);
        assert!((found - count).abs() < f64::EPSILON, "{series} is {found} and not {count} in\n{scrape}");
    }
}

#[tokio::test]
async fn a_scrape_tells_of_sessions_refusals_and_proofs() {
    let rules = "[[access]]\npeople = [\"kim\"]\ntargets = [\"shop.prod\"]\nlimits = { connections = 1 }\n";
    let bastion = Bastion::new(&format!("{TOKENS}{LISTEN}{rules}")).await;
    let http = address(&bastion.pgferry);
    let (kim, lee) = (bastion.token("kim", &[]), bastion.token("lee", &[]));
    bastion.bind("kim", "app");
    bastion.bind("lee", "app");
    let mut wire = bastion.connect(&kim, "app@shop.prod", "app").await.unwrap();
    wire.value("select 1").await.unwrap();
    bastion.refusal(&kim, "app@shop.prod", "app").await;
    bastion.refusal(&lee, "app@shop.prod", "app").await;
    bastion.refusal(&kim, "app@nothing.prod", "app").await;
    bastion.refusal(&secrets::make("bearer"), "app@shop.prod", "app").await;
    let idle = |scrape: &str| {
        ["startup", "connecting"]
            .iter()
            .all(|state| value(scrape, &format!("pgferry_sessions{{state=\"{state}\"}}")) == 0.0)
    };
    let scrape = until_answer(http, "/metrics", |_, scrape| idle(scrape)).await;
    shows(
        &scrape,
        &[
            ("pgferry_sessions{state=\"open\"}", 1.0),
            ("pgferry_connects_total{result=\"connected\",sqlstate=\"00000\"}", 1.0),
            ("pgferry_connects_total{result=\"refused\",sqlstate=\"42501\"}", 2.0),
            ("pgferry_connects_total{result=\"refused\",sqlstate=\"53300\"}", 1.0),
            ("pgferry_connects_total{result=\"refused\",sqlstate=\"28P01\"}", 1.0),
            ("pgferry_auth_total{method=\"kubernetes\",result=\"accepted\"}", 4.0),
            ("pgferry_auth_total{method=\"kubernetes\",result=\"refused\"}", 1.0),
            ("pgferry_denied_total{rule=\"none\"}", 1.0),
            ("pgferry_denied_total{rule=\"access[0]\"}", 1.0),
            ("pgferry_limit_remaining{limit=\"max_connections\"}", 999.0),
            ("pgferry_connect_seconds_count{phase=\"authenticate\"}", 4.0),
            ("pgferry_connect_seconds_count{phase=\"all\"}", 1.0),
            ("pgferry_bytes_total{direction=\"out\"}", 0.0),
        ],
    );
    for phase in ["review", "resolve", "dial", "credentials", "login"] {
        assert!(
            value(&scrape, &format!("pgferry_connect_seconds_count{{phase=\"{phase}\"}}")) > 0.0,
            "{phase}: {scrape}"
        );
    }
    assert!(value(&scrape, "pgferry_certificate_expiry_seconds{certificate=\"listener\"}") > 0.0, "{scrape}");
    drop(wire);
    let over =
        until_answer(http, "/metrics", |_, scrape| value(scrape, "pgferry_sessions{state=\"open\"}") == 0.0).await;
    assert!(value(&over, "pgferry_bytes_total{direction=\"in\"}") > 0.0, "{over}");
    assert!(value(&over, "pgferry_bytes_total{direction=\"out\"}") > 0.0, "{over}");
    shows(&over, &[("pgferry_limit_remaining{limit=\"max_connections\"}", 1000.0)]);
    names_nobody(&over);
}

/// Each label has few values, and none that a client chose.
fn names_nobody(scrape: &str) {
    let labelled = scrape.lines().filter_map(|line| Some(line.split_once('{')?.1.split_once('}')?.0));
    let values: BTreeSet<&str> = labelled.flat_map(|labels| labels.split('"').skip(1).step_by(2)).collect();
    assert!(values.len() > 10, "{values:?}");
    for name in ["kim", "lee", "shop", "prod", "app", "nothing"] {
        // `access[0]` is a rule's number.
        assert!(!values.iter().any(|value| value.contains(name)), "{name} in {values:?}");
    }
}

#[tokio::test]
async fn while_it_drains_it_is_not_ready_and_answers() {
    let world = World::reading().await;
    let mut pgferry = serve(&world.api, &format!("{LISTEN}[sessions]\ndrain = \"1h\"\n")).await;
    let http = address(&pgferry);
    assert_eq!(get(http, "/readyz").await, (200, "ready\n".to_owned()));
    let mut wire = pgferry.connect("pgferry", "shop.prod").await.unwrap();
    wire.query("begin").await.unwrap();
    pgferry.signal(Signal::TERM);
    until_answer(http, "/readyz", |status, body| (status, body) == (503, "draining\n")).await;
    assert_eq!(get(http, "/livez").await, (200, "alive\n".to_owned()));
    shows(&get(http, "/metrics").await.1, &[("pgferry_sessions{state=\"open\"}", 1.0)]);
    pgferry.signal(Signal::TERM);
    assert!(pgferry.ended().await.success());
    assert!(TcpStream::connect(http).await.is_err(), "it answers beyond its end");
}

#[tokio::test]
async fn while_the_audit_log_takes_nothing_it_is_not_ready() {
    let world = World::reading().await;
    let pipe = Pipe::new();
    let pgferry = serve(&world.api, &format!("{LISTEN}[audit]\nfile = \"{}\"\n", pipe.path.display())).await;
    let http = address(&pgferry);
    assert_eq!(get(http, "/readyz").await, (200, "ready\n".to_owned()));
    pipe.fill();
    // What still fits is kept.
    while pgferry.connect("pgferry", "shop.prod").await.is_ok() {}
    until_answer(http, "/readyz", |status, body| (status, body) == (503, "the audit log cannot be written\n")).await;
    let (_, scrape) = get(http, "/metrics").await;
    shows(&scrape, &[("pgferry_connects_total{result=\"refused\",sqlstate=\"57P03\"}", 1.0)]);
    shows(&scrape, &[("pgferry_audit_failures_total", 1.0)]);
    assert_eq!(get(http, "/livez").await.0, 200);
    until_answer(http, "/readyz", |status, _| {
        pipe.drain();
        status == 200
    })
    .await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_by_its_key() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let start = Start::new(BINARY).args(["serve", "--port", "0"]).env("PGFERRY__HTTP__LISTEN", &taken);
    let (code, _, error) = start.run().await;
    assert!(code == 69 && error.contains(&format!("http.listen: cannot listen on {taken}: ")), "{code}: {error}");
}
