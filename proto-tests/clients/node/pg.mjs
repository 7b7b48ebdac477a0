import { createRequire } from "node:module";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

import pg from "pg";
import { from, to } from "pg-copy-streams";

import { cancelled, copyOut, host, lines, port, ROWS, run, same, tls, until } from "./cells.mjs";

const { version } = createRequire(import.meta.url)("pg/package.json");

async function connect(user, database, direct) {
  const client = new pg.Client({
    host,
    port,
    user,
    database,
    ssl: tls ? { rejectUnauthorized: false } : false,
    ...(direct ? { sslnegotiation: "direct" } : {}),
  });
  // Without a listener, a session that the server ends would end this program.
  client.on("error", () => {});
  await client.connect();
  return {
    client,
    async value(sql, ...bound) {
      const query = bound.length ? { name: sql, text: sql, values: bound, rowMode: "array" } : { text: sql, rowMode: "array" };
      return (await client.query(query)).rows[0][0];
    },
    run: (sql) => client.query(sql),
    close: () => client.end(),
  };
}

await run({
  version,
  connect,
  own: {
    "COPY in": (use) =>
      use(async (one) => {
        await one.run("create temp table t (n int, line text)");
        await pipeline(Readable.from([lines()]), one.client.query(from("copy t from stdin")));
        same(await one.value("select count(*)::text from t"), String(ROWS));
      }),
    "COPY out": (use) =>
      use(async (one) => {
        const all = [];
        for await (const chunk of one.client.query(to(copyOut))) all.push(chunk);
        same(Buffer.concat(all).toString(), lines());
      }),
    // It has a cancel request of its own, which `pg.Client` sends from a second client.
    cancel: (use) =>
      use(async (one) => {
        const query = new pg.Query("select pg_sleep(3600)");
        const sleep = () =>
          new Promise((resolve, reject) => {
            query.on("error", reject);
            query.on("end", resolve);
            one.client.query(query);
          });
        await cancelled(use, one, sleep, () => {
          const canceller = new pg.Client({ host, port, ssl: tls ? { rejectUnauthorized: false } : false });
          canceller.on("error", () => {});
          canceller.connection.on("error", () => {});
          canceller.cancel(one.client, query);
        });
      }),
    notice: (use) =>
      use(async (one) => {
        const heard = [];
        one.client.on("notice", (notice) => heard.push(notice.message));
        await one.run("do $$ begin raise notice 'ahoy'; end $$");
        same(heard, ["ahoy"]);
      }),
    LISTEN: (use) =>
      use(async (one) => {
        const heard = [];
        one.client.on("notification", (notification) => heard.push(notification.payload));
        await one.run("listen node_pg");
        await use((other) => other.run("notify node_pg, 'ahoy'"));
        await until(() => heard.length);
        same(heard, ["ahoy"]);
      }),
  },
});
