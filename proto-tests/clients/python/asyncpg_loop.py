import asyncio
import io
import ssl
import threading

import asyncpg

import cells

LOOP = asyncio.new_event_loop()
threading.Thread(target=LOOP.run_forever, daemon=True).start()


def wait(coroutine):
    return asyncio.run_coroutine_threadsafe(coroutine, LOOP).result()


class Asyncpg(cells.Driver):
    version = asyncpg.__version__
    parameter = "$1"
    lacks = ["pipeline"]

    def connect(self, user, database, direct=False):
        context = False
        if cells.TLS:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            # With direct TLS, PostgreSQL asks for it.
            context.set_alpn_protocols(["postgresql"])
        more = {"direct_tls": True} if direct else {}
        return wait(
            asyncpg.connect(host=cells.HOST, port=cells.PORT, user=user, database=database, ssl=context, **more)
        )

    def query(self, connection, sql):
        return wait(connection.fetchval(sql))

    def script(self, connection, sql):
        # Without parameters: a Query message.
        wait(connection.execute(sql))

    def bound(self, connection, sql, value):
        async def fetch():
            statement = await connection.prepare(sql)
            return await statement.fetchval(value)

        return wait(fetch())

    def close(self, connection):
        wait(connection.close())

    def error(self, error):
        return str(error), getattr(error, "sqlstate", None), getattr(error, "hint", None)

    def cell_cancel(self):
        """A task that is cancelled, or a timeout, becomes a cancel request."""

        def use(connection):
            pid = self.query(connection, "select pg_backend_pid()::text")
            sleep = asyncio.run_coroutine_threadsafe(connection.execute("select pg_sleep(3600)"), LOOP)
            look = f"select (state = 'active' and query like '%pg_sleep%')::text from pg_stat_activity where pid = {pid}"
            self.with_connection(lambda other: cells.wait_until(lambda: self.query(other, look) == "true"))
            sleep.cancel()
            ended = f"select (state = 'idle')::text from pg_stat_activity where pid = {pid}"
            self.with_connection(lambda other: cells.wait_until(lambda: self.query(other, ended) == "true"))
            cells.same(self.query(connection, "select 'on'"), "on")

        self.with_connection(use)

    def cell_copy_in(self):
        def use(connection):
            self.script(connection, "create temp table t (n int, line text)")
            wait(connection.copy_to_table("t", source=io.BytesIO(cells.lines().encode())))
            cells.same(self.query(connection, "select count(*)::text from t"), str(cells.ROWS))

        self.with_connection(use)

    def cell_copy_out(self):
        def use(connection):
            sql = f"select n, 'line ' || n from generate_series(0, {cells.ROWS - 1}) n"
            out = io.BytesIO()
            wait(connection.copy_from_query(sql, output=out))
            cells.same(out.getvalue().decode(), cells.lines())

        self.with_connection(use)

    def cell_notice(self):
        def use(connection):
            heard = []
            connection.add_log_listener(lambda _, notice: heard.append(notice.message))
            self.script(connection, "do $$ begin raise notice 'ahoy'; end $$")
            cells.wait_until(lambda: heard)
            cells.same(heard, ["ahoy"])

        self.with_connection(use)

    def cell_listen(self):
        def use(connection):
            heard = []
            wait(connection.add_listener("asyncpg", lambda _connection, _pid, _channel, payload: heard.append(payload)))
            self.with_connection(lambda other: self.script(other, "notify asyncpg, 'ahoy'"))
            cells.wait_until(lambda: heard)
            cells.same(heard, ["ahoy"])
            wait(connection.reset())

        self.with_connection(use)


driver = Asyncpg()
cells.run(driver.version, driver.cells())
