// The form: a photograph goes out, its neighbours and the network's attention come back.

import { find, make, short } from "./dom.js";
import { drawOverlay } from "./overlay.js";

const SAMPLES = ["astronaut", "brick", "camera", "chelsea", "china", "clock", "coffee", "flower", "grass", "gravel", "hubble", "rocket"];

let models = [];
let maxBytes = Infinity;
let chosen = null;
let redraw = null;
let asking = null;

const model = () => models.find((each) => each.name === find("model").value);

/** Take in which models there are; the form is rebuilt only when they changed. */
export function showForm(live) {
  find("form").hidden = !live.form;
  find("form-off").hidden = live.form;
  maxBytes = live.max_bytes;
  const known = live.models.filter((each) => each.fingerprint);
  if (JSON.stringify(known.map(identity)) === JSON.stringify(models.map(identity))) return;
  models = known;
  const before = find("model").value;
  find("model").replaceChildren(...models.map((each) => make("option", { value: each.name }, each.trained ? each.name : `${each.name} (untrained)`)));
  if (models.some((each) => each.name === before)) find("model").value = before;
  showMaps();
}

const identity = ({ name, fingerprint }) => [name, fingerprint];

function showMaps() {
  const maps = model()?.maps ?? [];
  find("map").replaceChildren(...maps.map((map) => make("option", { value: map.name, title: map.description }, map.name)), make("option", { value: "" }, "none"));
  find("map").value = maps.at(-1)?.name ?? "";
  find("map").disabled = !maps.length;
  find("no-map").hidden = !model()?.no_map;
  find("no-map").textContent = model()?.no_map ?? "";
}

function say(text, bad = false) {
  find("answer").textContent = text;
  find("answer").classList.toggle("bad", bad);
}

async function ask(file) {
  if (!file) return;
  chosen = file;
  asking?.abort();
  asking = new AbortController();
  if (file.size > maxBytes) return say(`${file.name} has ${short(file.size / 2 ** 20)} MiB; at most ${short(maxBytes / 2 ** 20)} are taken.`, true);
  say(`Looking at ${file.name} …`);
  const query = new URLSearchParams({ model: find("model").value, map: find("map").value });
  try {
    const response = await fetch(`page/look?${query}`, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" }, signal: asking.signal });
    const json = response.headers.get("Content-Type") === "application/json";
    const answer = json ? await response.json() : { error: response.statusText };
    if (response.ok) await show(file, answer);
    else say(explain(response.status, answer.error), true);
  } catch (error) {
    if (error.name !== "AbortError") say(`The server cannot be reached: ${error.message}.`, true);
  }
}

function explain(status, text) {
  if (status === 429) return "That was a little fast. Try again in a moment.";
  if (status === 503 || status === 504) return `The server is busy with its callers or not ready, and they come first. Try again in a moment. (${text})`;
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}

async function show(file, looked) {
  const seen = await createImageBitmap(new Blob([Uint8Array.from(atob(looked.seen_png), (each) => each.charCodeAt(0))], { type: "image/png" }));
  // Not every format that the server reads is one that this browser shows.
  const picture = await createImageBitmap(file).then((image) => ({ image, cut: false })).catch(() => ({ image: seen, cut: true }));
  find("result").hidden = false;
  redraw = drawOverlay(find("overlay"), picture, looked);
  redraw(find("opacity").value / 100);
  Object.assign(find("seen"), { width: seen.width, height: seen.height });
  find("seen").getContext("2d").drawImage(seen, 0, 0);
  describe(file, looked);
  find("neighbours").replaceChildren(...looked.neighbours.map(neighbour));
}

function describe(file, looked) {
  const map = looked.attention;
  const nearest = looked.neighbours[0];
  say(`${file.name}: nearest to ${plain(nearest.name)} with a cosine of ${nearest.similarity.toFixed(3)}, by ${looked.model}.`);
  find("untrained").hidden = looked.trained;
  find("untrained").textContent = `${looked.model} is untrained: its weights were drawn from a seed, so neighbours and attention mean little. The way they came is the real one.`;
  find("overlay-caption").textContent = map
    ? `${map.name}: ${map.description}; ${map.height}×${map.width} places, from ${map.low} (dark) to ${map.high} (bright)`
    : "The part of the photograph that the network saw, without attention";
  find("overlay").setAttribute("aria-label", map ? `${file.name} with ${map.name} over it` : `${file.name}, without attention`);
  find("seen-caption").textContent = `What the network saw: ${looked.height}×${looked.width}`;
  for (const id of ["opacity", "opacity-label"]) find(id).hidden = !map;
  const { decode, queue, compute, total } = looked.timings_ms;
  find("timings").textContent = `decode ${short(decode)} ms · queue ${short(queue)} ms · compute ${short(compute)} ms · total ${short(total)} ms · batch of ${looked.batch_size} · fingerprint ${looked.fingerprint.slice(0, 12)}`;
}

const plain = (name) => name.replace(/\.[a-z]+$/, "");

function neighbour({ name, similarity }) {
  const picture = make("img", { src: `page/samples/${name}`, alt: "", loading: "lazy" });
  const meter = make("meter", { min: 0, max: 1, value: Math.max(0, similarity), "aria-label": `cosine of ${plain(name)}` });
  return make("li", {}, picture, make("p", {}, plain(name), make("b", {}, similarity.toFixed(3))), meter);
}

function sampleButton(name) {
  const picture = make("img", { src: `page/samples/${name}.jpg`, alt: `Try the sample ${name}`, loading: "lazy" });
  const button = make("button", { type: "button", title: name }, picture);
  button.addEventListener("click", async () => {
    const blob = await (await fetch(`page/samples/${name}.jpg`)).blob();
    await ask(new File([blob], `${name}.jpg`, { type: blob.type }));
  });
  return make("li", {}, button);
}

/** Make the form answer to mouse, keyboard, clipboard and camera. */
export function startForm() {
  find("form").addEventListener("submit", (event) => event.preventDefault());
  find("samples").replaceChildren(...SAMPLES.map(sampleButton));
  find("model").addEventListener("change", () => (showMaps(), ask(chosen)));
  find("map").addEventListener("change", () => ask(chosen));
  find("opacity").addEventListener("input", () => redraw?.(find("opacity").value / 100));
  for (const id of ["file", "camera"]) {
    find(id).addEventListener("change", (event) => {
      ask(event.target.files[0]);
      event.target.value = ""; // so that the same file can be chosen again
    });
  }
  // The whole page takes a drop: a browser would otherwise leave it for the picture.
  for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
  document.addEventListener("dragover", () => find("drop").classList.add("over"));
  document.addEventListener("dragleave", () => find("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    find("drop").classList.remove("over");
    if (!find("form").hidden) ask(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    if (!find("form").hidden) ask(event.clipboardData.files[0]);
  });
}
