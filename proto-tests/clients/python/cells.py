"""Every cell of a Python driver, made of the few things that drivers do differently (`Driver`).

A cell that ends well is a line `{"cell": ..., "ok": true}` on standard output; where it fails, the line says why.
"""

import json
import os
import threading
import time
import traceback

HOST = os.environ["CLIENT_HOST"]
PORT = int(os.environ["CLIENT_PORT"])
TLS = os.environ["CLIENT_TLS"] == "require"

TARGET = "shop.prod"
DEFAULT = "pgferry"
USER = "app@shop.prod"
BIG = 64 << 20
ROWS = 10_000


def say(**what):
    print(json.dumps(what), flush=True)


def run(version, cells):
    """Runs the cells, each by its name."""
    say(version=version)
    for name, cell in cells.items():
        if name == "direct TLS" and not TLS:
            continue
        try:
            say(cell=name, ok=True, detail=cell() or "")
        except Exception:
            say(cell=name, ok=False, detail=traceback.format_exc(limit=4))


def same(found, wanted):
    assert found == wanted, f"{found!r:.300} is not {wanted!r:.300}"


def refused(words, code, told):
    """What a driver tells of a refusal (message, SQLSTATE, hint; None where it has no such field) must be right."""
    message, found, hint = told
    assert all(word in message for word in words), message
    if found is not None:
        same(found, code)
    if hint is None and "HINT:" in message:
        hint = message.split("HINT:")[1]
    if hint is not None:
        assert hint.strip(), "an empty hint"
    fields = {"message": message, "SQLSTATE": found, "hint": hint}
    return ", ".join(name for name, value in fields.items() if value is not None)


def wait_until(holds):
    while not holds():
        time.sleep(0.01)


