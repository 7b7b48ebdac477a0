import java.io.StringReader;
import java.io.StringWriter;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;
import org.postgresql.core.BaseConnection;
import org.postgresql.util.DriverInfo;
import org.postgresql.util.PSQLException;

/** Every cell of pgjdbc. */
final class Cells {
  static final String HOST = System.getenv("CLIENT_HOST");
  static final String PORT = System.getenv("CLIENT_PORT");
  static final String MODE = System.getenv("CLIENT_TLS");
  static final String TARGET = "shop.prod";
  static final String DEFAULT = "pgferry";
  static final String USER = "app@shop.prod";
  static final int BIG = 64 << 20;
  static final int ROWS = 10_000;

  static final String VERSION = version();

  /** Read, not compiled in: the versions differ. */
  private static String version() {
    try {
      return (String) DriverInfo.class.getField("DRIVER_VERSION").get(null);
    } catch (ReflectiveOperationException error) {
      throw new RuntimeException(error);
    }
  }

  interface Cell {
    String run() throws Exception;
  }

  static String quoted(String text) {
    StringBuilder out = new StringBuilder("\"");
    for (char c : text.toCharArray()) {
      if (c < ' ' || c == '"' || c == '\\') out.append(String.format("\\u%04x", (int) c));
      else out.append(c);
    }
    return out.append('"').toString();
  }

  static void run(String version, Map<String, Cell> cells) {
    System.out.println("{\"version\": " + quoted(version) + "}");
    cells.forEach((name, cell) -> {
      String told;
      try {
        told = "\"ok\": true, \"detail\": " + quoted(cell.run());
      } catch (Throwable error) {
        StringWriter trace = new StringWriter();
        error.printStackTrace(new java.io.PrintWriter(trace));
        told = "\"ok\": false, \"detail\": " + quoted(trace.toString());
      }
      System.out.println("{\"cell\": " + quoted(name) + ", " + told + "}");
    });
  }

  static void same(Object found, Object wanted) {
    if (!wanted.equals(found)) throw new AssertionError(String.format("%.300s is not %.300s", found, wanted));
  }

  static Connection connect(String user, String database, String... more) throws SQLException {
    Properties about = new Properties();
    about.setProperty("user", user);
    about.setProperty("sslmode", MODE);
    for (int i = 0; i < more.length; i += 2) about.setProperty(more[i], more[i + 1]);
    return DriverManager.getConnection("jdbc:postgresql://" + HOST + ":" + PORT + "/" + database, about);
  }

  static Connection open() throws SQLException {
    return connect(USER, "app");
  }

  static String value(Connection one, String sql) throws SQLException {
    try (Statement statement = one.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
      rows.next();
      return rows.getString(1);
    }
  }

  static void script(Connection one, String... all) throws SQLException {
    try (Statement statement = one.createStatement()) {
      for (String sql : all) statement.execute(sql);
    }
  }

  static SQLException fails(Callable<?> what) throws Exception {
    try {
      what.call();
    } catch (SQLException error) {
      return error;
    }
    throw new AssertionError("no error came");
  }

  static String who(String user, String database, String wanted) throws SQLException {
    try (Connection one = connect(user, database)) {
      same(value(one, "select current_user || '/' || current_database()"), wanted);
    }
    return "";
  }

  static String refused(String user, String database, String code, String... words) throws Exception {
    PSQLException told = (PSQLException) fails(() -> connect(user, database));
    same(told.getSQLState(), code);
    for (String word : words) same(told.getMessage().contains(word), true);
    same(told.getServerErrorMessage().getHint().isEmpty(), false);
    return "message, SQLSTATE, hint";
  }

  static String lines() {
    StringBuilder all = new StringBuilder();
    for (int n = 0; n < ROWS; n++) all.append(n).append("\tline ").append(n).append('\n');
    return all.toString();
  }

  static String prepared() throws SQLException {
    try (Connection one = open(); PreparedStatement statement = one.prepareStatement("select 'the ' || ?::text")) {
      // From the fifth time on it has a name on the server.
      for (String value : "one two three four five six seven".split(" ")) {
        statement.setString(1, value);
        try (ResultSet rows = statement.executeQuery()) {
          rows.next();
          same(rows.getString(1), "the " + value);
        }
      }
    }
    return "";
  }

  static String transaction() throws SQLException {
    try (Connection one = open()) {
      script(one, "create temp table t (n int)");
      one.setAutoCommit(false);
      script(one, "insert into t values (1)");
      one.rollback();
      same(value(one, "select count(*)::text from t"), "0");
      script(one, "insert into t values (1)");
      one.commit();
      same(value(one, "select count(*)::text from t"), "1");
    }
    return "";
  }

  static String error() throws Exception {
    try (Connection one = open()) {
      same(fails(() -> value(one, "select (1 / 0)::text")).getSQLState(), "22012");
      same(value(one, "select 'on'"), "on");
      one.setAutoCommit(false);
      same(fails(() -> value(one, "select nothing")).getSQLState(), "42703");
      same(fails(() -> value(one, "select 'on'")).getSQLState(), "25P02");
      one.rollback();
      same(value(one, "select 'on'"), "on");
    }
    return "";
  }

  static String copyIn() throws Exception {
    try (Connection one = open()) {
      script(one, "create temp table t (n int, line text)");
      new CopyManager((BaseConnection) one).copyIn("copy t from stdin", new StringReader(lines()));
      same(value(one, "select count(*)::text from t"), "" + ROWS);
    }
    return "";
  }

