// The console: what the node says at /status, /metrics and /v1/map, asked every two seconds while the
// page can be seen. Everything that came from outside is set as text, never as markup.

const KEPT_MS = 15 * 60 * 1000;
const RECENT_MS = 60 * 1000;
const MAP_SLOTS = 1 << 20;
const KEYS_SHOWN = 200;
// Orders wait for members that are silent, and a checkpoint for the disk.
const ORDER_MS = 130_000;
const PROFILE_S = 10;

// Whether this page may write: yes, no, or as the token says that is entered here. It is kept until the
// tab is closed, for this node alone, and goes into the header of requests, never into an address.
const writes = document.body.dataset.writes;
const TOKEN = "diskstore-token";
let token = writes === "token" ? sessionStorage.getItem(TOKEN) : null;
let mayWrite = writes === "yes";
let mayOrder = writes === "yes";
const samples = [];
let status = null;
let map = { from: 0, states: new Uint8Array(0), side: 1, cursor: 0 };

async function ask(path, more = {}) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(8000), headers, ...more });
  if (response.status === 401 && token) forgetToken("this token counts no longer, or never did");
  return response;
}

function showRights(words) {
  $("token-form").hidden = writes !== "token" || token !== null;
  $("token-known").hidden = token === null;
  $("token-words").textContent = words;
  $("read-only").hidden = mayWrite;
  $("read-only").textContent = writes === "token"
    ? "Read-only: the token of this page does not allow writes."
    : "Read-only: this page writes only where it is opened on the node's own machine.";
  for (const option of document.querySelectorAll("option.writes")) option.disabled = !mayWrite;
  for (const id of ["orders", "upkeep"]) $(id).hidden = !mayOrder;
}

function forgetToken(words) {
  sessionStorage.removeItem(TOKEN);
  token = null;
  [mayWrite, mayOrder] = [false, false];
  showRights(words);
}

async function lookAtRights() {
  const response = await ask("/v1/whoami");
  if (!response.ok) return;
  const { name, role } = await response.json();
  mayWrite = role === "write" || role === "admin";
  mayOrder = role === "admin";
  $("token-of").textContent = `${name}, role ${role}`;
  showRights("");
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  $("token").value = "";
  sessionStorage.setItem(TOKEN, token);
  look();
});
$("token-forget").addEventListener("click", () => { forgetToken(""); look(); });

// Health: what this node knows. A follower does not hear from the others.
function showHealth() {
  const voters = status.members.filter((member) => member.role !== "learner");
  const silent = voters.filter((voter) => voter.silent === true);
  const leads = status.role === "leader";
  const majority = Math.floor(voters.length / 2) + 1;
  const answering = voters.length - silent.length;
  const parts = [];
  if (status.no_majority_s !== null && status.no_majority_s !== undefined) {
    parts.push(`no majority of the voters for ${time(status.no_majority_s)}: writes are refused`);
  } else if (!status.leader) {
    parts.push("no leader is known");
  } else if (leads) {
    parts.push(`${answering} of ${voters.length} voters`, `can lose ${Math.max(0, answering - majority)}`);
  } else {
    parts.push(`${voters.length} voters`);
  }
  if (status.leader) parts.push(`leader ${status.leader}`);
  parts.push(`term ${status.term}`);
  const isGood = status.leader && !(status.no_majority_s >= 0 && status.no_majority_s !== null) && !silent.length;
  $("health").textContent = parts.join(", ");
  $("health").className = isGood ? "good" : "bad";
  const troubles = silent.map((voter) => `${voter.name} does not answer`);
  for (const refusal of status.refusals) troubles.push(`${refusal.reason}, for ${time(refusal.since_s)}: ${refusal.doing}`);
  if (status.damaged_slots) troubles.push(`${count(status.damaged_slots)} slots are damaged`);
  if (status.unsafe_flags.length) troubles.push(`runs with ${status.unsafe_flags.join(", ")}`);
  if (status.moved) troubles.push(status.moved);
  $("troubles").replaceChildren(...troubles.map((trouble) => element("li", trouble)));
}

