//! What most tests begin with: one cluster `shop` in namespace `prod` on a real server, and pgferry before it.

use proto_tests::{
    cnpg::Cluster,
    kubernetes::FakeKubernetes,
    postgres::{PostgresServer, Setup},
    secrets,
    subject::{Start, Subject},
};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_pgferry");

/// A world with one cluster.
pub(crate) struct World {
    pub(crate) api: FakeKubernetes,
    pub(crate) server: PostgresServer,
    pub(crate) password: String,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|setup| setup).await
    }

    /// With a server of one's own.
    pub(crate) async fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let password = secrets::make("app");
        let setup = change(Setup::new(18).application("app", &password, "app"));
        let server = PostgresServer::start(setup).await.expect("a server");
        let api = FakeKubernetes::start().await;
        Cluster::new(&api, ("prod", "shop"), &password, &[server.address()]);
        Self { api, server, password }
    }

    pub(crate) fn cluster(&self) -> Cluster<'_> {
        Cluster { api: &self.api, namespace: "prod".to_owned(), name: "shop".to_owned() }
    }

    pub(crate) async fn pgferry(&self) -> Subject {
        Start::new(BINARY).serve(&self.api.kubeconfig()).await
    }

    pub(crate) async fn pgferry_with(&self, args: &[&str]) -> Subject {
        let start = Start::new(BINARY);
        let mut subject =
            start.args(["serve", "--port", "0", "--log", "debug", "--kubeconfig"]).arg(self.api.kubeconfig());
        subject = subject.args(args);
        subject.wait().await
    }
}
