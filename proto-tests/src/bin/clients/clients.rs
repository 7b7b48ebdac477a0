//! The clients, in the order of the tables; what each does not have, and why. Their programs are in
//! `proto-tests/clients/`.

use crate::install::Source;

/// A column, or one of several programs: as a client's program calls it, and as the document does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
}

const fn cell(name: &'static str, title: &'static str) -> Cell {
    Cell { name, title }
}

/// Has no plaintext.
pub(crate) const DIRECT: &str = "direct TLS";
const CONNECT: &str = "connect";

/// What every driver is run through.
pub(crate) const CELLS: [Cell; 19] = [
    cell(CONNECT, "plaintext | TLS"),
    cell(DIRECT, "direct TLS"),
    cell("database name", "database `shop.prod`"),
    cell("role@target", "user `app@shop.prod`"),
    cell("simple query", "simple query"),
    cell("prepared", "prepared"),
    cell("transaction", "transaction"),
    cell("COPY in", "COPY in"),
    cell("COPY out", "COPY out"),
    cell("error", "error, and on"),
    cell("cancel", "cancel"),
    cell("notice", "notice"),
    cell("LISTEN", "LISTEN"),
    cell("64 MiB", "64 MiB value"),
    cell("pipeline", "pipeline"),
    cell("reconnect", "reconnect"),
    cell("20 at once", "20 at once"),
    cell("wrong cluster", "wrong cluster"),
    cell("wrong role", "wrong role"),
];

pub(crate) enum Kind {
    Driver,
    Programs(&'static [Cell]),
}

pub(crate) struct Client {
    pub(crate) name: &'static str,
    pub(crate) core: bool,
    pub(crate) kind: Kind,
    pub(crate) source: Source,
    /// The program, and its arguments.
    pub(crate) program: &'static [&'static str],
    /// It takes TLS wherever that is offered.
    pub(crate) prefers_tls: bool,
    /// Cells that it does not have, and why.
    pub(crate) lacks: &'static [(&'static str, &'static str)],
}

impl Client {
    pub(crate) fn cells(&self) -> Vec<&'static str> {
        match self.kind {
            Kind::Driver => CELLS.iter().map(|cell| cell.name).collect(),
            Kind::Programs(all) => all.iter().map(|cell| cell.name).collect(),
        }
    }

    pub(crate) fn lacks(&self, cell: &str) -> Option<&'static str> {
        self.lacks.iter().find(|(name, _)| *name == cell).map(|(_, reason)| *reason)
    }
}

const NO_DIRECT: (&str, &str) = (DIRECT, "it has negotiated TLS only");
const NO_CANCEL: &str = "it has no cancel request";
const NO_PIPELINE: (&str, &str) = ("pipeline", "it waits for each answer");