function showMembers() {
  const rows = status.members.map((member) => {
    const isHere = member.id === status.member_id;
    const name = isHere ? element("b", member.name) : element("a", member.name);
    if (!isHere) name.href = `http://${member.client}/`;
    const heard = isHere ? "this node" : member.silent ? "silent" : member.heard_ms === null ? "" : time(member.heard_ms / 1000);
    const known = (number) => (number === null || number === undefined ? "" : count(number));
    const cells = [member.role, member.client, known(isHere ? status.last_log : member.matched), known(member.lag), heard];
    const row = element("tr", null, [element("td", null, [name]), ...cells.map((cell) => element("td", cell))]);
    if (member.silent) row.className = "silent";
    return row;
  });
  $("members").replaceChildren(...rows);
  const [choice, names] = [$("order-member"), status.members.map((member) => member.name)];
  if (names.join("\n") !== [...choice.options].map((option) => option.value).join("\n")) {
    const chosen = choice.value;
    choice.replaceChildren(...names.map((name) => element("option", name)));
    if (names.includes(chosen)) choice.value = chosen;
  }
  const leads = status.role === "leader";
  $("asked").textContent = leads ? "" : "How far the others are is known to the leader: open its page by its name.";
}

function showFigures() {
  const free = status.disk_left_bytes;
  const rows = [
    ["role", `${status.role}, up for ${time(status.uptime_s)}`],
    [status.slots ? "slots" : "keys", status.live === null ? "being counted" : status.slots ? `${count(status.live)} of ${count(status.slots)} hold a value` : count(status.live)],
    ["sync of the log", `p50 ${time(status.sync.p50_us / 1e6)}, p99 ${time(status.sync.p99_us / 1e6)}, longest ${time(status.sync.max_us / 1e6)}`],
    ["disk", `${bytes(status.disk_used_bytes)} used, ${bytes(free)} left`],
    ["log", `${bytes(status.log_bytes)}, entries ${count(status.purged + 1)} to ${count(status.last_log)}`],
    ["checkpoint", `entry ${count(status.checkpoint)}, ${count(status.applied - status.checkpoint)} behind what is applied`],
  ];
  $("figures").replaceChildren(...rows.flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
}

// The metrics: only the samples that the charts need.
function parse(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const end = line.lastIndexOf(" ");
    if (line.startsWith("diskstore_operation") || line.startsWith("diskstore_write_stage")) {
      found.set(line.slice(0, end), Number(line.slice(end + 1)));
    }
  }
  return found;
}
const family = (found, name, wanted) =>
  [...found].filter(([key]) => key.startsWith(`${name}{`) && wanted.every((part) => key.includes(part)));

function percentile(now, before, wanted, share) {
  const buckets = new Map();
  for (const [key, value] of family(now, "diskstore_operation_duration_seconds_bucket", wanted)) {
    const bound = Number(/le="([^"]+)"/.exec(key)[1].replace("+Inf", "Infinity"));
    buckets.set(bound, (buckets.get(bound) ?? 0) + value - (before.get(key) ?? 0));
  }
  const sorted = [...buckets].sort(([one], [other]) => one - other);
  const all = sorted.length ? sorted[sorted.length - 1][1] : 0;
  if (!all) return null;
  return sorted.find(([, seen]) => seen >= all * share)[0];
}

function sampled(at, now, last) {
  const seconds = (at - last.at) / 1000;
  const difference = (key) => now.get(key) - (last.found.get(key) ?? 0);
  const rate = (kind) =>
    family(now, "diskstore_operation_duration_seconds_count", [`kind="${kind}"`])
      .reduce((sum, [key]) => sum + difference(key), 0) / seconds;
  const stage = (name) => {
    const of = (suffix) => difference(`diskstore_write_stage_duration_seconds_${suffix}{stage="${name}"}`);
    return of("count") > 0 ? of("sum") / of("count") : null;
  };
  return {
    at,
    operations: { reads: rate("read"), writes: rate("write") },
    latency: {
      "writes p50": percentile(now, last.found, ['kind="write"'], 0.5),
      "writes p99": percentile(now, last.found, ['kind="write"'], 0.99),
      "reads p50": percentile(now, last.found, ['kind="read"'], 0.5),
      "reads p99": percentile(now, last.found, ['kind="read"'], 0.99),
    },
    stages: Object.fromEntries(["queue", "append", "sync", "commit", "apply", "reply"].map((name) => [name, stage(name)])),
  };
}

