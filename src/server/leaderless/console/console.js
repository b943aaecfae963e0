// The console of a leaderless node: what it says at /status, asked every two seconds while the page can be seen, and a
// box for one key. Everything that came from outside is set as text, never as markup.

// Versions are milliseconds since then, times 2^22.
const SINCE = Date.UTC(2020, 0, 1);
const VERSION_MS = 2 ** 22;

const mayWrite = document.body.dataset.writes === "yes";
let status = null;

const ask = (path, more = {}) => fetch(path, { cache: "no-store", signal: AbortSignal.timeout(8000), ...more });

// What is not well between this node and another.
function troubleWith(peer) {
  if (!peer.is_up) return `is not heard${peer.complaint ? `: ${peer.complaint}` : ""}`;
  if (Math.abs(peer.clock_ms ?? 0) > 5000) return `has a clock ${time(Math.abs(peer.clock_ms) / 1000)} ${peer.clock_ms > 0 ? "ahead of" : "behind"} this one's`;
  if (peer.complaint) return `complains: ${peer.complaint}`;
  const behind = status.time_ms - peer.confirmed_ms;
  const isLong = Math.min(behind, status.uptime_ms) > 300000;
  const isReady = peer.standing === "ready" && status.standing === "ready";
  return isLong && isReady ? `confirmed nothing for ${time(behind / 1000)}: deletes are not forgotten` : "";
}

// What `leaderless status` says, too.
function troubles() {
  const found = [];
  if (status.waits_for) found.push(`it takes no operations: it waits for ${status.waits_for}`);
  if (status.busy) found.push(`it refuses writes: ${status.busy}`);
  if (!status.sees_quorum && !status.waits_for) found.push("it sees so few nodes that no key has a majority: operations fail here");
  if (status.stands_ms >= 1000) found.push(`its time of day went back: its time stands still for ${time(status.stands_ms / 1000)}`);
  if (status.ahead_since_ms !== null && status.ahead_since_ms < 60000) {
    found.push("it refused writes of other nodes within the last minute, as too far ahead of its clock");
  }
  for (const peer of status.peers) {
    const trouble = troubleWith(peer);
    if (trouble) found.push(`node ${peer.id} ${trouble}`);
  }
  if (status.clashes) found.push(`${count(status.clashes)} times two values had one version: two nodes run as one id`);
  return found;
}

const isCoordinator = () => status.standing === "coordinator";

function showHealth() {
  const found = troubles();
  const [others, up] = [status.peers.length, status.peers.filter((peer) => peer.is_up).length];
  const heard = isCoordinator() ? `${up} of ${others} nodes are connected` : `${up + 1} of ${others + 1} nodes are up`;
  $("health").textContent = `${found.length ? "not well" : "well"}: ${status.standing}, ${heard}, ${status.replica_count} replicas of each key`;
  $("health").className = found.length ? "bad" : "good";
  $("troubles").replaceChildren(...found.map((trouble) => element("li", trouble)));
}

const clockMs = () => Math.floor(status.clock / VERSION_MS);
const clock = () => new Date(SINCE + clockMs()).toISOString().replace("T", " ").replace("Z", "");
const behind = (confirmed) => (confirmed ? time(Math.max(0, clockMs() - confirmed) / 1000) : "");

function showNodes() {
  const row = (name, cells) => element("tr", null, [element("td", null, [name]), ...cells.map((cell) => element("td", cell))]);
  const rows = status.peers.map((peer) => {
    const name = element("a", peer.id);
    name.href = `http://${peer.address}/`;
    const heard = peer.silent_ms === null ? "" : `${time(peer.silent_ms / 1000)} ago`;
    const made = row(name, [peer.standing, behind(peer.confirmed_ms), "", heard || (peer.is_up ? "connected" : ""), ""]);
    if (!peer.is_up) made.className = "silent";
    return [peer.number, made];
  });
  if (!isCoordinator()) {
    rows.push([status.number, row(element("b", status.id), [status.standing, behind(status.confirmed_ms), count(status.keys), "this node", clock()])]);
  }
  rows.sort(([one], [other]) => one - other);
  $("nodes").replaceChildren(...rows.map(([, made]) => made));
}

