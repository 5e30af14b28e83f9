// Ask the server once a second while somebody looks, and show what it says.

import { drawCharts } from "./charts.js";
import { find, make, short, whole } from "./dom.js";
import { showForm, startForm } from "./photograph.js";
import { fillModels, fillTables } from "./tables.js";

const KEPT = 300;
const EVERY_MS = matchMedia("(prefers-reduced-motion: reduce)").matches ? 5000 : 1000;
const LOST_MS = 3000;

let points = null;
let live = null;
let charts = null;
let paused = false;
let timer = 0;

const quantile = () => document.querySelector('input[name="quantile"]:checked').value;

/** Put newer columns behind older ones, in place, and let what is too old go. */
function append(older, newer) {
  for (const [key, value] of Object.entries(newer)) {
    if (Array.isArray(value)) older[key] = [...older[key], ...value].slice(-KEPT);
    else append(older[key], value);
  }
}

function setText(id, ...children) {
  find(id).replaceChildren(...children);
}

function setState(state, text) {
  const pill = find("state");
  if (pill.textContent !== text) pill.textContent = text; // it is read out when it changes
  pill.dataset.state = state;
}

function stateOf({ ready, models, points: { failed } }) {
  if (models.some((model) => model.state === "failed")) return ["failed", "failed"];
  if (models.some((model) => model.state === "loading")) return ["waiting", "loading"];
  if (!ready) return ["waiting", "not ready"];
  return failed.at(-1) > 0 ? ["waiting", "ready, refusing some"] : ["ready", "ready"];
}

function ago(seconds) {
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

function showTiles() {
  const last = (column) => column.at(-1);
  const unit = (value, name) => [short(value), make("small", {}, ` ${name}`)];
  const { total } = points.latency_ms;
  const images = live.batches.reduce((sum, batch) => sum + batch.batches, 0);
  const computed = live.stages.find((stage) => stage.stage === "queue")?.count ?? 0;
  const bad = live.items.filter((item) => item.outcome !== "ok").reduce((sum, item) => sum + item.lately, 0);
  const all = live.items.reduce((sum, item) => sum + item.lately, 0);
  setText("tile-rate", short(last(points.ok)));
  setText("tile-p50", ...unit(last(total.p50), "ms"));
  setText("tile-p99", ...unit(last(total.p99), "ms"));
  setText("tile-batch", images ? short(computed / images) : "–");
  setText("tile-queue", whole(last(points.queue_depth) ?? 0), make("small", {}, ` of ${whole(last(points.in_flight) ?? 0)} inside`));
  setText("tile-failed", ...(all ? unit((100 * bad) / all, "% in 1 min") : ["–"]));
  find("tile-failed").classList.toggle("alarm", bad > 0.01 * all);
}

function draw() {
  charts ??= drawCharts();
  charts.update(points, live.batches, quantile(), live.now);
}

function show(answer) {
  if (live?.began === answer.began) append(points, answer.points);
  else points = answer.points;
  live = { ...answer, points };
  setState(...stateOf(live));
  setText("about", `${location.host} · regard ${live.version} · up ${ago(live.now - live.began)}`);
  showTiles();
  fillTables(live);
  fillModels(live.models);
  showForm(live);
  draw();
}

async function fetchLive() {
  const since = points?.at.at(-1) ?? 0;
  try {
    const response = await fetch(`page/live.json?since=${since}`, { signal: AbortSignal.timeout(5000) });
    return response.ok ? await response.json() : null;
  } catch {
    return null; // gone, or too slow: asked again below
  }
}

async function ask() {
  clearTimeout(timer);
  if (paused || document.hidden) return;
  const answer = await fetchLive();
  clearTimeout(timer);
  timer = setTimeout(ask, answer ? EVERY_MS : LOST_MS);
  if (answer) show(answer);
  else setState("lost", "no connection");
}

function recolour() {
  charts?.remove();
  charts = null;
  if (live) draw();
}

find("pause").addEventListener("click", () => {
  paused = !paused;
  find("pause").setAttribute("aria-pressed", String(paused));
  ask();
});
document.querySelectorAll('input[name="quantile"]').forEach((each) => each.addEventListener("change", () => live && draw()));
document.addEventListener("visibilitychange", ask);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
startForm();
ask();
