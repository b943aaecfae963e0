// node-redis against a running cluster; run by tests/clients.rs. Ends with `ok` if everything was right.

import { createRequire } from "node:module";
import {
  COUNTERS, MANY_KEYS, PIPELINE_REQUESTS, PIPELINE_TURNS, ROUNDS, TRIES_MAX, equal, invocation, keyNamer, refused, run,
} from "./expect.mjs";

const { modules, program, nodes } = invocation();
const require = createRequire(`${modules}/`);
const { createClient, WatchError } = require("redis");
const key = keyNamer(program);

async function withClients(nodes, use, RESP = 2) {
  const clients = nodes.map(({ host, port }) => createClient({ socket: { host, port }, RESP }));
  try {
    await Promise.all(clients.map((client) => client.connect()));
    return await use(...clients);
  } finally {
    clients.forEach((client) => client.destroy());
  }
}

const oneByOne = (length, value) => Array.from({ length }, (_, n) => value(n));

async function values_come_back_in_both_protocols(first, other) {
  for (const RESP of [2, 3]) {
    await withClients([first, other], async (client, reader) => {
      for (const value of ["", "\r\n", "h\u00e4llo", "x".repeat(256)]) {
        equal(await client.set(key(1), value), "OK");
        equal(await reader.get(key(1)), value);
        equal(await reader.strLen(key(1)), Buffer.byteLength(value));
      }
      equal(await client.set(key(1), "x", { condition: "NX" }), null);
      equal(await client.incrBy(key(2), 41), 41);
      equal(await reader.incr(key(2)), 42);
      equal(await client.getDel(key(2)), "42");
      equal(await client.del([key(1), key(2)]), 1);
      equal(await reader.get(key(1)), null);
    }, RESP);
  }
}

/** Requests that are made in one turn of the loop leave as one pipeline. */
function a_long_pipeline_is_answered_in_order(first, other) {
  return withClients([first, other], async (client, reader) => {
    const [replies, expected] = [[], []];
    for (let n = 0; n < PIPELINE_REQUESTS; n += 1) {
      replies.push(client.set(key(n % 1000), String(n)));
      expected.push("OK");
    }
    for (let n = 0; n < PIPELINE_REQUESTS; n += 1) {
      replies.push(client.get(key(n % 1000)));
      expected.push(String(PIPELINE_REQUESTS - 1000 + (n % 1000)));
    }
    for (let n = 0; n < PIPELINE_TURNS; n += 1) {
      replies.push(client.set(key(n % 7), String(n)), client.get(key(n % 7)));
      expected.push("OK", String(n));
    }
    equal(await Promise.all(replies), expected);
    equal(await reader.get(key(999)), String(PIPELINE_REQUESTS - 1));
    equal(await client.unlink(oneByOne(1000, key)), 1000);
  });
}

function hundreds_of_keys_are_one_command(first, other) {
  return withClients([first, other], async (client, reader) => {
    const keys = oneByOne(MANY_KEYS, key);
    equal(await client.mSet(keys.map((name, n) => [name, `value ${n}`])), "OK");
    equal(await reader.mGet([...keys, key(MANY_KEYS)]), [...keys.map((_, n) => `value ${n}`), null]);
    equal(await reader.exists(keys), MANY_KEYS);
    equal(await reader.dbSize(), MANY_KEYS);
    const found = new Set();
    for await (const page of reader.scanIterator({ COUNT: 100 })) page.forEach((name) => found.add(name));
    equal([...found].sort(), [...keys].sort());
    equal(await client.del(keys), MANY_KEYS);
    equal(await reader.dbSize(), 0);
  });
}

function a_transaction_is_answered_as_one(first, other) {
  return withClients([first, other], async (client, reader) => {
    const transaction = client.multi().set(key(5), "4").incr(key(5)).get(key(5)).ping();
    equal(await transaction.exec(), ["OK", 5, "5", "PONG"]);
    const many = client.multi();
    for (let n = 0; n < MANY_KEYS; n += 1) many.set(key(n), String(n)).get(key(n));
    equal((await many.exec()).length, 2 * MANY_KEYS);
    equal(await reader.del(oneByOne(MANY_KEYS, key)), MANY_KEYS);
  });
}

/** No increment that was acknowledged may be lost, whoever else counts at the same time. */
function concurrent_increments_under_watch_are_all_kept(first, other) {
  const counters = oneByOne(COUNTERS, (n) => (n % 2 ? first : other));
  return withClients(counters, async (...clients) => {
    await clients[0].set(key(7), "0");
    const count = async (client) => {
      for (let round = 0, tries = 0; round < ROUNDS; tries += 1) {
        equal(tries < TRIES_MAX, true, "a transaction never holds");
        // All three leave in one packet, the watch behind a request about other data.
        const [, , seen] = await Promise.all([
          client.get(key(8)), client.watch(key(7)), client.get(key(7)),
        ]);
        try {
          await client.multi().set(key(7), String(Number(seen) + 1)).exec();
          round += 1;
        } catch (error) {
          if (!(error instanceof WatchError)) throw error;
        }
      }
    };
    await Promise.all(clients.map(count));
    equal(await clients[1].get(key(7)), String(COUNTERS * ROUNDS));
    await clients[0].del(key(7));
  });
}

function errors_say_what_was_wrong(first) {
  return withClients([first], async (client) => {
    await refused(client.lPush(key(1), "x"), /no other types/);
    await refused(client.sendCommand(["NONSENSE"]), /unknown command 'NONSENSE'/);
    await refused(client.expire(key(1), 10), /do not expire/);
    if (program === "diskstore") await refused(client.get("name"), /slot number 0\.\.4095/);
    equal(await client.ping(), "PONG");
    equal((await client.clientInfo()).db, 0);
  });
}

await run([
  values_come_back_in_both_protocols,
  a_long_pipeline_is_answered_in_order,
  hundreds_of_keys_are_one_command,
  a_transaction_is_answered_as_one,
  concurrent_increments_under_watch_are_all_kept,
  errors_say_what_was_wrong,
], program, nodes);
console.log(`node-redis ${require("redis/package.json").version} ok`);
