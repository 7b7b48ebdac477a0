// Every cell of a Node.js driver, made of the few things that drivers do differently.

import { setTimeout as pause } from "node:timers/promises";

export const host = process.env.CLIENT_HOST;
export const port = Number(process.env.CLIENT_PORT);
export const tls = process.env.CLIENT_TLS === "require";

const TARGET = "shop.prod";
const DEFAULT = "pgferry";
const USER = "app@shop.prod";
const BIG = 64 << 20;
export const ROWS = 10_000;

const say = (what) => console.log(JSON.stringify(what));

export function same(found, wanted) {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) {
    throw new Error(`${String(JSON.stringify(found)).slice(0, 300)} is not ${String(JSON.stringify(wanted)).slice(0, 300)}`);
  }
}

export async function until(holds) {
  while (!(await holds())) await pause(10);
}

export const lines = () => Array.from({ length: ROWS }, (_, n) => `${n}\tline ${n}\n`).join("");
export const copyOut = `copy (select n, 'line ' || n from generate_series(0, ${ROWS - 1}) n) to stdout`;

/** The error that something must end with. */
export async function fails(what) {
  try {
    await what();
  } catch (error) {
    return error;
  }
  throw new Error("no error came");
}

function refused(words, code, error) {
  for (const word of words) if (!error.message.includes(word)) throw new Error(error.message);
  same(error.code, code);
  if (!error.hint) throw new Error("no hint");
  return "message, SQLSTATE, hint";
}

/**
 * Runs all cells. A driver has: `version`, `connect(user, database, direct)`, and on a connection `value(sql, ...bound)`,
 * `run(sql)`, `close()`; and cells of its own in `own`, each given `use`, which opens a connection and closes it.
 */
export async function run(driver) {
  const use = async (what, user = USER, database = "app", direct = false) => {
    const connection = await driver.connect(user, database, direct);
    try {
      return await what(connection);
    } finally {
      await connection.close();
    }
  };
  const who = "select current_user || '/' || current_database()";
  const on = async (connection) => same(await connection.value("select 'on'"), "on");
  const cells = {
    connect: () => use(on, DEFAULT, TARGET),
    "direct TLS": () => use(on, USER, "app", true),
    "database name": async () => {
      await use(async (one) => same(await one.value(who), "app/app"), DEFAULT, TARGET);
      await use(async (one) => same(await one.value(who), "reporting/app"), "reporting", TARGET);
    },
    "role@target": async () => {
      for (const database of ["app", "postgres"]) {
        await use(async (one) => same(await one.value(who), `app/${database}`), USER, database);
      }
    },
    "simple query": () => use(async (one) => same(await one.value("select 'Fähre ' || 6 * 7"), "Fähre 42")),
    prepared: () =>
      use(async (one) => {
        for (const value of ["one", "two", "three"]) same(await one.value("select 'the ' || $1::text", value), `the ${value}`);
      }),
    transaction: () =>
      use(async (one) => {
        await one.run("create temp table t (n int)");
        for (const [end, wanted] of [["rollback", "0"], ["commit", "1"]]) {
          for (const sql of ["begin", "insert into t values (1)", end]) await one.run(sql);
          same(await one.value("select count(*)::text from t"), wanted);
        }
      }),
    error: () =>
      use(async (one) => {
        same((await fails(() => one.value("select (1 / 0)::text"))).code, "22012");
        await on(one);
        await one.run("begin");
        same((await fails(() => one.value("select nothing"))).code, "42703");
        same((await fails(() => one.value("select 'on'"))).code, "25P02");
        await one.run("rollback");
        await on(one);
      }),
    "64 MiB": () =>
      use(async (one) => {
        same(await one.value("select length($1::text)::text", "x".repeat(BIG)), String(BIG));
        same((await one.value(`select repeat('y', ${BIG})`)).length, BIG);
      }),
    reconnect: () =>
      use(async (one) => {
        const pid = await one.value("select pg_backend_pid()::text");
        await use(async (other) => same(await other.value(`select pg_terminate_backend(${pid})::text`), "true"));
        // An error, or a session that is another: a pool may have noticed already.
        const found = await one.value("select pg_backend_pid()::text").catch(() => "none");
        same(found === pid, false);
        await use(on);
      }),
    "20 at once": async () => {
      const all = await Promise.all(Array.from({ length: 20 }, () => driver.connect(USER, "app", false)));
      const pids = await Promise.all(all.map((one) => one.value("select pg_backend_pid()::text")));
      same(new Set(pids).size, 20);
      await Promise.all(all.map((one) => one.close()));
    },
    "wrong cluster": async () => refused(["nowhere"], "3D000", await fails(() => use(on, DEFAULT, "nowhere.prod"))),
    "wrong role": async () =>
      refused(["nobody", "shop.prod"], "28000", await fails(() => use(on, "nobody@shop.prod", "app"))),
  };
  for (const [name, cell] of Object.entries(driver.own)) cells[name] = () => cell(use);
  say({ version: driver.version });
  for (const [cell, what] of Object.entries(cells)) {
    if (cell === "direct TLS" && !tls) continue;
    try {
      say({ cell, ok: true, detail: (await what()) ?? "" });
    } catch (error) {
      say({ cell, ok: false, detail: String(error.stack) });
    }
  }
}

/** Runs a sleep, and cancels it when the server is at it; gives the error. */
export async function cancelled(use, one, sleep, cancel) {
  const pid = await one.value("select pg_backend_pid()::text");
  const ended = fails(sleep);
  const look = `select (state = 'active' and query like '%pg_sleep%')::text from pg_stat_activity where pid = ${pid}`;
  await use((other) => until(async () => (await other.value(look)) === "true"));
  await cancel(Number(pid));
  same((await ended).code, "57014");
  same(await one.value("select 'on'"), "on");
}
