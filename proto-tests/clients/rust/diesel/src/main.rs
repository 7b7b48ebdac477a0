//! Diesel's own connection, which is libpq. With the word `programs`: its migrations, its query builder and its pool.

use std::{env, fs, io::BufRead as _, thread, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use cells::{Connection, Told, same};
use diesel::{
    Connection as _, ConnectionError, PgConnection, QueryableByName, RunQueryDsl as _,
    connection::SimpleConnection as _,
    prelude::*,
    r2d2::{ConnectionManager, Pool},
    result::{DatabaseErrorKind, Error},
    sql_query,
    sql_types::{Nullable, Text},
};
use diesel_migrations::{FileBasedMigrations, MigrationHarness as _};

diesel::table! {
    t (n) {
        n -> Integer,
        line -> Text,
    }
}

diesel::table! {
    boat (id) {
        id -> Integer,
        name -> Text,
    }
}

diesel::table! {
    trip (id) {
        id -> Integer,
        boat_id -> Integer,
        harbour -> Text,
    }
}

diesel::joinable!(trip -> boat (boat_id));
diesel::allow_tables_to_appear_in_same_query!(boat, trip);

#[derive(QueryableByName)]
struct One {
    #[diesel(sql_type = Nullable<Text>)]
    value: Option<String>,
}

struct Session(PgConnection);

fn conninfo(user: &str, database: &str, more: &str) -> String {
    let mode = if cells::tls() { "require" } else { "disable" };
    format!("host={} port={} user={user} dbname={database} sslmode={mode} {more}", cells::host(), cells::port())
}

fn value(connection: &mut PgConnection, sql: &str) -> Result<String> {
    let rows: Vec<One> = sql_query(format!("select value from ({sql}) as one (value)")).load(connection)?;
    rows.into_iter().next().and_then(|row| row.value).context("a value")
}

impl Connection for Session {
    async fn connect(user: &str, database: &str, direct: bool) -> Result<Self> {
        let more = if direct { "sslnegotiation=direct" } else { "" };
        Ok(Self(PgConnection::establish(&conninfo(user, database, more))?))
    }

    async fn value(&mut self, sql: &str, bound: Option<String>) -> Result<String> {
        let Some(bound) = bound else { return value(&mut self.0, sql) };
        let query = sql_query(format!("select value from ({sql}) as one (value)"));
        query.bind::<Text, _>(bound).get_result::<One>(&mut self.0)?.value.context("a value")
    }

    async fn run(&mut self, sql: &str) -> Result<()> {
        Ok(self.0.batch_execute(sql)?)
    }

    fn told(error: &anyhow::Error) -> Told {
        if let Some(Error::DatabaseError(_, about)) = error.downcast_ref() {
            return Told { message: about.message().to_owned(), code: None, hint: about.hint().map(str::to_owned) };
        }
        // At connect libpq has no fields, but the whole text.
        let Some(ConnectionError::BadConnection(text)) = error.downcast_ref() else {
            return Told { message: format!("{error:?}"), ..Told::default() };
        };
        let hint = text.split_once("HINT:").map(|(_, hint)| hint.to_owned());
        Told { message: text.clone(), code: None, hint }
    }

    const OWN: &'static [&'static str] = &["direct TLS", "COPY in", "COPY out", "LISTEN"];

    async fn own(cell: &str) -> Result<()> {
        let mut one: Self = cells::open().await?;
        one.run("create temp table t (n int, line text)").await?;
        match cell {
            "COPY in" => {
                let lines = cells::lines();
                let copy = diesel::copy_from(t::table).from_raw_data(t::table, |to| {
                    to.write_all(lines.as_bytes()).map_err(|error| Error::QueryBuilderError(error.into()))
                });
                same(copy.execute(&mut one.0)?, cells::ROWS)?;
                same(t::table.count().get_result::<i64>(&mut one.0)?, i64::try_from(cells::ROWS)?)
            }
            "COPY out" => {
                let fill =
                    format!("insert into t select n, 'line ' || n from generate_series(0, {}) n", cells::ROWS - 1);
                one.run(&fill).await?;
                let mut found = String::new();
                let mut rows = diesel::copy_to(t::table).load_raw(&mut one.0)?;
                while rows.read_line(&mut found)? > 0 {}
                same(found, cells::lines())
            }
            _ => {
                one.run("listen diesel").await?;
                let mut other: Self = cells::open().await?;
                other.run("notify diesel, 'ahoy'").await?;
                loop {
                    if let Some(notification) = one.0.notifications_iter().next() {
                        return same(notification?.payload.as_str(), "ahoy");
                    }
                    thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }
}

/// In a schema that is said in `options`.
fn migrations() -> Result<String> {
    let schema = format!("diesel_{}", if cells::tls() { "tls" } else { "plaintext" });
    let mut apart = PgConnection::establish(&conninfo(cells::USER, "app", ""))?;
    apart.batch_execute(&format!("drop schema if exists {schema} cascade; create schema {schema}"))?;
    for (name, up, down) in [
        (
            "2026-01-01-000000_boats",
            "create table boat (id serial primary key, name text not null unique)",
            "drop table boat",
        ),
        (
            "2026-01-02-000000_trips",
            "create table trip (id serial primary key, boat_id int not null references boat, harbour text not null)",
            "drop table trip",
        ),
    ] {
        fs::create_dir_all(format!("migrations/{name}"))?;
        fs::write(format!("migrations/{name}/up.sql"), up)?;
        fs::write(format!("migrations/{name}/down.sql"), down)?;
    }
    let manager = ConnectionManager::<PgConnection>::new(conninfo(
        cells::USER,
        "app",
        &format!("options='-c search_path={schema}'"),
    ));
    let pool = Pool::builder().max_size(5).test_on_check_out(true).build(manager)?;
    let files = FileBasedMigrations::from_path("migrations")?;
    let tables =
        format!("select count(*)::text from pg_tables where schemaname = '{schema}' and tablename in ('boat', 'trip')");
    let ran = pool.get()?.run_pending_migrations(files.clone()).map_err(|error| anyhow!(error))?.len();
    same((ran, value(&mut apart, &tables)?.as_str()), (2, "2"))?;
    models(&mut *pool.get()?)?;
    ended(&pool, &mut apart)?;
    let back = pool.get()?.revert_all_migrations(files).map_err(|error| anyhow!(error))?.len();
    same((back, value(&mut apart, &tables)?.as_str()), (2, "0"))?;
    Ok(String::new())
}

fn models(connection: &mut PgConnection) -> Result<()> {
    let insert = diesel::insert_into(boat::table).values([boat::name.eq("Fähre"), boat::name.eq("barge")]);
    let ids: Vec<i32> = insert.returning(boat::id).get_results(connection)?;
    diesel::insert_into(trip::table)
        .values((trip::boat_id.eq(ids[0]), trip::harbour.eq("Kiel")))
        .execute(connection)?;
    let found: Vec<(String, Option<String>)> = boat::table
        .left_join(trip::table)
        .filter(boat::id.eq_any(ids))
        .order(boat::id)
        .select((boat::name, trip::harbour.nullable()))
        .load(connection)?;
    same(found, vec![("Fähre".to_owned(), Some("Kiel".to_owned())), ("barge".to_owned(), None)])?;
    let ends = connection.transaction(|one| {
        diesel::delete(trip::table).execute(one)?;
        diesel::insert_into(boat::table).values(boat::name.eq("Fähre")).execute(one)
    });
    ensure!(matches!(ends, Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _))), "{ends:?}");
    same(trip::table.count().get_result::<i64>(connection)?, 1)
}

/// The server ends all sessions of the pool, which has new ones.
fn ended(pool: &Pool<ConnectionManager<PgConnection>>, apart: &mut PgConnection) -> Result<()> {
    let mut pids = Vec::new();
    let mut lent = (0..5).map(|_| pool.get()).collect::<Result<Vec<_>, _>>()?;
    for one in &mut lent {
        pids.push(value(one, "select pg_backend_pid()::text")?);
    }
    drop(lent);
    let some = pids.join(", ");
    let end = format!("select count(pg_terminate_backend(pid))::text from pg_stat_activity where pid in ({some})");
    same(value(apart, &end)?.as_str(), "5")?;
    let one = &mut *pool.get()?;
    same(boat::table.count().get_result::<i64>(one)?, 2)?;
    ensure!(!pids.contains(&value(one, "select pg_backend_pid()::text")?), "a session that was ended");
    Ok(())
}

#[tokio::main]
async fn main() {
    if env::args().nth(1).is_some_and(|word| word == "programs") {
        cells::ran("Diesel", migrations());
    } else {
        cells::run::<Session>("2.3.14").await;
    }
}
