// What the suites of ioredis and node-redis share: what is expected, keys, and who takes part.

import assert from "node:assert/strict";

// Of each kind in a row, and in turn: a read waits for the write before it.
export const PIPELINE_REQUESTS = 10_000;
export const PIPELINE_TURNS = 200;
export const MANY_KEYS = 500;
export const COUNTERS = 3;
export const ROUNDS = 10;
// A transaction that lost is tried again; so often no counter of these loses.
export const TRIES_MAX = 10_000;

/** `SCRIPT MODULES PROGRAM ADDRESS...`: where the packages lie, which program runs, and its nodes. */
export function invocation() {
  const [modules, program, ...addresses] = process.argv.slice(2);
  const nodes = addresses.map((address) => {
    const [host, port] = address.split(":");
    return { host, port: Number(port) };
  });
  return { modules, program, nodes };
}

/** Key number `n` of a program: a slot's number, or any bytes. */
export function keyNamer(program) {
  return program === "kvstore" ? (n) => `client:${n} \u00e4` : (n) => String(n);
}

export function equal(actual, expected, what) {
  // Long lists are not printed: the first difference says enough.
  if (Array.isArray(expected) && Array.isArray(actual) && expected.length > 20) {
    assert.equal(actual.length, expected.length, what);
    expected.forEach((one, n) => assert.deepEqual(actual[n], one, `at ${n}`));
  } else {
    assert.deepEqual(actual, expected, what);
  }
}

/** The promise is refused, and the error says these words. */
export async function refused(promise, words) {
  const found = await promise.then(
    (value) => assert.fail(`${value}, expected the error ${words}`),
    (error) => error,
  );
  assert.match(String(found.message), words);
}

/** Runs each part, each node being the first one asked once. */
export async function run(parts, program, nodes) {
  for (const part of parts) {
    for (const [index, first] of nodes.entries()) {
      const other = nodes[(index + 1) % nodes.length];
      console.log(part.name, program, first.host);
      await part(first, other);
    }
  }
}
