"""How far the figures in bench-results/ are from what they should be: `python tests/benchmarks/summary.py`.

    bench-results/NAME.json ─→ the rows that a target is about ─→ target │ wanted │ measured │ met, or missed by so much

Every target stands in TARGETS, with the file that tells of it; `make bench` measures them all, shortly. A figure that
nobody has measured yet is called that. Files of several days stand side by side here: `when` says of each. Ratios are
within one run; compare no others.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import report
from cases import CASES

Rows = Sequence[Mapping[str, Any]]
MB_PER_MIB = 1.048576
WAYS = {"client": "its client", "stub": "plain stubs"}


@dataclass(frozen=True)
class Target:
    """What a figure should be.

    Attributes:
        about: what is measured, for the table's reader.
        benchmark: the file's name.
        sign: "≥" or "≤".
        wanted: how much.
        figure: finds it among the file's rows; None if it is not there.
    """

    about: str
    benchmark: str
    sign: str
    wanted: float
    figure: Callable[[Rows], float | None]

    def verdict(self, measured: float) -> str:
        """Say whether it is met, or by which part of what is wanted it is missed."""
        short = self.wanted - measured if self.sign == "≥" else measured - self.wanted
        return "met" if short <= 0 else f"missed by {short / self.wanted:.0%}"


def cell(
    column: str, worst: Callable[[list[float]], float] = min, **wanted: Any
) -> Callable[[Rows], float | None]:
    """Return what finds a column's figure in the row that has these others; the worst where several networks have."""

    def find(rows: Rows) -> float | None:
        found = (row.get(column, "") for row in rows if wanted.items() <= row.items())
        figures = [figure for figure in found if figure != ""]
        return worst(figures) if figures else None

    return find


def of_best_peer(column: str, best: Callable[..., float], callers: int) -> Callable[[Rows], float | None]:
    """Return what divides regard's figure, by its own client, by that of the best other server."""

    def find(rows: Rows) -> float | None:
        ours = cell(column, server="regard", way="client", callers=callers)(rows)
        peers = [row[column] for row in rows if row["server"] != "regard" and row["callers"] == callers]
        return ours / best(peers) if peers and ours is not None else None

    return find


def scaled(find: Callable[[Rows], float | None], factor: float) -> Callable[[Rows], float | None]:
    """Return what finds a figure in another unit."""

    def scale(rows: Rows) -> float | None:
        found = find(rows)
        return None if found is None else found * factor

    return scale


def metrics_percent(way: str) -> Callable[[Rows], float | None]:
    """Return what finds the share of an image's processor time that the calls for its metrics take."""

    def find(rows: Rows) -> float | None:
        calls = cell("of calls µs", case="null", way=way)(rows)
        image = cell("without, CPU µs", case="null", way=way)(rows)
        return None if calls is None or image is None else 100 * calls / image

    return find


def beside_peers() -> Iterator[Target]:
    null, small, large = "peers-null-default", "peers-small-same", "peers-resnet50-default"
    for callers in (32, 64):
        about = f"nothing to compute, {callers} callers, of the best other server"
        yield Target(f"{about}: calls/s", null, "≥", 1.0, of_best_peer("calls/s", max, callers))
        yield Target(f"{about}: CPU", null, "≤", 1.0, of_best_peer("server CPU ms", min, callers))
    for callers, wanted in ((1, 1.5), (32, 1.0)):
        about = f"ResNet-18 at 64×64, same engine, callers: {callers}, of the best other server: calls/s"
        yield Target(about, small, "≥", wanted, of_best_peer("calls/s", max, callers))
    about = "ResNet-50 as users run it, 8 callers, of the best other server: calls/s"
    yield Target(about, large, "≥", 1.8, of_best_peer("calls/s", max, 8))


def beside_loop() -> Iterator[Target]:
    for case in ("small", "resnet50"):
        for callers in (32, 64):
            about = f"{CASES[case].about}, {callers} callers, of a plain loop: images/s"
            yield Target(about, "serving", "≥", 0.95, cell("of loop", case=case, callers=callers))


def under_overload() -> Iterator[Target]:
    for way, caller in WAYS.items():
        for load, wanted in (("2x", 0.95), ("5x", 0.9)):
            about, at = f"{load} the capacity, {caller}", {"server": "regard", "way": way, "load": load}
            yield Target(f"{about}, of peak: goodput", "overload", "≥", wanted, cell("of peak", **at))
            refusals = cell("refusal p99 ms", max, **at)
            yield Target(f"{about}: p99 ms of refusals", "overload", "≤", 5.0, refusals)


def of_front_end() -> Iterator[Target]:
    ours = "regard, direct"
    about = "a plain stub's call, 32 callers, of a plain server's: CPU"
    yield Target(about, "frontend", "≤", 0.5, cell("of plain", server=ours, callers=32))
    for kind, caller in ((ours, "plain stubs"), (f"{ours}, our client", "its client")):
        about = f"nothing to compute, one caller, {caller}: p50 ms"
        yield Target(about, "frontend", "≤", 0.7, cell("p50 ms", server=kind, callers=1))
    for way, caller in WAYS.items():
        about = f"metrics, {caller}: % of CPU an image"
        yield Target(about, "metrics_cost", "≤", 1.0, metrics_percent(way))


def of_starting() -> Iterator[Target]:
    filled = {"cache": "filled"}
    about = "start with a saved profile: s beyond `import torch`"
    yield Target(about, "startup", "≤", 4.0, cell("beyond torch s", **filled))
    memory = scaled(cell("after load", **filled), MB_PER_MIB)
    yield Target("memory after load: MB", "startup", "≤", 450.0, memory)
    # The least that its clock of 10 ms tells in 10 s.
    yield Target("idle: % of a core", "startup", "≤", 0.1, cell("idle CPU %", **filled))


TARGETS = (*beside_peers(), *beside_loop(), *under_overload(), *of_front_end(), *of_starting())


def row(target: Target) -> dict[str, Any]:
    """Return a line of the table."""
    path = report.RESULTS / f"{target.benchmark}.json"
    written = json.loads(path.read_text()) if path.is_file() else {"rows": [], "when": ""}
    measured = target.figure(written["rows"])
    return {
        "target": target.about,
        "wanted": f"{target.sign} {target.wanted:g}",
        "measured": "not measured" if measured is None else measured,
        "met": "" if measured is None else target.verdict(measured),
        "file": target.benchmark,
        "when": "" if measured is None else written["when"][:16],
    }


if __name__ == "__main__":
    report.print_table([row(target) for target in TARGETS])
