//! What is measured, one function a group of rows; the ways take turns, so that all see the same machine.

use std::{collections::VecDeque, time::Duration};

use anyhow::{Context, ensure};
use futures_util::future::join_all;
use proto_tests::wire::{Fields, Wire, message};
use tokio::{
    io::AsyncReadExt,
    time::{Instant, sleep},
};

use crate::{
    table::{Numbers, Table},
    upgrade::Upgrades,
    ways::{Column, Server, Way},
};

/// What the last connect used up is replaced before the next one.
const BREATH: Duration = Duration::from_millis(300);
const BURST: usize = 8;

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn said(error: Fields) -> anyhow::Error {
    anyhow::anyhow!("{error:?}")
}

async fn goodbye(mut wire: Wire) -> anyhow::Result<()> {
    Ok(wire.message(b'X', b"").await?)
}

/// The first connect of a program that has just been started.
pub(crate) async fn first(table: &mut Table, server: &Server, rounds: usize) -> anyhow::Result<()> {
    let mut numbers = Numbers::default();
    for _ in 0..rounds {
        let (_kubectl, forwarded) = server.kubectl().await?;
        let (_pgferry, ours) = server.pgferry(Column::Pgferry, &[]).await;
        for way in [server.direct(), forwarded, ours] {
            let (took, wire) = way.first_answer().await?;
            numbers[way.column as usize].push(took);
            goodbye(wire).await?;
        }
    }
    table.add("connect and `select 1`, the first after the start, ms", numbers);
    Ok(())
}

/// One connect after another, then several at once.
pub(crate) async fn connects(table: &mut Table, kind: &str, ways: &[Way], rounds: usize) -> anyhow::Result<()> {
    let (mut warm, mut burst) = (Numbers::default(), Numbers::default());
    for _ in 0..rounds {
        for way in ways {
            sleep(BREATH / 10).await;
            let (took, wire) = way.first_answer().await?;
            warm[way.column as usize].push(took);
            goodbye(wire).await?;
        }
    }
    for _ in 0..rounds / 4 {
        for way in ways {
            sleep(BREATH).await;
            let all = join_all((0..BURST).map(|_| way.first_answer())).await;
            for one in all {
                let (took, wire) = one?;
                burst[way.column as usize].push(took);
                goodbye(wire).await?;
            }
        }
    }
    table.add(format!("connect and `select 1`, warm{kind}, ms"), warm);
    table.add(format!("the same, {BURST} at once, ms each"), burst);
    Ok(())
}

/// The API server's part of a connect: a bound, not a way.
pub(crate) async fn upgrades(table: &mut Table, server: &Server, rounds: usize) -> anyhow::Result<()> {
    let (upgrades, mut numbers) = (Upgrades::new(server).await?, Numbers::default());
    for _ in 0..rounds {
        sleep(BREATH / 10).await;
        numbers[Column::Pgferry as usize].push(upgrades.one().await?);
    }
    table.add("of that, Kubernetes' own upgrade, measured alone", numbers);
    Ok(())
}

/// As [`connects`] with TLS up to the server. A `kubectl port-forward` does not survive a TLS session: it is started
/// anew for each measurement, and that is not counted.
pub(crate) async fn connects_over_tls(
    table: &mut Table,
    server: &Server,
    ours: &[Way],
    rounds: usize,
) -> anyhow::Result<()> {
    let (mut warm, mut burst) = (Numbers::default(), Numbers::default());
    for round in 0..rounds {
        for (numbers, at_once) in [(&mut warm, 1), (&mut burst, if round % 4 == 0 { BURST } else { 0 })] {
            let (_kubectl, forwarded) = server.kubectl().await?;
            let theirs = [server.direct().over_tls(), forwarded.over_tls()];
            // kubectl's own first connection is not what is measured here.
            for way in theirs.iter().chain(ours).filter(|_| at_once > 0) {
                sleep(BREATH / 3).await;
                let all: Vec<_> = join_all((0..at_once).map(|_| way.first_answer())).await;
                let all: Vec<(f64, Wire)> = all.into_iter().collect::<Result<_, _>>()?;
                numbers[way.column as usize].extend(all.iter().map(|(took, _)| took));
            }
        }
    }
    table.add("connect and `select 1`, warm, TLS to PostgreSQL, ms", warm);
    table.add(format!("the same, {BURST} at once, ms each"), burst);
    Ok(())
}

/// Two small writes, one answer: what Nagle's algorithm delays by 40 ms.
pub(crate) async fn echoes(table: &mut Table, ways: &[Way], rounds: usize) -> anyhow::Result<()> {
    let mut echo = Numbers::default();
    let mut wires = Vec::new();
    for way in ways {
        wires.push(way.connect().await?);
    }
    for _ in 0..rounds {
        for (way, wire) in ways.iter().zip(&mut wires) {
            let started = Instant::now();
            let query = message(b'Q', b"select 1\0");
            wire.send(&query[..6]).await?;
            wire.send(&query[6..]).await?;
            wire.until_ready().await.map_err(said)?;
            echo[way.column as usize].push(started.elapsed().as_secs_f64() * 1000.0);
        }
    }
    table.add("two small writes answered, ms", echo);
    Ok(())
}