const COLOURS = ["--one", "--two", "--three", "--four", "--five", "--six"];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function drawChart(id, form) {
  const canvas = $(id);
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  [canvas.width, canvas.height] = [width * scale, height * scale];
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const [left, bottom] = [4, height - 16];
  const now = Date.now();
  // Until 15 minutes are full, those that there are fill the chart.
  const span = samples.length ? Math.min(KEPT_MS, Math.max(60_000, now - samples[0].at)) : KEPT_MS;
  const names = samples.length ? Object.keys(samples[0][id]) : [];
  const highest = Math.max(1e-9, ...samples.flatMap((sample) => Object.values(sample[id]).map((value) => value ?? 0)).filter(Number.isFinite));
  pen.strokeStyle = colour("--line");
  pen.fillStyle = colour("--soft");
  pen.font = "11px system-ui, sans-serif";
  for (const part of [0, 0.5, 1]) {
    const y = bottom - part * (bottom - 14);
    pen.beginPath();
    pen.moveTo(left, y);
    pen.lineTo(width, y);
    pen.stroke();
    if (part && samples.length) pen.fillText(form(highest * part), left, y - 3);
  }
  pen.fillText(`${time(span / 1000)} ago`, left, height - 3);
  pen.textAlign = "right";
  pen.fillText("now", width, height - 3);
  names.forEach((name, nth) => {
    pen.strokeStyle = colour(COLOURS[nth]);
    pen.lineWidth = 1.5;
    pen.beginPath();
    let isDown = false;
    for (const sample of samples) {
      const value = sample[id][name];
      if (value === null || !Number.isFinite(value)) { isDown = false; continue; }
      const x = width - ((now - sample.at) / span) * (width - left);
      const y = bottom - (value / highest) * (bottom - 14);
      if (isDown) pen.lineTo(x, y); else { pen.moveTo(x, y); pen.lineTo(x + 1, y); }
      isDown = true;
    }
    pen.stroke();
  });
  const last = samples.length ? samples[samples.length - 1][id] : {};
  const words = names.flatMap((name, nth) => {
    const word = element("b", `${name} ${last[name] === null ? "-" : form(last[name])}`);
    word.style.color = colour(COLOURS[nth]);
    return [" ", word];
  });
  $(`${id}-now`).replaceChildren(...words);
}

function drawCharts() {
  drawChart("operations", count);
  drawChart("latency", time);
  drawChart("stages", time);
}

let lastMetrics = null;
async function lookAtMetrics() {
  const response = await ask("/metrics");
  if (!response.ok) return;
  const [at, found] = [Date.now(), parse(await response.text())];
  if (lastMetrics) samples.push(sampled(at, found, lastMetrics));
  lastMetrics = { at, found };
  while (samples.length && at - samples[0].at > KEPT_MS) samples.shift();
  drawCharts();
}

// The map of slots: two bits each.
const applied = [];
function recentSince() {
  applied.push({ at: Date.now(), index: status.applied });
  while (applied.length > 1 && Date.now() - applied[1].at > RECENT_MS) applied.shift();
  return applied[0].index;
}

async function lookAtMap() {
  if (!status.slots) return;
  $("map-section").hidden = false;
  const slots = Math.min(MAP_SLOTS, status.slots - map.from);
  const response = await ask(`/v1/map?from=${map.from}&count=${slots}&since=${recentSince()}`);
  if (!response.ok) return;
  const packed = new Uint8Array(await response.arrayBuffer());
  const states = new Uint8Array(slots);
  for (let slot = 0; slot < slots; slot += 1) states[slot] = (packed[slot >> 2] >> ((slot & 3) * 2)) & 3;
  map.states = states;
  map.side = Math.ceil(Math.sqrt(slots));
  $("map-pages").hidden = status.slots <= MAP_SLOTS;
  $("map-range").textContent = `| slots ${count(map.from)} to ${count(map.from + slots - 1)}`;
  drawMap();
}

function drawMap() {
  const canvas = $("map");
  const { side, states } = map;
  if (!states.length) return;
  [canvas.width, canvas.height] = [side, side];
  const pen = canvas.getContext("2d");
  const rgba = (name) => {
    pen.fillStyle = colour(name);
    pen.fillRect(0, 0, 1, 1);
    return new Uint32Array(pen.getImageData(0, 0, 1, 1).data.buffer)[0];
  };
  const colours = ["--empty", "--written", "--recent", "--damaged"].map(rgba);
  const cursor = rgba("--text");
  const picture = pen.createImageData(side, side);
  const dots = new Uint32Array(picture.data.buffer);
  states.forEach((state, slot) => { dots[slot] = colours[state]; });
  if (document.activeElement === canvas) dots[map.cursor] = cursor;
  pen.putImageData(picture, 0, 0);
}