  static String copyOut() throws Exception {
    try (Connection one = open()) {
      StringWriter out = new StringWriter();
      String sql = "copy (select n, 'line ' || n from generate_series(0, " + (ROWS - 1) + ") n) to stdout";
      new CopyManager((BaseConnection) one).copyOut(sql, out);
      same(out.toString(), lines());
    }
    return "";
  }

  static void waitForSleep(String pid) throws Exception {
    try (Connection other = open()) {
      String look = "select (state = 'active' and query like '%pg_sleep%')::text from pg_stat_activity where pid = ";
      while (!"true".equals(value(other, look + pid))) Thread.sleep(10);
    }
  }

  static String cancel() throws Exception {
    try (Connection one = open(); Statement statement = one.createStatement()) {
      String pid = value(one, "select pg_backend_pid()::text");
      CompletableFuture<String> ended = CompletableFuture.supplyAsync(() -> {
        try {
          return fails(() -> statement.execute("select pg_sleep(3600)")).getSQLState();
        } catch (Exception error) {
          throw new RuntimeException(error);
        }
      });
      waitForSleep(pid);
      statement.cancel();
      same(ended.get(), "57014");
      same(value(one, "select 'on'"), "on");
    }
    return "";
  }

  static String notice() throws SQLException {
    try (Connection one = open(); Statement statement = one.createStatement()) {
      statement.execute("do $$ begin raise notice 'ahoy'; end $$");
      same(statement.getWarnings().getMessage(), "ahoy");
    }
    return "";
  }

  static String listen() throws Exception {
    String channel = "pgjdbc_" + VERSION.replace('.', '_');
    try (Connection one = open(); Connection other = open()) {
      script(one, "listen " + channel);
      script(other, "notify " + channel + ", 'ahoy'");
      same(one.unwrap(PGConnection.class).getNotifications(100_000)[0].getParameter(), "ahoy");
    }
    return "";
  }

  static String large() throws SQLException {
    try (Connection one = open(); PreparedStatement statement = one.prepareStatement("select length(?::text)::text")) {
      statement.setString(1, "x".repeat(BIG));
      try (ResultSet rows = statement.executeQuery()) {
        rows.next();
        same(rows.getString(1), "" + BIG);
      }
      same(value(one, "select repeat('y', " + BIG + ")").length(), BIG);
    }
    return "";
  }

  /** A batch is sent before its answers are read. */
  static String pipeline() throws SQLException {
    try (Connection one = open()) {
      script(one, "create temp table t (n int)");
      try (PreparedStatement statement = one.prepareStatement("insert into t values (?)")) {
        for (int n = 0; n < 1000; n++) {
          statement.setInt(1, n);
          statement.addBatch();
        }
        same(statement.executeBatch().length, 1000);
      }
      same(value(one, "select sum(n)::text from t"), "499500");
    }
    return "";
  }

  static String reconnect() throws Exception {
    try (Connection one = open(); Connection other = open()) {
      same(value(other, "select pg_terminate_backend(" + value(one, "select pg_backend_pid()") + ")::text"), "true");
      fails(() -> value(one, "select 'on'"));
    }
    try (Connection again = open()) {
      same(value(again, "select 'on'"), "on");
    }
    return "";
  }

  static String twenty() throws Exception {
    Set<String> pids = ConcurrentHashMap.newKeySet();
    CountDownLatch all = new CountDownLatch(20);
    List<Thread> threads = new ArrayList<>();
    for (int n = 0; n < 20; n++) {
      Thread thread = new Thread(() -> {
        try (Connection one = open()) {
          pids.add(value(one, "select pg_backend_pid()::text"));
          all.countDown();
          all.await();
        } catch (Exception error) {
          error.printStackTrace();
        }
      });
      thread.setDaemon(true);
      thread.start();
      threads.add(thread);
    }
    for (Thread thread : threads) thread.join();
    same(pids.size(), 20);
    return "";
  }

  static String simple() throws SQLException {
    try (Connection one = connect(USER, "app", "preferQueryMode", "simple")) {
      same(value(one, "select 'Fähre ' || 6 * 7"), "Fähre 42");
    }
    return "";
  }

  static String direct() throws SQLException {
    try (Connection one = connect(USER, "app", "sslNegotiation", "direct")) {
      same(value(one, "select 'on'"), "on");
    }
    return "";
  }

  public static void main(String[] arguments) {
    Map<String, Cell> cells = new LinkedHashMap<>();
    cells.put("connect", () -> who(DEFAULT, TARGET, "app/app"));
    if (MODE.equals("require") && !VERSION.startsWith("42.2.")) cells.put("direct TLS", Cells::direct);
    cells.put("database name", () -> who(DEFAULT, TARGET, "app/app") + who("reporting", TARGET, "reporting/app"));
    cells.put("role@target", () -> who(USER, "app", "app/app") + who(USER, "postgres", "app/postgres"));
    cells.put("simple query", Cells::simple);
    cells.put("prepared", Cells::prepared);
    cells.put("transaction", Cells::transaction);
    cells.put("COPY in", Cells::copyIn);
    cells.put("COPY out", Cells::copyOut);
    cells.put("error", Cells::error);
    cells.put("cancel", Cells::cancel);
    cells.put("notice", Cells::notice);
    cells.put("LISTEN", Cells::listen);
    cells.put("64 MiB", Cells::large);
    cells.put("pipeline", Cells::pipeline);
    cells.put("reconnect", Cells::reconnect);
    cells.put("20 at once", Cells::twenty);
    cells.put("wrong cluster", () -> refused(DEFAULT, "nowhere.prod", "3D000", "nowhere"));
    cells.put("wrong role", () -> refused("nobody@shop.prod", "app", "28000", "nobody", "shop.prod"));
    run(VERSION, cells);
  }
}
