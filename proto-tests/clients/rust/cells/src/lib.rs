//! Every cell of a Rust driver, made of the few things that drivers do differently.

use std::{collections::HashSet, env, future::Future, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

pub const TARGET: &str = "shop.prod";
pub const DEFAULT: &str = "pgferry";
pub const USER: &str = "app@shop.prod";
pub const ROWS: usize = 10_000;
const BIG: usize = 64 << 20;

/// Whether this run is inside TLS.
pub fn tls() -> bool {
    env::var("CLIENT_TLS").is_ok_and(|mode| mode == "require")
}

pub fn host() -> String {
    env::var("CLIENT_HOST").unwrap_or_default()
}

pub fn port() -> u16 {
    env::var("CLIENT_PORT").ok().and_then(|port| port.parse().ok()).unwrap_or_default()
}

/// What COPY carries.
pub fn lines() -> String {
    (0..ROWS).map(|n| format!("{n}\tline {n}\n")).collect()
}

pub fn copy_out() -> String {
    format!("copy (select n, 'line ' || n from generate_series(0, {}) n) to stdout", ROWS - 1)
}

/// An error of the server, as a driver tells it.
#[derive(Debug, Default)]
pub struct Told {
    pub message: String,
    /// None where the driver does not tell it.
    pub code: Option<String>,
    pub hint: Option<String>,
}

pub fn same<T: PartialEq + std::fmt::Debug>(found: T, wanted: T) -> Result<()> {
    ensure!(found == wanted, "{:.300} is not {:.300}", format!("{found:?}"), format!("{wanted:?}"));
    Ok(())
}

pub trait Connection: Sized + Send + 'static {
    fn connect(user: &str, database: &str, direct: bool) -> impl Future<Output = Result<Self>> + Send;
    /// The first value; without a bound one by the simple protocol, where the driver has it.
    fn value(&mut self, sql: &str, bound: Option<String>) -> impl Future<Output = Result<String>> + Send;
    fn run(&mut self, sql: &str) -> impl Future<Output = Result<()>> + Send;
    fn told(error: &anyhow::Error) -> Told;
    /// The driver's own cells.
    const OWN: &'static [&'static str];
    fn own(cell: &str) -> impl Future<Output = Result<()>> + Send;
}

pub async fn open<C: Connection>() -> Result<C> {
    C::connect(USER, "app", false).await
}

pub async fn is<C: Connection>(connection: &mut C, sql: &str, wanted: &str) -> Result<()> {
    same(connection.value(sql, None).await?.as_str(), wanted)
}

/// The code must be right, or the words where a driver has no codes; gives what told it.
async fn fails<C: Connection>(connection: &mut C, sql: &str, (code, words): (&str, &str)) -> Result<&'static str> {
    let told = C::told(&connection.value(sql, None).await.err().context("no error came")?);
    ensure!(told.message.contains(words), "{}", told.message);
    told.code.map_or(Ok("message"), |found| same(found.as_str(), code).map(|()| ""))
}

