"""Everything that the page is told, as plain values for JSON. Times are in milliseconds, as people read them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from regard_server.catalog import Catalog, ServedModel
from regard_server.page.history import QUANTILES, STAGES, Point, Reading, Summary, Tally
from regard_server.page.photograph import Looked, maps_over_places, png, why_no_map

_DIGITS: Final = 4
Values = dict[str, Any]


def chart_columns(points: Sequence[Point]) -> Values:
    """Return points as columns, which is how charts take them."""
    return {
        "at": [round(point.wall_s, 3) for point in points],
        "latency_ms": {
            stage: {name: [_ms(point.quantiles_s[stage, name]) for point in points] for name in QUANTILES}
            for stage in STAGES
        },
        "ok": [_short(point.ok) for point in points],
        "failed": [_short(point.failed) for point in points],
        "queue_depth": [point.queue_depth for point in points],
        "in_flight": [point.in_flight for point in points],
    }


def tables(reading: Reading | None, summary: Summary | None) -> Values:
    """Return what the last minute came to, and what was counted since the start."""
    if reading is None or summary is None:
        return {"span_s": 0.0, "stages": [], "batches": [], "items": [], "requests": []}
    return {
        "span_s": round(summary.span_s, 1),
        "stages": [_stage(name, summary.stages[name]) for name in STAGES],
        "batches": _sizes(summary.batch_size.values()),
        "items": _totals(reading.items, summary.items, ("model", "outcome")),
        "requests": _totals(reading.requests, summary.requests, ("method", "code")),
    }


def models(catalog: Catalog, summary: Summary | None) -> list[Values]:
    """Return every model that is configured; what has not been loaded has no more than a name and a state."""
    known = {model.name: (model, fingerprint) for model, fingerprint in catalog.known()}
    found = []
    for name, state in catalog.states.items():
        values: Values = {"name": name, "state": state.value, "default": name == catalog.default}
        if name in known:
            values |= _describe(*known[name])
        if summary is not None:
            values |= _load_of(name, summary)
        found.append(values)
    return found


def looked(found: Looked) -> Values:
    """Return what came of a photograph."""
    model, prepared, timings = found.model, found.model.preprocessing, found.result.timings
    attention = found.attention
    values: Values = {
        "model": model.name,
        "trained": model.trained,
        "fingerprint": found.fingerprint,
        "timings_ms": {
            "decode": _ms(timings.decode_s),
            "queue": _ms(timings.queue_s),
            "compute": _ms(timings.compute_s),
            "total": _ms(timings.total_s),
        },
        "batch_size": timings.batch_size,
        "resize": prepared.resize,
        "height": prepared.height,
        "width": prepared.width,
        "seen_png": png(found.seen),
        "neighbours": [
            {"name": name, "similarity": round(cosine, _DIGITS)} for name, cosine in found.neighbours
        ],
        "attention": None,
    }
    if attention is not None and found.shown is not None:
        low, high = float(attention.min()), float(attention.max())
        spread = max(high - low, float(np.finfo(np.float32).tiny))
        values["attention"] = {
            "name": found.shown.name,
            "description": found.shown.description,
            "height": attention.shape[0],
            "width": attention.shape[1],
            "low": _short(low),
            "high": _short(high),
            "heat": [round(value, _DIGITS) for value in ((attention - low) / spread).ravel().tolist()],
        }
    return values


def _describe(model: ServedModel, fingerprint: str) -> Values:
    over_places = maps_over_places(model)
    return {
        "fingerprint": fingerprint,
        "engine": model.engine,
        "dtype": model.compute_dtype,
        "device": model.device,
        "trained": model.trained,
        "parameters": model.parameters,
        "input": f"{model.preprocessing.height}×{model.preprocessing.width}",
        "maps": [{"name": output.name, "description": output.description} for output in over_places],
        "no_map": "" if over_places else why_no_map(model),
    }


def _load_of(name: str, summary: Summary) -> Values:
    compute, sizes = summary.compute.get(name), summary.batch_size.get(name)
    ok = summary.items.get((name, "ok"), 0.0)
    return {
        "images_per_s": _short(ok / summary.span_s) if summary.span_s else 0.0,
        "compute_p50_ms": _ms(compute.quantile(0.5)) if compute else None,
        "compute_p99_ms": _ms(compute.quantile(0.99)) if compute else None,
        "batch_mean": _short(sizes.mean) if sizes and sizes.mean is not None else None,
    }


def _stage(name: str, tally: Tally | None) -> Values:
    values: Values = {"stage": name, "count": tally.count if tally else 0}
    values["mean"] = _ms(tally.mean) if tally else None
    return values | {each: _ms(tally.quantile(share)) if tally else None for each, share in QUANTILES.items()}


def _sizes(tallies: Iterable[Tally]) -> list[Values]:
    """Return batches by size, over all models, from the smallest bucket to the largest that holds any."""
    found = list(tallies)
    if not found:
        return []
    counts = np.sum([tally.counts for tally in found], axis=0)
    bounds = [int(bound) for bound in found[0].bounds]
    names = [
        str(high) if high - low == 1 else f"{low + 1}–{high}"
        for low, high in zip([0, *bounds], bounds, strict=False)
    ] + [f"> {bounds[-1]}"]
    last = int(np.flatnonzero(counts)[-1]) if counts.any() else -1
    return [{"size": name, "batches": int(count)} for name, count in zip(names, counts, strict=True)][
        : last + 1
    ]


def _totals(
    since_start: Mapping[tuple[str, str], float],
    lately: Mapping[tuple[str, str], float],
    names: tuple[str, str],
) -> list[Values]:
    first, second = names
    return [
        {first: labels[0], second: labels[1], "lately": int(lately.get(labels, 0)), "ever": int(count)}
        for labels, count in sorted(since_start.items())
        if count
    ]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else _short(seconds * 1000)


def _short(value: float) -> float:
    """Return a number with four digits that count."""
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else 0.0
