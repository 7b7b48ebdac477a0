use std::{future::poll_fn, sync::Arc};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use cells::{Connection, Told, same};
use futures_util::{SinkExt as _, TryStreamExt as _, future::try_join_all};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::sync::mpsc;
use tokio_postgres::{
    AsyncMessage, Client, Config, SimpleQueryMessage,
    config::{SslMode, SslNegotiation},
};
use tokio_postgres_rustls::MakeRustlsConnect;

/// pgferry makes its certificate at each start; `sslmode=require` asks for none in particular.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn connector() -> MakeRustlsConnect {
    let builder = ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate));
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    MakeRustlsConnect::new(config)
}

struct Session {
    client: Client,
    messages: mpsc::UnboundedReceiver<AsyncMessage>,
}

impl Connection for Session {
    async fn connect(user: &str, database: &str, direct: bool) -> Result<Self> {
        let mut config = Config::new();
        config.host(cells::host()).port(cells::port()).user(user).dbname(database);
        config.ssl_mode(if cells::tls() { SslMode::Require } else { SslMode::Disable });
        config.ssl_negotiation(if direct { SslNegotiation::Direct } else { SslNegotiation::Postgres });
        let (client, mut connection) = config.connect(connector()).await?;
        let (sender, messages) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                let _ = sender.send(message);
            }
        });
        Ok(Self { client, messages })
    }

    async fn value(&mut self, sql: &str, bound: Option<String>) -> Result<String> {
        if let Some(bound) = bound {
            let statement = self.client.prepare(sql).await?;
            return Ok(self.client.query_one(&statement, &[&bound]).await?.try_get(0)?);
        }
        for message in self.client.simple_query(sql).await? {
            if let SimpleQueryMessage::Row(row) = message {
                return Ok(row.get(0).context("a value")?.to_owned());
            }
        }
        anyhow::bail!("no row")
    }

    async fn run(&mut self, sql: &str) -> Result<()> {
        Ok(self.client.batch_execute(sql).await?)
    }

    fn told(error: &anyhow::Error) -> Told {
        let told = error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::as_db_error);
        told.map_or_else(
            || Told { message: format!("{error:?}"), ..Told::default() },
            |told| Told {
                message: told.message().to_owned(),
                code: Some(told.code().code().to_owned()),
                hint: told.hint().map(str::to_owned),
            },
        )
    }

    const OWN: &'static [&'static str] =
        &["direct TLS", "COPY in", "COPY out", "cancel", "notice", "LISTEN", "pipeline"];

    async fn own(cell: &str) -> Result<()> {
        let one: Self = cells::open().await?;
        match cell {
            "COPY in" => one.copy_in().await,
            "COPY out" => one.copy_out().await,
            "cancel" => one.cancel().await,
            "notice" => one.notice().await,
            "LISTEN" => one.listen().await,
            "pipeline" => one.pipeline().await,
            other => anyhow::bail!("no such cell: {other}"),
        }
    }
}

impl Session {
    async fn copy_in(mut self) -> Result<()> {
        self.run("create temp table t (n int, line text)").await?;
        let mut sink = Box::pin(self.client.copy_in("copy t from stdin").await?);
        sink.send(Bytes::from(cells::lines())).await?;
        same(sink.as_mut().finish().await?, u64::try_from(cells::ROWS)?)
    }

    async fn copy_out(self) -> Result<()> {
        let found: Vec<Bytes> = self.client.copy_out(&cells::copy_out()).await?.try_collect().await?;
        same(found.concat(), cells::lines().into_bytes())
    }

    async fn cancel(mut self) -> Result<()> {
        let pid = self.value("select pg_backend_pid()::text", None).await?;
        let token = self.client.cancel_token();
        let sleep = async { Ok(self.client.batch_execute("select pg_sleep(3600)").await) };
        let stop = async {
            cells::sleeping::<Self>(&pid).await?;
            anyhow::Ok(token.cancel_query(connector()).await?)
        };
        let (ended, ()) = tokio::try_join!(sleep, stop)?;
        same(Self::told(&ended.err().context("no error came")?.into()).code.as_deref(), Some("57014"))?;
        cells::is(&mut self, "select 'on'", "on").await
    }

    async fn notice(mut self) -> Result<()> {
        self.run("do $$ begin raise notice 'ahoy'; end $$").await?;
        let Some(AsyncMessage::Notice(notice)) = self.messages.recv().await else { anyhow::bail!("no notice") };
        same(notice.message(), "ahoy")
    }

    async fn listen(mut self) -> Result<()> {
        self.run("listen tokio_postgres").await?;
        cells::open::<Self>().await?.run("notify tokio_postgres, 'ahoy'").await?;
        let Some(AsyncMessage::Notification(heard)) = self.messages.recv().await else {
            anyhow::bail!("nothing heard")
        };
        same(heard.payload(), "ahoy")
    }

    async fn pipeline(self) -> Result<()> {
        let statement = self.client.prepare("select $1::int").await?;
        // What is polled together is sent together.
        let numbers: Vec<i32> = (0..100).collect();
        let bound: Vec<_> = numbers.iter().map(|n| [n as &(dyn tokio_postgres::types::ToSql + Sync)]).collect();
        let found = try_join_all(bound.iter().map(|one| self.client.query_one(&statement, one))).await?;
        same(found.iter().map(|row| row.get(0)).collect::<Vec<i32>>(), numbers)
    }
}

#[tokio::main]
async fn main() {
    let _ = ring::default_provider().install_default();
    cells::run::<Session>("0.7.18").await;
}
