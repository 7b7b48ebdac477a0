//! pgferry beside a direct connection and `kubectl port-forward`, interleaved in one run, on a real cluster.
//!
//! `cargo bench --bench side_by_side -- [--rtt MS] [--rounds N] [--mib N] [--namespace NS] [--cluster NAME]` needs
//! `KUBECONFIG`, kubectl, and pods that are reachable from here (for the direct row). It prints ratios to the direct
//! connection, and the raw numbers as JSON behind them. `--rtt` delays the way to the API server and to the pod, and
//! charges one round trip for a TCP connect.

#![expect(clippy::indexing_slicing, reason = "a measuring program: a panic is its report")]

use std::{
    collections::VecDeque,
    fs,
    io::Write as _,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use proto_tests::{
    subject::{Start, Subject},
    wire::Wire,
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

struct Options {
    rtt: Duration,
    rounds: usize,
    mib: usize,
    namespace: String,
    cluster: String,
}

fn options() -> anyhow::Result<Options> {
    let mut options =
        Options { rtt: Duration::ZERO, rounds: 30, mib: 512, namespace: "prod".into(), cluster: "shop".into() };
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        let value = args.next().with_context(|| format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--rtt" => options.rtt = Duration::from_millis(value.parse()?),
            "--rounds" => options.rounds = value.parse()?,
            "--mib" => options.mib = value.parse()?,
            "--namespace" => options.namespace = value,
            "--cluster" => options.cluster = value,
            other => bail!("unknown argument {other}"),
        }
    }
    Ok(options)
}

async fn kubectl(args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("kubectl").args(args).output().await.context("kubectl")?;
    ensure!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A relay that delays bytes by half a round trip each way, and answers a connect after a whole one.
async fn relay(to: SocketAddr, rtt: Duration) -> anyhow::Result<SocketAddr> {
    if rtt.is_zero() {
        return Ok(to);
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(to).await else { return };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                sleep(rtt).await;
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                tokio::join!(delay(client_read, server_write, rtt / 2), delay(server_read, client_write, rtt / 2));
            });
        }
    });
    Ok(address)
}

async fn delay(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf, by: Duration) {
    let (sender, mut queue) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let write = async move {
        while let Some((at, bytes)) = queue.recv().await {
            sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    let read = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            if sender.send((Instant::now() + by, buffer[..n].to_vec())).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(write, read);
}

/// One way to the server.
struct Way {
    name: &'static str,
    address: SocketAddr,
    user: String,
    password: Option<String>,
    /// The process in the middle, whose CPU time counts.
    pid: Option<u32>,
}

impl Way {
    async fn connect(&self) -> anyhow::Result<Wire> {
        let mut wire = Wire::tcp(self.address).await?;
        let parameters = [("user", self.user.as_str()), ("database", "app")];
        match &self.password {
            Some(password) => wire.start_with_password(&parameters, password).await,
            None => wire.start(&parameters).await.map(|_| ()),
        }
        .map_err(|error| anyhow::anyhow!("{}: {error:?}", self.name))?;
        Ok(wire)
    }

    /// Seconds for a connect and a `select 1`.
    async fn first_answer(&self) -> anyhow::Result<f64> {
        let started = Instant::now();
        let mut wire = self.connect().await?;
        wire.value("select 1").await.map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let took = started.elapsed().as_secs_f64();
        wire.message(b'X', b"").await?;
        Ok(took)
    }

    fn cpu(&self) -> f64 {
        let Some(pid) = self.pid else { return 0.0 };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks: f64 = fields.get(11..13).unwrap_or_default().iter().filter_map(|f| f.parse::<f64>().ok()).sum();
        // USER_HZ is 100 on every Linux.
        ticks / 100.0
    }
}

async fn forward(namespace: &str, pod: &str, kubeconfig: &Path) -> anyhow::Result<(Child, SocketAddr)> {
    let mut child = Command::new("kubectl")
        .args(["port-forward", "-n", namespace, &format!("pod/{pod}"), ":5432", "--kubeconfig"])
        .arg(kubeconfig)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    let line = lines.next_line().await?.context("a line of kubectl's")?;
    let port: u16 =
        line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).context("a port")?.parse()?;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((child, SocketAddr::from(([127, 0, 0, 1], port))))
}

fn median(numbers: &[f64]) -> f64 {
    quantile(numbers, 0.5)
}

fn quantile(numbers: &[f64], at: f64) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let index = ((sorted.len().saturating_sub(1)) as f64 * at).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

/// Rows of the table: what was measured, and one list of numbers a way.
#[derive(Default)]
struct Table(Vec<(String, Vec<Vec<f64>>)>);

impl Table {
    fn add(&mut self, what: impl Into<String>, numbers: Vec<Vec<f64>>) {
        self.0.push((what.into(), numbers));
    }

    fn print(&self, ways: &[Way]) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        let names: Vec<&str> = ways.iter().map(|way| way.name).collect();
        writeln!(out, "| p50 (p95) | {} | to direct | to kubectl |", names.join(" | "))?;
        writeln!(out, "| --- |{}", " --- |".repeat(names.len() + 2))?;
        for (what, numbers) in &self.0 {
            let cell = |n: &Vec<f64>| {
                if n.is_empty() { String::new() } else { format!("{:.1} ({:.1})", median(n), quantile(n, 0.95)) }
            };
            let none = Vec::new();
            let cells: Vec<String> = (0..names.len()).map(|at| cell(numbers.get(at).unwrap_or(&none))).collect();
            let [direct, kubectl, pgferry] = [0, 1, 2].map(|at| numbers.get(at).map_or(f64::NAN, |n| median(n)));
            let (to_direct, to_kubectl) = (pgferry / direct, pgferry / kubectl);
            writeln!(out, "| {what} | {} | {to_direct:.2} | {to_kubectl:.2} |", cells.join(" | "))?;
        }
        let raw: Vec<_> =
            self.0.iter().map(|(what, numbers)| json!({"row": what, "ways": names, "raw": numbers})).collect();
        writeln!(out, "\nraw: {}", json!(raw))?;
        Ok(())
    }
}

