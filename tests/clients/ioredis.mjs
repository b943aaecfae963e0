// ioredis against a running cluster; run by tests/clients.rs. Ends with `ok` if everything was right.

import { createRequire } from "node:module";
import {
  COUNTERS, MANY_KEYS, PIPELINE_REQUESTS, PIPELINE_TURNS, ROUNDS, TRIES_MAX, equal, invocation, keyNamer, refused, run,
} from "./expect.mjs";

const { modules, program, nodes } = invocation();
const require = createRequire(`${modules}/`);
const Redis = require("ioredis");
const key = keyNamer(program);

async function withClients(nodes, use) {
  const clients = nodes.map(({ host, port }) => new Redis(port, host, { commandTimeout: 300_000 }));
  try {
    return await use(...clients);
  } finally {
    clients.forEach((client) => client.disconnect());
  }
}

const oneByOne = (length, value) => Array.from({ length }, (_, n) => value(n));

function values_come_back_byte_for_byte(first, other) {
  return withClients([first, other], async (client, reader) => {
    const everyByte = Buffer.from(oneByOne(256, (n) => n));
    for (const value of [Buffer.alloc(0), Buffer.from("\r\n"), Buffer.from("h\u00e4llo"), everyByte]) {
      equal(await client.set(key(1), value), "OK");
      equal(await reader.getBuffer(key(1)), value);
      equal(await reader.strlen(key(1)), value.length);
    }
    equal(await client.set(key(1), "x", "NX"), null);
    equal(await client.set(key(1), "x", "XX", "GET"), everyByte.toString());
    equal(await client.del(key(1), key(2)), 1);
    equal(await reader.get(key(1)), null);
  });
}

function a_long_pipeline_is_answered_in_order(first, other) {
  return withClients([first, other], async (client, reader) => {
    const pipeline = client.pipeline();
    const expected = [];
    for (let n = 0; n < PIPELINE_REQUESTS; n += 1) {
      pipeline.set(key(n % 1000), String(n));
      expected.push([null, "OK"]);
    }
    for (let n = 0; n < PIPELINE_REQUESTS; n += 1) {
      pipeline.get(key(n % 1000));
      expected.push([null, String(PIPELINE_REQUESTS - 1000 + (n % 1000))]);
    }
    for (let n = 0; n < PIPELINE_TURNS; n += 1) {
      pipeline.set(key(n % 7), String(n)).get(key(n % 7));
      expected.push([null, "OK"], [null, String(n)]);
    }
    equal(await pipeline.exec(), expected);
    equal(await reader.get(key(999)), String(PIPELINE_REQUESTS - 1));
    equal(await client.del(...oneByOne(1000, key)), 1000);
    // An error takes its own place only.
    const mixed = await client.pipeline().set(key(1), "word").incr(key(1)).get(key(1)).exec();
    equal([mixed[0], mixed[2]], [[null, "OK"], [null, "word"]]);
    await refused(Promise.reject(mixed[1][0]), /not an integer/);
    equal(await client.unlink(key(1)), 1);
  });
}

function hundreds_of_keys_are_one_command(first, other) {
  return withClients([first, other], async (client, reader) => {
    const keys = oneByOne(MANY_KEYS, key);
    equal(await client.mset(new Map(keys.map((name, n) => [name, `value ${n}`]))), "OK");
    equal(await reader.mget(...keys, key(MANY_KEYS)), [...keys.map((_, n) => `value ${n}`), null]);
    equal(await reader.exists(...keys), MANY_KEYS);
    equal(await reader.dbsize(), MANY_KEYS);
    const found = new Set();
    for await (const page of reader.scanStream({ count: 100 })) page.forEach((name) => found.add(name));
    equal([...found].sort(), [...keys].sort());
    equal(await client.del(...keys), MANY_KEYS);
    equal(await reader.dbsize(), 0);
  });
}

function a_transaction_is_answered_as_one(first, other) {
  return withClients([first, other], async (client, reader) => {
    const transaction = client.multi().set(key(5), "4").incr(key(5)).get(key(5)).ping();
    const results = await transaction.exec();
    equal(results, [[null, "OK"], [null, 5], [null, "5"], [null, "PONG"]]);
    const many = client.multi();
    for (let n = 0; n < MANY_KEYS; n += 1) many.set(key(n), String(n)).get(key(n));
    equal((await many.exec()).filter(([error], n) => error || n % 2 === 0).length, MANY_KEYS);
    equal(await reader.del(...oneByOne(MANY_KEYS, key)), MANY_KEYS);
    // A request that is refused when it is queued takes the whole transaction with it.
    await refused(client.multi().set(key(5), "x").call("NONSENSE").exec(), /EXECABORT/);
    equal(await reader.get(key(5)), null);
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
        const results = await client.multi().set(key(7), String(Number(seen) + 1)).exec();
        if (results !== null) round += 1;
      }
    };
    await Promise.all(clients.map(count));
    equal(await clients[1].get(key(7)), String(COUNTERS * ROUNDS));
    await clients[0].del(key(7));
  });
}

function errors_say_what_was_wrong(first) {
  return withClients([first], async (client) => {
    await refused(client.lpush(key(1), "x"), /no other types/);
    await refused(client.call("NONSENSE"), /unknown command 'NONSENSE'/);
    await refused(client.set(key(1), "x", "EX", 10), /do not expire/);
    if (program === "diskstore") await refused(client.get("name"), /slot number 0\.\.4095/);
    equal(await client.ping(), "PONG");
    equal((await client.info()).includes("loading:0"), true);
  });
}

function messages_reach_subscribers_of_every_node(first, other) {
  return withClients([first, other, other], async (here, there, publisher) => {
    const told = [];
    const next = async (count) => {
      while (told.length < count) await new Promise((resolve) => setTimeout(resolve, 5));
      return told.splice(0, count);
    };
    here.on("message", (...words) => told.push(["here", ...words]));
    equal(await here.subscribe("news", "more"), 2);
    equal(await publisher.publish("news", "one"), 0); // it counts its own node alone
    equal(await next(1), [["here", "news", "one"]]);
    equal(await here.unsubscribe("more"), 1);

    there.on("message", (...words) => told.push(["there", ...words]));
    there.on("pmessage", (...words) => told.push(["there by", ...words]));
    equal(await there.subscribe("__index__:news"), 1);
    equal(await there.psubscribe("n*s"), 2);
    const begin = Number((await next(1))[0][2]);
    equal(await publisher.multi().set(key(1), "x").publish("news", "two").exec(), [[null, "OK"], [null, 2]]);
    const words = await next(3);
    equal(words.filter(([who]) => who !== "there").sort(), [
      ["here", "news", "two"], ["there by", "n*s", "news", "two"],
    ]);
    const [, channel, text] = words.find(([who]) => who === "there");
    const [, index, position] = /^(\d+)-(\d+) two$/.exec(text);
    equal([channel, Number(index) > begin, position], ["__index__:news", true, "1"]);
    equal(await publisher.pubsub("NUMSUB", "news"), ["news", 1]);
    equal(await here.unsubscribe(), 0);
    equal(await here.del(key(1)), 1);
  });
}

await run([
  values_come_back_byte_for_byte,
  a_long_pipeline_is_answered_in_order,
  hundreds_of_keys_are_one_command,
  a_transaction_is_answered_as_one,
  concurrent_increments_under_watch_are_all_kept,
  errors_say_what_was_wrong,
  messages_reach_subscribers_of_every_node,
], program, nodes);
console.log(`ioredis ${require("ioredis/package.json").version} ok`);
