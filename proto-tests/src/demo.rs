//! Two clusters with something in them, for the demo: real servers behind the fake API.

use std::path::PathBuf;

use serde_json::json;

use crate::{
    cnpg::{Cluster, secret},
    kubernetes::FakeKubernetes,
    postgres::{PostgresServer, Setup},
    secrets,
};

/// The demo's world; gone when dropped.
pub struct Rig {
    api: FakeKubernetes,
    kubeconfig: PathBuf,
    _servers: Vec<PostgresServer>,
}

impl Rig {
    /// Starts everything; tells what it is doing.
    pub async fn start(tell: impl Fn(&str)) -> anyhow::Result<Self> {
        tell("fetching PostgreSQL 18 and 16 (once; they are kept in /var/tmp)");
        let (app, clerk, reporting) = (secrets::make("app"), secrets::make("clerk"), secrets::make("reporting"));
        let shop = Setup::new(18).application("app", &app, "app");
        let ledger = Setup::new(16).application("clerk", &clerk, "books");
        tell("starting the clusters shop (with a replica) and ledger");
        let mut shop = PostgresServer::start(shop).await?;
        fill(
            &shop,
            ("app", &app, "app"),
            "CREATE TABLE orders AS SELECT n AS id, 'customer ' || n % 7 AS customer, \
             round((random() * 100)::numeric, 2) AS total FROM generate_series(1, 1000) n",
        )
        .await?;
        let replica = PostgresServer::replica_of(&mut shop)?;
        let quoted = format!("CREATE ROLE reporting LOGIN PASSWORD '{reporting}' IN ROLE pg_read_all_data");
        let mut ledger_setup = ledger;
        ledger_setup.sql.push(quoted);
        let ledger = PostgresServer::start(ledger_setup).await?;
        fill(
            &ledger,
            ("clerk", &clerk, "books"),
            "CREATE TABLE entries AS SELECT n AS id, now() - n * interval '1 hour' \
             AS at, (random() * 1000)::int AS amount FROM generate_series(1, 500) n",
        )
        .await?;
        let api = FakeKubernetes::start().await;
        Cluster::new(&api, ("prod", "shop"), &app, &[shop.address(), replica.address()]);
        let spec = json!({
            "instances": 1,
            "bootstrap": {"initdb": {"database": "books", "owner": "clerk", "secret": {"name": "ledger-clerk"}}},
            "managed": {"roles": [{"name": "reporting", "login": true, "passwordSecret": {"name": "ledger-reporting"}}]},
        });
        Cluster::with_spec(&api, ("finance", "ledger"), spec, &[ledger.address()]);
        api.put("secrets", secret("finance", "ledger-clerk", &[("username", "clerk"), ("password", &clerk)]));
        api.put(
            "secrets",
            secret("finance", "ledger-reporting", &[("username", "reporting"), ("password", &reporting)]),
        );
        let kubeconfig = api.kubeconfig_with("demo", Some("prod"), json!({"token": api.token()}), json!({}));
        Ok(Self { api, kubeconfig, _servers: vec![shop, replica, ledger] })
    }

    #[must_use]
    pub fn kubeconfig(&self) -> &std::path::Path {
        &self.kubeconfig
    }

    #[must_use]
    pub fn api(&self) -> &FakeKubernetes {
        &self.api
    }
}

async fn fill(
    server: &PostgresServer,
    (user, password, database): (&str, &str, &str),
    sql: &str,
) -> anyhow::Result<()> {
    let mut wire = crate::wire::Wire::tcp(server.address()).await?;
    let as_text = |error| anyhow::anyhow!("{error:?}");
    wire.start_with_password(&[("user", user), ("database", database)], password).await.map_err(as_text)?;
    wire.query(sql).await.map_err(as_text)?;
    wire.query("ANALYZE").await.map_err(as_text)?;
    Ok(())
}