async fn connects(table: &mut Table, ways: &[Way], rounds: usize) -> anyhow::Result<()> {
    let mut warm = vec![Vec::new(); ways.len()];
    let mut burst = vec![Vec::new(); ways.len()];
    for _ in 0..rounds {
        for (way, numbers) in ways.iter().zip(&mut warm) {
            numbers.push(way.first_answer().await? * 1000.0);
        }
    }
    for _ in 0..rounds / 3 {
        for (way, numbers) in ways.iter().zip(&mut burst) {
            // What the last burst used up is replaced before the next one.
            sleep(Duration::from_millis(300)).await;
            let all = futures_util::future::join_all((0..8).map(|_| way.first_answer())).await;
            for one in all {
                numbers.push(one? * 1000.0);
            }
        }
    }
    table.add("connect and select 1, warm, ms", warm);
    table.add("the same, 8 at once, ms each", burst);
    Ok(())
}

async fn echoes(table: &mut Table, ways: &[Way], rounds: usize) -> anyhow::Result<()> {
    let mut echo = vec![Vec::new(); ways.len()];
    for (way, numbers) in ways.iter().zip(&mut echo) {
        let mut wire = way.connect().await?;
        for _ in 0..rounds {
            let started = Instant::now();
            // Two small writes, one answer: what Nagle's algorithm delays by 40 ms.
            let query = proto_tests::wire::message(b'Q', b"select 1\0");
            wire.send(&query[..6]).await?;
            wire.send(&query[6..]).await?;
            wire.until_ready().await.map_err(|error| anyhow::anyhow!("{error:?}"))?;
            numbers.push(started.elapsed().as_secs_f64() * 1000.0);
        }
    }
    table.add("two small writes answered, ms", echo);
    Ok(())
}

async fn copies(table: &mut Table, ways: &[Way], mib: usize) -> anyhow::Result<()> {
    let (mut out, mut out_cpu, mut into, mut into_cpu) = (vec![], vec![], vec![], vec![]);
    let rows = mib * 1024;
    for way in ways {
        let (cpu, started) = (way.cpu(), Instant::now());
        let mut wire = way.connect().await?;
        let sql = format!("copy (select repeat('x', 1023) from generate_series(1, {rows})) to stdout\0");
        wire.message(b'Q', sql.as_bytes()).await?;
        let bytes = Arc::new(AtomicU64::new(0));
        drain(&mut wire, &bytes).await?;
        ensure!(bytes.load(Ordering::Relaxed) > (rows * 1024) as u64, "{}: a short COPY", way.name);
        #[expect(clippy::cast_precision_loss, reason = "some hundred")]
        out.push(vec![mib as f64 / started.elapsed().as_secs_f64()]);
        out_cpu.push(vec![way.cpu() - cpu]);
    }
    for way in ways {
        let mut wire = way.connect().await?;
        let error = |error| anyhow::anyhow!("{error:?}");
        wire.query("create temp table bench (x text)").await.map_err(error)?;
        let (cpu, started) = (way.cpu(), Instant::now());
        wire.message(b'Q', b"copy bench from stdin\0").await?;
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let chunk = proto_tests::wire::message(b'd', &line.repeat(64));
        for _ in 0..mib * 16 {
            wire.send(&chunk).await?;
        }
        wire.message(b'c', b"").await?;
        wire.until_ready().await.map_err(error)?;
        #[expect(clippy::cast_precision_loss, reason = "some hundred")]
        into.push(vec![mib as f64 / started.elapsed().as_secs_f64()]);
        into_cpu.push(vec![way.cpu() - cpu]);
    }
    table.add(format!("COPY of {mib} MiB out, MiB/s"), out);
    table.add("CPU in the middle, s", out_cpu);
    table.add(format!("COPY of {mib} MiB in, MiB/s"), into);
    table.add("CPU in the middle, s", into_cpu);
    Ok(())
}

