import select

import psycopg2
import psycopg2.extensions

import cells


class Psycopg(cells.Driver):
    version = psycopg2.__version__.split()[0]
    lacks = ["pipeline"]

    def connect(self, user, database, direct=False):
        more = {"sslmode": "require" if cells.TLS else "disable"} | ({"sslnegotiation": "direct"} if direct else {})
        connection = psycopg2.connect(host=cells.HOST, port=cells.PORT, user=user, dbname=database, **more)
        connection.autocommit = True
        cells.same(connection.info.ssl_in_use, cells.TLS)
        return connection

    def query(self, connection, sql):
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone()[0]

    def script(self, connection, sql):
        with connection.cursor() as cursor:
            cursor.execute(sql)

    def bound(self, connection, sql, value):
        # It puts values into the text; what is prepared is prepared by SQL.
        with connection.cursor() as cursor:
            cursor.execute("prepare p (text) as " + sql.replace("%s", "$1"))
            cursor.execute("execute p (%s)", [value])
            found = cursor.fetchone()[0]
            cursor.execute("deallocate p")
            return found

    def error(self, error):
        return str(error), error.pgcode, error.diag.message_hint

    def cancel(self, connection):
        connection.cancel()

    def cell_copy_in(self):
        import io

        def use(connection):
            self.script(connection, "create temp table t (n int, line text)")
            with connection.cursor() as cursor:
                cursor.copy_expert("copy t from stdin", io.StringIO(cells.lines()))
            cells.same(self.query(connection, "select count(*)::text from t"), str(cells.ROWS))

        self.with_connection(use)

    def cell_copy_out(self):
        import io

        def use(connection):
            sql = f"copy (select n, 'line ' || n from generate_series(0, {cells.ROWS - 1}) n) to stdout"
            out = io.StringIO()
            with connection.cursor() as cursor:
                cursor.copy_expert(sql, out)
            cells.same(out.getvalue(), cells.lines())

        self.with_connection(use)

    def cell_notice(self):
        def use(connection):
            self.script(connection, "do $$ begin raise notice 'ahoy'; end $$")
            cells.same([line.strip() for line in connection.notices], ["NOTICE:  ahoy"])

        self.with_connection(use)

    def cell_listen(self):
        def use(connection):
            self.script(connection, "listen psycopg_2")
            self.with_connection(lambda other: self.script(other, "notify psycopg_2, 'ahoy'"))
            while not connection.notifies:
                select.select([connection], [], [])
                connection.poll()
            cells.same(connection.notifies[0].payload, "ahoy")

        self.with_connection(use)


driver = Psycopg()
cells.run(driver.version, driver.cells())
