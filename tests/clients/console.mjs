// The console in headless Chromium against a running cluster; run by tests/clients.rs, which kills the
// leader when it reads `kill NAME`. Ends with `ok` if everything was right.

import assert from "node:assert/strict";
import { createInterface } from "node:readline";
import { browse } from "./browse.mjs";
import { invocation } from "./expect.mjs";

const { modules, program, nodes } = invocation();
const url = (node, path) => `http://${node.host}:${node.port}${path}`;
const json = async (node, path) => (await fetch(url(node, path))).json();
const { page, complaints, says, shot, close } = await browse(modules, program);

// The page of a follower, so that it outlives the leader.
let leader;
do leader = (await json(nodes[1], "/nodes")).leader; while (!leader);
const statuses = await Promise.all(nodes.map((node) => json(node, "/status")));
let [watched, led] = [statuses.findIndex((one) => one.name !== leader), statuses.findIndex((one) => one.name === leader)];
[nodes[0], nodes[watched]] = [nodes[watched], nodes[0]];
const other = nodes.find((node, at) => at > 0 && node !== undefined);

await page.setViewport({ width: 1240, height: 900 });
await page.goto(url(nodes[0], "/"));
await says("health", `3 voters, leader ${leader}, term `);
assert.equal((await page.$$("#members tr")).length, 3);
assert.match(await page.$eval("#read-only", (note) => getComputedStyle(note).display), /none/, "loopback may write");

// A write made elsewhere appears.
const key = program === "kvstore" ? "console:1" : "77";
const put = await fetch(url(other, `/v1/keys/${encodeURIComponent(key)}`), { method: "PUT", body: "made elsewhere" });
assert.equal(put.status, 204);
if (program === "kvstore") {
  await page.type("#prefix", "console:");
  await page.click("#keys-form button");
  await page.waitForSelector("#keys li button");
  await page.click("#keys li button");
  await says("key-value", "made elsewhere");
} else {
  await page.waitForFunction(() => map.states[77] === 1 || map.states[77] === 2);
  // Its dot is clicked, and the next one is gone to by keys.
  const box = await (await page.$("#map")).boundingBox();
  const side = await page.evaluate(() => map.side);
  const at = (slot, along) => (((along ? slot % side : Math.floor(slot / side)) + 0.5) / side);
  await page.mouse.click(box.x + box.width * at(77, true), box.y + box.height * at(77, false));
  await says("slot-value", "slot 77: 14 bytes, version ");
  await says("slot-value", "6d 61 64 65");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  await says("slot-value", "slot 78: ");
}

// It writes, reads and deletes, and shows the same for other clients.
await page.select("#verb", "set");
await page.$eval("#key", (input) => { input.value = ""; });
await page.type("#key", key);
await page.$eval("#text", (input) => { input.value = ""; });
await page.type("#text", "it's here");
assert.match(await page.$eval("#as-redis", (code) => code.textContent), new RegExp(`set ${key} 'it'`));
await page.click("#try-form button");
await says("answer", "done, version ");
assert.equal(await (await fetch(url(other, `/v1/keys/${encodeURIComponent(key)}`))).text(), "it's here");
await page.select("#verb", "get");
await page.click("#try-form button");
await says("answer", "it's here");
await says("operations-now", "reads ");
await page.waitForFunction(() => samples.some((sample) => sample.operations.writes > 0));
await shot("light");
await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
await shot("dark");
await page.setViewport({ width: 390, height: 844, isMobile: true, hasTouch: true });
assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "no wider than a phone");
await shot("phone");

// Leadership is handed over by a button, once that is confirmed.
const third = statuses.findIndex((one, at) => at !== watched && at !== led);
const heir = statuses[third].name;
await page.select("#order-member", heir);
await page.click('#orders button[data-order="lead"]');
await says("confirm-words", `${heir} is to lead`);
await shot("confirm");
await page.keyboard.press("Escape");
await page.waitForFunction(() => !document.getElementById("confirm").open);
assert.equal((await json(nodes[0], "/nodes")).leader, leader, "nothing was confirmed");
await page.click('#orders button[data-order="lead"]');
await page.waitForSelector("#confirm[open]");
await page.click('#confirm button[value="yes"]');
await says("order-answer", `leader: ${heir}`);
await says("health", `3 voters, leader ${heir}, term `);
[leader, led] = [heir, third];
// What this node is asked for itself.
await page.click('#upkeep button[data-order="checkpoint"]');
await page.waitForSelector("#confirm[open]");
await page.click('#confirm button[value="yes"]');
await says("upkeep-answer", "checkpoint: ");

// The leader is killed, and the page says so.
console.log(`kill ${led}`);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
assert.equal((await lines.next()).value, "killed");
await page.waitForFunction((leader) => {
  const words = document.getElementById("health").textContent;
  return words.includes("no leader is known") || words.includes("no majority") || (words.includes("leader ") && !words.includes(`leader ${leader},`));
}, {}, leader);
await page.waitForFunction((leader) => {
  const words = document.getElementById("health").textContent;
  return words.includes("leader node") && !words.includes(`leader ${leader},`);
}, {}, leader);
await shot("killed");

// Requests that ran into the election are answered with 503, which the browser notes as an error.
assert.deepEqual(complaints(/status of (404|429|503)/), []);
await close();
console.log("ok");
process.exit(0);