class Driver:
    """What a driver does its own way. Rows are lists of text."""

    version = ""
    parameter = "%s"

    def connect(self, user, database, direct=False):
        raise NotImplementedError

    def query(self, connection, sql):
        """The simple protocol where the driver has it; one value."""
        raise NotImplementedError

    def bound(self, connection, sql, value):
        """A prepared statement with one parameter; one value."""
        raise NotImplementedError

    def script(self, connection, sql):
        """No rows."""
        self.query(connection, sql)

    def close(self, connection):
        connection.close()

    def error(self, error):
        """(message, SQLSTATE, hint)"""
        raise NotImplementedError

    def cancel(self, connection):
        """Cancels what the connection runs in another thread."""
        raise NotImplementedError

    def cells(self):
        own = {
            "COPY in": "copy_in",
            "COPY out": "copy_out",
            "cancel": "cancel",
            "notice": "notice",
            "LISTEN": "listen",
            "pipeline": "pipeline",
        }
        after = {name: getattr(self, "cell_" + method) for name, method in own.items() if self.has(method)}
        before = {
            "connect": self.cell_connect,
            "direct TLS": self.cell_direct,
            "database name": self.cell_database,
            "role@target": self.cell_role,
            "simple query": self.cell_simple,
            "prepared": self.cell_prepared,
            "transaction": self.cell_transaction,
            "error": self.cell_error,
            "64 MiB": self.cell_large,
            "reconnect": self.cell_reconnect,
            "20 at once": self.cell_twenty,
            "wrong cluster": self.cell_wrong_cluster,
            "wrong role": self.cell_wrong_role,
        }
        if not self.has("direct"):
            del before["direct TLS"]
        return before | after

    def has(self, method):
        return method not in getattr(self, "lacks", ())

    def with_connection(self, use):
        connection = self.connect(USER, "app")
        try:
            return use(connection)
        finally:
            self.close(connection)

    def cell_connect(self):
        connection = self.connect(DEFAULT, TARGET)
        same(self.query(connection, "select 'in'"), "in")
        self.close(connection)

    def cell_direct(self):
        connection = self.connect(USER, "app", direct=True)
        same(self.query(connection, "select 'in'"), "in")
        self.close(connection)

    def cell_database(self):
        for user, wanted in [(DEFAULT, "app/app"), ("reporting", "reporting/app")]:
            connection = self.connect(user, TARGET)
            same(self.query(connection, "select current_user || '/' || current_database()"), wanted)
            self.close(connection)

    def cell_role(self):
        for database in ["app", "postgres"]:
            connection = self.connect(USER, database)
            same(self.query(connection, "select current_user || '/' || current_database()"), "app/" + database)
            self.close(connection)

    def cell_simple(self):
        self.with_connection(lambda connection: same(self.query(connection, "select 'Fähre ' || 6 * 7"), "Fähre 42"))

    def cell_prepared(self):
        def use(connection):
            for value in ["one", "two", "three"]:
                same(self.bound(connection, f"select 'the ' || {self.parameter}::text", value), "the " + value)

        self.with_connection(use)

    def cell_transaction(self):
        def use(connection):
            self.script(connection, "create temp table t (n int)")
            self.script(connection, "begin")
            self.script(connection, "insert into t values (1)")
            self.script(connection, "rollback")
            same(self.query(connection, "select count(*)::text from t"), "0")
            self.script(connection, "begin")
            self.script(connection, "insert into t values (1)")
            self.script(connection, "commit")
            same(self.query(connection, "select count(*)::text from t"), "1")

        self.with_connection(use)

    def code_of(self, fails):
        try:
            fails()
        except Exception as error:
            return self.error(error)
        raise AssertionError("no error came")

    def cell_error(self):
        def use(connection):
            same(self.code_of(lambda: self.query(connection, "select (1 / 0)::text"))[1], "22012")
            same(self.query(connection, "select 'on'"), "on")
            self.script(connection, "begin")
            same(self.code_of(lambda: self.query(connection, "select nothing"))[1], "42703")
            same(self.code_of(lambda: self.query(connection, "select 'on'"))[1], "25P02")
            self.script(connection, "rollback")
            same(self.query(connection, "select 'on'"), "on")

        self.with_connection(use)

    def cell_large(self):
        def use(connection):
            same(self.bound(connection, f"select length({self.parameter}::text)::text", "x" * BIG), str(BIG))
            same(len(self.query(connection, f"select repeat('y', {BIG})")), BIG)

        self.with_connection(use)

    def cell_cancel(self):
        def use(connection):
            pid = self.query(connection, "select pg_backend_pid()::text")
            found = []
            sleep = lambda: found.append(self.code_of(lambda: self.query(connection, "select pg_sleep(3600)::text")))
            thread = threading.Thread(target=sleep, daemon=True)
            thread.start()
            look = f"select (state = 'active' and query like '%pg_sleep%')::text from pg_stat_activity where pid = {pid}"
            self.with_connection(lambda other: wait_until(lambda: self.query(other, look) == "true"))
            self.cancel(connection)
            thread.join()
            same(found[0][1], "57014")
            same(self.query(connection, "select 'on'"), "on")

        self.with_connection(use)

    def cell_reconnect(self):
        connection = self.connect(USER, "app")
        pid = self.query(connection, "select pg_backend_pid()::text")
        self.with_connection(lambda other: same(self.query(other, f"select pg_terminate_backend({pid})::text"), "true"))
        self.code_of(lambda: self.query(connection, "select 'on'"))
        self.with_connection(lambda other: same(self.query(other, "select 'on'"), "on"))

    def cell_twenty(self):
        barrier, found = threading.Barrier(20), []

        def one():
            def use(connection):
                pid = self.query(connection, "select pg_backend_pid()::text")
                barrier.wait(100)
                found.append(pid)

            self.with_connection(use)

        threads = [threading.Thread(target=one, daemon=True) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        same(len(set(found)), 20)

    def cell_wrong_cluster(self):
        return refused(["nowhere"], "3D000", self.code_of(lambda: self.connect(DEFAULT, "nowhere.prod")))

    def cell_wrong_role(self):
        told = self.code_of(lambda: self.connect("nobody@shop.prod", "app"))
        return refused(["nobody", "shop.prod"], "28000", told)


def lines():
    return "".join(f"{number}\tline {number}\n" for number in range(ROWS))
