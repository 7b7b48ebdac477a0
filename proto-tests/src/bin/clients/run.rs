//! One client run through all its cells, in plaintext and inside TLS.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader},
    process::{Child, Command},
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{
    clients::{Client, DIRECT},
    install::Tool,
    world::World,
};

/// For one cell, which only a broken program needs.
const PATIENCE: Duration = Duration::from_mins(3);

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Mode {
    Plaintext,
    Tls,
}

impl Mode {
    pub(crate) const BOTH: [Self; 2] = [Self::Plaintext, Self::Tls];

    /// As libpq's `sslmode` calls it.
    pub(crate) const fn sslmode(self) -> &'static str {
        match self {
            Self::Plaintext => "disable",
            Self::Tls => "require",
        }
    }
}

/// What came of a cell: a word for the table.
pub(crate) type Cells = BTreeMap<(Mode, String), String>;

/// What came of a client.
pub(crate) struct Outcome {
    pub(crate) client: &'static Client,
    pub(crate) version: String,
    pub(crate) cells: Cells,
    pub(crate) faults: Vec<String>,
    pub(crate) absent: bool,
    told: String,
}

impl Outcome {
    /// It could not be installed.
    pub(crate) fn absent(client: &'static Client, error: &anyhow::Error) -> Self {
        let told = format!("NOT TO BE HAD: {}: {error:#}", client.name);
        Self { client, version: String::new(), cells: Cells::new(), faults: Vec::new(), absent: true, told }
    }

    /// One line for whoever watches.
    pub(crate) fn line(&self) -> String {
        self.told.clone()
    }

    /// Cells that were not run, or were though the client does not have them.
    fn check(&mut self) {
        for mode in Mode::BOTH {
            let ran = |cell: &&str| self.cells.contains_key(&(mode, (*cell).to_owned()));
            let (lacking, having): (Vec<_>, Vec<_>) =
                self.client.cells().into_iter().partition(|cell| self.client.lacks(cell).is_some());
            let extra: Vec<_> = lacking.into_iter().filter(ran).collect();
            let missing = having.into_iter().filter(|cell| !ran(cell) && (mode == Mode::Tls || *cell != DIRECT));
            let missing: Vec<_> = missing.collect();
            for (cells, what) in [(extra, "run, and said not to be there"), (missing, "not run")] {
                if !cells.is_empty() {
                    self.faults.push(format!("{}, {mode:?}: {what}: {}", self.client.name, cells.join(", ")));
                }
            }
        }
    }
}

/// A client that is about to be run.
pub(crate) struct Ran<'a> {
    pub(crate) client: &'static Client,
    pub(crate) tool: &'a Tool,
    pub(crate) world: &'a World,
}

impl Ran<'_> {
    pub(crate) async fn through(&self) -> anyhow::Result<Outcome> {
        let started = Instant::now();
        let mut outcome = Outcome {
            client: self.client,
            version: String::new(),
            cells: Cells::new(),
            faults: Vec::new(),
            absent: false,
            told: String::new(),
        };
        for mode in Mode::BOTH {
            self.in_mode(mode, &mut outcome).await?;
        }
        outcome.check();
        let (count, name) = (outcome.cells.len(), self.client.name);
        outcome.told = format!("{name} {}: {count} cells in {:.1?}", outcome.version, started.elapsed());
        Ok(outcome)
    }

    async fn in_mode(&self, mode: Mode, outcome: &mut Outcome) -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let mut child = self.command(mode, folder.path()).spawn().context(self.client.name)?;
        let errors = collect(child.stderr.take().context("its errors")?);
        let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        let name = self.client.name;
        let mut last = "the beginning".to_owned();
        loop {
            let Ok(line) = timeout(PATIENCE, lines.next_line()).await else {
                child.kill().await?;
                outcome.faults.push(format!("{name}, {mode:?}: nothing came for {PATIENCE:?} behind {last}"));
                return Ok(());
            };
            let Some(line) = line? else { break };
            match serde_json::from_str::<Value>(&line) {
                Ok(said) => last = heard(&said, (name, mode), outcome).unwrap_or(last),
                Err(_) => outcome.faults.push(format!("{name}, {mode:?}: it printed {line:?}")),
            }
        }
        if let Some(fault) = ended(&mut child).await? {
            let errors = timeout(PATIENCE, errors).await??;
            outcome.faults.push(format!("{name}, {mode:?}: {fault} behind {last}: {errors}"));
        }
        Ok(())
    }

    fn command(&self, mode: Mode, folder: &Path) -> Command {
        let mut command = self.tool.command(self.client.program);
        command.env("HOME", folder).env("LC_ALL", "C.UTF-8").current_dir(folder);
        command.env("CLIENT_HOST", "127.0.0.1").env("CLIENT_TLS", mode.sslmode());
        let pgferry = match (mode, self.client.prefers_tls) {
            (Mode::Plaintext, true) => &self.world.without_tls,
            _ => &self.world.pgferry,
        };
        command.env("CLIENT_PORT", pgferry.address().port().to_string());
        command.env("CLIENT_SUBSCRIBER", self.world.subscriber.address().port().to_string());
        if let Some(directly) = self.world.directly(mode.sslmode()) {
            command.env("CLIENT_DIRECT", directly.port().to_string());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }
}

/// Takes a line that the program printed; gives the cell that it was about.
fn heard(said: &Value, (name, mode): (&str, Mode), outcome: &mut Outcome) -> Option<String> {
    if let Some(version) = said["version"].as_str() {
        version.clone_into(&mut outcome.version);
        return None;
    }
    let (cell, detail) = (said["cell"].as_str()?, said["detail"].as_str().unwrap_or_default());
    let word = match said["ok"].as_bool() {
        Some(true) if detail.is_empty() => "yes",
        Some(true) => detail,
        _ => {
            outcome.faults.push(format!("{name}, {mode:?}: {cell} failed: {detail}"));
            "no"
        }
    };
    outcome.cells.insert((mode, cell.to_owned()), word.to_owned());
    Some(cell.to_owned())
}

/// Why its end was not a good one.
async fn ended(child: &mut Child) -> anyhow::Result<Option<String>> {
    let Ok(status) = timeout(PATIENCE, child.wait()).await else {
        child.kill().await?;
        return Ok(Some(format!("it did not end within {PATIENCE:?}")));
    };
    let status: ExitStatus = status?;
    Ok((!status.success()).then(|| format!("it ended with {status}")))
}

/// All of it, for as long as somebody holds the other end.
fn collect(mut stream: impl AsyncRead + Send + Unpin + 'static) -> JoinHandle<String> {
    tokio::spawn(async move {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        String::from_utf8_lossy(&all).into_owned()
    })
}
