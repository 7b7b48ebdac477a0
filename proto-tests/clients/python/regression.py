"""The scripts of PostgreSQL's regression suite by its own pg_regress: first on a server that is reached directly, then
through pgferry on another that was just as new, where they must print the same.

The scripts come without what PostgreSQL's source has beside them: its data (two tables of it are made here, and the others
stay empty), its C functions (which are not found), and what the scripts should print, which is what the first run says.
"""

import os
import pathlib
import shutil
import subprocess

import cells

MODE = os.environ["CLIENT_TLS"]
DIRECT = os.environ["CLIENT_DIRECT"]
SCRIPTS = pathlib.Path(os.environ["CLIENT_SCRIPTS"])
USER = f"postgres@regression-{MODE}.prod"
# As the schedule of the suite has it: they make what others use.
FIRST = ["test_setup", "create_index", "create_misc", "create_aggregate", "create_operator"]
COUNT = 224


def wisconsin(rows):
    """The benchmark's table, of which `onek` and `tenk1` are made."""
    for second in range(rows):
        first = second * 7919 % rows
        small = [first % n for n in (2, 4, 10, 20, 100, 1000, 2000, 5000, 10000)]
        words = ["".join(chr(65 + n // 26**place % 26) for place in range(4)) + "xx" for n in (first, second)]
        fields = [first, second, *small, first % 100 * 2, first % 100 * 2 + 1, *words, "AHOV"[second % 4] * 4 + "xx"]
        yield "\t".join(str(field) for field in fields) + "\n"


def prepared():
    """What pg_regress is given. The server reads and writes some of it, as another user."""
    os.chmod(".", 0o755)
    given = pathlib.Path("given")
    (given / "data").mkdir(parents=True)
    (given / "sql").symlink_to(SCRIPTS)
    for name, rows in [("onek", 1000), ("tenk", 10_000)]:
        (given / "data" / f"{name}.data").write_text("".join(wisconsin(rows)))
    names = sorted(script.stem for script in SCRIPTS.glob("*.sql"))
    cells.same((len(names), set(FIRST) <= set(names)), (COUNT, True))
    order = FIRST + [name for name in names if name not in FIRST]
    pathlib.Path("schedule").write_text("".join(f"test: {name}\n" for name in order))
    return names


def regress(port, user, output, expected):
    """Gives the exit code and what was printed."""
    results = output / "results"
    results.mkdir(parents=True)
    results.chmod(0o777)
    where = {"PGHOST": cells.HOST, "PGPORT": port, "PGUSER": user, "PGSSLMODE": MODE if user == USER else "disable"}
    environment = os.environ | where
    subprocess.run(["psql", "-Xqc", "create database regression", "postgres"], env=environment, check=True)
    words = [
        "pg_regress",
        "--use-existing",
        f"--bindir={pathlib.Path(shutil.which('psql')).parent}",
        f"--host={cells.HOST}",
        f"--port={port}",
        f"--user={user}",
        "--dbname=regression",
        "--inputdir=given",
        f"--outputdir={output}",
        f"--expecteddir={expected}",
        "--schedule=schedule",
    ]
    said = []
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        for line in run.stdout:
            said.append(line)
            # Whoever waits for the cell sees that it goes on.
            cells.say(script=line.strip())
    return run.returncode, "".join(said)


def suite():
    names = prepared()
    directly, through = pathlib.Path("directly"), pathlib.Path("through")
    nothing, expected = pathlib.Path("nothing"), pathlib.Path("wanted")
    for folder in [nothing, expected]:
        (folder / "expected").mkdir(parents=True)
    for name in names:
        (nothing / "expected" / f"{name}.out").write_text("")
    code, said = regress(DIRECT, "postgres", directly, nothing)
    cells.same((code, f"{COUNT} of {COUNT} tests failed" in said), (1, True))
    printed = 0
    for name in names:
        text = (directly / "results" / f"{name}.out").read_bytes()
        printed += text.count(b"\n")
        # Some tell where they write.
        text = text.replace(bytes(directly.resolve()), bytes(through.resolve()))
        (expected / "expected" / f"{name}.out").write_bytes(text)
    assert printed > 200_000, f"only {printed} lines were printed"
    code, said = regress(str(cells.PORT), USER, through, expected)
    differences = through / "regression.diffs"
    told = differences.read_text(errors="replace")[:3000] if differences.exists() else ""
    assert code == 0 and f"All {COUNT} tests passed" in said, f"{code}: {said[-1000:]}\n{told}"


cells.run("", {"PostgreSQL's regression suite": suite})
