//! pgferry beside a direct connection, `kubectl port-forward` and `PgBouncer`, interleaved in one run, on a real cluster.
//!
//! `cargo bench --bench side_by_side -- [--rtt MS] [--rounds N] [--mib N] [--sessions N] [--namespace NS] [--cluster NAME]
//! [--raw FILE]` needs `KUBECONFIG`, kubectl, clusters of `CloudNativePG`, and pods that are reachable from here (for the
//! direct column); `PgBouncer` is measured where it is installed. It prints one table with ratios, and keeps every number
//! in the file. `--rtt` delays the way to the API server and to the pod, and charges one round trip for a TCP connect.

#![expect(clippy::indexing_slicing, reason = "a measuring program: a panic is its report")]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::{
    relay::relay,
    table::Table,
    ways::{Column, Server, kubectl},
};

mod relay;
mod rows;
mod table;
mod upgrade;
mod ways;

struct Options {
    rtt: Duration,
    rounds: usize,
    mib: u32,
    sessions: usize,
    namespace: String,
    cluster: String,
    raw: PathBuf,
}

fn options() -> anyhow::Result<Options> {
    let mut options = Options {
        rtt: Duration::ZERO,
        rounds: 40,
        mib: 512,
        sessions: 200,
        namespace: "prod".into(),
        cluster: "shop".into(),
        raw: "target/side_by_side.json".into(),
    };
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        let value = args.next().with_context(|| format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--rtt" => options.rtt = Duration::from_millis(value.parse()?),
            "--rounds" => options.rounds = value.parse()?,
            "--mib" => options.mib = value.parse()?,
            "--sessions" => options.sessions = value.parse()?,
            "--namespace" => options.namespace = value,
            "--cluster" => options.cluster = value,
            "--raw" => options.raw = value.into(),
            other => bail!("unknown argument {other}"),
        }
    }
    Ok(options)
}

/// A kubeconfig that leads to the API server through the relay: another address, and the real name for TLS.
async fn kubeconfig(rtt: Duration, folder: &Path) -> anyhow::Result<PathBuf> {
    let args = ["config", "view", "--minify", "--raw", "--flatten", "-o", "json"];
    let mut config: Value = serde_json::from_str(&kubectl(&args).await?)?;
    let cluster = config.pointer_mut("/clusters/0/cluster").context("a cluster")?;
    let server = cluster["server"].as_str().context("a server")?;
    let authority = server.trim_start_matches("https://").to_owned();
    let name = authority.split(':').next().context("a name")?;
    let api = tokio::net::lookup_host(&authority).await?.next().context("an address")?;
    cluster["server"] = json!(format!("https://{}", relay(api, rtt).await?));
    cluster["tls-server-name"] = json!(name);
    let file = folder.join("kubeconfig");
    fs::write(&file, config.to_string())?;
    Ok(file)
}

async fn server(options: &Options, folder: &Path) -> anyhow::Result<Server> {
    let (namespace, cluster) = (options.namespace.as_str(), options.cluster.as_str());
    let get =
        async |what: &str, name: &str, path: &str| kubectl(&["get", what, "-n", namespace, name, "-o", path]).await;
    let pod = get("cluster", cluster, "jsonpath={.status.currentPrimary}").await?;
    let address = get("pod", &pod, "jsonpath={.status.podIP}").await?;
    let secret = get("secret", &format!("{cluster}-app"), "go-template={{.data.password | base64decode}}").await?;
    Ok(Server {
        namespace: namespace.to_owned(),
        cluster: cluster.to_owned(),
        pod,
        password: secret,
        direct: relay(format!("{address}:5432").parse()?, options.rtt).await?,
        kubeconfig: kubeconfig(options.rtt, folder).await?,
    })
}

/// What the numbers were measured on.
fn about(options: &Options) -> String {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{cpus} x {}, {}, round trip {} ms",
        field(&read("/proc/cpuinfo"), "model name"),
        field(&read("/proc/meminfo"), "MemTotal"),
        options.rtt.as_millis()
    )
}

async fn measure(options: &Options, server: &Server, folder: &Path) -> anyhow::Result<Table> {
    let mut table = Table::default();
    rows::first(&mut table, server, 5).await?;
    let (_kubectl, forwarded) = server.kubectl().await?;
    let (_pgferry, ours) = server.pgferry(Column::Pgferry, &[]).await;
    let spare = [("PGFERRY__SESSIONS__SPARE", "15s")];
    let (_sparing, sparing) = server.pgferry(Column::Spare, &spare).await;
    // PostgreSQL over TLS, though the port-forward ends in the pod.
    let config = folder.join("pgferry.toml");
    fs::write(&config, format!("[clusters.\"{}.{}\"]\nsslmode = \"require\"\n", server.cluster, server.namespace))?;
    let config = [("PGFERRY_CONFIG", config.to_str().context("a path")?)];
    let (_strict, strict) = server.pgferry(Column::Pgferry, &config).await;
    let bouncer = server.pgbouncer(folder).await?;

    let mut ways = vec![server.direct(), forwarded, ours.clone(), sparing.clone()];
    ways.extend(bouncer.iter().map(|(_, way)| way.clone()));
    rows::connects(&mut table, "", &ways, options.rounds).await?;
    rows::upgrades(&mut table, server, options.rounds).await?;
    rows::connects_over_tls(&mut table, server, &[strict], options.rounds).await?;
    let from_client = [ours.over_tls(), sparing.over_tls()];
    rows::connects(&mut table, ", TLS from the client to pgferry", &from_client, options.rounds).await?;
    rows::echoes(&mut table, &ways, options.rounds).await?;
    ways.retain(|way| way.column != Column::Spare);
    rows::copies(&mut table, &ways, options.mib, 3).await?;
    let clusters = kubectl(&[
        "get",
        "clusters.postgresql.cnpg.io",
        "-A",
        "-o",
        "go-template={{range .items}}{{.metadata.name}}.{{.metadata.namespace}} {{end}}",
    ])
    .await?;
    let clusters: Vec<String> = clusters.split_whitespace().map(str::to_owned).collect();
    rows::idle(&mut table, &ours, &clusters, options.sessions).await?;
    Ok(table)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = options()?;
    let folder = tempfile::tempdir()?;
    let server = server(&options, folder.path()).await?;
    let table = measure(&options, &server, folder.path()).await?;
    let about = about(&options);
    writeln!(std::io::stdout().lock(), "{about}\n\n{}", table.markdown())?;
    table.keep(&about, &options.raw)
}
