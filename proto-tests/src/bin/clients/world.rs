//! What the clients meet: one cluster on a real PostgreSQL 17, a Kubernetes API made for tests, and pgferry before it.

use std::{env, net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, ensure};
use proto_tests::{
    cnpg::{Cluster, secret},
    kubernetes::FakeKubernetes,
    postgres::{Hba, PostgresServer, Setup},
    secrets,
    subject::{Start, Subject},
};
use serde_json::json;
use tokio::process::Command;

/// `pg_dump` refuses a server newer than itself, and this is what Debian's newest release has.
pub(crate) const MAJOR: u32 = 17;

/// Everything over TCP by SCRAM, replication as well.
const HBA: &str = "local all all trust\nhost replication all all scram-sha-256\nhost all all all scram-sha-256\n";

pub(crate) struct World {
    pub(crate) pgferry: Subject,
    /// One without TLS, for who takes it wherever it is offered.
    pub(crate) without_tls: Subject,
    /// What runs `CREATE SUBSCRIPTION`, without a password.
    pub(crate) subscriber: PostgresServer,
    /// For the regression suite, which leaves nothing as it was.
    twins: Vec<Twins>,
    _api: FakeKubernetes,
    _server: PostgresServer,
}

/// Two servers that are the same, for what is run once directly and once through pgferry.
struct Twins {
    mode: &'static str,
    direct: PostgresServer,
    _through: PostgresServer,
}

impl Twins {
    /// The second one is the cluster `regression-MODE.prod`, with its superuser's Secret.
    async fn start(api: &FakeKubernetes, mode: &'static str) -> anyhow::Result<Self> {
        let setup = Setup::new(MAJOR).setting("max_prepared_transactions", "2");
        let direct = PostgresServer::start(Setup { hba: Hba::Trust, ..setup.clone() }).await?;
        let password = secrets::make("postgres");
        let sql = vec![format!("ALTER ROLE postgres PASSWORD '{password}'")];
        let through = PostgresServer::start(Setup { sql, ..setup }).await?;
        let name = format!("regression-{mode}");
        let spec = json!({"instances": 1, "enableSuperuserAccess": true});
        Cluster::with_spec(api, ("prod", &name), spec, &[through.address()]);
        let login = [("username", "postgres"), ("password", password.as_str())];
        api.put("secrets", secret("prod", &format!("{name}-superuser"), &login));
        Ok(Self { mode, direct, _through: through })
    }
}

impl World {
    /// What is reached without pgferry, where there is such a server for this mode.
    pub(crate) fn directly(&self, mode: &str) -> Option<SocketAddr> {
        self.twins.iter().find(|twins| twins.mode == mode).map(|twins| twins.direct.address())
    }

    /// With twins for each of these modes.
    pub(crate) async fn start(modes: &[&'static str]) -> anyhow::Result<Self> {
        let binary = binary().await?;
        let (app, reporting) = (secrets::make("app"), secrets::make("reporting"));
        let mut setup = Setup::new(MAJOR).application("app", &app, "app").setting("max_connections", "200");
        setup.hba = Hba::Custom(HBA.to_owned());
        setup.sql.push(format!(
            "CREATE ROLE reporting LOGIN REPLICATION CREATEDB PASSWORD '{reporting}' IN ROLE pg_read_all_data, pg_maintain"
        ));
        let server = PostgresServer::start(setup).await?;
        let mut setup = Setup::new(MAJOR).setting("max_logical_replication_workers", "4");
        setup = setup.setting("wal_retrieve_retry_interval", "100ms");
        setup.hba = Hba::Trust;
        let subscriber = PostgresServer::start(setup).await?;
        let api = FakeKubernetes::start().await;
        let spec = json!({
            "instances": 1,
            "bootstrap": {"initdb": {"database": "app", "owner": "app"}},
            "managed": {"roles": [
                {"name": "reporting", "login": true, "ensure": "present", "passwordSecret": {"name": "reporting-login"}},
            ]},
        });
        Cluster::with_spec(&api, ("prod", "shop"), spec, &[server.address()]).set_password(&app);
        api.put("secrets", secret("prod", "reporting-login", &[("username", "reporting"), ("password", &reporting)]));
        let mut twins = Vec::new();
        for mode in modes {
            twins.push(Twins::start(&api, mode).await?);
        }
        let binary = binary.to_str().context("a path of text")?;
        let configuration = api.write("config.toml", &admitting(&subscriber).await?);
        let start = || Start::new(binary).env("PGFERRY_CONFIG", &configuration);
        let pgferry = start().serve(&api.kubeconfig()).await;
        let without_tls = start().env("PGFERRY__LISTEN__TLS", "off").serve(&api.kubeconfig()).await;
        Ok(Self { pgferry, without_tls, subscriber, twins, _api: api, _server: server })
    }
}

/// The subscriber's user may not be ours.
async fn admitting(subscriber: &PostgresServer) -> anyhow::Result<String> {
    let ask = "CREATE TEMP TABLE t (uid text); COPY t FROM PROGRAM 'id -u'; SELECT uid FROM t";
    let rows = subscriber.execute(ask).await?;
    let uid = rows.first().and_then(|row| row.first()).context("a user")?;
    Ok(format!("[listen]\nallowed_uids = [{uid}]\n"))
}

/// The pgferry beside this program, built if need be; or the one that is said.
async fn binary() -> anyhow::Result<PathBuf> {
    if let Some(said) = env::var_os("PGFERRY_BINARY") {
        return Ok(PathBuf::from(said).canonicalize()?);
    }
    let ours = env::current_exe()?;
    let beside = ours.parent().context("a folder")?;
    let release = beside.ends_with("release");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args([
        "build",
        "--quiet",
        "--package",
        "pgferry",
        "--bin",
        "pgferry",
    ]);
    cargo.args(release.then_some("--release"));
    ensure!(cargo.status().await?.success(), "cargo build failed");
    Ok(beside.join("pgferry"))
}
