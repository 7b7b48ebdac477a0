// What stands on node-postgres: migrations, models, pools.

import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";

import knex from "knex";
import pg from "pg";

import { fails, host, port, same, tls, until } from "./cells.mjs";

const mode = process.env.CLIENT_TLS;
const here = path.dirname(fileURLToPath(import.meta.url));
const ssl = tls ? { rejectUnauthorized: false } : false;
const where = { host, port, user: "app@shop.prod", database: "app", ssl };

/** On a session of its own. */
async function apart(sql, ...bound) {
  const client = new pg.Client(where);
  await client.connect();
  try {
    return (await client.query({ text: sql, values: bound, rowMode: "array" })).rows;
  } finally {
    await client.end();
  }
}

const terminated = "select pg_terminate_backend(pid) from pg_stat_activity where pid = any($1)";

const MIGRATION = `
export const up = (knex) =>
  knex.schema
    .createTable("boat", (table) => {
      table.increments("id");
      table.text("name").notNullable();
    })
    .createTable("trip", (table) => {
      table.increments("id");
      table.integer("boat_id").references("boat.id");
      table.jsonb("log");
    });
export const down = (knex) => knex.schema.dropTable("trip").dropTable("boat");
`;

/** A migration in a schema of its own, up and down; a pool whose sessions the server ends. */
async function withKnex() {
  const schema = `knex_${mode}`;
  await apart(`drop schema if exists ${schema} cascade`);
  await apart(`create schema ${schema}`);
  mkdirSync("migrations");
  writeFileSync("migrations/1_boats.mjs", MIGRATION);
  const db = knex({
    client: "pg",
    connection: { ...where, application_name: schema },
    searchPath: [schema],
    pool: { min: 0, max: 5 },
    // It says so of each session that was ended.
    log: { warn: (text) => console.error(text) },
    migrations: { directory: path.resolve("migrations"), loadExtensions: [".mjs"] },
  });
  try {
    same((await db.migrate.latest())[1], ["1_boats.mjs"]);
    const [{ id }] = await db("boat").insert([{ name: "Fähre" }, { name: "barge" }]).returning("id");
    await db("trip").insert({ boat_id: id, log: JSON.stringify({ harbour: "Kiel" }) });
    const rows = await db("boat").leftJoin("trip", "boat.id", "trip.boat_id").select("name", "log").orderBy("boat.id");
    same(rows, [{ name: "Fähre", log: { harbour: "Kiel" } }, { name: "barge", log: null }]);
    const ends = db.transaction(async (one) => {
      await one("trip").del();
      await one("trip").insert({ boat_id: 0 });
    });
    same((await fails(() => ends)).code, "23503");
    same(await db("trip").count(), [{ count: "1" }]);
    // All five at a time: each waits for the others inside a transaction.
    const pids = [];
    await Promise.all(
      Array.from({ length: 5 }, () =>
        db.transaction(async (one) => {
          pids.push((await one.raw("select pg_backend_pid() as pid")).rows[0].pid);
          await until(() => pids.length === 5);
        }),
      ),
    );
    same(new Set(pids).size, 5);
    same((await apart(terminated, pids)).length, 5);
    const alive = "select count(*)::int from pg_stat_activity where pid = any($1)";
    await until(async () => (await apart(alive, pids))[0][0] === 0);
    same(await db("boat").count(), [{ count: "2" }]);
    // It is ended by `pg_cancel_backend`, with the process number that the session was told.
    const slow = db.raw("select pg_sleep(3600)").timeout(500, { cancel: true });
    same((await fails(() => slow)).name, "KnexTimeoutError");
    const asleep = "select count(*)::int from pg_stat_activity where application_name = $1 and query like '%pg_sleep%' and state = 'active'";
    await until(async () => (await apart(asleep, schema))[0][0] === 0);
    same((await db.migrate.rollback())[1], ["1_boats.mjs"]);
    same(await db.schema.hasTable("boat"), false);
  } finally {
    await db.destroy();
  }
}

const TABLES = `
drop table if exists prisma_trip, prisma_boat;
create table prisma_boat (id serial primary key, name text not null unique);
create table prisma_trip (id serial primary key, harbour text not null,
  boat_id int not null references prisma_boat (id) on delete cascade);
`;

/** The client is generated, and has its queries compiled in WebAssembly and sent by node-postgres. */
async function withPrisma() {
  await apart(TABLES);
  // It looks for the program of its migrations, which npm does not have, even where it does not run it.
  const environment = { ...process.env, CHECKPOINT_DISABLE: "1", PRISMA_SCHEMA_ENGINE_BINARY: process.execPath };
  const command = [path.join(here, "node_modules/prisma/build/index.js"), "generate", "--schema", path.join(here, "schema.prisma")];
  execFileSync(process.execPath, command, { cwd: here, env: environment, stdio: ["ignore", "pipe", "pipe"] });
  const require = createRequire(import.meta.url);
  const { PrismaClient } = require("@prisma/client");
  const { PrismaPg } = require("@prisma/adapter-pg");
  const prisma = new PrismaClient({ adapter: new PrismaPg({ ...where, max: 5 }) });
  try {
    await prisma.boat.create({ data: { name: "Fähre", trips: { create: [{ harbour: "Kiel" }, { harbour: "Oslo" }] } } });
    const found = await prisma.boat.findMany({ include: { trips: { orderBy: { id: "asc" } } } });
    same(found.map((boat) => [boat.name, boat.trips.map((trip) => trip.harbour)]), [["Fähre", ["Kiel", "Oslo"]]]);
    same((await fails(() => prisma.boat.create({ data: { name: "Fähre" } }))).code, "P2002");
    const ends = prisma.$transaction(async (one) => {
      await one.boat.deleteMany();
      same(await one.trip.count(), 0);
      throw new Error("as planned");
    });
    same((await fails(() => ends)).message, "as planned");
    same(await prisma.trip.count({ where: { boat: { name: "Fähre" } } }), 2);
    const pids = [];
    const pid = async (one) => (await one.$queryRaw`select pg_backend_pid() as pid`)[0].pid;
    const held = async (one) => {
      pids.push(await pid(one));
      await until(() => pids.length === 5);
    };
    const patient = { maxWait: 60_000, timeout: 60_000 };
    await Promise.all(Array.from({ length: 5 }, () => prisma.$transaction(held, patient)));
    same(new Set(pids).size, 5);
    same((await apart(terminated, pids)).length, 5);
    // Until its pool has heard of it, an error; then a session that is another.
    await until(async () => !pids.includes(await pid(prisma).catch(() => pids[0])));
    same(await prisma.boat.count(), 1);
  } finally {
    await prisma.$disconnect();
  }
}

const say = (what) => console.log(JSON.stringify(what));
say({ version: "" });
for (const [cell, run] of [["knex", withKnex], ["Prisma", withPrisma]]) {
  try {
    await run();
    say({ cell, ok: true });
  } catch (error) {
    say({ cell, ok: false, detail: String(error.stack) + String(error.stderr ?? "") });
  }
}
