//! Real PostgreSQL servers of any major version: fetched once, started as another user where we are root (which
//! PostgreSQL refuses), each in a directory of its own, in memory where there is a place for that, gone when dropped.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, mpsc},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use self::programs::{Programs, installed, own};
use crate::{ports, wire::Wire};

mod programs;

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_mins(3);

/// How the server lets clients in, over TCP.
#[derive(Clone, Debug, Default)]
pub enum Hba {
    #[default]
    Scram,
    Md5,
    Trust,
    /// Plaintext is refused with 28000 "no encryption".
    TlsOnly,
    /// A cleartext password.
    Password,
    Custom(String),
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Setup {
    pub major: u32,
    pub hba: Hba,
    /// PEM certificate and key; `ssl = on` where given.
    pub tls: Option<(String, String)>,
    /// The PEM certificate of the CA that signs clients' certificates.
    pub client_ca: Option<String>,
    pub settings: Vec<(String, String)>,
    /// Run as the superuser before the hba takes force.
    pub sql: Vec<String>,
}

impl Setup {
    #[must_use]
    pub fn new(major: u32) -> Self {
        Self { major, hba: Hba::Scram, tls: None, client_ca: None, settings: Vec::new(), sql: Vec::new() }
    }

    /// A setting of `postgresql.conf`.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A role with a password that owns a database.
    #[must_use]
    pub fn application(mut self, role: &str, password: &str, database: &str) -> Self {
        let quoted = password.replace('\'', "''");
        self.sql.push(format!("CREATE ROLE \"{role}\" LOGIN PASSWORD '{quoted}'"));
        self.sql.push(format!("CREATE DATABASE \"{database}\" OWNER \"{role}\""));
        self
    }
}

/// A running server.
#[derive(Debug)]
pub struct PostgresServer {
    directory: tempfile::TempDir,
    programs: Programs,
    port: u16,
    child: Option<Running>,
    settings: Vec<(String, String)>,
}

/// A server's process, and what it logs.
#[derive(Debug)]
struct Running {
    child: Child,
    log: Mutex<mpsc::Receiver<String>>,
}

impl Running {
    /// Reads the log to a line that holds one of these texts, and tells which; `None` where it never comes.
    fn logs(&self, texts: &[&str], log: &mut String) -> Option<usize> {
        let events = self.log.lock().unwrap();
        loop {
            let line = events.recv_timeout(PATIENCE).ok()?;
            log.push_str(&line);
            if let Some(found) = texts.iter().position(|text| line.contains(text)) {
                return Some(found);
            }
        }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where servers live: in memory where there is enough of it, since a server is a thousand files that are gone after a
/// second, which file systems on disks are bad at (ext4 looks through all it has deleted in the last five seconds for each
/// file that is created: half the system time of a run).
fn place() -> anyhow::Result<tempfile::TempDir> {
    const MEMORY: &str = "/dev/shm";
    /// Some servers at a time, of 50 MB each, and what tests write into them.
    const ENOUGH: u64 = 2 << 30;
    let free = rustix::fs::statvfs(MEMORY).map_or(0, |about| about.f_bavail * about.f_frsize);
    let place = if free >= ENOUGH { MEMORY } else { "/var/tmp" };
    let directory = tempfile::Builder::new().prefix("pgferry-pg-").tempdir_in(place)?;
    own(directory.path())?;
    Ok(directory)
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(status.success(), "cp -a {}", from.display());
    Ok(())
}

impl PostgresServer {
    pub async fn start(setup: Setup) -> anyhow::Result<Self> {
        let programs = installed(setup.major).await?;
        let directory = place()?;
        copy(&programs.empty(), &directory.path().join("data"))?;
        let mut server = Self { directory, programs, port: 0, child: None, settings: setup.settings.clone() };
        if let Some((certificate, key)) = &setup.tls {
            server.write("server.crt", certificate)?;
            server.write("server.key", key)?;
            fs::set_permissions(server.data().join("server.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
            server.settings.push(("ssl".to_owned(), "on".to_owned()));
        }
        if let Some(authority) = &setup.client_ca {
            server.write("clients.crt", authority)?;
            server.settings.push(("ssl_ca_file".to_owned(), "clients.crt".to_owned()));
        }
        if matches!(setup.hba, Hba::Md5) {
            server.settings.push(("password_encryption".to_owned(), "md5".to_owned()));
        }
        server.write("pg_hba.conf", "local all all trust\nhost all all all trust\nhost replication all all trust\n")?;
        server.run()?;
        for sql in &setup.sql {
            server.execute(sql).await?;
        }
        let method = |line: &str| format!("local all all trust\nhost replication all all trust\n{line}\n");
        server.write(
            "pg_hba.conf",
            &match setup.hba {
                Hba::Scram => method("host all all all scram-sha-256"),
                Hba::Md5 => method("host all all all md5"),
                Hba::Trust => method("host all all all trust"),
                Hba::TlsOnly => method("hostssl all all all scram-sha-256"),
                Hba::Password => method("host all all all password"),
                Hba::Custom(text) => text,
            },
        )?;
        server.reload();
        Ok(server)
    }

    /// A streaming replica of a server, which is restarted for it.
    pub fn replica_of(primary: &mut Self) -> anyhow::Result<Self> {
        let directory = place()?;
        primary.stop();
        copy(&primary.data(), &directory.path().join("data"))?;
        primary.run()?;
        let mut settings = primary.settings.clone();
        let from = format!("host=127.0.0.1 port={} user=postgres", primary.port);
        settings.push(("primary_conninfo".to_owned(), from));
        let mut replica = Self { directory, programs: primary.programs.clone(), port: 0, child: None, settings };
        replica.write("standby.signal", "")?;
        replica.run()?;
        Ok(replica)
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.data().join(name);
        fs::write(&path, text)?;
        own(&path)
    }

    /// Replaces `pg_hba.conf`.
    pub fn set_hba(&self, text: &str) {
        self.write("pg_hba.conf", text).unwrap();
        self.reload();
    }

    /// Has the settings read again: who connects behind this meets the new ones.
    fn reload(&self) {
        self.signal(Signal::HUP);
        self.wait_for("received SIGHUP, reloading configuration files");
    }

    fn wait_for(&self, line: &str) {
        let mut log = String::new();
        let logged = self.child.as_ref().and_then(|running| running.logs(&[line], &mut log));
        assert!(logged.is_some(), "PostgreSQL never logged {line:?}: {log}");
    }

    /// Makes a replica a primary.
    pub fn promote(&self) {
        self.write("promote", "").unwrap();
        self.signal(Signal::USR1);
        self.wait_for("ready to accept connections");
    }

    fn signal(&self, signal: Signal) {
        if let Some(running) = &self.child {
            let _ = kill_process(Pid::from_child(&running.child), signal);
        }
    }

    /// Fast shutdown: sessions are ended with 57P01.
    pub fn stop(&mut self) {
        self.signal(Signal::INT);
        if let Some(mut running) = self.child.take() {
            let _ = running.child.wait();
        }
    }

    /// As a crash of the postmaster.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut running) = self.child.take() {
            let _ = running.child.wait();
        }
    }

    /// Starts the server, on its old port where it has had one.
    pub fn run(&mut self) -> anyhow::Result<()> {
        for _ in 0..20 {
            let port = match self.port {
                0 => ports::free(),
                port => port,
            };
            if self.try_run(port)? {
                self.port = port;
                return Ok(());
            }
        }
        bail!("no port for PostgreSQL")
    }

    /// `false` where somebody else took the port meanwhile.
    fn try_run(&mut self, port: u16) -> anyhow::Result<bool> {
        let mut postgres = self.programs.command("postgres");
        postgres.arg("-D").arg(self.data());
        let fixed = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", ""),
            ("fsync", "off"),
            ("shared_buffers", "16MB"),
            ("max_connections", "100"),
            // What is in memory otherwise stays there when a server is killed.
            ("dynamic_shared_memory_type", "mmap"),
            ("logging_collector", "off"),
            ("wal_level", "logical"),
            // Nothing in the background that no test is about, and no files that are kept for later.
            ("autovacuum", "off"),
            ("max_logical_replication_workers", "0"),
            ("min_wal_size", "2MB"),
        ];
        for (name, value) in fixed {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        if self.programs.major >= 18 {
            // As it was before, without processes for it.
            postgres.args(["-c", "io_method=sync"]);
        }
        for (name, value) in &self.settings {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        postgres.arg("-c").arg(format!("port={port}")).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = postgres.spawn().context("starting postgres")?;
        let (sender, events) = mpsc::channel();
        let stderr = child.stderr.take().expect("stderr");
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stderr);
            let mut line = String::new();
            while matches!(lines.read_line(&mut line), Ok(1..)) {
                let _ = sender.send(std::mem::take(&mut line));
            }
            let _ = lines.read(&mut []);
        });
        let mut running = Running { child, log: Mutex::new(events) };
        let mut log = String::new();
        match running.logs(&["ready to accept", "Address already in use"], &mut log) {
            Some(0) => {
                self.child = Some(running);
                Ok(true)
            }
            Some(_) => {
                running.end();
                Ok(false)
            }
            None => {
                running.end();
                bail!("PostgreSQL did not start: {log}");
            }
        }
    }

    /// Runs SQL as the superuser; only while the hba is still `trust` for it.
    pub async fn execute(&self, sql: &str) -> anyhow::Result<Vec<Vec<String>>> {
        let mut wire = Wire::tcp(self.address()).await?;
        let user = [("user", "postgres"), ("database", "postgres")];
        wire.start(&user).await.map_err(|error| anyhow::anyhow!("{error:?}"))?;
        wire.query(sql).await.map_err(|error| anyhow::anyhow!("{sql}: {error:?}"))
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.signal(Signal::QUIT);
        if let Some(mut running) = self.child.take() {
            let _ = running.child.wait();
        }
    }
}
