use anyhow::Result;
use cells::{Connection, Told, same};
use futures_util::TryStreamExt as _;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Executor as _, PgConnection, Row as _,
    postgres::{PgConnectOptions, PgDatabaseError, PgListener, PgPoolOptions, PgSslMode},
};

struct Session(PgConnection);

fn options(user: &str, database: &str) -> PgConnectOptions {
    let mode = if cells::tls() { PgSslMode::Require } else { PgSslMode::Disable };
    let options = PgConnectOptions::new_without_pgpass().host(&cells::host()).port(cells::port());
    options.username(user).database(database).ssl_mode(mode)
}

impl Connection for Session {
    async fn connect(user: &str, database: &str, _direct: bool) -> Result<Self> {
        Ok(Self(options(user, database).connect().await?))
    }

    async fn value(&mut self, sql: &str, bound: Option<String>) -> Result<String> {
        let sql = AssertSqlSafe(sql.to_owned());
        let row = match bound {
            Some(bound) => sqlx::query(sql).bind(bound).fetch_one(&mut self.0).await?,
            None => self.0.fetch_one(sqlx::raw_sql(sql)).await?,
        };
        Ok(row.try_get(0)?)
    }

    async fn run(&mut self, sql: &str) -> Result<()> {
        self.0.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await?;
        Ok(())
    }

    fn told(error: &anyhow::Error) -> Told {
        let told = error.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
        told.and_then(|told| told.try_downcast_ref::<PgDatabaseError>()).map_or_else(
            || Told { message: format!("{error:?}"), ..Told::default() },
            |told| Told {
                message: told.message().to_owned(),
                code: Some(told.code().to_owned()),
                hint: told.hint().map(str::to_owned),
            },
        )
    }

    const OWN: &'static [&'static str] = &["COPY in", "COPY out", "LISTEN"];

    async fn own(cell: &str) -> Result<()> {
        let mut one: Self = cells::open().await?;
        match cell {
            "COPY in" => {
                one.run("create temp table t (n int, line text)").await?;
                let mut copy = one.0.copy_in_raw("copy t from stdin").await?;
                copy.send(cells::lines().into_bytes()).await?;
                same(copy.finish().await?, u64::try_from(cells::ROWS)?)
            }
            "COPY out" => {
                let found: Vec<_> = one.0.copy_out_raw(&cells::copy_out()).await?.try_collect().await?;
                same(found.concat(), cells::lines().into_bytes())
            }
            _ => {
                let pool = PgPoolOptions::new().max_connections(1).connect_with(options(cells::USER, "app")).await?;
                let mut listener = PgListener::connect_with(&pool).await?;
                listener.listen("sqlx").await?;
                one.run("notify sqlx, 'ahoy'").await?;
                same(listener.recv().await?.payload(), "ahoy")
            }
        }
    }
}

#[tokio::main]
async fn main() {
    cells::run::<Session>("0.9.0").await;
}