/// COPY both ways, with the CPU time of what is in the middle.
pub(crate) async fn copies(table: &mut Table, ways: &[Way], mib: u32, rounds: usize) -> anyhow::Result<()> {
    let (mut out, mut out_cpu) = (Numbers::default(), Numbers::default());
    let (mut into, mut into_cpu) = (Numbers::default(), Numbers::default());
    for _ in 0..rounds {
        for way in ways {
            let (took, cpu) = metered(way, |wire| Box::pin(copy_out(wire, mib))).await?;
            out[way.column as usize].push(f64::from(mib) / took);
            out_cpu[way.column as usize].extend(cpu);
            let (took, cpu) = metered(way, |wire| Box::pin(copy_in(wire, mib))).await?;
            into[way.column as usize].push(f64::from(mib) / took);
            into_cpu[way.column as usize].extend(cpu);
        }
    }
    table.add(format!("COPY of {mib} MiB out, MiB/s"), out);
    table.add("CPU of the process in the middle, s", out_cpu);
    table.add(format!("COPY of {mib} MiB in, MiB/s"), into);
    table.add("CPU of the process in the middle, s", into_cpu);
    Ok(())
}

type Working<'a> = std::pin::Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;

/// Seconds that it took, and seconds of CPU in the middle.
async fn metered(
    way: &Way,
    work: impl for<'a> FnOnce(&'a mut Wire) -> Working<'a>,
) -> anyhow::Result<(f64, Option<f64>)> {
    let mut wire = way.connect().await?;
    let (before, started) = (way.cpu(), Instant::now());
    work(&mut wire).await?;
    let took = started.elapsed().as_secs_f64();
    let cpu = way.cpu().zip(before).map(|(after, before)| after - before);
    goodbye(wire).await?;
    Ok((took, cpu))
}

/// Reads to ReadyForQuery without taking messages apart.
async fn copy_out(wire: &mut Wire, mib: u32) -> anyhow::Result<()> {
    let rows = u64::from(mib) * 1024;
    let sql = format!("copy (select repeat('x', 1023) from generate_series(1, {rows})) to stdout\0");
    wire.message(b'Q', sql.as_bytes()).await?;
    let mut buffer = vec![0; 256 * 1024];
    let mut tail = VecDeque::from([0; 6]);
    let mut bytes = 0;
    while tail != [b'Z', 0, 0, 0, 5, b'I'] {
        let read = wire.read(&mut buffer).await?;
        ensure!(read > 0, "an early end");
        bytes += read as u64;
        for byte in &buffer[read.saturating_sub(6)..read] {
            tail.pop_front();
            tail.push_back(*byte);
        }
    }
    ensure!(bytes > rows * 1024, "a short COPY");
    Ok(())
}

async fn copy_in(wire: &mut Wire, mib: u32) -> anyhow::Result<()> {
    wire.query("create temp table bench (x text)").await.map_err(said)?;
    wire.message(b'Q', b"copy bench from stdin\0").await?;
    let line = [&[b'x'; 1023][..], b"\n"].concat();
    let chunk = message(b'd', &line.repeat(64));
    for _ in 0..mib * 16 {
        wire.send(&chunk).await?;
    }
    wire.message(b'c', b"").await?;
    wire.until_ready().await.map_err(said)?;
    Ok(())
}

/// Resident memory of idle sessions that have each run a result of 1 MB, over all clusters that there are: each lets
/// in a hundred.
pub(crate) async fn idle(table: &mut Table, way: &Way, clusters: &[String], most: usize) -> anyhow::Result<()> {
    /// A cluster's own instance manager needs some, and so does whoever else is there.
    const EACH: usize = 70;
    let to = |cluster: &String| Way { user: "pgferry".to_owned(), database: cluster.clone(), ..way.clone() };
    let targets: Vec<Way> =
        clusters.iter().flat_map(|cluster| std::iter::repeat_n(to(cluster), EACH)).take(most).collect();
    // What is kept once, not for each session, is there before.
    for cluster in clusters {
        run_a_megabyte(&to(cluster)).await?;
    }
    let before = way.resident().context("a process")?;
    let mut open = Vec::new();
    for target in &targets {
        open.push(run_a_megabyte(target).await?);
    }
    let after = way.resident().context("a process")?;
    let mut numbers = Numbers::default();
    #[expect(clippy::cast_precision_loss, reason = "some hundred")]
    numbers[way.column as usize].push((after - before) / open.len() as f64);
    table.add(format!("RSS of an idle session ({} of them), KiB", open.len()), numbers);
    Ok(())
}

async fn run_a_megabyte(way: &Way) -> anyhow::Result<Wire> {
    let mut wire = way.connect().await?;
    wire.value("select repeat('x', 1000000)").await.map_err(said)?;
    Ok(wire)
}
