// Values and messages with ioredis: examples/redis/news.mjs [127.0.0.1:11000 ...]
//
// One connection listens at the last node, another writes and publishes at the first one. Messages come in the
// same order at every node. A value is written where its version is still the one that was read, so that of
// two writers one is told that it was too late. ioredis is looked for where Node looks for packages, or in
// the folder NODE_MODULES.

import { createRequire } from "node:module";

const require = createRequire(`${process.env.NODE_MODULES ?? process.cwd()}/`);
const Redis = require("ioredis");

const nodes = process.argv.slice(2);
if (nodes.length === 0) nodes.push("127.0.0.1:11000");
const SLOT = 72;
const MESSAGES = ["one", "two", "three"];

function connect(node) {
  const [, host, port] = /^(.*):(\d+)$/.exec(node);
  // By itself ioredis sends what was not answered again after it has connected anew; a write may then be applied
  // twice. With 0 it reports the loss instead.
  return new Redis(Number(port), host, { maxRetriesPerRequest: 0, enableOfflineQueue: true });
}

const writer = connect(nodes[0]);
const listener = connect(nodes.at(-1));
try {
  const heard = [];
  const all = new Promise((resolve) => {
    listener.on("message", (channel, message) => {
      heard.push(message);
      if (heard.length === MESSAGES.length) resolve();
    });
  });
  await listener.subscribe("news");
  for (const message of MESSAGES) await writer.publish("news", message);
  await all;
  console.log("heard", heard.join(" "));

  await writer.set(SLOT, "first");
  const [value, version] = await writer.call("GETVERSION", SLOT);
  const results = [];
  for (const word of ["second", "too late"]) {
    results.push(String(await writer.call("SET", SLOT, word, "IFVERSION", version)));
  }
  console.log("from", value, "to", await writer.get(SLOT), "-", results.join(" "));
  console.log("deleted", await writer.del(SLOT));
} finally {
  writer.disconnect();
  listener.disconnect();
}
