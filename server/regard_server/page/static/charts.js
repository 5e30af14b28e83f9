// The four charts, by uPlot, in the colours of the style sheet.

import { find, short, whole } from "./dom.js";

/* global uPlot */
const SPAN_S = 300;
const LEAST_SPAN_S = 60;
const HEIGHT = 190;
const TALL = 240;
const DASHES = { queue: [5, 4], failed: [5, 4], queue_depth: [5, 4] };
const hour = { hour: "2-digit", minute: "2-digit", hour12: false };
const clocks = [new Intl.DateTimeFormat([], { ...hour, second: "2-digit" }), new Intl.DateTimeFormat([], hour)];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function line(label, stroke, key, more = {}) {
  const value = (_, number) => short(number);
  return { label, stroke: colour(stroke), width: 2, dash: DASHES[key], value, points: { show: false }, ...more };
}

function axes(xValues, yValues, more = {}) {
  const look = { stroke: colour("muted"), grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  return [
    { ...look, grid: { show: false }, values: xValues, space: 72, size: 26, gap: 6, incrs: [10, 15, 30, 60, 120] },
    { ...look, values: yValues, size: 52, gap: 6, space: 32, ...more },
  ];
}

const times = (_, splits, __, ___, step) => splits.map((second) => clocks[step < 60 ? 0 : 1].format(second * 1000));
const numbers = (_, splits) => splits.map((value) => (value == null ? "" : short(value)));

// From 1, 2 and 5 below the least to those above the most.
const STEPS = Array.from({ length: 24 }, (_, index) => [1, 2, 5][index % 3] * 10 ** (Math.floor(index / 3) - 3));

function decades(_, least, most) {
  if (least == null || !(most > 0)) return [0.1, 100];
  const low = STEPS.findLast((step) => step <= least) ?? STEPS[0];
  const high = STEPS.find((step) => step >= most) ?? STEPS.at(-1);
  return low < high ? [low, high] : [low / 2, high * 2];
}

function chart(id, options, data) {
  const place = find(id);
  const size = () => ({ width: Math.max(200, place.clientWidth), height: place.classList.contains("tall") ? TALL : HEIGHT });
  const cursor = { y: false, drag: { x: false, y: false }, points: { size: 6 }, ...options.cursor };
  const made = new uPlot({ ...size(), padding: [10, 24, 0, 0], legend: { live: true }, ...options, cursor }, data, place);
  const watcher = new ResizeObserver(() => made.setSize(size()));
  watcher.observe(place);
  return { made, remove: () => (watcher.disconnect(), made.destroy()) };
}

function timed(id, series, y, yAxis) {
  const scales = { x: { time: true, range: (u) => [Math.max(u.now - SPAN_S, Math.min(u.data[0][0] ?? u.now, u.now - LEAST_SPAN_S)), u.now] }, y };
  return chart(id, { scales, axes: axes(times, numbers, yAxis), series: [{}, ...series], cursor: { sync: { key: "time" } } }, [[], ...series.map(() => [])]);
}

export const STAGES = ["total", "compute", "queue", "decode"];

/** Draw the charts anew; `remove` takes them away again, for other colours. */
export function drawCharts() {
  const fromZero = { range: (_, __, most) => [0, Math.max(1, (most ?? 0) * 1.1)] };
  const area = { fill: colour("fill") };
  const charts = {
    latency: timed(
      "latency",
      STAGES.map((stage) => line(stage, stage, stage, { width: stage === "total" ? 2.5 : 2 })),
      { distr: 3, range: decades },
      { splits: (u) => STEPS.filter((step) => step >= u.scales.y.min * 0.999 && step <= u.scales.y.max * 1.001), values: (_, splits) => splits.map((value) => `${short(value)} ms`), filter: (_, splits) => splits, size: 62 },
    ),
    rate: timed("rate", [line("answered", "decode", "ok", area), line("not answered", "bad", "failed")], fromZero),
    queue: timed("queue", [line("inside", "decode", "in_flight", area), line("waiting for the device", "queue", "queue_depth")], fromZero),
    batch: chart(
      "batch",
      {
        scales: { x: { time: false, range: (u) => [-0.6, Math.max(1, u.data[0].length) - 0.4] }, y: { range: (_, __, most) => [0, Math.max(1, (most ?? 0) * 1.1)] } },
        axes: axes((u, splits) => splits.map((index) => u.names?.[index] ?? ""), numbers, {}).map((axis, index) => (index ? axis : { ...axis, splits: (u) => u.data[0], space: 20, incrs: [1] })),
        series: [{}, line("batches", "compute", "batches", { fill: colour("compute"), paths: uPlot.paths.bars({ size: [0.75, 64] }), value: (u, count, _, index) => (count == null ? `${whole(u.data[1].reduce((sum, each) => sum + each, 0))} in all` : `${whole(count)} of ${u.names[index]}`) })],
      },
      [[], []],
    ),
  };
  return {
    update(points, batches, quantile, now) {
      for (const { made } of Object.values(charts)) made.now = now;
      const { at } = points;
      charts.latency.made.setData([at, ...STAGES.map((stage) => points.latency_ms[stage][quantile])]);
      charts.rate.made.setData([at, points.ok, points.failed]);
      charts.queue.made.setData([at, points.in_flight, points.queue_depth]);
      charts.batch.made.names = batches.map((batch) => batch.size);
      charts.batch.made.setData([batches.map((_, index) => index), batches.map((batch) => batch.batches)]);
      // The legend says what is under the pointer, and otherwise what is now.
      for (const { made } of [charts.latency, charts.rate, charts.queue]) {
        if (made.cursor.idx == null && at.length) made.setLegend({ idx: at.length - 1 });
      }
    },
    remove: () => Object.values(charts).forEach((each) => each.remove()),
  };
}
