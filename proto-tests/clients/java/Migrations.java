import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.SQLException;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Stream;
import liquibase.Contexts;
import liquibase.LabelExpression;
import liquibase.Liquibase;
import liquibase.Scope;
import liquibase.UpdateSummaryOutputEnum;
import liquibase.database.Database;
import liquibase.database.DatabaseFactory;
import liquibase.database.jvm.JdbcConnection;
import liquibase.resource.DirectoryResourceAccessor;
import liquibase.ui.LoggerUIService;
import org.flywaydb.core.Flyway;
import org.flywaydb.core.api.output.MigrateResult;
import org.flywaydb.database.postgresql.PostgreSQLConfigurationExtension;

/** Programs that migrate a database by pgjdbc. */
final class Migrations {
  static String schema(String program) throws SQLException {
    String schema = program + "_" + Cells.MODE;
    try (Connection one = Cells.open()) {
      Cells.script(one, "drop schema if exists " + schema + " cascade", "create schema " + schema);
    }
    return schema;
  }

  static String count(String sql) throws SQLException {
    try (Connection one = Cells.open()) {
      return Cells.value(one, "select count(*)::text from " + sql);
    }
  }

  /** It locks by an advisory lock on a second session; two that are started together are one migration. */
  static String flyway() throws Exception {
    String schema = schema("flyway");
    Path folder = Files.createDirectory(Path.of("flyway"));
    Files.writeString(folder.resolve("V1__boats.sql"), "create table boat (id int primary key, name text not null);\n");
    Files.writeString(folder.resolve("V2__fleet.sql"), "copy boat from stdin;\n1\tferry\n2\tbarge\n\\.\n");
    // Not in a transaction.
    Files.writeString(folder.resolve("V3__index.sql"), "create index concurrently boat_name on boat (name);\n");
    Flyway flyway = Flyway.configure()
        .dataSource("jdbc:postgresql://" + Cells.HOST + ":" + Cells.PORT + "/app?sslmode=" + Cells.MODE, Cells.USER, "")
        .schemas(schema)
        .locations("filesystem:" + folder.toAbsolutePath())
        .cleanDisabled(false)
        .load();
    // An index that is made concurrently waits for every transaction, and so for the one that would hold the lock.
    flyway.getConfigurationExtension(PostgreSQLConfigurationExtension.class).setTransactionalLock(false);
    List<CompletableFuture<MigrateResult>> both =
        Stream.generate(() -> CompletableFuture.supplyAsync(flyway::migrate)).limit(2).toList();
    int executed = 0;
    for (CompletableFuture<MigrateResult> one : both) executed += one.get().migrationsExecuted;
    Cells.same(executed, 3);
    flyway.validate();
    Cells.same(flyway.info().current().getVersion().getVersion(), "3");
    Cells.same(count(schema + ".boat"), "2");
    Cells.same(count("pg_indexes where schemaname = '" + schema + "' and indexname = 'boat_name'"), "1");
    flyway.clean();
    Cells.same(count("pg_tables where schemaname = '" + schema + "'"), "0");
    return "";
  }

  static final String CHANGES = """
      databaseChangeLog:
        - changeSet:
            id: boats
            author: tests
            changes:
              - createTable:
                  tableName: boat
                  columns:
                    - column: {name: id, type: bigint, autoIncrement: true, constraints: {primaryKey: true}}
                    - column: {name: name, type: text, constraints: {nullable: false}}
        - changeSet:
            id: harbours
            author: tests
            changes:
              - addColumn:
                  tableName: boat
                  columns:
                    - column: {name: harbour, type: text}
              - createIndex:
                  tableName: boat
                  indexName: boat_harbour
                  columns:
                    - column: {name: harbour}
      """;

  static String liquibase() throws Exception {
    String schema = schema("liquibase");
    Files.writeString(Path.of("changes.yaml"), CHANGES);
    String columns = "information_schema.columns where table_schema = '" + schema + "' and table_name = 'boat'";
    Connection session = Cells.connect(Cells.USER, "app", "currentSchema", schema);
    Database database = DatabaseFactory.getInstance().findCorrectDatabaseImplementation(new JdbcConnection(session));
    database.setDefaultSchemaName(schema);
    try (DirectoryResourceAccessor here = new DirectoryResourceAccessor(Path.of(""));
        Liquibase liquibase = new Liquibase("changes.yaml", here, database)) {
      liquibase.setShowSummaryOutput(UpdateSummaryOutputEnum.LOG);
      liquibase.update(new Contexts(), new LabelExpression());
      Cells.same(count(columns), "3");
      Cells.same(count(schema + ".databasechangelog"), "2");
      liquibase.validate();
      liquibase.rollback(1, new Contexts(), new LabelExpression());
      Cells.same(count(columns), "2");
      liquibase.rollback(1, new Contexts(), new LabelExpression());
      Cells.same(count(columns), "0");
    }
    return "";
  }

  public static void main(String[] arguments) {
    System.setProperty("liquibase.analytics.enabled", "false");
    Map<String, Cells.Cell> cells = new LinkedHashMap<>();
    cells.put("Flyway", Migrations::flyway);
    // What it tells on standard output belongs into its log.
    Map<String, Object> scope = Map.of(Scope.Attr.ui.name(), new LoggerUIService());
    cells.put("Liquibase", () -> Scope.child(scope, Migrations::liquibase));
    Cells.run("", cells);
  }
}
