"""What stands on Python's drivers: migrations, and what pgAdmin does when it is opened."""

import contextlib
import io
import os
import pathlib
import sys
import threading

import alembic.command
import alembic.config
import django
import psycopg
import sqlalchemy

import cells

MODE = os.environ["CLIENT_TLS"]
URL = sqlalchemy.URL.create(
    "postgresql+psycopg",
    username="app@shop.prod",
    host=cells.HOST,
    port=cells.PORT,
    database="app",
    query={"sslmode": MODE},
)

MODELS = """
import sqlalchemy as sa
metadata = sa.MetaData()
sa.Table("alembic_boat", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text))
"""


def migrate_alembic():
    """Initialise, find out what is missing, migrate up and down."""
    folder = pathlib.Path("alembic")
    config = alembic.config.Config("alembic.ini", stdout=io.StringIO(), output_buffer=io.StringIO())
    config.set_main_option("script_location", str(folder))
    with contextlib.redirect_stdout(io.StringIO()):
        alembic.command.init(config, str(folder))
    config.set_main_option("sqlalchemy.url", URL.render_as_string(hide_password=False).replace("%", "%%"))
    pathlib.Path("boats.py").write_text(MODELS)
    sys.path.insert(0, os.getcwd())
    env = folder / "env.py"
    ours = 'import boats\ntarget_metadata = boats.metadata\ndef ours(thing, name, kind, *_):\n    return kind != "table" or name.startswith("alembic_")\n'
    text = env.read_text().replace("target_metadata = None", ours)
    env.write_text(text.replace("target_metadata=target_metadata", "target_metadata=target_metadata, include_object=ours"))
    with contextlib.redirect_stdout(io.StringIO()):
        alembic.command.revision(config, "boats", autogenerate=True)
    alembic.command.upgrade(config, "head")
    engine = sqlalchemy.create_engine(URL)
    cells.same([one["name"] for one in sqlalchemy.inspect(engine).get_columns("alembic_boat")], ["id", "name"])
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("insert into alembic_boat (name) values (:name)"), [{"name": "a"}, {"name": "b"}])
    alembic.command.check(config)
    alembic.command.downgrade(config, "base")
    cells.same(sqlalchemy.inspect(engine).has_table("alembic_boat"), False)
    engine.dispose()


def migrate_django():
    """The migrations that it brings, in a schema that is said in `options`; then the tables read back as models."""
    from django.conf import settings
    from django.core.management import call_command

    schema = f"django_{MODE}"
    with psycopg.connect(URL.set(drivername="postgresql").render_as_string(), autocommit=True) as connection:
        connection.execute(f"drop schema if exists {schema} cascade")
        connection.execute(f"create schema {schema}")
    options = {"sslmode": MODE, "options": f"-c search_path={schema}"}
    where = {"HOST": cells.HOST, "PORT": cells.PORT, "USER": "app@shop.prod", "NAME": "app", "OPTIONS": options}
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"} | where},
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
    )
    django.setup()
    out = io.StringIO()
    call_command("migrate", stdout=out)
    call_command("inspectdb", stdout=out)
    cells.same("Applying auth.0001_initial... OK" in out.getvalue() and "class AuthUser" in out.getvalue(), True)
    call_command("migrate", "auth", "zero", stdout=out)


def pgadmin():
    """The maintenance database first; then a session for each database that is opened; a cancel by SQL."""

    def connect(database, number):
        return psycopg.connect(
            host=cells.HOST,
            port=cells.PORT,
            user="app@shop.prod",
            dbname=database,
            sslmode=MODE,
            autocommit=True,
            application_name=f"pgAdmin 4 - CONN:{number}",
            prepare_threshold=None,
        )

    first = (
        "SET DateStyle=ISO; SET client_min_messages=notice; "
        "SELECT set_config('bytea_output','hex',false) FROM pg_show_all_settings() WHERE name = 'bytea_output'; "
        "SET client_encoding='UTF8';"
    )
    about = (
        "SELECT db.oid as did, db.datname, db.datallowconn, pg_encoding_to_char(db.encoding) AS serverencoding, "
        "has_database_privilege(db.oid, 'CREATE') as cancreate, datistemplate FROM pg_database db "
        "WHERE db.datname = current_database()"
    )
    with connect("postgres", 1) as maintenance:
        maintenance.execute(first)
        cells.same(maintenance.execute(about).fetchone()[1], "postgres")
        maintenance.execute("SELECT gss_authenticated, encrypted FROM pg_catalog.pg_stat_gssapi WHERE pid = pg_backend_pid()")
        names = [row[0] for row in maintenance.execute("SELECT datname FROM pg_database WHERE datallowconn").fetchall()]
        cells.same("app" in names, True)
        with connect("app", 2) as query:
            query.execute(first)
            cells.same(query.execute(about).fetchone()[1], "app")
            pid, found = query.info.backend_pid, []

            def sleep():
                try:
                    query.execute("select pg_sleep(3600)")
                except psycopg.Error as error:
                    found.append(error.sqlstate)

            thread = threading.Thread(target=sleep, daemon=True)
            thread.start()
            look = "select state = 'active' and query like '%%pg_sleep%%' from pg_stat_activity where pid = %s"
            cells.wait_until(lambda: maintenance.execute(look, [pid]).fetchone()[0])
            cells.same(maintenance.execute("SELECT pg_cancel_backend(%s)", [pid]).fetchone()[0], True)
            thread.join()
            cells.same(found, ["57014"])


cells.run("", {"SQLAlchemy, Alembic": migrate_alembic, "Django": migrate_django, "pgAdmin": pgadmin})
