"use strict";
// What the pages of all programs share. It stands before the script of a page, which has `ask(path, more)`: fetches from
// this node. Everything that came from outside is set as text, never as markup.

const EVERY_MS = 2000;

const $ = (id) => document.getElementById(id);

function element(name, text, parts = []) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  made.append(...parts);
  return made;
}

async function complaint(response) {
  try {
    const { error } = await response.json();
    return `${response.status} ${error.code}: ${error.message}`;
  } catch {
    return `${response.status} ${response.statusText}`;
  }
}

// Numbers for people.
const count = (number) => number.toLocaleString("en-US", { maximumFractionDigits: number < 10 ? 1 : 0 });
function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) { number /= 1024; unit += 1; }
  return `${number.toFixed(unit && number < 100 ? 1 : 0)} ${units[unit]}`;
}
function time(seconds) {
  if (!Number.isFinite(seconds)) return "-";
  if (seconds < 0.001) return `${count(seconds * 1e6)} us`;
  if (seconds < 1) return `${count(seconds * 1e3)} ms`;
  if (seconds < 120) return `${count(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

function showValue(place, title, response, buffer) {
  const data = new Uint8Array(buffer);
  const text = new TextDecoder().decode(data);
  const shown = data.slice(0, 1024);
  const lines = [];
  for (let at = 0; at < shown.length; at += 16) {
    const row = [...shown.slice(at, at + 16)];
    const hex = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ").padEnd(47);
    lines.push(`${at.toString(16).padStart(4, "0")}  ${hex}  ${row.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : ".")).join("")}`);
  }
  if (data.length > shown.length) lines.push(`... ${count(data.length - shown.length)} bytes more`);
  const version = (response.headers.get("etag") ?? "").replaceAll('"', "");
  place.replaceChildren(
    element("h3", `${title}: ${count(data.length)} bytes, version ${version}`),
    element("pre", text.slice(0, 2000)),
    element("pre", lines.join("\n")),
  );
}

async function show(place, title, path) {
  try {
    const response = await ask(path);
    if (response.ok) return showValue(place, title, response, await response.arrayBuffer());
    place.replaceChildren(element("h3", `${title}: ${await complaint(response)}`));
  } catch (error) {
    place.replaceChildren(element("h3", `${title}: ${error.message}`));
  }
}

// As a shell takes it.
const quoted = (text) => (/^[A-Za-z0-9_.:@%+=,/-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

async function keepLooking(look) {
  for (;;) {
    if (!document.hidden) await look();
    await new Promise((done) => { setTimeout(done, EVERY_MS); });
  }
}
