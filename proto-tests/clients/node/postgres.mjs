import { readFileSync } from "node:fs";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

import postgres from "postgres";

import { cancelled, copyOut, host, lines, port, ROWS, run, same, tls, until } from "./cells.mjs";

const { version } = JSON.parse(readFileSync(new URL("node_modules/postgres/package.json", import.meta.url), "utf8"));

async function connect(username, database, direct) {
  const heard = [];
  const sql = postgres({
    host,
    port,
    username,
    database,
    ssl: tls ? { rejectUnauthorized: false } : false,
    max: 1,
    fetch_types: false,
    onnotice: (notice) => heard.push(notice.message),
    ...(direct ? { sslnegotiation: "direct" } : {}),
  });
  const value = async (text, ...bound) => {
    const query = bound.length ? sql.unsafe(text, bound, { prepare: true }) : sql.unsafe(text).simple();
    return (await query.values())[0][0];
  };
  try {
    await value("select 1");
  } catch (error) {
    await sql.end();
    throw error;
  }
  // It waits without end for a session that the server has ended.
  return { sql, heard, value, run: (text) => sql.unsafe(text).simple(), close: () => sql.end({ timeout: 1 }) };
}

await run({
  version,
  connect,
  own: {
    "COPY in": (use) =>
      use(async (one) => {
        await one.run("create temp table t (n int, line text)");
        await pipeline(Readable.from([lines()]), await one.sql`copy t from stdin`.writable());
        same(await one.value("select count(*)::text from t"), String(ROWS));
      }),
    "COPY out": (use) =>
      use(async (one) => {
        const all = [];
        for await (const chunk of await one.sql.unsafe(copyOut).readable()) all.push(chunk);
        same(Buffer.concat(all).toString(), lines());
      }),
    cancel: (use) =>
      use(async (one) => {
        const query = one.sql`select pg_sleep(3600)`;
        await cancelled(use, one, () => query, () => query.cancel());
      }),
    notice: (use) =>
      use(async (one) => {
        await one.run("do $$ begin raise notice 'ahoy'; end $$");
        same(one.heard, ["ahoy"]);
      }),
    LISTEN: (use) =>
      use(async (one) => {
        const heard = [];
        await one.sql.listen("postgres_js", (payload) => heard.push(payload));
        await use((other) => other.run("notify postgres_js, 'ahoy'"));
        await until(() => heard.length);
        same(heard, ["ahoy"]);
      }),
    pipeline: (use) =>
      use(async (one) => {
        const numbers = Array.from({ length: 100 }, (_, n) => n);
        const found = await one.sql.begin((sql) => numbers.map((n) => sql`select ${n}::int as n`));
        same(found.map((rows) => rows[0].n), numbers);
      }),
  },
});