function showFigures() {
  const rows = [["up for", time(status.uptime_ms / 1000)], ["layout", `epoch ${status.epoch}, ${status.layout_hash.slice(0, 16)}`]];
  if (!isCoordinator()) {
    rows.push(
      ["keys", `${count(status.keys)}, and ${count(status.tombstones)} deletes remembered`],
      ["memory", `${bytes(status.memory_bytes)} of ${bytes(status.memory_bytes_max)}`],
      ["operations", `${count(status.acknowledged)} acknowledged, ${count(status.failed)} not stored, ${count(status.unknown)} unknown`],
      ["repaired", `${count(status.mended)} records`],
      ["refused as ahead", `${count(status.ahead)} versions`],
      ["lost disks", count(Math.max(0, status.losses - 1))], // a new directory counts as one
    );
    if (status.left_out.length) rows.push(["the floor leaves out", status.left_out.join(", ")]);
  }
  $("figures").replaceChildren(...rows.flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
}

// The key.
const keyPath = () => `/v1/keys/${encodeURIComponent($("key").value)}?level=${$("level").value}`;
function showCommands() {
  const [verb, key, text, level] = [$("verb").value, $("key").value, $("text").value, $("level").value];
  const [host, port] = [location.hostname, location.port || "80"];
  const value = verb === "set" ? ` ${quoted(text)}` : "";
  const curl = { get: "", set: ` -X PUT --data-binary ${quoted(text)}`, delete: " -X DELETE" }[verb];
  const order = { get: "read", set: "write", delete: "erase" }[verb];
  $("text-label").hidden = verb !== "set";
  $("as-redis").textContent = `redis-cli -h ${host} -p ${port} diskstore ${order} ${level} ${quoted(key)}${value}`;
  $("as-curl").textContent = `curl -i${curl} ${quoted(location.origin + keyPath())}`;
  $("as-leaderless").textContent = `leaderless ${verb} -addr ${host}:${port} -level ${level} ${quoted(key)}${value}`;
}
async function send() {
  const [verb, key] = [$("verb").value, $("key").value];
  if (verb === "get") return show($("answer"), key, keyPath());
  if (!mayWrite) return undefined;
  const more = verb === "set" ? { method: "PUT", body: $("text").value } : { method: "DELETE" };
  const response = await ask(keyPath(), more);
  const tag = (response.headers.get("etag") ?? "").replaceAll('"', "");
  const found = response.headers.get("leaderless-deleted") === "false" ? "there was no value" : "done";
  $("answer").replaceChildren(element("h3", response.ok ? `${found}, version ${tag}` : await complaint(response)));
  return look();
}
for (const id of ["verb", "key", "text", "level"]) $(id).addEventListener("input", showCommands);
$("try-form").addEventListener("submit", (event) => {
  event.preventDefault();
  send().catch((error) => { $("answer").replaceChildren(element("h3", error.message)); });
});

async function look() {
  try {
    const response = await ask("/status");
    if (!response.ok) throw new Error(await complaint(response));
    status = await response.json();
    const name = status.id || status.standing;
    $("node").textContent = name;
    $("version").textContent = status.cluster_id ? `cluster ${status.cluster_id}` : "";
    document.title = `${name} - leaderless`;
    showHealth();
    showNodes();
    showFigures();
  } catch (error) {
    $("health").textContent = `this node does not answer: ${error.message}`;
    $("health").className = "bad";
  }
}

$("read-only").hidden = mayWrite;
for (const option of document.querySelectorAll("option.writes")) option.disabled = !mayWrite;
showCommands();
keepLooking(look);
