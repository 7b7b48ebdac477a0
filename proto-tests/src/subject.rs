//! The binary under test: started, read to the last line, stopped, and searched for secrets.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::watch,
    time::timeout,
};

use crate::{
    secrets,
    wire::{Fields, Wire},
};

/// Long enough for any machine; a test that needs it fails.
const PATIENCE: Duration = Duration::from_mins(3);

/// What a subject is given where its test is about something else: the defaults are for a machine that does nothing but
/// wait for the API server, and this one runs that as well, and PostgreSQL, and the compiler for somebody else.
const LIMITS: [(&str, &str); 2] =
    [("PGFERRY__KUBERNETES__REQUEST_TIMEOUT", "1m"), ("PGFERRY__KUBERNETES__CONNECT_TIMEOUT", "1m")];

/// Whether it may be looked into.
pub const CORE_DUMPS: &str = "PGFERRY__PROCESS__CORE_DUMPS";

/// A running pgferry.
pub struct Subject {
    child: Child,
    pub addresses: Vec<SocketAddr>,
    pub sockets: Vec<PathBuf>,
    output: Arc<Mutex<String>>,
    lines: watch::Receiver<usize>,
    home: tempfile::TempDir,
}

/// How to start it.
pub struct Start {
    command: Command,
    home: tempfile::TempDir,
}

impl Start {
    /// With an empty environment and home.
    #[must_use]
    pub fn new(binary: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut command = Command::new(binary);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", home.path());
        command.envs(LIMITS);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        if !rustix::process::geteuid().is_root() {
            // An undumpable process' descriptors are root's alone to count.
            command.env(CORE_DUMPS, "true");
        }
        Self { command, home }
    }

    /// As another user of this machine; for root alone.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Self {
        self.command.uid(uid);
        self
    }

    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// What it reads as its standard input.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.command.stdin(stdin);
        self
    }

    /// Starts a command that ends by itself, for who talks with it meanwhile.
    #[must_use]
    pub fn spawn(mut self) -> Child {
        self.command.spawn().expect("it starts")
    }

    /// Runs a command that ends by itself: exit code, standard output, standard error.
    pub async fn run(mut self) -> (i32, String, String) {
        let output = timeout(PATIENCE, self.command.output()).await.expect("it ends").expect("it starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(secrets::leaked(&format!("{out}{err}")), None, "a secret in the output");
        (output.status.code().unwrap_or(-1), out, err)
    }

    /// `pgferry serve` with this kubeconfig on a free port, until it listens.
    pub async fn serve(mut self, kubeconfig: &Path) -> Subject {
        self.command.args(["serve", "--port", "0", "--log", "debug"]).arg("--kubeconfig").arg(kubeconfig);
        self.wait().await
    }

    /// Starts and waits until it says that it listens.
    pub async fn wait(mut self) -> Subject {
        let mut child = self.command.spawn().expect("it starts");
        let output = Arc::new(Mutex::new(String::new()));
        let (sender, mut lines) = watch::channel(0);
        let sender = Arc::new(sender);
        collect(child.stdout.take().unwrap(), &output, &sender);
        collect(child.stderr.take().unwrap(), &output, &sender);
        drop(sender);
        let listening = async {
            loop {
                let found = listeners(&output.lock().unwrap());
                if !found.0.is_empty() || !found.1.is_empty() {
                    return found;
                }
                assert!(lines.changed().await.is_ok(), "it ended: {}", output.lock().unwrap());
            }
        };
        let (addresses, sockets) = timeout(PATIENCE, listening).await.expect("it listens");
        Subject { child, addresses, sockets, output, lines, home: self.home }
    }
}

/// Every listener that is named so far.
fn listeners(output: &str) -> (Vec<SocketAddr>, Vec<PathBuf>) {
    let (mut addresses, mut sockets) = (Vec::new(), Vec::new());
    for line in output.lines() {
        let Some((_, rest)) = line.split_once("listening on ") else {
            continue;
        };
        let name = rest.split([' ', '"']).next().unwrap_or("");
        match name.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => sockets.push(PathBuf::from(name)),
        }
    }
    (addresses, sockets)
}

fn collect(
    stream: impl AsyncRead + Send + Unpin + 'static,
    output: &Arc<Mutex<String>>,
    count: &Arc<watch::Sender<usize>>,
) {
    let (output, count) = (Arc::clone(output), Arc::clone(count));
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            output.lock().unwrap().extend([line.as_str(), "\n"]);
            count.send_modify(|count| *count += 1);
        }
    });
}

impl Subject {
    /// The first TCP address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// All TCP addresses; the others are named behind the first, and what Kubernetes answers behind them.
    pub async fn every_address(&mut self) -> Vec<SocketAddr> {
        self.says(" ready context=").await;
        listeners(&self.output()).0
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Resident memory, in KiB.
    #[must_use]
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Open descriptors.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// The same but for whole connections to an API server: those are kept for the next request, as many as were once
    /// needed at a time. Dear: the kernel looks through the sockets of the whole machine.
    #[must_use]
    pub fn descriptors_but_for(&self, api: SocketAddr) -> usize {
        const ESTABLISHED: &str = "01";
        let table = fs::read_to_string(format!("/proc/{}/net/tcp", self.pid())).unwrap();
        let to_api = format!(":{:04X}", api.port());
        let kept: HashSet<PathBuf> = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|fields| fields[2].ends_with(&to_api) && fields[3] == ESTABLISHED)
            .map(|fields| PathBuf::from(format!("socket:[{}]", fields[9])))
            .collect();
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().flatten();
        // What is closed meanwhile is not open.
        open.filter_map(|entry| fs::read_link(entry.path()).ok()).filter(|link| !kept.contains(link)).count()
    }

    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// All output so far.
    #[must_use]
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Waits until the output holds a text.
    pub async fn says(&mut self, text: &str) {
        let wait = async {
            while !self.output.lock().unwrap().contains(text) {
                self.lines.changed().await.expect("more output");
            }
        };
        let came = timeout(PATIENCE, wait).await;
        assert!(came.is_ok(), "it never said {text:?}: {}", self.output());
    }

    /// A plaintext session as this user in this database.
    pub async fn connect(&self, user: &str, database: &str) -> Result<Wire, Fields> {
        let mut wire = Wire::tcp(self.address()).await.expect("it listens");
        wire.start(&[("user", user), ("database", database)]).await?;
        Ok(wire)
    }

    /// The error of a connection that is refused.
    pub async fn refusal(&self, user: &str, database: &str) -> Fields {
        match self.connect(user, database).await {
            Ok(_) => panic!("{user} {database} was let in"),
            Err(fields) => fields,
        }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the end.
    pub async fn ended(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.expect("it ends").expect("a status")
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let leaked = secrets::leaked(&self.output.lock().unwrap());
        if std::thread::panicking() {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "--- output of pgferry\n{}", self.output.lock().unwrap());
        } else {
            assert_eq!(leaked, None, "a secret in the output");
        }
    }
}
