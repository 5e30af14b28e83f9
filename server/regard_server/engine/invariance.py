"""The promise that an image's bits do not depend on its batchmates, tested before anybody relies on it.

In invariant mode every image of a batch runs alone, which keeps the promise by construction on the engines that were
tried; the self-test is for those that were not, such as one that picks another kernel from one call to the next.
"""

from collections.abc import Callable, Sequence

import numpy as np

from regard_server.work import BatchKey, Rows, Work

_PICTURES = 4


class InvarianceError(RuntimeError):
    """Invariant mode was asked for, and the start-up self-test found bits that differ."""


def check_invariance(
    run: Callable[[BatchKey, Sequence[Work]], list[Rows]], key: BatchKey, max_batch: int
) -> None:
    """Run different pictures alone and among others, at every place of a batch.

    Raises:
        InvarianceError: the bits differ.
    """
    chance = np.random.default_rng(0)
    works = [
        Work([chance.integers(0, 256, (key.height, key.width, 3), np.uint8)], ("embedding",))
        for _ in range(min(max_batch, _PICTURES))
    ]
    alone = [_bits(run(key, [work])[0]) for work in works]
    for shift in range(len(works)):
        together = [_bits(row) for row in run(key, works[shift:] + works[:shift])]
        if together != alone[shift:] + alone[:shift]:
            raise InvarianceError(f"model {key.model!r} does not give the same bits in every batch here")


def _bits(rows: Rows) -> bytes:
    return repr(rows.broken).encode() if rows.broken else rows.values["embedding"].tobytes()