/// Reads to ReadyForQuery without taking messages apart.
async fn drain(wire: &mut Wire, bytes: &AtomicU64) -> anyhow::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let mut tail = VecDeque::from([0; 6]);
    loop {
        let read = wire.read(&mut buffer).await?;
        ensure!(read > 0, "an early end");
        bytes.fetch_add(read as u64, Ordering::Relaxed);
        for byte in &buffer[read.saturating_sub(6)..read] {
            tail.pop_front();
            tail.push_back(*byte);
        }
        if tail == [b'Z', 0, 0, 0, 5, b'I'] {
            return Ok(());
        }
    }
}

fn resident(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(f64::NAN)
}

/// Resident memory of an idle session that has run a 1 MB result.
async fn idle_sessions(way: &Way, count: u32) -> anyhow::Result<f64> {
    let pid = way.pid.context("a process")?;
    let error = |error| anyhow::anyhow!("{error:?}");
    way.connect().await?.value("select repeat('x', 1000000)").await.map_err(error)?;
    let before = resident(pid);
    let mut open = Vec::new();
    for _ in 0..count {
        let mut wire = way.connect().await?;
        wire.value("select repeat('x', 1000000)").await.map_err(error)?;
        open.push(wire);
    }
    let after = resident(pid);
    drop(open);
    Ok((after - before) / f64::from(count))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = options()?;
    let (namespace, cluster) = (options.namespace.as_str(), options.cluster.as_str());
    let primary =
        kubectl(&["get", "cluster", "-n", namespace, cluster, "-o", "jsonpath={.status.currentPrimary}"]).await?;
    let pod = kubectl(&["get", "pod", "-n", namespace, &primary, "-o", "jsonpath={.status.podIP}"]).await?;
    let secret = format!("{cluster}-app");
    let password =
        kubectl(&["get", "secret", "-n", namespace, &secret, "-o", "go-template={{.data.password | base64decode}}"])
            .await?;
    // The API server is reached through the relay too: the kubeconfig gets its address, and the real name for TLS.
    let raw: serde_json::Value =
        serde_json::from_str(&kubectl(&["config", "view", "--minify", "--raw", "--flatten", "-o", "json"]).await?)?;
    let server = raw.pointer("/clusters/0/cluster/server").and_then(|server| server.as_str()).context("a server")?;
    let authority = server.trim_start_matches("https://");
    let name = authority.split(':').next().context("a name")?;
    let api = tokio::net::lookup_host(authority).await?.next().context("an address")?;
    let relayed = relay(api, options.rtt).await?;
    let mut config = raw.clone();
    config["clusters"][0]["cluster"]["server"] = json!(format!("https://{relayed}"));
    config["clusters"][0]["cluster"]["tls-server-name"] = json!(name);
    let directory = tempfile::tempdir()?;
    let kubeconfig = directory.path().join("kubeconfig");
    fs::write(&kubeconfig, config.to_string())?;

    let direct = relay(format!("{pod}:5432").parse()?, options.rtt).await?;
    let (child, forwarded) = forward(namespace, &primary, &kubeconfig).await?;
    let subject: Subject = Start::new(env!("CARGO_BIN_EXE_pgferry"))
        .args(["serve", "--port", "0", "--log", "warn,pgferry=info", "--kubeconfig"])
        .arg(&kubeconfig)
        .wait()
        .await;
    // The same with a session that is logged in ahead for the next connect.
    let sparing: Subject = Start::new(env!("CARGO_BIN_EXE_pgferry"))
        .args(["serve", "--port", "0", "--log", "warn,pgferry=info", "--kubeconfig"])
        .arg(&kubeconfig)
        .env("PGFERRY__SESSIONS__SPARE", "15s")
        .wait()
        .await;
    let as_app = |name, address, pid| Way { name, address, user: "app".into(), password: Some(password.clone()), pid };
    let ways = [
        as_app("direct", direct, None),
        as_app("kubectl", forwarded, child.id()),
        Way {
            name: "pgferry",
            address: subject.address(),
            user: format!("app@{cluster}.{namespace}"),
            password: None,
            pid: Some(subject.pid()),
        },
        Way {
            name: "pgferry, spare",
            address: sparing.address(),
            user: format!("app@{cluster}.{namespace}"),
            password: None,
            pid: Some(sparing.pid()),
        },
    ];
    let mut table = Table::default();
    let mut cold = Vec::new();
    for way in &ways {
        cold.push(vec![way.first_answer().await? * 1000.0]);
    }
    table.add("connect and select 1, the first, ms", cold);
    sleep(Duration::from_secs(1)).await;
    connects(&mut table, &ways, options.rounds).await?;
    echoes(&mut table, &ways, options.rounds).await?;
    if options.rtt.is_zero() {
        copies(&mut table, &ways[..3], options.mib).await?;
        // The operator leaves max_connections at 100.
        let idle = idle_sessions(&ways[2], 60).await?;
        table.add("RSS of an idle session, KiB", vec![vec![], vec![], vec![idle]]);
    }
    table.print(&ways)?;
    drop(child);
    Ok(())
}