function showSlot(slot) {
  if (!(slot >= 0 && status && slot < status.slots)) return;
  $("slot").value = slot;
  show($("slot-value"), `slot ${slot}`, `/v1/slots/${slot}`);
}

$("map").addEventListener("click", (event) => {
  const box = $("map").getBoundingClientRect();
  const place = (at, size) => Math.min(map.side - 1, Math.max(0, Math.floor((at / size) * map.side)));
  map.cursor = place(event.clientY - box.top, box.height) * map.side + place(event.clientX - box.left, box.width);
  if (map.cursor < map.states.length) showSlot(map.from + map.cursor);
  drawMap();
});
$("map").addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -map.side, ArrowDown: map.side };
  if (event.key === "Enter") return showSlot(map.from + map.cursor);
  if (!(event.key in steps)) return;
  event.preventDefault();
  map.cursor = Math.min(map.states.length - 1, Math.max(0, map.cursor + steps[event.key]));
  $("slot").value = map.from + map.cursor;
  drawMap();
});
for (const name of ["focus", "blur"]) $("map").addEventListener(name, drawMap);
$("slot-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const slot = Number($("slot").value);
  if (slot >= 0 && slot < status.slots && Math.floor(slot / MAP_SLOTS) * MAP_SLOTS !== map.from) {
    map.from = Math.floor(slot / MAP_SLOTS) * MAP_SLOTS;
    lookAtMap().catch(() => {});
  }
  map.cursor = slot - map.from;
  showSlot(slot);
});
function turnMap(by) {
  const from = map.from + by * MAP_SLOTS;
  if (from < 0 || from >= status.slots) return;
  map.from = from;
  map.cursor = 0;
  lookAtMap().catch(() => {});
}
$("map-back").addEventListener("click", () => turnMap(-1));
$("map-on").addEventListener("click", () => turnMap(1));

// Keys of kvstore; they come percent-encoded.
async function findKeys() {
  const response = await ask(`/v1/keys?prefix=${encodeURIComponent($("prefix").value)}`);
  if (!response.ok) { $("keys-note").textContent = await complaint(response); return; }
  const { keys } = await response.json();
  const rows = keys.slice(0, KEYS_SHOWN).map((key) => {
    let shown = key;
    try { shown = decodeURIComponent(key); } catch { /* no text: as it came */ }
    const button = element("button", shown);
    button.addEventListener("click", () => show($("key-value"), shown, `/v1/keys/${key}`));
    return element("li", null, [button]);
  });
  $("keys").replaceChildren(...rows);
  $("keys-note").textContent = keys.length > KEYS_SHOWN ? `the first ${KEYS_SHOWN}` : `${keys.length} keys`;
}
$("keys-form").addEventListener("submit", (event) => {
  event.preventDefault();
  findKeys().catch((error) => { $("keys-note").textContent = error.message; });
});

// Try it.
function showCommands() {
  const [verb, key, text] = [$("verb").value, $("key").value, $("text").value];
  const [host, port] = [location.hostname, location.port || "80"];
  const url = `${location.origin}/v1/keys/${encodeURIComponent(key)}`;
  const value = verb === "set" ? ` ${quoted(text)}` : "";
  const curl = { get: "", set: ` -X PUT --data-binary ${quoted(text)}`, delete: " -X DELETE" }[verb];
  $("text-label").hidden = verb !== "set";
  const [auth, bearer] = writes === "token"
    ? ['REDISCLI_AUTH="$DISKSTORE_TOKEN" ', ' -H "Authorization: Bearer $DISKSTORE_TOKEN"'] : ["", ""];
  $("as-redis").textContent = `${auth}redis-cli -h ${host} -p ${port} ${verb === "delete" ? "del" : verb} ${quoted(key)}${value}`;
  $("as-curl").textContent = `curl -i${bearer}${curl} ${quoted(url)}`;
  $("as-diskstore").textContent = `diskstore ${verb} -addr ${host}:${port} ${quoted(key)}${value}`;
}
async function send() {
  const [verb, key] = [$("verb").value, $("key").value];
  const path = `/v1/keys/${encodeURIComponent(key)}`;
  if (verb === "get") return show($("answer"), key, path);
  if (!mayWrite) return undefined;
  const more = verb === "set" ? { method: "PUT", body: $("text").value } : { method: "DELETE" };
  const response = await ask(path, more);
  const tag = (response.headers.get("etag") ?? "").replaceAll('"', "");
  $("answer").textContent = response.ok ? `done, version ${tag}` : await complaint(response);
  return look();
}
for (const id of ["verb", "key", "text"]) $(id).addEventListener("input", showCommands);
$("try-form").addEventListener("submit", (event) => {
  event.preventDefault();
  send().catch((error) => { $("answer").textContent = error.message; });
});

