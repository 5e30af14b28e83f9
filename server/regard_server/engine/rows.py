"""Split: a batch's arrays into everybody's rows."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from regard_server.engine.runner import Arrays
from regard_server.errors import NonFiniteOutputError, RegardError
from regard_server.work import Work

Rows = dict[str, npt.NDArray[np.float32]]


def split(outputs: Arrays, batch: Sequence[Work]) -> list[Rows | RegardError]:
    """Give every image its rows of the outputs it asked for; NaN and infinity are an error, never a vector."""
    rows: list[Rows | RegardError] = [
        {name: outputs[name][index] for name in work.outputs} for index, work in enumerate(batch)
    ]
    broken: dict[int, list[str]] = {}
    for name, values in outputs.items():
        for index in _not_finite(values):
            if name in batch[index].outputs:
                broken.setdefault(index, []).append(name)
    for index, names in broken.items():
        listed = ", ".join(name for name in batch[index].outputs if name in names)
        rows[index] = NonFiniteOutputError(f"the network gave NaN or infinity in {listed} for this image")
    return rows


def _not_finite(values: npt.NDArray[np.float32]) -> list[int]:
    """Return which images have a value that is not finite; hardly ever any."""
    finite = np.isfinite(values)
    if finite.all():
        return []
    found: list[int] = np.flatnonzero(~finite.reshape(len(values), -1).all(axis=1)).tolist()
    return found
