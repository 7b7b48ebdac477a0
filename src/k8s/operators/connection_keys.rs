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
    "spring_datasource_username",
];
pub(super) const PASSWORD: &[&str] = &[
    "password",
    "pgpassword",
    "postgres_password",
    "postgresql_password",
    "db_password",
    "database_password",
    "spring_datasource_password",
    "pass",
];
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
    "database_uri",
    "database_dsn",
    "db_url",
    "db_uri",
    "postgres_dsn",
    "postgresql_uri",
    "sqlalchemy_database_uri",
    "sqlalchemy_database_url",
    "spring_datasource_url",
    "jdbc_url",
    "jdbc_uri",
];
/// A server that only takes reads.
pub(super) const REPLICA_HOST: &[&str] = &[
    "pghost_replica",
    "pghost_ro",
    "host_ro",
    "host_replica",
    "postgres_host_ro",
    "db_host_ro",
    "db_host_replica",
    "database_host_ro",
];
pub(super) const REPLICA_URI: &[&str] = &[
    "database_url_ro",
    "database_ro_url",
    "database_url_replica",
    "database_replica_url",
    "database_url_readonly",
    "postgres_url_ro",
    "url_ro",
    "uri_ro",
    "ro_uri",
];
pub(super) const ATTRIBUTES: &[&str] = &["pgtargetsessionattrs", "target_session_attrs"];
pub(super) const SSLMODE: &[&str] = &["pgsslmode", "sslmode", "ssl_mode", "db_sslmode"];
pub(super) const CA: &[&str] = &["clusterca", "certificates", "ca_crt", "sslrootcert", "server_ca", "ca"];

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

/// Ports of other servers.
pub(super) const FOREIGN_PORTS: [u16; 18] =
    [22, 25, 80, 443, 465, 587, 1433, 1521, 3306, 5671, 5672, 6379, 6443, 9042, 9092, 9200, 11211, 27017];
