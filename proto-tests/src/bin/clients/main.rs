//! The client matrix: drivers and programs as their registries have them, run through pgferry against a real server, and
//! the tables of `docs/clients.md`.
//!
//! `cargo run -p proto-tests --bin clients` runs all and writes the tables. `-- --core` runs the core and checks its rows;
//! what could not be had is told, and the exit code is then 75. `-- --only NAME` runs one client and prints its rows.
//! pgferry is built beside it, unless `PGFERRY_BINARY` names one.

mod clients;
mod install;
mod run;
mod table;
mod world;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, bail};
use tokio::sync::Semaphore;

use crate::{
    clients::Client,
    install::{Installer, Source},
    run::{Mode, Outcome, Ran},
    world::World,
};

/// As sendmail has it: nothing is wrong, and not all of it could be done.
const NOT_ALL_COULD_BE_HAD: u8 = 75;
/// Each has a pgferry, an API and a server at work for it.
const AT_ONCE: usize = 2;

fn say(line: &str) {
    // Nobody may be reading; what is run still decides.
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// What was asked for.
enum Task {
    All,
    Core,
    Only(String),
}

impl Task {
    fn read(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let task = match arguments.next().as_deref() {
            None => Self::All,
            Some("--core") => Self::Core,
            Some("--only") => Self::Only(arguments.next().context("--only NAME")?),
            Some(other) => bail!("unknown argument {other}; there are --core and --only NAME"),
        };
        arguments.next().map_or(Ok(task), |more| bail!("one argument too many: {more}"))
    }

    fn wants(&self, client: &Client) -> bool {
        match self {
            Self::All => true,
            Self::Core => client.core,
            Self::Only(name) => client.name == name,
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let task = Task::read(std::env::args().skip(1))?;
    let wanted: Vec<&'static Client> = clients::ALL.iter().filter(|client| task.wants(client)).collect();
    if wanted.is_empty() {
        let names: Vec<_> = clients::ALL.iter().map(|client| client.name).collect();
        bail!("there is no such client; there are: {}", names.join(", "));
    }
    let outcomes = run_all(&wanted).await?;
    let mut faults: Vec<String> = outcomes.iter().flat_map(|outcome| outcome.faults.clone()).collect();
    let absent = outcomes.iter().filter(|outcome| outcome.absent).count();
    match task {
        Task::All if absent == 0 => table::write(&outcomes)?,
        Task::All => faults.push("not every client could be had: the tables are left as they were".to_owned()),
        Task::Core if faults.is_empty() => faults.extend(table::differences(&outcomes)?),
        Task::Core => {}
        Task::Only(_) => say(&table::draw(&outcomes)),
    }
    for fault in &faults {
        say(&format!("FAULT {fault}"));
    }
    Ok(match (faults.is_empty(), absent) {
        (false, _) => ExitCode::FAILURE,
        (true, 0) => ExitCode::SUCCESS,
        (true, _) => ExitCode::from(NOT_ALL_COULD_BE_HAD),
    })
}

/// Installs and runs, in the order in which things come to be there.
async fn run_all(wanted: &[&'static Client]) -> anyhow::Result<Vec<Outcome>> {
    let installer = Arc::new(Installer::new()?);
    let twins = wanted.iter().any(|client| client.source == Source::Regression);
    let modes: Vec<_> = Mode::BOTH.into_iter().filter(|_| twins).map(Mode::sslmode).collect();
    let world = Arc::new(World::start(&modes).await?);
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = Vec::new();
    for client in wanted {
        let (client, installer, world, turns) =
            (*client, Arc::clone(&installer), Arc::clone(&world), Arc::clone(&turns));
        running.push(tokio::spawn(async move {
            let tool = match installer.have(&client.source).await {
                Ok(tool) => tool,
                Err(error) => return Ok(Outcome::absent(client, &error)),
            };
            let _turn = turns.acquire().await?;
            let ran = Ran { client, tool: &tool, world: &world };
            ran.through().await
        }));
    }
    let mut outcomes = Vec::new();
    for one in running {
        let outcome: anyhow::Result<Outcome> = one.await?;
        let outcome = outcome?;
        say(&outcome.line());
        outcomes.push(outcome);
    }
    Ok(outcomes)
}
