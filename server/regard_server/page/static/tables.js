// The figures as text: what charts show, for those who cannot see them, and what no chart shows.

import { find, make, short, whole } from "./dom.js";

function fill(id, rows, empty) {
  const body = find(id).tBodies[0];
  const columns = find(id).tHead.rows[0].cells.length;
  body.replaceChildren(...(rows.length ? rows : [make("tr", {}, make("td", { className: "empty", colSpan: columns }, empty))]));
}

const cell = (text, className = "") => make("td", { className }, text);
const rowHead = (...children) => make("th", { scope: "row" }, ...children);

/** Fill everything but the models. */
export function fillTables(live) {
  const stages = ["total", "compute", "queue", "decode"].map((name) => live.stages.find((stage) => stage.stage === name)).filter(Boolean);
  fill(
    "stages",
    stages.map((stage) =>
      make("tr", {}, rowHead(make("span", { className: `swatch ${stage.stage}` }), stage.stage), ...[stage.p50, stage.p90, stage.p99, stage.mean].map((value) => cell(short(value))), cell(whole(stage.count))),
    ),
    "Nothing was measured yet.",
  );
  fill("batches", live.batches.map((batch) => make("tr", {}, rowHead(batch.size), cell(whole(batch.batches)))), "No batch ran in the last minute.");
  fill("requests", live.requests.map((each) => counted(each.method, each.code, each.code !== "OK", each)), "No call was answered yet.");
  fill("items", live.items.map((each) => counted(each.model, each.outcome, each.outcome !== "ok", each)), "No image was seen yet.");
}

function counted(first, second, bad, { lately, ever }) {
  const worry = bad && lately > 0 ? "bad" : "";
  return make("tr", {}, rowHead(first), cell(second, `text ${worry}`), cell(whole(lately), worry), cell(whole(ever)));
}

const LABELS = ["State", "Engine", "Type", "Device", "Input", "Parameters", "Fingerprint", "images/s", "Mean batch", "Compute p50, ms", "p99, ms"];

/** Fill the table of models. */
export function fillModels(models) {
  fill("models", models.map(modelRow), "No model is configured.");
}

function modelRow(model) {
  const name = rowHead(model.name);
  if (model.trained === false) name.append(make("span", { className: "badge" }, "untrained"));
  const fingerprint = model.fingerprint ? make("abbr", { title: model.fingerprint }, model.fingerprint.slice(0, 12)) : "–";
  const million = model.parameters == null ? "–" : `${short(model.parameters / 1e6)} M`;
  const values = [model.state, model.engine ?? "–", model.dtype ?? "–", model.device ?? "–", model.input ?? "–", million, fingerprint, short(model.images_per_s), short(model.batch_mean), short(model.compute_p50_ms), short(model.compute_p99_ms)];
  const cells = values.map((value, index) => make("td", { "data-label": LABELS[index], className: index < 4 ? "text" : "" }, value));
  if (model.state !== "ready") cells[0].classList.add("bad");
  return make("tr", {}, name, ...cells);
}
