// The console of a leaderless node in headless Chromium; run by tests/clients.rs, which kills the last node when
// it reads `kill 2`. Ends with `ok` if everything was right.

import assert from "node:assert/strict";
import { createInterface } from "node:readline";
import { browse } from "./browse.mjs";
import { invocation } from "./expect.mjs";

const { modules, program, nodes } = invocation();
const url = (node, path) => `http://${node.host}:${node.port}${path}`;
const { page, complaints, says, shot, close } = await browse(modules, program);

const row = (id) => page.evaluate((id) =>
  [...[...document.querySelectorAll("#nodes tr")].find((row) => row.cells[0].textContent === id).cells].map((cell) => cell.textContent), id);
const text = async (id, value) => {
  await page.$eval(`#${id}`, (input) => { input.value = ""; });
  await page.type(`#${id}`, value);
};

await page.setViewport({ width: 1240, height: 900 });
await page.goto(url(nodes[0], "/"));
await says("health", "well: ready, 3 of 3 nodes are up, 3 replicas of each key");
assert.equal((await page.$$("#nodes tr")).length, 3);
assert.match(await page.$eval("#read-only", (note) => getComputedStyle(note).display), /none/, "loopback may write");

// It writes, reads and deletes, at the level that is chosen, and shows the same for other clients.
await page.select("#verb", "set");
await text("key", "it's \u00e4 key");
await text("text", "made here");
await page.select("#level", "all");
assert.match(await page.$eval("#as-redis", (code) => code.textContent), /diskstore write all 'it'/);
await page.click("#try-form button");
await says("answer", "done, version ");
const path = `/v1/keys/${encodeURIComponent("it's \u00e4 key")}`;
const other = await fetch(url(nodes[1], `${path}?level=one`));
assert.equal(await other.text(), "made here", "at level all every node has it");
const version = other.headers.get("etag").replaceAll('"', "");
await says("answer", `done, version ${version}`);
await page.select("#verb", "get");
await page.select("#level", "quorum");
await page.click("#try-form button");
await says("answer", `9 bytes, version ${version}`);
await says("answer", "6d 61 64 65");

// The nodes: what this one has, and since when what others have is known to be the same.
await page.waitForFunction(() => status.keys === 1);
const [here, there] = [await row("1"), await row("2")];
assert.match(here.join("|"), /^1\|ready\|[^|]*\|1\|this node\|20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}$/);
assert.match(there.join("|"), /^2\|ready\|[^|]*\|\|[^|]+ ago\|$/);
await shot("light");

await page.select("#verb", "delete");
await page.click("#try-form button");
await page.waitForFunction((version) => {
  const words = document.getElementById("answer").textContent;
  return words.includes("done, version ") && !words.includes(version);
}, {}, version);
assert.equal((await fetch(url(nodes[1], path))).status, 404);
await page.click("#try-form button");
await says("answer", "there was no value");

// A node is killed, and the page says so and writes on.
console.log("kill 2");
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
assert.equal((await lines.next()).value, "killed");
await says("health", "not well: ready, 2 of 3 nodes are up");
await says("troubles", "node 3 is not heard");
await page.select("#verb", "set");
await page.click("#try-form button");
await says("answer", "done, version ");
await page.select("#level", "all");
await page.click("#try-form button");
await says("answer", "503 ");
await shot("killed");

// The page is loaded anew as a phone.
await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
await shot("dark");
await page.setViewport({ width: 390, height: 844, isMobile: true, hasTouch: true });
assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "no wider than a phone");
await says("health", "not well");
await shot("phone");

assert.deepEqual(complaints(/status of (404|503)/), []);
await close();
console.log("ok");
process.exit(0);
