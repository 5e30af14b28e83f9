"""Split: a batch's arrays into everybody's rows."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from regard_server.engine.runner import Arrays
from regard_server.errors import NonFiniteOutputError, RegardError
from regard_server.work import Rows, Work


def split(outputs: Arrays, batch: Sequence[Work]) -> list[Rows]:
    """Give everybody his rows of the outputs he asked for; NaN and infinity are an error, never a vector."""
    not_finite = {name: found for name, values in outputs.items() if (found := _not_finite(values))}
    rows: list[Rows] = []
    start = 0
    for work in batch:
        end = start + len(work.pictures)
        values = {name: outputs[name][start:end] for name in work.outputs}
        rows.append(Rows(values, _broken(work, not_finite, start) if not_finite else {}))
        start = end
    return rows


def join(parts: Sequence[tuple[Work, Rows]]) -> Rows:
    """Put together what was made of the parts of one `Work`."""
    # None, if memory held no image of them all.
    like = next((rows.values for _, rows in parts if rows.values), {})
    values = {
        name: np.concatenate([rows.values.get(name, _nothing(work, known)) for work, rows in parts])
        for name, known in like.items()
    }
    broken: dict[int, RegardError] = {}
    start = 0
    for work, rows in parts:
        broken |= {start + place: error for place, error in rows.broken.items()}
        start += len(work.pictures)
    return Rows(values, broken)


def _nothing(work: Work, like: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.zeros((len(work.pictures), *like.shape[1:]), np.float32)


def _broken(work: Work, not_finite: dict[str, list[int]], start: int) -> dict[int, RegardError]:
    """Return the errors of a work's images whose rows, which begin at `start`, are not finite."""
    named: dict[int, list[str]] = {}
    for name in work.outputs:
        for index in not_finite.get(name, ()):
            if start <= index < start + len(work.pictures):
                named.setdefault(index - start, []).append(name)
    return {
        place: NonFiniteOutputError(f"the network gave NaN or infinity in {', '.join(names)} for this image")
        for place, names in named.items()
    }


def _not_finite(values: npt.NDArray[np.float32]) -> list[int]:
    """Return which images have a value that is not finite; hardly ever any."""
    finite = np.isfinite(values)
    if finite.all():
        return []
    found: list[int] = np.flatnonzero(~finite.reshape(len(values), -1).all(axis=1)).tolist()
    return found