/// Waits until the server is at work on a sleep.
pub async fn sleeping<C: Connection>(pid: &str) -> Result<()> {
    let mut other: C = open().await?;
    let look =
        format!("select (state = 'active' and query like '%pg_sleep%')::text from pg_stat_activity where pid = {pid}");
    while other.value(&look, None).await? != "true" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn who<C: Connection>(user: &str, database: &str, wanted: &str) -> Result<()> {
    let mut one = C::connect(user, database, false).await?;
    is(&mut one, "select current_user || '/' || current_database()", wanted).await
}

async fn prepared<C: Connection>() -> Result<()> {
    let mut one: C = open().await?;
    for value in ["one", "two", "three"] {
        let found = one.value("select 'the ' || $1::text", Some(value.to_owned())).await?;
        same(found, format!("the {value}"))?;
    }
    Ok(())
}

async fn transaction<C: Connection>() -> Result<()> {
    let mut one: C = open().await?;
    one.run("create temp table t (n int)").await?;
    for (end, wanted) in [("rollback", "0"), ("commit", "1")] {
        for sql in ["begin", "insert into t values (1)", end] {
            one.run(sql).await?;
        }
        is(&mut one, "select count(*)::text from t", wanted).await?;
    }
    Ok(())
}

async fn error<C: Connection>() -> Result<String> {
    let mut one: C = open().await?;
    let told = fails(&mut one, "select (1 / 0)::text", ("22012", "division by zero")).await?;
    is(&mut one, "select 'on'", "on").await?;
    one.run("begin").await?;
    fails(&mut one, "select nothing", ("42703", "\"nothing\" does not exist")).await?;
    fails(&mut one, "select 'on'", ("25P02", "current transaction is aborted")).await?;
    one.run("rollback").await?;
    is(&mut one, "select 'on'", "on").await?;
    Ok(told.to_owned())
}

async fn large<C: Connection>() -> Result<()> {
    let mut one: C = open().await?;
    same(one.value("select length($1::text)::text", Some("x".repeat(BIG))).await?, BIG.to_string())?;
    same(one.value(&format!("select repeat('y', {BIG})"), None).await?.len(), BIG)
}

async fn reconnect<C: Connection>() -> Result<()> {
    let (mut one, mut other): (C, C) = (open().await?, open().await?);
    let pid = one.value("select pg_backend_pid()::text", None).await?;
    is(&mut other, &format!("select pg_terminate_backend({pid})::text"), "true").await?;
    one.value("select 'on'", None).await.err().context("no error came")?;
    let mut again: C = open().await?;
    is(&mut again, "select 'on'", "on").await
}

async fn twenty<C: Connection>() -> Result<()> {
    let all: Vec<_> = (0..20).map(|_| tokio::spawn(open::<C>())).collect();
    let (mut open, mut pids) = (Vec::new(), HashSet::new());
    for one in all {
        open.push(one.await??);
    }
    for one in &mut open {
        pids.insert(one.value("select pg_backend_pid()::text", None).await?);
    }
    same(pids.len(), 20)
}

async fn refused<C: Connection>(user: &str, database: &str, (code, words): (&str, &[&str])) -> Result<String> {
    let told = C::told(&C::connect(user, database, false).await.err().context("no error came")?);
    ensure!(words.iter().all(|word| told.message.contains(word)), "{}", told.message);
    ensure!(told.hint.is_some_and(|hint| !hint.trim().is_empty()), "no hint");
    let Some(found) = told.code else { return Ok("message, hint".to_owned()) };
    same(found.as_str(), code)?;
    Ok("message, SQLSTATE, hint".to_owned())
}

async fn cell<C: Connection>(name: &str) -> Result<String> {
    match name {
        "connect" => who::<C>(DEFAULT, TARGET, "app/app").await?,
        "direct TLS" => is(&mut C::connect(USER, "app", true).await?, "select 'on'", "on").await?,
        "database name" => {
            who::<C>(DEFAULT, TARGET, "app/app").await?;
            who::<C>("reporting", TARGET, "reporting/app").await?;
        }
        "role@target" => {
            who::<C>(USER, "app", "app/app").await?;
            who::<C>(USER, "postgres", "app/postgres").await?;
        }
        "simple query" => is(&mut open::<C>().await?, "select 'Fähre ' || 6 * 7", "Fähre 42").await?,
        "prepared" => prepared::<C>().await?,
        "transaction" => transaction::<C>().await?,
        "error" => return error::<C>().await,
        "64 MiB" => large::<C>().await?,
        "reconnect" => reconnect::<C>().await?,
        "20 at once" => twenty::<C>().await?,
        "wrong cluster" => return refused::<C>(DEFAULT, "nowhere.prod", ("3D000", &["nowhere"])).await,
        "wrong role" => return refused::<C>("nobody@shop.prod", "app", ("28000", &["nobody", "shop.prod"])).await,
        own => C::own(own).await?,
    }
    Ok(String::new())
}

fn say(what: &Value) {
    println!("{what}");
}

/// Runs all cells.
pub async fn run<C: Connection>(version: &str) {
    const CELLS: [&str; 12] = [
        "connect",
        "database name",
        "role@target",
        "simple query",
        "prepared",
        "transaction",
        "error",
        "64 MiB",
        "reconnect",
        "20 at once",
        "wrong cluster",
        "wrong role",
    ];
    say(&json!({"version": version}));
    for name in CELLS.iter().chain(C::OWN) {
        if *name == "direct TLS" && !tls() {
            continue;
        }
        ran(name, cell::<C>(name).await);
    }
}

/// Says what came of a cell.
pub fn ran(cell: &str, outcome: Result<String>) {
    match outcome {
        Ok(detail) => say(&json!({"cell": cell, "ok": true, "detail": detail})),
        Err(error) => say(&json!({"cell": cell, "ok": false, "detail": format!("{error:?}")})),
    }
}