// Orders: what is asked for, and what it means, which is confirmed first.
const ORDERS = {
  promote: (who) => ["POST", `/v1/members/${who}/promote`, "is to vote, as soon as it has caught up"],
  demote: (who) => ["POST", `/v1/members/${who}/demote`, "is to follow without a vote: the cluster can then lose fewer members"],
  lead: (who) => ["POST", `/v1/transfer-leader?to=${who}`, "is to lead; writes wait for a moment"],
  remove: (who) => ["DELETE", `/v1/members/${who}`, "is to leave the cluster, and its process ends; it can come back only as a new member"],
  checkpoint: () => ["POST", "/v1/checkpoint", "is to write a checkpoint now"],
};

function confirmed(words) {
  const dialog = $("confirm");
  $("confirm-words").textContent = words;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((done) => { dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true }); });
}

// Has a button work once at a time, and tells beside it what came of it.
async function worked(button, place, work) {
  button.disabled = true;
  try {
    place.textContent = "under way";
    place.textContent = await work();
  } catch (error) {
    place.textContent = error.name === "TimeoutError" ? "there was no answer in time: look at the members" : error.message;
  }
  button.disabled = false;
  look();
}

async function order(button) {
  const isHere = button.dataset.order === "checkpoint";
  const who = isHere ? status?.name : $("order-member").value;
  if (!mayOrder || !who) return;
  const [method, path, meaning] = ORDERS[button.dataset.order](encodeURIComponent(who));
  if (!await confirmed(`${who} ${meaning}.`)) return;
  await worked(button, $(isHere ? "upkeep-answer" : "order-answer"), async () => {
    const response = await ask(path, { method, signal: AbortSignal.timeout(ORDER_MS) });
    if (!response.ok) throw new Error(await complaint(response));
    const done = await response.json();
    return Object.entries(done).map(([name, value]) => `${name}: ${value}`).join(", ");
  });
}

function save(link, name) {
  const anchor = element("a");
  [anchor.href, anchor.download] = [link, name];
  anchor.click();
}

// What goes to a file. A backup may be larger than the memory of this page: it is streamed to the disk where the
// browser can ask for it by itself, which is without a token.
async function fetchFile(button) {
  const kind = button.dataset.file;
  const [path, name] = {
    backup: ["/v1/backup", `${status?.name ?? "diskstore"}.backup`],
    cpu: [`/debug/pprof/profile?seconds=${PROFILE_S}`, "cpu.pb"],
    heap: ["/debug/pprof/heap", "heap.pb.gz"],
  }[kind];
  if (!mayOrder) return;
  if (kind === "backup" && !token) return save(path, name);
  await worked(button, $("upkeep-answer"), async () => {
    const response = await ask(path, { signal: AbortSignal.timeout(kind === "backup" ? 3_600_000 : ORDER_MS) });
    if (!response.ok) throw new Error(await complaint(response));
    const link = URL.createObjectURL(await response.blob());
    save(link, name);
    setTimeout(() => URL.revokeObjectURL(link), 60_000);
    return `${name} is saved`;
  });
}
for (const button of document.querySelectorAll("button[data-order]")) button.addEventListener("click", () => order(button));
for (const button of document.querySelectorAll("button[data-file]")) button.addEventListener("click", () => fetchFile(button));
$("orders").addEventListener("submit", (event) => event.preventDefault());

async function look() {
  try {
    if (token) await lookAtRights();
    if (writes === "token" && !token) {
      $("health").textContent = "this node asks for a token";
      $("health").className = "";
      return;
    }
    const response = await ask("/status");
    if (!response.ok) throw new Error(await complaint(response));
    status = await response.json();
    $("node").textContent = status.name;
    $("version").textContent = `version ${status.version}, cluster ${status.cluster_id}`;
    document.title = `${status.name} - diskstore`;
    showHealth();
    showMembers();
    showFigures();
    $("keys-section").hidden = status.slots > 0;
    await lookAtMetrics();
    await lookAtMap();
  } catch (error) {
    $("health").textContent = `this node does not answer: ${error.message}`;
    $("health").className = "bad";
  }
}

showRights("");
window.addEventListener("resize", drawCharts);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawCharts(); drawMap(); });
showCommands();
drawCharts();
keepLooking(look);
