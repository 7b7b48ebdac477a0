import psycopg

import cells


class Psycopg(cells.Driver):
    version = psycopg.__version__

    def connect(self, user, database, direct=False):
        more = {"sslmode": "require" if cells.TLS else "disable"} | ({"sslnegotiation": "direct"} if direct else {})
        connection = psycopg.connect(
            host=cells.HOST, port=cells.PORT, user=user, dbname=database, autocommit=True, prepare_threshold=0, **more
        )
        cells.same(bool(connection.pgconn.ssl_in_use), cells.TLS)
        return connection

    def query(self, connection, sql):
        # Without parameters, and not to be prepared: a Query message.
        return connection.execute(sql, prepare=False).fetchone()[0]

    def script(self, connection, sql):
        connection.execute(sql, prepare=False)

    def bound(self, connection, sql, value):
        return connection.execute(sql, [value], prepare=True).fetchone()[0]

    def error(self, error):
        # At connect, libpq has the whole text and no fields.
        return str(error), error.sqlstate, error.diag.message_hint

    def cancel(self, connection):
        connection.cancel_safe()

    def cell_copy_in(self):
        def use(connection):
            connection.execute("create temp table t (n int, line text)")
            with connection.cursor().copy("copy t from stdin") as copy:
                copy.write(cells.lines())
            cells.same(self.query(connection, "select count(*)::text from t"), str(cells.ROWS))

        self.with_connection(use)

    def cell_copy_out(self):
        def use(connection):
            sql = f"copy (select n, 'line ' || n from generate_series(0, {cells.ROWS - 1}) n) to stdout"
            with connection.cursor().copy(sql) as copy:
                cells.same(b"".join(copy).decode(), cells.lines())

        self.with_connection(use)

    def cell_notice(self):
        def use(connection):
            heard = []
            connection.add_notice_handler(lambda notice: heard.append(notice.message_primary))
            connection.execute("do $$ begin raise notice 'ahoy'; end $$")
            cells.same(heard, ["ahoy"])

        self.with_connection(use)

    def cell_listen(self):
        def use(connection):
            connection.execute("listen psycopg_3")
            self.with_connection(lambda other: other.execute("notify psycopg_3, 'ahoy'"))
            cells.same(next(connection.notifies()).payload, "ahoy")

        self.with_connection(use)

    def cell_pipeline(self):
        def use(connection):
            with connection.pipeline():
                found = [connection.execute("select %s::int", [number]) for number in range(100)]
            cells.same([one.fetchone()[0] for one in found], list(range(100)))

        self.with_connection(use)


driver = Psycopg()
cells.run(driver.version, driver.cells())
