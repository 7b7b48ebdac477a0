import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** What stands on pgjdbc: its own modes, a pool, and what graphical programs do when they are opened. */
final class Programs {
  /** Portals that are suspended: a cursor in a transaction, by the fetch size. */
  static String cursor() throws SQLException {
    try (Connection one = Cells.open(); Statement statement = one.createStatement()) {
      one.setAutoCommit(false);
      statement.setFetchSize(100);
      int seen = 0;
      try (ResultSet rows = statement.executeQuery("select n from generate_series(1, 5000) n")) {
        while (rows.next()) Cells.same(rows.getInt(1), ++seen);
      }
      Cells.same(seen, 5000);
      one.commit();
    }
    return "";
  }

  static String rewritten() throws SQLException {
    try (Connection one = Cells.connect(Cells.USER, "app", "reWriteBatchedInserts", "true")) {
      Cells.script(one, "create temp table t (n int, line text)");
      try (PreparedStatement statement = one.prepareStatement("insert into t values (?, ?)")) {
        for (int n = 0; n < 5000; n++) {
          statement.setInt(1, n);
          statement.setString(2, "line " + n);
          statement.addBatch();
        }
        statement.executeBatch();
      }
      Cells.same(Cells.value(one, "select count(*)::text from t"), "5000");
    }
    return "";
  }

  static String sslmodes() throws SQLException {
    String[] modes = Cells.MODE.equals("require") ? new String[] {"prefer", "require"} : new String[] {"disable", "allow"};
    for (String mode : modes) {
      try (Connection one = Cells.connect(Cells.USER, "app", "sslmode", mode)) {
        Cells.same(Cells.value(one, "select 'on'"), "on");
      }
    }
    return "";
  }

  /** A pool that fills, lends, finds sessions that the server has ended, and fills again. */
  static String hikari() throws Exception {
    // It believes a session that it has just seen for half a second.
    System.setProperty("com.zaxxer.hikari.aliveBypassWindowMs", "0");
    HikariConfig about = new HikariConfig();
    about.setJdbcUrl("jdbc:postgresql://" + Cells.HOST + ":" + Cells.PORT + "/app?sslmode=" + Cells.MODE);
    about.setUsername(Cells.USER);
    about.setMaximumPoolSize(5);
    about.addDataSourceProperty("ApplicationName", "hikari-" + Cells.MODE);
    try (HikariDataSource pool = new HikariDataSource(about)) {
      List<Connection> lent = new ArrayList<>();
      for (int n = 0; n < 5; n++) lent.add(pool.getConnection());
      for (Connection one : lent) Cells.same(Cells.value(one, "select 'on'"), "on");
      for (Connection one : lent) one.close();
      String all = "select count(pg_terminate_backend(pid))::text from pg_stat_activity where application_name = ";
      try (Connection other = Cells.open()) {
        Cells.same(Cells.value(other, all + "'hikari-" + Cells.MODE + "'"), "5");
      }
      for (int n = 0; n < 10; n++) {
        try (Connection one = pool.getConnection()) {
          Cells.same(Cells.value(one, "select 'on'"), "on");
        }
      }
    }
    return "";
  }

  static List<String> column(Connection one, String sql, String... bound) throws SQLException {
    List<String> all = new ArrayList<>();
    try (PreparedStatement statement = one.prepareStatement(sql)) {
      for (int n = 0; n < bound.length; n++) statement.setString(n + 1, bound[n]);
      try (ResultSet rows = statement.executeQuery()) {
        while (rows.next()) all.add(rows.getString("datname"));
      }
    }
    return all;
  }

  /** The tree of schemas, tables and columns. */
  static void browse(Connection one, String database) throws SQLException {
    DatabaseMetaData about = one.getMetaData();
    Cells.same(one.getCatalog(), database);
    boolean found = false;
    try (ResultSet rows = about.getSchemas()) {
      while (rows.next()) found |= rows.getString("TABLE_SCHEM").equals("pg_catalog");
    }
    Cells.same(found, true);
    try (ResultSet rows = about.getTables(one.getCatalog(), "pg_catalog", "pg_class", null)) {
      Cells.same(rows.next(), true);
    }
    try (ResultSet rows = about.getColumns(one.getCatalog(), "pg_catalog", "pg_class", "relname")) {
      Cells.same(rows.next(), true);
    }
  }

  /** PostgreDataSource: a session that finds the databases, then three for each one that is opened, by its real name. */
  static String dbeaver() throws SQLException {
    String name = "DBeaver 24.2.2 - ";
    List<String> databases;
    try (Connection one = Cells.connect(Cells.USER, "app", "ApplicationName", name + "Main")) {
      databases = column(one, "SELECT db.oid,db.* FROM pg_catalog.pg_database db WHERE datallowconn AND NOT datistemplate"
          + " OR datname =? ORDER BY db.datname", "app");
    }
    Cells.same(databases.contains("app") && databases.contains("postgres"), true);
    for (String database : List.of("app", "postgres")) {
      try (Connection main = Cells.connect(Cells.USER, database, "ApplicationName", name + "Main");
          Connection metadata = Cells.connect(Cells.USER, database, "ApplicationName", name + "Metadata");
          Connection script = Cells.connect(Cells.USER, database, "ApplicationName", name + "SQLEditor")) {
        Cells.script(main, "SET search_path = public,public,\"$user\"", "SELECT current_schema(),session_user");
        Cells.same(Cells.value(main, "select current_database()"), database);
        browse(metadata, database);
        script.setAutoCommit(false);
        Cells.script(script, "EXPLAIN SELECT 1");
        script.rollback();
      }
    }
    return "";
  }

  /** The version first, then a name for the session, then a session of its own for each database. */
  static String datagrip() throws SQLException {
    for (String database : List.of("postgres", "app")) {
      try (Connection one = Cells.connect(Cells.USER, database, "assumeMinServerVersion", "9.0")) {
        Cells.same(one.getMetaData().getDatabaseMajorVersion() >= 17, true);
        Cells.script(one, "SET application_name = 'DataGrip 2026.2'", "select version()");
        Cells.same(column(one, "select N.oid::bigint as id, datname, D.description from pg_catalog.pg_database N"
            + " left join pg_catalog.pg_shdescription D on N.oid = D.objoid where not datistemplate"
            + " order by case when datname = pg_catalog.current_database() then -1::bigint else N.oid::bigint end")
            .get(0), database);
        browse(one, database);
      }
    }
    return "";
  }

  public static void main(String[] arguments) {
    Map<String, Cells.Cell> cells = new LinkedHashMap<>();
    cells.put("pgjdbc", () -> cursor() + rewritten() + sslmodes());
    cells.put("HikariCP", Programs::hikari);
    cells.put("DBeaver", Programs::dbeaver);
    cells.put("DataGrip", Programs::datagrip);
    Cells.run("", cells);
  }
}
