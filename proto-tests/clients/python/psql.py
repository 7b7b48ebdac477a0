"""psql, of the PostgreSQL that is first on PATH: no driver, so most cells are a script that it reads."""

import re
import signal
import subprocess

import cells

MAJOR = re.search(r"\d+", subprocess.check_output(["psql", "--version"], text=True)).group()


class Failed(Exception):
    pass


class Psql(cells.Driver):
    version = MAJOR

    def conninfo(self, user, database, direct=False):
        mode = ("require" if cells.TLS else "disable") + (" sslnegotiation=direct" if direct else "")
        return f"host={cells.HOST} port={cells.PORT} user={user} dbname={database} sslmode={mode}"

    def start(self, user=cells.USER, database="app", direct=False):
        arguments = ["psql", "-XAtq", "-v", "VERBOSITY=verbose", self.conninfo(user, database, direct)]
        return subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def read(self, script, **where):
        """What it prints on both outputs, and its exit code."""
        process = self.start(**where)
        out, err = process.communicate(script)
        return out, err, process.returncode

    def connect(self, user, database, direct=False):
        where = {"user": user, "database": database, "direct": direct}
        self.query(where, "select 1")
        return where

    def close(self, connection):
        pass

    def query(self, connection, sql):
        out, err, code = self.read(f"\\set ON_ERROR_STOP 1\n{sql};\n", **connection)
        if code:
            raise Failed(err)
        return out.strip()

    def error(self, error):
        return str(error), None, None

    def has(self, method):
        return method != "pipeline" and (method != "direct" or int(MAJOR) >= 17)

    def said(self, script, *wanted):
        out, err, code = self.read(script)
        cells.same((out.splitlines(), code), (list(wanted), 0))
        return err

    def cell_prepared(self):
        self.said("prepare p (text) as select 'the ' || $1; execute p ('one'); execute p ('two');", "the one", "the two")
        if int(MAJOR) >= 16:
            self.said("select 'the ' || $1 \\bind one \\g\n", "the one")

    def cell_transaction(self):
        script = """create temp table t (n int);
            begin; insert into t values (1); rollback; select count(*) from t;
            begin; insert into t values (1); commit; select count(*) from t;"""
        self.said(script, "0", "1")

    def cell_error(self):
        script = "select 1 / 0;\nselect 'on';\nbegin;\nselect nothing;\nselect 'on';\nrollback;\nselect 'on';\n"
        err = self.said(script, "on", "on")
        cells.same(re.findall(r"ERROR:  (\w{5})", err), ["22012", "42703", "25P02"])

    def cell_copy_in(self):
        script = "create temp table t (n int, line text);\n\\copy t from stdin\n" + cells.lines() + "\\.\n"
        self.said(script + "select count(*) from t;\n", str(cells.ROWS))

    def cell_copy_out(self):
        sql = f"select n, 'line ' || n from generate_series(0, {cells.ROWS - 1}) n"
        out, _, _ = self.read(f"\\copy ({sql}) to stdout\n")
        cells.same(out, cells.lines())

    def cell_cancel(self):
        """Ctrl-C."""
        process = self.start()
        process.stdin.write("select pg_backend_pid();\n")
        process.stdin.flush()
        pid = int(process.stdout.readline())
        process.stdin.write("select pg_sleep(3600);\nselect 'on';\n")
        process.stdin.flush()
        look = f"select state = 'active' and query like '%pg_sleep%' from pg_stat_activity where pid = {pid}"
        here = {"user": cells.USER, "database": "app"}
        cells.wait_until(lambda: self.query(here, look) == "t")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        cells.same(re.findall(r"ERROR:  (\w{5})", err), ["57014"])
        # What it reads from a pipe ends with the query that is cancelled.
        cells.same(process.returncode in (0, 3), True)

    def cell_notice(self):
        err = self.said("do $$ begin raise notice 'ahoy'; end $$;")
        cells.same("NOTICE:  00000: ahoy" in err, True)

    def cell_listen(self):
        process = self.start()
        process.stdin.write("listen psql;\nselect 'listening';\n")
        process.stdin.flush()
        cells.same(process.stdout.readline(), "listening\n")
        self.said("notify psql, 'ahoy';")
        out, _ = process.communicate("select 'on';\n")
        cells.same('notification "psql" with payload "ahoy" received' in out, True)

    def cell_large(self):
        self.said(f"select length('{'x' * cells.BIG}');\n", str(cells.BIG))
        out, _, _ = self.read(f"select repeat('y', {cells.BIG});\n")
        cells.same(len(out), cells.BIG + 1)

    def cell_reconnect(self):
        process = self.start()
        process.stdin.write("select pg_backend_pid();\n")
        process.stdin.flush()
        pid = int(process.stdout.readline())
        self.said(f"select pg_terminate_backend({pid});", "t")
        _, err = process.communicate("select 'on';\n")
        cells.same(("57P01" in err, process.returncode), (True, 2))
        self.said("select 'on';", "on")

    def cell_twenty(self):
        all = [self.start() for _ in range(20)]
        for process in all:
            process.stdin.write("select pg_backend_pid();\n")
            process.stdin.flush()
        found = {process.stdout.readline() for process in all}
        cells.same(len(found), 20)
        for process in all:
            cells.same(process.communicate("")[0], "")


driver = Psql()
cells.run(driver.version, driver.cells())
