//! The ways to one server: straight to its pod, `kubectl port-forward`, pgferry, and `PgBouncer` before the pod.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, ensure};
use proto_tests::{
    subject::{Start, Subject},
    wire::Wire,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep},
};

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    Direct,
    Kubectl,
    Pgferry,
    Spare,
    PgBouncer,
}

/// All columns, in order.
pub(crate) const COLUMNS: [(Column, &str); 5] = [
    (Column::Direct, "direct"),
    (Column::Kubectl, "kubectl"),
    (Column::Pgferry, "pgferry"),
    (Column::Spare, "pgferry, spare"),
    (Column::PgBouncer, "PgBouncer"),
];

/// Whether the client asks for TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    Plaintext,
    Tls,
}

/// One way to the server.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) column: Column,
    pub(crate) address: SocketAddr,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) password: Option<String>,
    pub(crate) client: Client,
    /// The process in the middle.
    pub(crate) pid: Option<u32>,
}

impl Way {
    /// The same with TLS asked for by the client.
    pub(crate) fn over_tls(&self) -> Self {
        Self { client: Client::Tls, ..self.clone() }
    }

    pub(crate) async fn connect(&self) -> anyhow::Result<Wire> {
        let mut wire = match self.client {
            Client::Plaintext => Wire::tcp(self.address).await?,
            Client::Tls => Wire::tls(self.address).await?,
        };
        let parameters = [("user", self.user.as_str()), ("database", self.database.as_str())];
        match &self.password {
            Some(password) => wire.start_with_password(&parameters, password).await,
            None => wire.start(&parameters).await.map(|_| ()),
        }
        .map_err(|error| anyhow::anyhow!("{:?}: {error:?}", self.column))?;
        Ok(wire)
    }

    /// Milliseconds for a connect and a `select 1`, and the connection.
    pub(crate) async fn first_answer(&self) -> anyhow::Result<(f64, Wire)> {
        let started = Instant::now();
        let mut wire = self.connect().await?;
        wire.value("select 1").await.map_err(|error| anyhow::anyhow!("{error:?}"))?;
        Ok((started.elapsed().as_secs_f64() * 1000.0, wire))
    }

    /// Seconds of CPU that the process in the middle has used.
    pub(crate) fn cpu(&self) -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid?)).ok()?;
        let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
        let ticks: f64 = fields.get(11..13)?.iter().filter_map(|field| field.parse::<f64>().ok()).sum();
        // USER_HZ is 100 on every Linux.
        Some(ticks / 100.0)
    }

    /// Resident memory of the process in the middle, in KiB.
    pub(crate) fn resident(&self) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid?)).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }
}

pub(crate) async fn kubectl(args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("kubectl").args(args).output().await.context("kubectl")?;
    ensure!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The server that all ways lead to, and what is needed to reach it.
pub(crate) struct Server {
    pub(crate) namespace: String,
    pub(crate) cluster: String,
    pub(crate) pod: String,
    pub(crate) password: String,
    /// The pod's port, at the distance that is measured.
    pub(crate) direct: SocketAddr,
    /// Leads to the API server at that distance.
    pub(crate) kubeconfig: PathBuf,
}

impl Server {
    fn way(&self, column: Column, address: SocketAddr, pid: Option<u32>) -> Way {
        let (user, database) = ("app".to_owned(), "app".to_owned());
        Way { column, address, user, database, password: Some(self.password.clone()), client: Client::Plaintext, pid }
    }

    pub(crate) fn direct(&self) -> Way {
        self.way(Column::Direct, self.direct, None)
    }

    /// A new `kubectl port-forward`.
    pub(crate) async fn kubectl(&self) -> anyhow::Result<(Child, Way)> {
        let mut child = Command::new("kubectl")
            .args(["port-forward", "-n", &self.namespace, &format!("pod/{}", self.pod), ":5432", "--kubeconfig"])
            .arg(&self.kubeconfig)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        let line = lines.next_line().await?.context("a line of kubectl's")?;
        let port: u16 =
            line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).context("a port")?.parse()?;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let way = self.way(Column::Kubectl, SocketAddr::from(([127, 0, 0, 1], port)), child.id());
        Ok((child, way))
    }

    /// A new pgferry with these settings.
    pub(crate) async fn pgferry(&self, column: Column, settings: &[(&str, &str)]) -> (Subject, Way) {
        let mut start = Start::new(env!("CARGO_BIN_EXE_pgferry"))
            .args(["serve", "--port", "0", "--log", "warn,pgferry=info", "--kubeconfig"])
            .arg(&self.kubeconfig);
        for (name, value) in settings {
            start = start.env(name, value);
        }
        let subject = start.wait().await;
        let way = self.way(column, subject.address(), Some(subject.pid()));
        let user = format!("app@{}.{}", self.cluster, self.namespace);
        (subject, Way { user, password: None, ..way })
    }

    /// `PgBouncer` before the pod, where it is installed.
    pub(crate) async fn pgbouncer(&self, folder: &Path) -> anyhow::Result<Option<(Child, Way)>> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (file, users) = (folder.join("pgbouncer.ini"), folder.join("users.txt"));
        let (host, to) = (self.direct.ip(), self.direct.port());
        let settings = format!(
            "[databases]\napp = host={host} port={to}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             auth_type = scram-sha-256\nauth_file = {}\npool_mode = session\ndefault_pool_size = 50\nunix_socket_dir =\n\
             server_tls_sslmode = disable\nlogfile =\n",
            users.display()
        );
        fs::write(&file, settings)?;
        fs::write(&users, format!("\"app\" \"{}\"\n", self.password))?;
        let mut command = Command::new("pgbouncer");
        command.arg("-q").stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        // It refuses to run as root.
        if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
            command.args(["-u", "nobody"]);
            for path in [folder, &file, &users] {
                std::os::unix::fs::chown(path, Some(65534), None)?;
            }
        }
        let Ok(child) = command.arg(&file).spawn() else { return Ok(None) };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        while TcpStream::connect(address).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
        let way = self.way(Column::PgBouncer, address, child.id());
        Ok(Some((child, way)))
    }
}
