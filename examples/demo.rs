//! pgferry without a Kubernetes: two clusters on real PostgreSQL servers behind a Kubernetes API made for tests.
//!
//! `cargo run --release --example demo` serves them until Ctrl-C; with `-- --check` it only proves that they can be
//! reached, and exits 0 or 1.

use std::io::{self, Write};

use anyhow::{Context, bail, ensure};
use pgferry::{
    app::Server,
    server::{self, Stop},
    settings::{self, Sources},
    telemetry, tls,
};
use proto_tests::{demo::Rig, wire::Wire};
use tokio::sync::watch;

fn say(line: &str) {
    // Nobody may be reading; the demo goes on.
    let _ = writeln!(io::stdout().lock(), "{line}");
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let check = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => bail!("unknown argument {other}; there is only --check"),
    };
    tls::install_crypto_provider();
    telemetry::start("warn", telemetry::Format::Text)?;
    let rig = Rig::start(|what| say(&format!("... {what}"))).await?;
    let server = bind(&rig, if check { 0 } else { 10_000 })?;
    let port = server.port().context("a port")?;
    let (stop, signals) = if check {
        (watch::channel(Stop::Not).1, None)
    } else {
        let (stop, signals) = server::signals()?;
        (stop, Some(tokio::spawn(signals)))
    };
    let (ending, stopped) = watch::channel(Stop::Not);
    let stop = if check { stopped } else { stop };
    let serving = tokio::spawn(server.run(stop));
    prove(port).await?;
    if check {
        ending.send_replace(Stop::Now);
    } else {
        say(&instructions(port));
    }
    serving.await?;
    if let Some(signals) = signals {
        signals.abort();
    }
    say(if check { "The demo works." } else { "Everything is removed." });
    Ok(())
}

/// On the wanted port, or the next free one.
fn bind(rig: &Rig, wanted: u16) -> anyhow::Result<Server> {
    let mut last = None;
    for port in wanted..wanted.saturating_add(50) {
        let kubeconfig = rig.kubeconfig().to_string_lossy().into_owned();
        let sources = Sources {
            flags: vec![
                ("listen.port", "--port", i64::from(port).into()),
                ("kubernetes.kubeconfig", "--kubeconfig", kubeconfig.into()),
            ],
            ..Sources::default()
        };
        match Server::bind(&settings::load(&sources)?.settings) {
            Ok(server) => return Ok(server),
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("no port was tried")?)
}

/// A query through the proxy to each cluster, before anything is promised.
async fn prove(port: u16) -> anyhow::Result<()> {
    for (user, database, query, wanted) in [
        ("demo", "shop", "select count(*) from orders", "1000"),
        ("demo", "shop:ro", "select pg_is_in_recovery()", "t"),
        ("reporting@ledger", "books", "select count(*) from entries", "500"),
    ] {
        let user = if user == "demo" { "" } else { user };
        let mut wire = Wire::tcp(("127.0.0.1", port)).await?;
        let user = if user.is_empty() { "pgferry" } else { user };
        let failed = |error| anyhow::anyhow!("{user} {database}: {error:?}");
        wire.start(&[("user", user), ("database", database)]).await.map_err(failed)?;
        let found = wire.value(query).await.map_err(failed)?;
        ensure!(found == wanted, "{database}: {query} gave {found}, not {wanted}");
    }
    Ok(())
}

fn instructions(port: u16) -> String {
    format!(
        "\nReady. Two clusters: shop (namespace prod, PostgreSQL 18, one replica) and ledger (finance, PostgreSQL 16).\n
  psql -h localhost -p {port} shop                          its primary, as the application's role
  psql -h localhost -p {port} shop:ro                       a replica
  psql -h localhost -p {port} ledger                        found in its namespace
  psql -h localhost -p {port} -U reporting@ledger books     another role
  psql -h localhost -p {port} shpo                          an error that helps

In a GUI: host localhost, port {port}, user app@shop or clerk@ledger, no password, any database.
URL: postgresql://app%40shop@localhost:{port}/app

Ctrl-C removes everything."
    )
}
