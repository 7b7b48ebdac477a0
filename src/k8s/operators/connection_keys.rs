//! What people and tools call the parts of a connection, as keys of a Secret, in lower case.

pub(super) const HOST: &[&str] = &[
    "host",
    "hostname",
    "endpoint",
    "pghost",
    "postgres_host",
    "postgresql_host",
    "db_host",
    "database_host",
    "server",
];
pub(super) const PORT: &[&str] = &["port", "pgport", "postgres_port", "postgresql_port", "db_port", "database_port"];
pub(super) const USER: &[&str] = &[
    "username",
    "user",
    "pguser",
    "postgres_user",
    "postgresql_user",
    "postgresql_username",
    "db_user",
    "db_username",
    "database_user",
];
pub(super) const PASSWORD: &[&str] =
    &["password", "pgpassword", "postgres_password", "postgresql_password", "db_password", "database_password", "pass"];
pub(super) const DATABASE: &[&str] = &[
    "dbname",
    "database",
    "db",
    "pgdatabase",
    "postgres_db",
    "postgres_database",
    "postgresql_database",
    "db_name",
    "database_name",
];
pub(super) const URI: &[&str] = &[
    "uri",
    "url",
    "database_url",
    "postgres_url",
    "postgresql_url",
    "postgres_uri",
    "connection_string",
    "connectionstring",
    "connection_url",
    "dsn",
];
pub(super) const SSLMODE: &[&str] = &["pgsslmode", "sslmode", "ssl_mode", "db_sslmode"];
pub(super) const CA: &[&str] = &["clusterca", "certificates", "ca.crt", "ca_crt", "sslrootcert", "server_ca", "ca"];

/// Types of Service Bindings that are other servers.
pub(super) const OTHERS: &[&str] = &[
    "mysql",
    "mariadb",
    "mongodb",
    "redis",
    "valkey",
    "kafka",
    "rabbitmq",
    "amqp",
    "elasticsearch",
    "cassandra",
    "sqlserver",
    "oracle",
    "db2",
    "smtp",
    "s3",
    "neo4j",
    "couchdb",
    "couchbase",
    "cockroachdb",
    "etcd",
    "nats",
];