pub(crate) const ALL: &[Client] = &[
    Client {
        name: "psql 17",
        core: true,
        kind: Kind::Driver,
        source: Source::Postgres17,
        program: &["psql.py"],
        prefers_tls: false,
        lacks: &[("pipeline", "psql has it from version 18")],
    },
    Client {
        name: "psql 15",
        core: false,
        kind: Kind::Driver,
        source: Source::PostgresHere(15),
        program: &["psql.py"],
        prefers_tls: false,
        lacks: &[(DIRECT, "libpq has it from version 17"), ("pipeline", "psql has it from version 18")],
    },
    Client {
        name: "psycopg 3",
        core: true,
        kind: Kind::Driver,
        source: Source::Python("core.txt"),
        program: &["psycopg_3.py"],
        prefers_tls: false,
        lacks: &[],
    },
    Client {
        name: "psycopg 2",
        core: false,
        kind: Kind::Driver,
        source: Source::Python("more.txt"),
        program: &["psycopg_2.py"],
        prefers_tls: false,
        lacks: &[NO_PIPELINE],
    },
    Client {
        name: "asyncpg",
        core: false,
        kind: Kind::Driver,
        source: Source::Python("more.txt"),
        program: &["asyncpg_loop.py"],
        prefers_tls: false,
        lacks: &[NO_PIPELINE],
    },
    Client {
        name: "pg8000",
        core: false,
        kind: Kind::Driver,
        source: Source::Python("more.txt"),
        program: &["pg8000_native.py"],
        prefers_tls: false,
        lacks: &[NO_DIRECT, NO_PIPELINE, ("cancel", NO_CANCEL)],
    },
    Client {
        name: "node-postgres",
        core: true,
        kind: Kind::Driver,
        source: Source::Node("drivers"),
        program: &["pg.mjs"],
        prefers_tls: false,
        lacks: &[NO_PIPELINE],
    },
    Client {
        name: "postgres.js",
        core: false,
        kind: Kind::Driver,
        source: Source::Node("drivers"),
        program: &["postgres.mjs"],
        prefers_tls: false,
        lacks: &[],
    },
    Client {
        name: "pgjdbc 42.7",
        core: true,
        kind: Kind::Driver,
        source: Source::Java,
        program: &["42.7.14", "Cells"],
        prefers_tls: false,
        lacks: &[],
    },
    Client {
        name: "pgjdbc 42.2",
        core: false,
        kind: Kind::Driver,
        source: Source::Java,
        program: &["42.2.29", "Cells"],
        prefers_tls: false,
        lacks: &[NO_DIRECT],
    },
    Client {
        name: "pgx",
        core: true,
        kind: Kind::Driver,
        source: Source::Go("pgx"),
        program: &["pgx"],
        prefers_tls: false,
        lacks: &[],
    },
    Client {
        name: "lib/pq",
        core: false,
        kind: Kind::Driver,
        source: Source::Go("pq"),
        program: &["pq"],
        prefers_tls: false,
        lacks: &[
            (DIRECT, "its direct TLS comes without ALPN, which PostgreSQL refuses as well"),
            ("COPY out", "it has COPY in only"),
            NO_PIPELINE,
        ],
    },
    Client {
        name: "tokio-postgres",
        core: true,
        kind: Kind::Driver,
        source: Source::Rust("with-tokio-postgres"),
        program: &["with-tokio-postgres"],
        prefers_tls: false,
        lacks: &[],
    },
    Client {
        name: "sqlx",
        core: false,
        kind: Kind::Driver,
        source: Source::Rust("with-sqlx"),
        program: &["with-sqlx"],
        prefers_tls: false,
        lacks: &[NO_DIRECT, NO_PIPELINE, ("cancel", NO_CANCEL), ("notice", "it writes notices to its log")],
    },
    Client {
        name: "diesel",
        core: false,
        kind: Kind::Driver,
        source: Source::Rust("with-diesel"),
        program: &["with-diesel"],
        prefers_tls: false,
        lacks: &[NO_PIPELINE, ("cancel", NO_CANCEL), ("notice", "it hides notices")],
    },
    Client {
        name: "ruby-pg",
        core: false,
        kind: Kind::Driver,
        source: Source::Debian("ruby3.3"),
        program: &["/clients/cells.rb"],
        prefers_tls: false,
        lacks: &[],
    },
    Client {
        name: "PHP's pdo_pgsql",
        core: false,
        kind: Kind::Driver,
        source: Source::Debian("php8.4"),
        program: &["-d", "extension=pdo", "-d", "extension=pdo_pgsql", "/clients/cells.php"],
        prefers_tls: false,
        lacks: &[NO_PIPELINE, ("cancel", NO_CANCEL)],
    },
    Client {
        name: "PostgreSQL 17's programs",
        core: true,
        kind: Kind::Programs(&[
            cell("pg_isready", "asks for the database `shop.prod`"),
            cell("psql at a terminal", "Tab completes a table's name; Ctrl-C ends a query, and a `\\watch`"),
            cell("createdb, dropdb", "a database, as a further role"),
            cell("pg_dump", "a schema as a script, which psql reads into another database"),
            cell("pg_dump -j 4, pg_restore -j 4", "a schema as a folder, into another database"),
            cell("pg_dumpall", "all roles and databases but for passwords"),
            cell("vacuumdb -j 4, reindexdb, clusterdb", "a schema"),
            cell("pgbench", "eight clients in each protocol; a connection for each transaction"),
            cell("pg_basebackup", "a copy of the server with its log streamed beside it, verified"),
            cell("pg_receivewal", "the log, by a slot"),
            cell("pg_recvlogical", "changes by pgoutput"),
            cell("CREATE SUBSCRIPTION", "another server subscribes, loses its session, and catches up"),
        ]),
        source: Source::Postgres17,
        program: &["postgresql_programs.py"],
        prefers_tls: false,
        lacks: &[],
    },
    Client {
        name: "PostgreSQL's regression suite",
        core: false,
        kind: Kind::Programs(&[cell(
            "PostgreSQL's regression suite",
            "its 224 scripts, by pg_regress as a superuser, print what they print directly",
        )]),
        source: Source::Regression,
        program: &["regression.py"],
        prefers_tls: false,
        lacks: &[],
    },
    Client {
        name: "Python programs",
        core: false,
        kind: Kind::Programs(&[
            cell("SQLAlchemy, Alembic", "autogenerate a migration, apply it, take it back"),
            cell("Django", "migrate with a search path in `options`, inspectdb"),
            cell("pgAdmin", "replayed by psycopg: two databases, a cancel by process number"),
        ]),
        source: Source::Python("more.txt"),
        program: &["frameworks.py"],
        prefers_tls: false,
        lacks: &[],
    },
    Client {
        name: "Node programs",
        core: false,
        kind: Kind::Programs(&[
            cell("knex", "a migration up and down; a pool whose sessions the server ends; a timeout that cancels"),
            cell("Prisma", "its client with `@prisma/adapter-pg`: relations, transactions, a pool; not its migrations"),
        ]),
        source: Source::Node("frameworks"),
        program: &["frameworks.mjs"],
        prefers_tls: false,
        lacks: &[],
    },
    Client {
        name: "Ruby programs",
        core: false,
        kind: Kind::Programs(&[cell(
            "Active Record",
            "a migration up and down, models with a search path; a pool whose sessions the server ends",
        )]),
        source: Source::Debian("ruby3.3"),
        program: &["/clients/frameworks.rb"],
        prefers_tls: false,
        lacks: &[],
    },
    Client {
        name: "pgAdmin 4",
        core: false,
        kind: Kind::Programs(&[
            cell(
                "register a server",
                "in Chromium, by pointer and keyboard, as all of these: `app@shop.prod`, no password",
            ),
            cell("databases", "the tree, down to the databases"),
            cell("another database", "open a second one"),
            cell("schemas", "open the first one down to a schema"),
            cell("query tool", "a query and its rows"),
            cell("stop", "stop a query that sleeps"),
            cell("after a restart", "it asks for a password, and takes an empty one"),
        ]),
        source: Source::PythonInBrowser("pgadmin.txt"),
        program: &["pgadmin.py"],
        prefers_tls: true,
        lacks: &[],
    },
    Client {
        name: "Java programs",
        core: false,
        kind: Kind::Programs(&[
            cell("pgjdbc", "cursors by fetch size, `reWriteBatchedInserts`, every sslmode that verifies nothing"),
            cell("HikariCP", "a pool whose sessions the server ends"),
            cell("DBeaver", "replayed by pgjdbc: the list of databases, three sessions in each, the tree"),
            cell("DataGrip", "replayed by pgjdbc: the same with its own queries"),
        ]),
        source: Source::Java,
        program: &["42.7.14", "Programs"],
        prefers_tls: false,
        lacks: &[],
    },
    Client {
        name: "Java migrations",
        core: false,
        kind: Kind::Programs(&[
            cell(
                "Flyway",
                "two at a time, one of which waits for the lock of the other; COPY, an index made concurrently, clean",
            ),
            cell("Liquibase", "update, and rollback"),
        ]),
        source: Source::Java,
        program: &["42.7.14", "Migrations"],
        prefers_tls: false,
        lacks: &[],
    },
    Client {
        name: "Rust programs",
        core: false,
        kind: Kind::Programs(&[cell(
            "Diesel",
            "migrations up and down with a search path in `options`, a query builder; a pool whose sessions the server ends",
        )]),
        source: Source::Rust("with-diesel"),
        program: &["with-diesel", "programs"],
        prefers_tls: false,
        lacks: &[],
    },
];
