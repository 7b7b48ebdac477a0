import ssl

import pg8000
import pg8000.native

import cells


class Pg8000(cells.Driver):
    version = pg8000.__version__
    parameter = ":value"
    lacks = ["direct", "pipeline", "cancel"]

    def connect(self, user, database, direct=False):
        context = None
        if cells.TLS:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return pg8000.native.Connection(
            user, host=cells.HOST, port=cells.PORT, database=database, ssl_context=context or False
        )

    def query(self, connection, sql):
        return connection.run(sql)[0][0]

    def script(self, connection, sql):
        connection.run(sql)

    def bound(self, connection, sql, value):
        statement = connection.prepare(sql)
        try:
            return statement.run(value=value)[0][0]
        finally:
            statement.close()

    def error(self, error):
        fields = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
        return fields.get("M", str(error)), fields.get("C"), fields.get("H")

    def cell_copy_in(self):
        import io

        def use(connection):
            connection.run("create temp table t (n int, line text)")
            connection.run("copy t from stdin", stream=io.BytesIO(cells.lines().encode()))
            cells.same(self.query(connection, "select count(*)::text from t"), str(cells.ROWS))

        self.with_connection(use)

    def cell_copy_out(self):
        import io

        def use(connection):
            sql = f"copy (select n, 'line ' || n from generate_series(0, {cells.ROWS - 1}) n) to stdout"
            out = io.BytesIO()
            connection.run(sql, stream=out)
            cells.same(out.getvalue().decode(), cells.lines())

        self.with_connection(use)

    def cell_notice(self):
        def use(connection):
            connection.run("do $$ begin raise notice 'ahoy'; end $$")
            cells.same([notice[b"M"] for notice in connection.notices], [b"ahoy"])

        self.with_connection(use)

    def cell_listen(self):
        def use(connection):
            connection.run("listen pg8000")
            self.with_connection(lambda other: other.run("notify pg8000, 'ahoy'"))
            while not connection.notifications:
                connection.run("")
            cells.same(connection.notifications[0][2], "ahoy")

        self.with_connection(use)


driver = Pg8000()
cells.run(driver.version, driver.cells())
