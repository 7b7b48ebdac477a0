"""PostgreSQL's own programs, those that are first on PATH, each doing what it is for."""

import os
import pathlib
import re
import subprocess
import tempfile

import cells
from terminal import Terminal

MODE = os.environ["CLIENT_TLS"]
OWNER = "app@shop.prod"
REPLICA = "reporting@shop.prod"
SUBSCRIBER = os.environ["CLIENT_SUBSCRIBER"]


def run(*words, text=None):
    """A program's output; its errors are told where it fails."""
    environment = os.environ | {"PGHOST": cells.HOST, "PGPORT": str(cells.PORT), "PGSSLMODE": MODE}
    done = subprocess.run(words, input=text, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{words}: {done.returncode}: {done.stderr[-2000:]}{done.stdout[-500:]}"
    return done.stdout + done.stderr


def sql(text, user=OWNER, database="app"):
    return run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", user, database, text=text).strip()


def folder(name):
    return os.path.join(tempfile.mkdtemp(dir="."), name)


def isready():
    cells.same("accepting connections" in run("pg_isready", "-d", "shop.prod"), True)


def tables():
    """Some tables with rows, in a schema of their own."""
    sql("drop schema if exists dumped cascade; create schema dumped;")
    for n in range(8):
        sql(f"create table dumped.t{n} as select n, repeat('x', n % 100) as line from generate_series(1, 5000) n")
    sql("create index on dumped.t0 (n); alter table dumped.t0 cluster on t0_n_idx")


def fresh():
    """A new database of the other role, whose name is given as it is: createdb and dropdb connect to `postgres`."""
    name = f"restored_{MODE}"
    run("dropdb", "--if-exists", "-U", REPLICA, name)
    run("createdb", "-U", REPLICA, name)
    return name


def restored(name):
    cells.same(sql("select count(*), sum(length(line)) from dumped.t7", REPLICA, name), "5000|247500")


def at_terminal():
    sql("drop table if exists terminal_of_ferries; create table terminal_of_ferries as select generate_series(1, 3)")
    conninfo = f"host={cells.HOST} port={cells.PORT} user={OWNER} dbname=app sslmode={MODE}"
    terminal = Terminal("psql", "-X", "-P", "pager=off", "-v", "PROMPT1=at %/> ", conninfo)
    prompt = "at app> "
    terminal.see(prompt)
    # The name is not there unless Tab has asked the server for it.
    terminal.type("select 'counted ' || count(*) from terminal_of_fe\t")
    terminal.see("terminal_of_ferries")
    terminal.type(";\r")
    terminal.see("counted 3")
    terminal.see(prompt)
    terminal.type("select pg_sleep(3600);\r")
    look = "select count(*) from pg_stat_activity where state = 'active' and query = 'select pg_sleep(3600);'"
    cells.wait_until(lambda: sql(look) == "1")
    terminal.type("\x03")
    terminal.see("canceling statement due to user request")
    terminal.see(prompt)
    terminal.type("select 'seen ' || 6 * 7 \\watch 0.1\r")
    for _ in range(3):
        terminal.see("seen 42")
    terminal.type("\x03")
    terminal.see(prompt)
    terminal.type("select 'still ' || 'on';\r")
    terminal.see("still on")
    terminal.see(prompt)
    terminal.type("\\q\r")
    cells.same(terminal.ended(), 0)


def createdb():
    cells.same(sql("select current_database()", REPLICA, fresh()), f"restored_{MODE}")


def dump():
    tables()
    text = run("pg_dump", "--no-owner", "-n", "dumped", "shop.prod")
    cells.same(text.count("CREATE TABLE"), 8)
    name = fresh()
    sql(text, REPLICA, name)
    restored(name)


def dump_jobs():
    tables()
    to = folder("dump")
    run("pg_dump", "-U", OWNER, "-Fd", "-j", "4", "-n", "dumped", "-f", to, "app")
    name = fresh()
    run("pg_restore", "--no-owner", "-U", REPLICA, "-j", "4", "-d", name, to)
    restored(name)


def dumpall():
    text = run("pg_dumpall", "--no-role-passwords", "-U", REPLICA)
    cells.same("CREATE ROLE app" in text and "CREATE DATABASE app" in text, True)


def vacuum():
    tables()
    run("vacuumdb", "-U", OWNER, "-j", "4", "--analyze", "-n", "dumped", "app")
    run("reindexdb", "-U", OWNER, "-j", "2", "-S", "dumped", "app")
    run("clusterdb", "-U", OWNER, "-t", "dumped.t0", "app")


def bench():
    run("pgbench", "-U", OWNER, "-i", "-q", "app")
    for protocol in ["simple", "extended", "prepared"]:
        said = run("pgbench", "-U", OWNER, "-n", "-c", "8", "-j", "2", "-t", "25", "-M", protocol, "app")
        cells.same("200/200" in said, True)
    said = run("pgbench", "-U", OWNER, "-n", "-C", "-S", "-c", "2", "-t", "10", "app")
    cells.same("20/20" in said, True)
    cells.same("10/10" in run("pgbench", "-n", "-S", "-t", "10", "shop.prod"), True)


def basebackup():
    to = folder("backup")
    run("pg_basebackup", "-U", REPLICA, "-D", to, "-X", "stream", "--no-sync", "-c", "fast")
    run("pg_verifybackup", to)


def receivewal():
    slot, to = f"physical_{MODE}", folder("wal")
    os.mkdir(to)
    common = ["-U", REPLICA, "-S", slot, "--no-loop"]
    run("pg_receivewal", *common, "--create-slot")
    run("pg_receivewal", *common, "-D", to, "--no-sync", "--endpos", after_some_work())
    run("pg_receivewal", *common, "--drop-slot")
    cells.same(len(list(pathlib.Path(to).iterdir())) > 0, True)


def after_some_work():
    """A place in the write-ahead log that is written; behind it something else is."""
    sql("drop table if exists worked; create table worked as select n from generate_series(1, 1000) n")
    place = sql("select pg_current_wal_insert_lsn()")
    sql("drop table worked")
    return place


def publish(name):
    sql(f"drop publication if exists {name}; drop table if exists {name}; create table {name} (n int primary key);")
    sql(f"create publication {name} for table {name};")


def recvlogical():
    name, to = f"logical_{MODE}", folder("changes")
    publish(name)
    common = ["-U", REPLICA, "-d", "app", "-S", name]
    run("pg_recvlogical", *common, "-P", "pgoutput", "--create-slot")
    sql(f"insert into {name} select generate_series(1, 1000)")
    place = after_some_work()
    options = ["-o", "proto_version=1", "-o", f"publication_names={name}"]
    run("pg_recvlogical", *common, "--start", "--no-loop", "--endpos", place, "-f", to, *options)
    run("pg_recvlogical", *common, "--drop-slot")
    cells.same(pathlib.Path(to).stat().st_size > 1000, True)


def subscriber(text, database="postgres"):
    """On the second server, which is reached directly."""
    words = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", SUBSCRIBER, "-U", "postgres", database]
    done = subprocess.run(words, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def subscription():
    name = f"subscribed_{MODE}"
    publish(name)
    sql(f"insert into {name} select generate_series(1, 1000)")
    subscriber(f"create table {name} (n int primary key)")
    to = f"host={cells.HOST} port={cells.PORT} sslmode={MODE} dbname=app user={REPLICA}"
    subscriber(f"create subscription {name} connection '{to}' publication {name}")
    count = f"select count(*) from {name}"
    cells.wait_until(lambda: subscriber(count) == "1000")
    sql(f"insert into {name} select generate_series(1001, 2000)")
    cells.wait_until(lambda: subscriber(count) == "2000")
    # Its session is ended by the server; it comes back by itself.
    ended = f"select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{name}'"
    cells.same(sql(ended, REPLICA), "t")
    sql(f"insert into {name} select generate_series(2001, 3000)")
    cells.wait_until(lambda: subscriber(count) == "3000")
    subscriber(f"drop subscription {name}; drop table {name}")


version = re.search(r"\d+", run("pg_dump", "--version")).group()
cells.run(
    version,
    {
        "pg_isready": isready,
        "psql at a terminal": at_terminal,
        "createdb, dropdb": createdb,
        "pg_dump": dump,
        "pg_dump -j 4, pg_restore -j 4": dump_jobs,
        "pg_dumpall": dumpall,
        "vacuumdb -j 4, reindexdb, clusterdb": vacuum,
        "pgbench": bench,
        "pg_basebackup": basebackup,
        "pg_receivewal": receivewal,
        "pg_recvlogical": recvlogical,
        "CREATE SUBSCRIPTION": subscription,
    },
)
