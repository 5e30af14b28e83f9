"""Workers that come, go and die under load, and nobody who calls notices."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from load import Load, both_sorts
from report import check, see, step, until
from stack import UP_TIMEOUT_S, Stack
from watching import NOTICE_TIMEOUT_S, expect_workers, query, value

from regard_models.samples import sample_photographs

THREADS = 4
# Calls that show that the load goes on, and calls that are enough to compare replicas by.
SOME, MANY = 200, 3000
# Of three equal replicas the busiest may do so many times what the idlest does.
MOST_UNEVEN = 1.3


def scale_under_load(stack: Stack) -> None:
    """One worker, three, one killed, one crashed, one again; every call is answered."""
    photograph = sample_photographs()[0].read_bytes()
    with both_sorts(stack.target, photograph, THREADS) as load:
        load.until(SOME)
        with unharmed("1 → 3 workers under load", load):
            stack.scale(3)
            expect_workers(stack, 3)
        with unharmed("load spreads evenly", load):
            spread(stack, load)
        with unharmed("one of three is killed (docker kill) under load", load):
            killed = stack.containers("worker")[-1]
            stack.docker("kill", "--signal", "KILL", killed)
            load.until(SOME)
            expect_workers(stack, 2)
            stack.docker("start", killed)
            expect_workers(stack, 3)
        with unharmed("one of three crashes under load, and is restarted", load):
            crash(stack, stack.containers("worker")[-1])
            load.until(SOME)
            expect_workers(stack, 3)
        with unharmed("3 → 1 workers under load", load):
            stack.scale(1)
            expect_workers(stack, 1)
            load.until(SOME)
    retries = value(stack, 'envoy_cluster_upstream_rq_retry{envoy_cluster_name="workers"}')
    see(f"{load.answered} calls in all, {len(load.failures)} failed; Envoy tried {retries:.0f} again")


@contextmanager
def unharmed(what: str, load: Load) -> Iterator[None]:
    """Name a step during which no call may fail."""
    before = load.answered
    with step(what):
        yield
        check(
            f"{load.answered - before} calls were answered and none failed",
            not load.failures,
            load.failures[:5],
        )


def spread(stack: Stack, load: Load) -> None:
    """Compare what the replicas do in a second, by Prometheus, over some thousand calls."""
    before = _done(stack)
    load.until(MANY)
    after = _done(stack)
    rates = sorted((after[name][0] - before[name][0]) / (after[name][1] - before[name][1]) for name in after)
    check(
        f"each did its share: {', '.join(f'{rate:.0f}' for rate in rates)} images a second",
        rates[-1] <= MOST_UNEVEN * rates[0],
        rates,
    )
    fingerprints = value(stack, "count(count by (fingerprint) (regard_model_info))")
    check("all of them serve one fingerprint", fingerprints == 1, fingerprints)


def _done(stack: Stack) -> dict[str, tuple[float, float]]:
    """Return by replica what it has done, and when that was read: each is scraped at another moment, from now on."""
    series = 'regard_items_total{outcome="ok"}'
    began = time.time()
    times = f"min by (instance) (timestamp({series}))"
    until(
        "Prometheus has looked at each",
        lambda: sum(seen > began for seen in query(stack, times).values()),
        3,
        NOTICE_TIMEOUT_S,
    )
    counts = query(stack, f"sum by (instance) ({series})")
    seen = query(stack, times)
    return {name: (count, seen[name]) for name, count in counts.items()}


def crash(stack: Stack, container: str) -> None:
    """End a worker's process as a fault of its own would; Docker then does what the restart policy says."""
    began, process = stack.inspect(container, "State.StartedAt"), stack.inspect(container, "State.Pid")
    image = stack.inspect(container, "Config.Image")
    sh = ("--entrypoint", "sh", image, "-c", f"kill -9 {process}")
    stack.docker("run", "--rm", "--pid", "host", "--user", "0", *sh)
    until(
        "Docker has started it again",
        lambda: stack.inspect(container, "State.StartedAt") != began,
        True,  # noqa: FBT003 - what is looked for
        UP_TIMEOUT_S,
    )
