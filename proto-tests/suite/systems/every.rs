//! Every system's clusters, by name: one list of claims, each tried on each system with real servers that let clients
//! in as that system's own do. The table in `docs/systems.md` is what came of it.

use std::fmt::Write as _;

use futures_util::{StreamExt as _, stream};
use proto_tests::{
    kubernetes::{Backend, FakeKubernetes},
    postgres::{Hba, PostgresServer, Setup},
    subject::Subject,
    systems::{self, State, System, bare_pod},
    wire::Wire,
};
use serde_json::Value;

use crate::{
    documents::in_docs,
    support,
    systems::claims::{CLAIMS, Cell, claims},
};

/// A superuser of the tests' own, trusted on loopback.
const RIG: &str = "rig";

/// One system with two servers, and the API that shows them.
pub(crate) struct Stage<'a> {
    pub(crate) system: &'a dyn System,
    pub(crate) api: FakeKubernetes,
    pub(crate) servers: Vec<PostgresServer>,
    pub(crate) state: State,
}

impl<'a> Stage<'a> {
    pub(crate) async fn new(system: &'a dyn System) -> Self {
        let state = State::new(system, "prod", system.servers());
        let servers = servers(system, &state).await;
        Self::of(system, state, servers).await
    }

    /// Where nobody gets as far as a server.
    pub(crate) async fn unserved(system: &'a dyn System) -> Self {
        Self::of(system, State::new(system, "prod", 2), Vec::new()).await
    }

    async fn of(system: &'a dyn System, state: State, servers: Vec<PostgresServer>) -> Self {
        let api = FakeKubernetes::start().await;
        let it = Self { system, api, servers, state };
        for (number, server) in it.servers.iter().enumerate() {
            let pod = system.pod_name(&it.state, number);
            let namespace = system.server_namespace(&it.state);
            it.api.backend(&namespace, &pod, system.port(), Backend::To(server.address()));
        }
        it.draw();
        it
    }

    /// Puts the state's objects into the API.
    pub(crate) fn draw(&self) {
        systems::draw(&self.api, self.system, &self.state);
        let namespace = self.system.server_namespace(&self.state);
        if let Some(labels) = self.system.pooler_labels(&self.state).filter(|_| self.state.pooler) {
            self.api.put("pods", bare_pod(&namespace, "a-pooler", &labels, self.system.port()));
            self.api.backend(&namespace, "a-pooler", self.system.port(), Backend::Refuse);
        }
    }

    /// The name of what is listed, which may differ from what is typed.
    pub(super) fn target(&self) -> String {
        format!("{}.{}", self.system.target(&self.state), self.state.namespace)
    }

    pub(crate) async fn pgferry(&self, more: &str) -> Subject {
        support::serve(&self.api, &format!("[sessions]\nprimary_wait = \"2s\"\n{more}")).await
    }

    pub(crate) async fn list(&self) -> Vec<Value> {
        support::list(&self.api).await
    }

    /// Which server a session is on.
    pub(crate) async fn server_of(&self, wire: &mut Wire) -> usize {
        let port = wire.value("select inet_server_port()").await.unwrap();
        self.servers.iter().position(|server| server.address().port().to_string() == port).expect("one of ours")
    }

    pub(super) async fn as_superuser(&self, server: usize, sql: &str) {
        let mut wire = Wire::tcp(self.servers[server].address()).await.unwrap();
        wire.start(&[("user", RIG), ("database", "postgres")]).await.unwrap();
        wire.query(sql).await.unwrap();
    }

    pub(crate) fn forwards_to(&self, pod: &str) -> usize {
        support::tunnels_to(&self.api, pod)
    }
}

pub(crate) async fn servers(system: &dyn System, state: &State) -> Vec<PostgresServer> {
    let wanted = system.server();
    let mut sql = vec![format!("CREATE ROLE {RIG} SUPERUSER LOGIN")];
    sql.extend(systems::sql(system, state));
    let hba = format!(
        "local all all trust\nhost replication all all trust\nhost all {RIG} 127.0.0.1/32 trust\n{}\n",
        wanted.hba
    );
    let mut settings = Vec::new();
    if wanted.md5 {
        settings.push(("password_encryption".to_owned(), "md5".to_owned()));
    }
    let mut primary = PostgresServer::start(Setup {
        hba: Hba::Custom(hba),
        tls: wanted.tls.then(|| state.certificate.clone()),
        client_ca: wanted.tls.then(|| state.authority.clone()),
        settings,
        sql,
        ..Setup::new(17)
    })
    .await
    .expect("a server");
    if state.servers == 1 {
        return vec![primary];
    }
    let replica = PostgresServer::replica_of(&mut primary).expect("a replica");
    vec![primary, replica]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_system_by_name() {
    let all = systems::all();
    let only = std::env::var("PGFERRY_SYSTEM").ok();
    let chosen: Vec<&dyn System> = all
        .iter()
        .map(|system| &**system)
        .filter(|system| only.as_ref().is_none_or(|only| system.title().contains(only.as_str())))
        .collect();
    let rows: Vec<(&str, Vec<Cell>)> = stream::iter(chosen)
        .map(|system| async move {
            let started = std::time::SystemTime::now();
            let cells = claims(system).await;
            eprintln!("{}: {:?}", system.title(), started.elapsed());
            (system.title(), cells)
        })
        .buffered(3)
        .collect()
        .await;
    if only.is_none() {
        in_docs("docs/systems.md", "systems", &table(&rows));
    }
}

fn table(rows: &[(&str, Vec<Cell>)]) -> String {
    let mut text = format!("| system | {} |\n|{}\n", CLAIMS.join(" | "), " --- |".repeat(CLAIMS.len() + 1));
    for (title, cells) in rows {
        let _ = write!(text, "| {title} |");
        for cell in cells {
            let _ = match cell {
                Cell::Works => write!(text, " yes |"),
                Cell::Otherwise(how) => write!(text, " {how} |"),
            };
        }
        text.push('\n');
    }
    text
}
